"""Frozen networks from captions to the context of a denoiser. Imports lvdm.types and the rest of lvdm.models only."""

from lvdm.models.text.clip import ClipText

__all__ = ["ClipText"]
