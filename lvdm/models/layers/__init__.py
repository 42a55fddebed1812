"""Layers that several networks share: embeddings of numbers, convolutions over space or time, norms, attention on heads.
Imports lvdm.types only; whole networks do not belong here."""
