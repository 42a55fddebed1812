"""The version of lvdm, which model files, results and reports record."""

__version__ = "0.1.0"
