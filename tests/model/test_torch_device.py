"""Where PyTorch computes: asked for by name, refused with the reason."""

import pytest
import torch

from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.torch_device import device_name, torch_device


@pytest.mark.parametrize("asked", [None, "auto"])
def test_the_gpu_is_taken_where_pytorch_sees_one(asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device(asked) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert torch_device(asked) == torch.device("cuda")
    assert not torch.backends.cudnn.allow_tf32, "convolutions stay float32"


def test_the_cpu_can_be_asked_for_beside_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_device("cpu") == torch.device("cpu") and device_name(torch_device("cpu")) == "CPU"


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:", "CPU", "cuda:x", ""])
def test_another_name_is_refused(name):
    with pytest.raises(RmtEdgeError, match=rf"--torch-device is '{name}'[\s\S]*auto, cpu, cuda"):
        torch_device(name)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(RmtEdgeError, match="built without CUDA"):
        torch_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(RmtEdgeError, match="PyTorch sees no GPU"):
        torch_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(RmtEdgeError, match=r"cuda:2[\s\S]*sees 2 GPUs"):
        torch_device("cuda:2")
