"""Scores of generated toy videos; see --help."""

from lvdm.cli.start import score_toy as main

if __name__ == "__main__":
    raise SystemExit(main())
