"""Pictures: what a checkpoint, an ONNX file or an engine sees in them, drawn and as JSON."""
