"""A published checkpoint to a model file; see --help."""

from lvdm.cli.convert import main

if __name__ == "__main__":
    raise SystemExit(main())
