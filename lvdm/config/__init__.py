"""YAML files to checked settings to objects. Imports lvdm.types only; knows nothing of what it builds."""
