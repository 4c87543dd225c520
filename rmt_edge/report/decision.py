"""The decision of a report: which candidate to deploy, and why, in words.

Between FP16 and 8 bits the verdicts on measured latencies decide, one a machine (`rmt-edge verdict`); without one only
accuracy can.
"""

from typing import Any

from rmt_edge.latency.record import ENGINE_RUNNERS

ADVICE = (
    "INT8 is often slower than FP16 at batch 1 on large GPUs; prefer FP16 until a measurement on yours shows 8 bits at "
    "least 1.02 times as fast."
)
PREFERRED = ("fp16", "fp32")  # by accuracy alone; any other precision comes after them


def decide(content: dict[str, Any]) -> dict[str, Any]:
    """{"headline", "reasons", "candidates": [{"name", "text"}]} of a report's content."""
    rows = content["rows"]
    fit = [row for row in rows if row["accuracy"] and row["accuracy"]["within_max_drop"]]
    losing = [x for x in content["device_accuracy"] if not x["details"].get("within_max_drop", True)]
    decided = [(x, _decided(x, losing)) for x in content["verdicts"]]
    decided = [(verdict, found) for verdict, found in decided if found]
    if decided:
        parts = [_by_verdict(verdict, found, len(decided) > 1) for verdict, found in decided]
        headline, reasons = " ".join(x for x, _ in parts), [reason for _, some in parts for reason in some]
    else:
        headline, reasons = _by_accuracy(rows, fit)
        reasons += [_unmeasured(content["latency"]), *_estimates(content["estimate"])]
    return {
        "headline": headline,
        "reasons": reasons + _engines_that_lose(losing) + _doubts(fit),
        "candidates": [{"name": row["recipe_name"], "text": candidate_sentence(row)} for row in rows],
    }


def _decided(verdict: dict[str, Any], losing: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A verdict's rows on engines; what takes an engine that loses too much on its device takes nothing."""
    files = {x["subject"].get("name") for x in losing}
    rows = [x for x in verdict["rows"] if x["runner"] in ENGINE_RUNNERS]
    return [x | ({"verdict": "neither"} if _takes(x) in files else {}) for x in rows]


def how_it_ran(run: dict[str, Any], kernels: str | None = None) -> str:
    """A run in words: tensorrt, plugin kernels, CUDA graph, with transfers."""
    parts = [run["runner"]]
    if is_peer(run):
        parts = [f"{run['runner']} {run.get('precision') or ''}".strip()]
    elif kernels:
        parts.append(f"{kernels} kernels")
    if run.get("cuda_graph"):
        parts.append("CUDA graph")
    if run.get("transfers"):
        parts.append("with transfers")
    return ", ".join(parts)


def is_peer(run: dict[str, Any]) -> bool:
    """Whether a run is of the checkpoint in PyTorch, measured beside the record's file."""
    return run["runner"].startswith("torch")


def candidate_sentence(row: dict[str, Any]) -> str:
    """What the accuracy of one candidate says."""
    accuracy = row["accuracy"]
    if accuracy is None:
        return "not validated. Run `rmt-edge validate` on it."
    low, high = accuracy["drop_interval_points"]
    verdict = "within" if accuracy["within_max_drop"] else "OUTSIDE"
    return (
        f"{accuracy['metric']} {accuracy['percent']:.2f} %, {verdict} the allowed drop of "
        f"{accuracy['max_drop_points']:g} points ({accuracy['drop_points']:+.2f}, "
        f"95 % interval {low:+.2f} to {high:+.2f})."
    )


def _by_verdict(
    verdict: dict[str, Any], decided: list[dict[str, Any]], is_one_of_several: bool
) -> tuple[str, list[str]]:
    """What a verdict takes for each batch size, and its reasons as it gives them."""
    batches: dict[str, list[str]] = {}
    for row in decided:
        if _takes(row) is not None:
            batches.setdefault(row["verdict"], []).append(str(row["batch"]))
    machine = verdict["name"]
    taken = [f"{name} at batch {_and(found)}" for name, found in batches.items()]
    headline = f"On {machine}, deploy {'; '.join(taken)}." if taken else f"Deploy nothing on {machine} yet."
    reasons = []
    for row in decided:
        ratio = ""
        if "speedup" in row:
            (low, high), fp16, reduced = row["speedup_interval"], row["fp16"], row["reduced"]
            ratio = f" p50 of FP16 over {reduced['precision'].upper()}: {row['speedup']:.3f}, 95 % interval "
            ratio += f"{low:.3f} to {high:.3f} ({fp16['file']} against {reduced['file']})."
        doubts = f" Warnings of these measurements: {row['warnings']}, below." if row.get("warnings") else ""
        to_do = f" {row['do']}" if row.get("do") else ""
        where = f"{machine}: batch" if is_one_of_several else "Batch"
        reasons.append(f"{where} {row['batch']}, {row['runner']}: {row['reason']}{ratio}{doubts}{to_do}")
    return headline, reasons


def _by_accuracy(rows: list[dict[str, Any]], fit: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """FP16 is taken where it keeps the allowed drop: half the bytes of FP32, and none of the rounding of 8 bits."""
    if not any(row["accuracy"] for row in rows):
        return "Nothing can be recommended yet: no candidate is validated.", []
    if not fit:
        return "Deploy none of these: each loses more accuracy than is allowed.", []
    chosen = min(fit, key=lambda row: [*PREFERRED, row["precision"]].index(row["precision"]))
    name, accuracy = chosen["recipe_name"], chosen["accuracy"]
    low, high = accuracy["drop_interval_points"]
    reason = (
        f"{name} keeps {accuracy['percent']:.2f} % {accuracy['metric']} of the float32 model's "
        f"{accuracy['reference_percent']:.2f} % on {accuracy['images']:,} images: a drop of "
        f"{accuracy['drop_points']:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}, where "
        f"{accuracy['max_drop_points']:g} is allowed."
    )
    return f"Deploy {name} until latency is measured on your device.", [reason]


def _unmeasured(latency: list[dict[str, Any]]) -> str:
    if not latency:
        return f"Latency is not measured: it needs the device. {ADVICE}"
    if any(run["runner"] in ENGINE_RUNNERS for record in latency for run in record["runs"]):
        return f"Engines were timed, but nothing was decided from it: run `rmt-edge verdict` on this folder. {ADVICE}"
    return f"No engine was timed: the latencies below are of other runners. {ADVICE}"


def _takes(row: dict[str, Any]) -> str | None:
    """The file that a row of a verdict takes, if it takes one."""
    compared = (row[key] for key in ("fp16", "reduced") if key in row)
    return next((x["file"] for x in compared if x["precision"] == row["verdict"]), None)


def _engines_that_lose(losing: list[dict[str, Any]]) -> list[str]:
    """Engines that on their device lose more than was allowed, whatever their ONNX file keeps."""
    return [
        f"The engine {x['subject'].get('name')} itself loses {x['details']['drop_points']:+.2f} points on "
        f"{x['on']}: more than the {x['details']['max_drop_points']:g} allowed. Do not deploy it."
        for x in losing
    ]


def _doubts(fit: list[dict[str, Any]]) -> list[str]:
    """Candidates that are within the limit by their drop, but not by their interval."""
    return [
        f"{row['recipe_name']} is within the limit only by its mean: the interval of its drop reaches "
        f"{row['accuracy']['drop_interval_points'][1]:+.2f}. More images would tell."
        for row in fit
        if row["accuracy"]["drop_interval_points"][1] > row["accuracy"]["max_drop_points"]
    ]


def _estimates(estimates: list[dict[str, Any]]) -> list[str]:
    """What the estimates say, as estimates."""
    found: dict[tuple[str, int], list[str]] = {}
    for record in estimates:
        for x in record["estimates"]:
            key = (record["device"]["name"], x["batch"])
            found.setdefault(key, []).append(f"{record['recipe']['name']} {x['latency_ms']:.3g} ms")
    return [
        f"Estimated, not measured, for {device} at batch {batch}: {', '.join(names)}."
        for (device, batch), names in found.items()
    ]


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
