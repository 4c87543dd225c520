"""Where PyTorch computes: the GPU that it sees, or the CPU. Float32 is float32 on either."""

import re

import torch

from rmt_edge.errors import RmtEdgeError

AUTO = "auto"


def torch_device(asked: str | torch.device | None = None) -> torch.device:
    """The device that was asked for: `auto` or None for CUDA where PyTorch sees a GPU, `cpu`, `cuda` or `cuda:1`.

    On CUDA, products and convolutions in TF32 are turned off: cuDNN's default rounds float32 inputs to 10 bits.
    """
    name = AUTO if asked is None else str(asked)
    if name == AUTO:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise RmtEdgeError(f"--torch-device is {name!r}.", "it is auto, cpu, cuda or one GPU of several, cuda:1.")
    device = torch.device(name)
    if device.type == "cuda":
        _check_cuda(name, device.index or 0)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    return device


def _check_cuda(name: str, index: int) -> None:
    """Refuse a GPU that PyTorch does not see."""
    if not torch.cuda.is_available():
        reason = "this PyTorch is built without CUDA" if torch.version.cuda is None else "PyTorch sees no GPU"
        raise RmtEdgeError(
            f"--torch-device is {name}, but {reason} (torch {torch.__version__}).",
            do="Leave it out, or install PyTorch with CUDA and check that nvidia-smi shows the GPU.",
        )
    if index >= torch.cuda.device_count():
        raise RmtEdgeError(f"--torch-device is {name}.", f"PyTorch sees {torch.cuda.device_count()} GPUs, from cuda:0.")


def device_name(device: torch.device) -> str:
    """The device as records say it: CPU, or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
