"""Inputs for the plugins of Nms and MultiLevelRoiAlign, and what they must give: ops/*/op.py."""

from contextlib import contextmanager

import numpy as np
import torch

from rmt_edge.ops.nms.op import nms
from rmt_edge.ops.roi_align.op import multi_level_roi_align
from tests.boxes import random_features, random_regions, tensors
from tests.plugin.kernel_cases import DYNAMIC, dynamic
from tests.ptx.device import Device
from tests.ptx.plugin import Plugin

# As in tests/ops/roi_align/test_kernels.py; larger maps, so positions are rounded more coarsely.
ROI_LIMITS = {np.float32: 3e-5, np.float16: 2.0**-8}
Case = tuple[list[np.ndarray], float, float, int]  # boxes, scores, ids; iou_threshold, score_threshold, max_outputs
Regions = tuple[int, int, int, int, int, int]  # b, n, c, h and w of the picture, s


@contextmanager
def block_by_block(device: Device):
    """For kernels whose blocks branch on what they read: each image's or region's loops are its own."""
    device.in_lockstep = False
    try:
        yield
    finally:
        device.in_lockstep = True


def nms_plugin(device: Device, case: Case, **how) -> Plugin:
    """The plugin for a case of tests.boxes.cases_of_boxes. how: of Plugin."""
    arrays, iou_threshold, score_threshold, m = case
    attributes = {"iou_threshold": iou_threshold, "score_threshold": score_threshold, "max_outputs": m}
    outputs = [(DYNAMIC, m, 4), (DYNAMIC, m), (DYNAMIC, m), (DYNAMIC,)]
    return Plugin(device, "Nms", attributes, [dynamic(x) for x in arrays], outputs, **how)


def check_nms(device: Device, case: Case) -> float:
    """Every output exactly the reference's. Returns 0, the largest error."""
    arrays, *settings = case
    plugin = nms_plugin(device, case, max_batch=len(arrays[0]), opt_batch=1)
    with block_by_block(device):
        found = plugin(arrays)
    plugin.close()
    wanted = nms(*tensors(arrays), *settings)
    for name, got, x in zip(("boxes", "scores", "ids", "count"), found, wanted, strict=True):
        np.testing.assert_array_equal(got, x.numpy(), err_msg=name)
        assert got.dtype == x.numpy().dtype
    return 0.0


def roi_align_plugin(device: Device, regions: Regions, dtype: type, **how) -> tuple[Plugin, list[np.ndarray]]:
    """The plugin for random features and regions, and its inputs as arrays."""
    b, n, c, h, w, s = regions
    arrays = [*random_features(b, c, h, w, dtype), random_regions(b, n, h, w)]
    attributes = {"output_size": s, "window": 100}  # the body's alone: the plugin leaves it aside
    return Plugin(
        device, "MultiLevelRoiAlign", attributes, [dynamic(x) for x in arrays], [(DYNAMIC, n, s, s, c)], **how
    ), arrays


def check_roi_align(device: Device, regions: Regions, dtype: type) -> float:
    """The output against the reference; returns the largest error."""
    plugin, arrays = roi_align_plugin(device, regions, dtype, max_batch=regions[0], opt_batch=1)
    with block_by_block(device):
        (found,) = plugin(arrays)
    plugin.close()
    assert found.dtype == dtype
    wanted = multi_level_roi_align(*(x if x.dtype == torch.float32 else x.float() for x in tensors(arrays)), regions[5])
    error = float(np.abs(found.astype(np.float32) - wanted.numpy()).max())
    assert error <= ROI_LIMITS[dtype], error
    return error
