"""rmt-edge: quantise a trained RMT, build TensorRT engines for it, and prove what was lost and won."""

__version__ = "0.1.0"
