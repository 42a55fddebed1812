"""Scores of generated toy videos; see --help."""

from lvdm.cli.score_toy import main

if __name__ == "__main__":
    raise SystemExit(main())
