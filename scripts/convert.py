"""A published checkpoint to a model file; see --help."""

from lvdm.cli.start import convert as main

if __name__ == "__main__":
    raise SystemExit(main())
