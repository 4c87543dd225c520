"""ONNX Runtime as a runner, on a real file."""

import numpy as np
import pytest

from rmt_edge.errors import RmtEdgeError
from rmt_edge.runtime.onnx_runner import OnnxRunner
from rmt_edge.runtime.runner import noise_images


@pytest.fixture(scope="module")
def runner(onnx_files):
    with OnnxRunner(onnx_files["fp32"], "fp32") as opened:
        yield opened


def test_it_knows_its_images_and_batches(runner):
    assert runner.image_shape == (3, 40, 48) and 1 in runner.batches and 4096 in runner.batches


def test_logits_do_not_depend_on_the_batch(runner):
    images = noise_images(3, runner.image_shape)
    together = runner(images)["logits"]
    assert together.shape == (3, 10) and together.dtype == np.float32
    for i in range(3):
        np.testing.assert_allclose(runner(images[i : i + 1])["logits"][0], together[i], rtol=0, atol=1e-5)


def test_a_prepared_run_takes_time_and_no_gpu(runner):
    runner.prepare(2)
    timing = runner.run()
    assert timing.latency_ms > 0 and timing.enqueue_ms is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((1, 3, 40, 48), np.float16), r"Images are float16[\s\S]*nano\.fp32\.onnx takes a float32 array"),
        (np.zeros((1, 3, 48, 40), np.float32), r"Images are \(1, 3, 48, 40\)[\s\S]*takes \(b, 3, 40, 48\)"),
        (np.zeros((0, 3, 40, 48), np.float32), "A batch of 0"),
    ],
)
def test_wrong_images_are_refused_with_the_engines_messages(runner, wrong, message):
    with pytest.raises(RmtEdgeError, match=message):
        runner(wrong)
