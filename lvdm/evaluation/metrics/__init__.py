"""Distances and scores of sets of features: Fréchet, kernel, inception, with bootstrap intervals."""
