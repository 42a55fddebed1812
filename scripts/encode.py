"""Latents of a data set, once; see --help."""

from lvdm.cli.encode import main

if __name__ == "__main__":
    raise SystemExit(main())
