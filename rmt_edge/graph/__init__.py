"""From calibrated weights to ONNX: the graph, its plugin form, and the check of both against PyTorch."""
