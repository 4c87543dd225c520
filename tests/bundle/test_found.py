"""Bundles of detectors and segmenters: the device scores them as the workstation does, with numpy alone."""

import numpy as np
import pytest

from rmt_edge.accuracy.predictions import rows_in
from rmt_edge.artifact import ONNX, PREDICTIONS, read_artifact
from rmt_edge.bundle.bundle import found_subset_of, open_bundle, read_folder, unpack
from rmt_edge.bundle.found_subset import SIZES, TRUTH
from rmt_edge.bundle.pack import pack
from rmt_edge.bundle.validate import validate_onnx
from rmt_edge.errors import RmtEdgeError
from tests import detectors
from tests.pictured import onnx_of


class Packed:
    """A case with its bundle, unpacked."""

    def __init__(self, head, folder):
        self.case = detectors.Case(head, folder)
        onnx = onnx_of(self.case.checkpoint, folder / "models")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rmt_edge.bundle.pack_subset.runner_of", lambda *_: self.case.seer())
            self.path = pack([onnx], self.case.checkpoint, self.case.data, images=6, architectures=())
        self.folder = unpack(self.path, folder / "unpacked")


@pytest.fixture(scope="module", params=detectors.HEADS)
def packed(request, tmp_path_factory):
    return Packed(request.param, tmp_path_factory.mktemp(request.param))


def test_a_device_finds_the_workstations_numbers(packed, tmp_path):
    case, index = packed.case, read_folder(packed.folder)
    assert index.task == ("segmentation" if case.head == "semantic_fpn" else "detection")
    found = validate_onnx(
        packed.folder / f"{case.head}.int8.onnx", case.seer(0.1), packed.folder, tmp_path, max_drop=100
    )
    assert read_artifact(found.path, PREDICTIONS) == found
    details = found.details
    assert details["metric"] == detectors.HEADS[case.head] and details["images"] == 6 and details["dataset_images"] == 8
    assert details["reference_percent"] == pytest.approx(index.validation["reference_percent"])
    # the same images on the workstation
    chosen = case.data.drawn(6)
    whole = rows_in(case.reference)
    of_bundle = found_subset_of(packed.folder, index)[1]
    for name in ("boxes", "scores", "masks", "shared", "map"):
        if name in whole:
            np.testing.assert_array_equal(of_bundle[name], whole[name][chosen.chosen.indices], err_msg=name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rmt_edge.accuracy.reference.runner_of", lambda *_: case.seer())
        reference = detectors.reference_predictions(case.checkpoint, chosen, tmp_path)
    onnx = read_artifact(packed.folder / f"{case.head}.int8.onnx", ONNX)
    expected = detectors.validate(onnx, chosen, reference, tmp_path / "w", 100, runner=case.seer(0.1)).details
    for key in (
        "percent",
        "reference_percent",
        "drop_points",
        "drop_interval_points",
        "agreement_percent",
        "per_class",
    ):
        assert details[key] == expected[key], key
    assert details["drop_points"] != 0


def test_the_same_inputs_give_the_same_bundle(packed, tmp_path):
    case = packed.case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rmt_edge.bundle.pack_subset.runner_of", lambda *_: case.seer())
        again = pack(
            [packed.path.parent / f"{case.head}.int8.onnx"], case.checkpoint, case.data, images=6, architectures=(),
            output=tmp_path / "again.rmtedge",
        )  # fmt: skip
    assert again.read_bytes() == packed.path.read_bytes()
    assert open_bundle(again).validation["metric"] == detectors.HEADS[case.head]


@pytest.mark.parametrize(("name", "match"), [(TRUTH, "truth.npz was changed"), (SIZES, "sizes.npy was changed")])
def test_a_changed_subset_is_refused(packed, tmp_path, name, match):
    folder = unpack(packed.path, tmp_path / "x")
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with pytest.raises(RmtEdgeError, match=match):
        found_subset_of(folder, read_folder(folder))


def test_a_truth_of_other_pictures_is_refused(packed):
    """As a bundle that rmt-edge did not write might have it."""
    from rmt_edge.bundle.found_subset import load_found_subset
    from rmt_edge.data.preprocess import Preprocessing
    from rmt_edge.model.spec import ModelSpec

    index = read_folder(packed.folder)
    spec, size = ModelSpec.from_dict(index.spec), Preprocessing.from_dict(index.preprocessing)
    sizes = np.load(packed.folder / SIZES)
    try:
        np.save(packed.folder / SIZES, sizes + 1)
        with pytest.raises(RmtEdgeError, match="is not of the pictures beside it"):
            load_found_subset(packed.folder, 6, spec, size)
    finally:
        np.save(packed.folder / SIZES, sizes)
    with pytest.raises(RmtEdgeError, match=r"images\.npy is uint8 \(6, 96, 128, 3\)"):
        load_found_subset(packed.folder, 7, spec, size)
