"""What TensorRT-RTX makes of the detectors' ops without a GPU: ours, as plugins and from their bodies, and its own.

    PYTHONPATH=. python bench/box_ops_engines.py LIBRARIES --record bench/results/box_ops_engines.json

LIBRARIES: a folder with the plugin library for SM 8.6, such as build/test-plugin. Every network is one op at a size of
Mask R-CNN at 800×1344, built for SM 8.6 in a process of its own (tests/plugin/build_with_rtx.py), since its own ops may
end the process. Of each: `is_built`, `layers` and `kinds` of the builder's list, `engine_kb`, `seconds`, and what the
parser or the process said if there is no engine. Nothing here is a speed: that takes a GPU.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper
from record import header

from rmt_edge.graph.plugin_form import plugin_form
from rmt_edge.plugin.load import library_path
from rmt_edge.writing import write_json
from tests.boxes import maps_of, nms_model, roi_align_model

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tests" / "plugin" / "build_with_rtx.py"
PICTURE = (800, 1344)
CANDIDATES, PROPOSALS, DETECTIONS, CHANNELS = 4819, 1000, 100, 256
info = helper.make_tensor_value_info


def own_nms() -> ModelProto:
    """ONNX NonMaxSuppression of the RPN's candidates; its class indices make the levels."""
    numbers = {"most": np.array([PROPOSALS], np.int64), "iou": np.array([0.7], np.float32)}
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores", *numbers], ["found"])
    shapes = {"boxes": ["b", CANDIDATES, 4], "scores": ["b", 5, CANDIDATES]}
    inputs = [info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    return _model(node, inputs, info("found", TensorProto.INT64, [None, 3]), numbers)


def own_roi_align() -> ModelProto:
    """ONNX RoiAlign of one level; four of them and a choice would be needed."""
    (h, w), *_ = maps_of(*PICTURE)
    node = helper.make_node(
        "RoiAlign", ["x", "rois", "images"], ["out"], mode="avg", sampling_ratio=0, spatial_scale=0.25,
        output_height=7, output_width=7, coordinate_transformation_mode="half_pixel",
    )  # fmt: skip
    inputs = [info("x", TensorProto.FLOAT16, ["b", CHANNELS, h, w]), info("rois", TensorProto.FLOAT16, ["n", 4])]
    out = info("out", TensorProto.FLOAT16, ["n", CHANNELS, 7, 7])
    return _model(node, [*inputs, info("images", TensorProto.INT64, ["n"])], out, {})


def _model(node, inputs, output, constants: dict[str, np.ndarray]) -> ModelProto:
    arrays = [onnx.numpy_helper.from_array(x, name) for name, x in constants.items()]
    graph = helper.make_graph([node], "own", inputs, [output], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def networks() -> dict[str, Callable[[], ModelProto]]:
    """Name -> the network."""
    maps = maps_of(*PICTURE)

    def nms(n: int, iou: float, least: float, m: int) -> ModelProto:
        return nms_model("b", n, iou, least, m)

    def regions(n: int, s: int) -> ModelProto:
        return roi_align_model("b", n, CHANNELS, maps, s, np.float16)

    bodies = {
        "Nms of an RPN": lambda: nms(CANDIDATES, 0.7, -1.0, PROPOSALS),
        "Nms of detections": lambda: nms(2048, 0.5, 0.05, DETECTIONS),
        "MultiLevelRoiAlign 7x7": lambda: regions(PROPOSALS, 7),
        "MultiLevelRoiAlign 14x14": lambda: regions(DETECTIONS, 14),
    }
    plugins = {f"{name}, plugin": (lambda make=make: plugin_form(make())) for name, make in bodies.items()}
    own = {"TensorRT's NonMaxSuppression": own_nms, "TensorRT's RoiAlign, one level": own_roi_align}
    return {f"{name}, body": make for name, make in bodies.items()} | plugins | own


def build(model: ModelProto, library: Path) -> dict:
    """What became of one network."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        start = time.monotonic()
        environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": folder}
        done = subprocess.run(
            [sys.executable, str(SCRIPT), str(path), str(library)], capture_output=True, text=True, env=environment
        )
        seconds = round(time.monotonic() - start, 1)
    if done.returncode:
        return {"is_built": False, "said": f"process ended with {done.returncode}: {done.stderr.strip()[-300:]}"}
    built = json.loads(done.stdout.splitlines()[-1])
    if not built["engine_bytes"]:
        said = built["parser_errors"] or built["errors"] or ["nothing"]
        return {"is_built": False, "said": said[0][:300], "seconds": seconds}
    kinds = Counter(re.findall(r"LayerType: (\w+)", "\n".join(built["layers"])))
    return {
        "is_built": True, "layers": sum(kinds.values()), "kinds": dict(kinds.most_common()),
        "engine_kb": round(built["engine_bytes"] / 1e3), "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", type=Path, help="folder of the plugin library")
    parser.add_argument("--record", type=Path, help="also write the JSON object to this file")
    args = parser.parse_args()
    library = library_path(args.libraries)
    found = {}
    for name, make in networks().items():
        found[name] = build(make(), library)
        print(f"{name}: {found[name]}")
    record = header("box_ops_engines") | {"compute_capability": "8.6", "picture": list(PICTURE), "networks": found}
    if args.record:
        write_json(args.record, record)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
