"""How a data set lies on disk: folders, tables, tar shards, UCF-101, Kinetics, and splits of them."""
