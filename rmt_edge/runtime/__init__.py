"""Runners of one interface: an engine on a GPU, an ONNX file through ONNX Runtime, PyTorch as a peer."""
