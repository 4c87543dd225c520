"""A depthwise convolution with its residual, and the LayerNorm behind it: PyTorch reference, ONNX function body, Triton kernel."""
