"""Train a stage from YAML; see --help."""

from lvdm.cli.train import main

if __name__ == "__main__":
    raise SystemExit(main())
