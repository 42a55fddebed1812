"""Train a stage from YAML; see --help."""

from lvdm.cli.start import train as main

if __name__ == "__main__":
    raise SystemExit(main())
