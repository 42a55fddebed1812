"""Procedural videos whose every motion is known, their writing as real files, and scores of generated ones.

Imports types, files, data, evaluation and sampling; no training.
"""
