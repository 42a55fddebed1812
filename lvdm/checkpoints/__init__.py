"""Files of weights: the model file, safe reading of foreign ones, names of published weights.

Imports lvdm.types only; builds no networks.
"""
