"""Procedural videos whose every motion is known, and their writing as real files. Imports lvdm.types only; no networks."""
