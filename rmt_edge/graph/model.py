"""A folded form of any head as an ONNX model."""

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor

from rmt_edge.graph.detectors import write_rcnn, write_retinanet
from rmt_edge.graph.network import OUTPUT, model_of, onnx_from_folded
from rmt_edge.graph.segmenters import LOGITS as CLASS_MAP
from rmt_edge.graph.segmenters import write_segmenter
from rmt_edge.graph.writer import GraphWriter
from rmt_edge.model.downstream import Downstream
from rmt_edge.model.folded import FoldedRMT, Ranges
from rmt_edge.model.rcnn import MaskRCNN
from rmt_edge.model.segmenters import Segmenter
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


@torch.no_grad()
def predictions_of(model: FoldedRMT | Downstream, images: Tensor) -> dict[str, Tensor]:
    """What the outputs are made from, by the names of the tensors in the graph: logits, or a detector's maps."""
    if isinstance(model, FoldedRMT):
        return {OUTPUT: model(images)}
    if isinstance(model, Segmenter):
        return {CLASS_MAP: model.logits(images)}
    levels = model.neck(model.backbone(images))
    of_rpn = isinstance(model, MaskRCNN)
    maps = model.rpn_head(levels) if of_rpn else model.bbox_head(levels)
    names = ("rpn_head.rpn_cls", "rpn_head.rpn_reg") if of_rpn else ("bbox_head.retina_cls", "bbox_head.retina_reg")
    return {f"{name}@{i}": x for name, of in zip(names, maps, strict=True) for i, x in enumerate(of)}


def with_predictions(model: ModelProto, names: list[str]) -> ModelProto:
    """A copy of a model that also gives these tensors, in the type they have."""
    made = ModelProto()
    made.CopyFrom(model)
    known = {x.name for x in made.graph.output}
    is_half = any(x.data_type == TensorProto.FLOAT16 for x in made.graph.initializer)
    onnx_type = TensorProto.FLOAT16 if is_half else TensorProto.FLOAT
    made.graph.output.extend(helper.make_tensor_value_info(x, onnx_type, None) for x in names if x not in known)
    return made
