"""Long toy videos made in several ways, compared; see --help."""

from lvdm.cli.compare_long import main

if __name__ == "__main__":
    raise SystemExit(main())
