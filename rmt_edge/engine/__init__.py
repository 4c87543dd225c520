"""From an ONNX file to a TensorRT engine: the build, what the builder is told, and what it says."""
