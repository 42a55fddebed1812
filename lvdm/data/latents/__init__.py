"""Cached latents: their format on disk, their writer, and the data set that reads them."""
