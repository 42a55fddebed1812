"""Measure videos by named protocols; see --help."""

from lvdm.cli.start import eval as main

if __name__ == "__main__":
    raise SystemExit(main())
