"""Short videos from trained models; see --help."""

from lvdm.cli.start import sample_short as main

if __name__ == "__main__":
    raise SystemExit(main())
