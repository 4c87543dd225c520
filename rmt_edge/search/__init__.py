"""Which layers may run in INT8: sensitivities of groups of layers, and the search of a mixed assignment."""
