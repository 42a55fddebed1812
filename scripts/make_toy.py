"""A toy data set of mp4 files; see --help."""

from lvdm.cli.make_toy import main

if __name__ == "__main__":
    raise SystemExit(main())
