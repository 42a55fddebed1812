"""Long videos over their length: the curves of their frames and the distances of their chunks."""
