"""Long toy videos made in several ways, compared; see --help."""

from lvdm.cli.start import compare_long as main

if __name__ == "__main__":
    raise SystemExit(main())
