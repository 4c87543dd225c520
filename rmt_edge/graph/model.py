"""A folded form of any head as an ONNX model."""

import numpy as np
from onnx import ModelProto

from rmt_edge.graph.detectors import write_rcnn, write_retinanet
from rmt_edge.graph.network import model_of, onnx_from_folded
from rmt_edge.graph.segmenters import write_segmenter
from rmt_edge.graph.writer import GraphWriter
from rmt_edge.model.downstream import Downstream
from rmt_edge.model.folded import FoldedRMT, Ranges
from rmt_edge.model.spec import CASCADE_MASK_RCNN, MASK_RCNN, RETINANET, SEMANTIC_FPN, UPERNET

WRITERS = {
    RETINANET: write_retinanet,
    MASK_RCNN: write_rcnn,
    CASCADE_MASK_RCNN: write_rcnn,
    SEMANTIC_FPN: write_segmenter,
    UPERNET: write_segmenter,
}


def onnx_from_model(
    model: FoldedRMT | Downstream, dtype: np.dtype, ranges: Ranges, metadata: dict[str, str], flat_linears: bool = False
) -> ModelProto:
    """The ONNX model of a folded form of any head; arguments as those of network.onnx_from_folded."""
    if isinstance(model, FoldedRMT):
        return onnx_from_folded(model, dtype, ranges, metadata, flat_linears)
    graph = GraphWriter(np.dtype(dtype), ranges, flat_linears)
    outputs = WRITERS[model.head_name](graph, model)
    size = (model.backbone.height, model.backbone.width)
    return model_of(graph, f"{model.head_name}_{model.variant_name}", size, outputs, metadata)
