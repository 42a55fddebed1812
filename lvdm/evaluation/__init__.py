"""Measuring generated videos. Imports lvdm.types and lvdm.models only; no sampling, no training."""
