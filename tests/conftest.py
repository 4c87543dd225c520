"""Set-up that must come before any test module is imported."""

import os

import torch

# Triton decides when it is imported whether to compile kernels or interpret them; without a GPU only the latter runs.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
