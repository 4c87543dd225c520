"""Results kept as a baseline, and later results held to it."""
