"""From a checkpoint to calibrated weights: recipes, ranges, and the rounding of 8 bits."""
