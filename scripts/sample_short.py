"""Short videos from trained models; see --help."""

from lvdm.cli.sample_short import main

if __name__ == "__main__":
    raise SystemExit(main())
