"""A toy data set of mp4 files; see --help."""

from lvdm.cli.start import make_toy as main

if __name__ == "__main__":
    raise SystemExit(main())
