"""`scripts/eval.py`: sources of clips, their features, scores by protocol, and what is written of them. May import all rooms."""
