"""Samplers, the plan of a long video, its execution, and writers of videos.

Imports lvdm.types and lvdm.diffusion only; no networks, no config.
"""
