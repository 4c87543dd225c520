"""What a state dict is: head, variant, classes and widths from its names and shapes, or what does not fit.

A detector or segmenter is one where a parameter lies under the public detectors' prefixes; its head is told by a
parameter that no other has (widths.py), its variant by the backbone's shapes.
"""

from functools import cache
from pathlib import Path

import torch

from rmt_edge.errors import RmtEdgeError
from rmt_edge.model.downstream import Downstream
from rmt_edge.model.heads import MODELS, create_head
from rmt_edge.model.rmt import RMT, Backbone, create_model
from rmt_edge.model.spec import CLASSIFIER
from rmt_edge.model.variants import VARIANTS
from rmt_edge.model.widths import MARKS, Shapes, classes_in, head_in, widths_in

# The parts of the public detectors and segmenters (mmdet 2.11, mmseg 0.13).
PREFIXES = ("backbone.", "neck.", "bbox_head.", "rpn_head.", "roi_head.", "decode_head.", "auxiliary_head.")
_NAMED = 5  # names listed in an error


@cache
def _classifier_shapes(variant_name: str) -> dict[str, tuple[int, ...]]:
    """Parameter and buffer shapes of a variant, without the heads' rows (the class count)."""
    with torch.device("meta"):
        return shapes_of(create_model(variant_name, 1))


@cache
def _backbone_shapes(variant_name: str) -> dict[str, tuple[int, ...]]:
    """Those of a detector's backbone."""
    with torch.device("meta"):
        return {f"backbone.{name}": shape for name, shape in shapes_of(Backbone(variant_name)).items()}


@cache
def _classifier_names() -> set[str]:
    return {name for variant in VARIANTS for name in _classifier_shapes(variant)}


def shapes_of(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model's state dict."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def is_public(name: str) -> bool:
    """Whether a parameter's name is one of the public models', or may be: of a detector, by its first part."""
    return name in _classifier_names() or (name.startswith(PREFIXES) and "._orig_mod." not in name)


def model_fitting(actual: Shapes, path: Path) -> RMT | Downstream:
    """The empty model that a state dict of these shapes fits, or an error that names what does not fit."""
    if any(name.startswith(PREFIXES) for name in actual):
        return _downstream_fitting(actual, path)
    return _classifier_fitting(actual, path)


def _downstream_fitting(actual: Shapes, path: Path) -> Downstream:
    head = head_in(actual)
    if head is None or head == CLASSIFIER:
        others = [name for name in actual if not name.startswith("backbone.")]
        raise RmtEdgeError(
            f"{path} is a detector or segmenter with a head that rmt-edge does not know: "
            f"{_list(others) or 'a backbone alone'}.",
            f"known heads and a parameter of each: {', '.join(f'{x} ({MARKS[x]})' for x in MODELS)}, as RMT's public "
            "configs (mmdet 2.11, mmseg 0.13) name them.",
        )

    def score(variant_name: str) -> int:
        expected = _backbone_shapes(variant_name)
        right = sum(expected.get(name) == shape for name, shape in actual.items())
        return 2 * right - sum(name.startswith("backbone.") for name in set(actual) ^ set(expected))

    best = max(VARIANTS, key=score)
    classes, widths = classes_in(head, actual), widths_in(head, actual)
    with torch.device("meta"):
        expected = shapes_of(create_head(head, best, classes, widths))
    wrong = [name for name, shape in actual.items() if name in expected and expected[name] != shape]
    problems = _problems(actual, expected, wrong)
    if problems:
        raise RmtEdgeError(
            f"{path} does not fit {head} on {best} with {classes} classes, which is nearest to it: "
            f"{'; '.join(problems)}.",
            "every parameter of RMT's public configs must be there and no other."
            + (" Names of mmengine (mmdet 3.x, mmseg 1.x) are among them." if _is_mmengine(actual) else ""),
            "Save the state dict of the public code's model (mmdet 2.11, mmseg 0.13).",
        )
    return create_head(head, best, classes, widths)


def _is_mmengine(actual: Shapes) -> bool:
    """Whether names are there that only the successors of the public code's framework write."""
    return any(name.startswith(("data_preprocessor.", "ema_")) for name in actual)


def _is_head(name: str) -> bool:
    return name.startswith(("head.", "aux_head."))


def _classifier_fitting(actual: Shapes, path: Path) -> RMT:
    def fits(variant_name: str, name: str) -> bool:
        expected = _classifier_shapes(variant_name).get(name)
        shape = actual[name]
        return expected is not None and (shape[1:] == expected[1:] if _is_head(name) else shape == expected)

    def score(variant_name: str) -> int:
        right = sum(fits(variant_name, name) for name in actual)
        return 2 * right - len(set(actual) ^ set(_classifier_shapes(variant_name)))

    best = max(VARIANTS, key=score)
    expected = _classifier_shapes(best)
    if sum(fits(best, name) for name in actual) < len(expected) // 2:
        raise RmtEdgeError(
            f"{path} is not an RMT that rmt-edge knows. Its first parameters: {_list(list(actual))}.",
            f"an RMT has {_list(list(expected))} …, in the shapes of one of {', '.join(VARIANTS)}.",
        )
    problems = _problems(actual, expected, [x for x in actual if x in expected and not fits(best, x)])
    rows = {actual[name][0] for name in actual if _is_head(name) and name in expected}
    if len(rows) > 1:
        problems.append(f"its heads disagree about the class count: {sorted(rows)}")
    if problems:
        raise RmtEdgeError(
            f"{path} does not fit {best}, the variant nearest to it: {'; '.join(problems)}.",
            "every parameter must be there and no other: a detection or segmentation backbone, which has no proj, norm "
            "and head, is no classifier.",
        )
    return create_model(best, rows.pop())


def _problems(actual: Shapes, expected: Shapes, wrong: list[str]) -> list[str]:
    """What is missing, what is too much, and which parameters are of another shape."""
    problems = []
    if missing := [name for name in expected if name not in actual]:
        problems.append(f"missing: {_list(missing)}")
    if extra := [name for name in actual if name not in expected]:
        problems.append(f"not part of it: {_list(extra)}")
    if wrong:
        shapes = [f"{name} {actual[name]} instead of {expected[name]}" for name in wrong]
        problems.append(f"wrong shape: {_list(shapes)}")
    return problems


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
