"""RMT's own ops, a package each: the reference in PyTorch, the ONNX function body, the Triton kernels."""
