"""How a data set lies on disk: folders, tables, tar shards, UCF-101, and splits of them."""
