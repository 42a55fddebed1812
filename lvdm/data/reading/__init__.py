"""Reading frames of one video: its location, options, decoders, time limits."""
