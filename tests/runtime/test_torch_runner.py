"""PyTorch as a peer, on the CPU."""

import numpy as np
import pytest
import torch

from rmt_edge.artifact import sha256_of
from rmt_edge.errors import RmtEdgeError
from rmt_edge.runtime.runner import noise_images
from rmt_edge.runtime.torch_runner import TorchRunner, peers_of

SHAPE = (3, 40, 48)
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_eager_is_the_model(nano):
    with TorchRunner(nano, SHAPE, "torch", "fp32", "cpu") as runner:
        images = noise_images(2, SHAPE)
        with torch.inference_mode():
            expected = nano.eval()(torch.from_numpy(images)).numpy()
        np.testing.assert_array_equal(runner(images)["logits"], expected)
        runner.prepare(2)
        timing = runner.run()
        assert runner.name == "torch eager" and timing.latency_ms > 0 and timing.enqueue_ms is None


def test_half_precision_leaves_the_model_alone(nano):
    with TorchRunner(nano, SHAPE, "torch", "fp16", "cpu") as runner:
        found = runner(noise_images(1, SHAPE))["logits"]
    assert found.dtype == np.float32 and next(nano.parameters()).dtype == torch.float32


@no_gpu
def test_peers_on_a_cpu_are_in_float32(checkpoint):
    found = peers_of(checkpoint, sha256_of(checkpoint), ["torch", "torch-compile"], SHAPE)
    assert [(x.name, x.precision, x.clock) for x in found] == [
        ("torch eager", "fp32", "host clock"),
        ("torch.compile", "fp32", "host clock"),
    ]


def test_another_checkpoint_is_refused(checkpoint):
    with pytest.raises(RmtEdgeError, match=r"is not the checkpoint that the files were made from \(0000"):
        peers_of(checkpoint, "0" * 64, ["torch"], SHAPE)


@pytest.mark.slow
def test_compiled_gives_the_models_logits(nano):
    with TorchRunner(nano, SHAPE, "torch-compile", "fp32", "cpu") as runner:
        runner.prepare(1)
        images = noise_images(1, SHAPE)
        with torch.inference_mode():
            expected = nano.eval()(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(runner(images)["logits"], expected, rtol=0, atol=1e-4)
