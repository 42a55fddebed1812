"""Measure videos by named protocols; see --help."""

from lvdm.cli.eval import main

if __name__ == "__main__":
    raise SystemExit(main())
