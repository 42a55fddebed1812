"""Reading frames of one video: where it lies, decoders, time limits."""
