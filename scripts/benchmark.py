"""How fast a config trains, samples and codes here; see --help."""

from lvdm.cli.start import benchmark as main

if __name__ == "__main__":
    raise SystemExit(main())
