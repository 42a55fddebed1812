"""Results: records, JSON files, tables, curves."""
