"""The layers of a built engine: from the builder's log, or from TensorRT's inspector where the log has no list.

TensorRT-RTX 1.7 and TensorRT 10.10 log a list of layers with detailed profiling (10.10: NVIDIA/TensorRT issue 4397).
The inspector says the same as JSON and needs the engine's GPU. Either way a layer is a dict: name, kind (LayerType),
the element types that it reads and writes, and the ONNX nodes in it. The TensorRT module is passed in.
"""

import json
import logging
import re
from pathlib import Path
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)

HEAD = "Layers:\nName: "
# LayerType of a plugin: TensorRT-RTX 1.7 (seen), TensorRT (by its documentation of layer types).
PLUGIN_KINDS = ("custom_layer", "PluginV3", "PLUGIN_V3")
# LayerType of a matrix product: TensorRT-RTX and compiled regions of TensorRT, TensorRT elsewhere.
GEMM_KINDS = ("gemm", "MatrixMultiply", "CaskGemmMatrixMultiply")
_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: (?P<inputs>.*?)(?:, Constants: .*?)?"
    r", Outputs: (?P<outputs>.*?)(?:, (?:ParameterType|TacticName|TacticValue|StreamId|Metadata): .*)?"
)
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
# Element types as the two lists write them ("Half"; "Row major linear FP16 format"), and as we do.
_ELEMENT_TYPES = {
    "FP32": "Float", "Float": "Float", "FP16": "Half", "Half": "Half", "BF16": "BFloat16", "BFloat16": "BFloat16",
    "INT8": "Int8", "Int8": "Int8", "FP8": "FP8", "Int32": "Int32", "INT32": "Int32", "Int64": "Int64",
    "INT64": "Int64", "Bool": "Bool", "BOOL": "Bool", "UInt8": "UInt8",
}  # fmt: skip
_ELEMENT_TYPE = re.compile(rf"\b({'|'.join(_ELEMENT_TYPES)})\b")


def layers_in_log(messages: list[tuple[int, str]]) -> list[dict[str, Any]] | None:
    """The engine's layers out of the builder's log; None if it has no list, or one of a form that is not known."""
    lists = [text for _, text in messages if HEAD in text]
    if not lists:
        return None
    lines = [line for line in lists[-1].partition("Layers:\n")[2].split("\n\n")[0].splitlines() if line]
    found = [_LINE.fullmatch(line) for line in lines]
    layers = [
        {
            "name": match["name"],
            "kind": match["kind"],
            "reads": _element_types(re.findall(r"Datatype: ([^,}]*)", match["inputs"])),
            "writes": _element_types(re.findall(r"Datatype: ([^,}]*)", match["outputs"])),
            "onnx_nodes": _NODE.findall(match[0]),
        }
        for match in found
        if match
    ]
    if len(layers) != len(lines):
        logger.warning(
            "build: %d of %d lines of the builder's layers cannot be read", len(lines) - len(layers), len(lines)
        )
        return None
    return layers


def layers_by_inspector(
    trt: ModuleType, log: Any, plan: Any, host_code: bool, folder: Path
) -> list[dict[str, Any]] | None:
    """The engine's layers by TensorRT's inspector, on the GPU that the engine is for; None if it does not open.

    host_code: the engine carries a runtime of its own (version-compatible), which is trusted because it was built here.
    """
    runtime = trt.Runtime(log)
    runtime.temporary_directory = str(folder)
    if host_code:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return None
    return layers_in_json(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def layers_in_json(text: str) -> list[dict[str, Any]] | None:
    """The layers in the inspector's JSON; None if it holds names alone, as without detailed profiling."""
    try:
        found = json.loads(text)["Layers"]
        return [
            {
                "name": layer["Name"],
                "kind": layer["LayerType"],
                "reads": _element_types([x["Format/Datatype"] for x in layer.get("Inputs", [])]),
                "writes": _element_types([x["Format/Datatype"] for x in layer.get("Outputs", [])]),
                "onnx_nodes": _NODE.findall(layer.get("Metadata") or ""),
            }
            for layer in found
        ]
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("build: the inspector's layers cannot be read: %s %s", type(error).__name__, error)
        return None


def _element_types(texts: list[str]) -> list[str]:
    found = (_ELEMENT_TYPE.search(text) for text in texts)
    return sorted(
        {_ELEMENT_TYPES[match[1]] if match else text.strip() for match, text in zip(found, texts, strict=True)}
    )


def plugin_layers_of(trt: ModuleType, network: Any) -> int:
    """The plugin layers of a parsed network, for an engine whose own layers cannot be listed."""
    return sum(network.get_layer(index).type == trt.LayerType.PLUGIN_V3 for index in range(network.num_layers))


def layer_counts(layers: list[dict[str, Any]] | None, plugin_layers: int) -> dict[str, Any]:
    """What a manifest says of an engine's layers: all None but plugin_layers where there is no list."""
    if layers is None:
        return {"layers": None, "layers_by_kind": None, "plugin_layers": plugin_layers, "int8_gemms": None}
    kinds: dict[str, int] = {}
    for layer in layers:
        kinds[layer["kind"]] = kinds.get(layer["kind"], 0) + 1
    return {
        "layers": len(layers),
        "layers_by_kind": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "plugin_layers": sum(kinds.get(kind, 0) for kind in PLUGIN_KINDS),
        "int8_gemms": sum(layer["kind"] in GEMM_KINDS and "Int8" in layer["reads"] for layer in layers),
    }
