"""Where clips come from: videos on disk, arrays, data sets, models."""
