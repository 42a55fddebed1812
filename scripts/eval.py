"""Measure videos by named protocols: see `--help`, or lvdm/cli/evaluate."""

import sys

from lvdm.cli.evaluate.main import main

if __name__ == "__main__":
    sys.exit(main())
