"""Latents of a data set, once; see --help."""

from lvdm.cli.start import encode as main

if __name__ == "__main__":
    raise SystemExit(main())
