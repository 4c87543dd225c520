"""MultiLevelRoiAlign: features of regions of interest, each from the level of the pyramid that fits its size."""
