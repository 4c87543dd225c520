"""The report as Markdown: for a terminal, a pull request, a reader without a browser."""

from typing import Any

from rmt_edge.artifact import ENGINE, ONNX
from rmt_edge.report.decision import how_it_ran, is_peer


def markdown(content: dict[str, Any]) -> str:
    """The page of a report."""
    rows = content["rows"]
    size = content["preprocessing"]
    lines = [
        f"# {content['variant']} from {content['checkpoint']['name']}",
        "",
        f"{content['parameters']:,} parameters, {content['num_classes']} classes, input "
        f"{size['height']}x{size['width']}. Checkpoint sha256 `{content['checkpoint']['sha256']}`.",
        "",
        "## Which one",
        "",
        *_decision(content["decision"]),
        "",
        *(["![Drop of top-1 with its interval](report.svg)", ""] if any(row["accuracy"] for row in rows) else []),
        "[report.html](report.html) is the whole page: every figure, and the data behind it.",
        "",
        "## Side by side",
        "",
        *_table(["", *(row["recipe_name"] for row in rows)], comparison(rows)),
        "",
        *(f"- {x}" for x in definitions(content)),
        "",
        *_measured(content),
        "## Engine layers by kind",
        "",
        "As the builder names them: `gemm` matrix products, `correlation` convolutions, `kgen` fused "
        "kernels, `custom_layer` rmt-edge's plugins.",
        "",
        *_table(["", *(row["recipe_name"] for row in rows)], kinds(rows)),
        "",
        "## Recipes",
        "",
        *(f"- **{row['recipe_name']}**: `{row['recipe']}`" for row in rows),
        "",
        "## Files and their chain",
        "",
        *_table(["file", "made from", "size", "sha256"], _files(rows)),
        "",
        f"Made by rmt-edge {content['rmt_edge']}; versions: "
        + ", ".join(f"{name} {version}" for name, version in rows[-1]["versions"].items())
        + ".",
    ]
    return "\n".join(lines) + "\n"


def _decision(decision: dict[str, Any]) -> list[str]:
    """The headline, its reasons, and what the accuracy of each candidate says."""
    return [
        f"**{decision['headline']}**",
        "",
        *(f"- {x}" for x in decision["reasons"]),
        *(f"- **{x['name']}**: {x['text']}" for x in decision["candidates"]),
    ]


def comparison(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The rows of the main table: a label and a cell per recipe."""

    def accuracy(key: str, form: str) -> list[str]:
        return [form.format(row["accuracy"][key]) if row["accuracy"] else "–" for row in rows]

    def size(kind: str) -> list[str]:
        found = [[x["size_bytes"] for x in row["files"] if x["kind"] == kind] for row in rows]
        return [" / ".join(f"{x / 1e6:.2f} MB" for x in sizes) or "–" for sizes in found]

    def engine(key: str) -> list[str]:
        return [" / ".join("–" if x[key] is None else str(x[key]) for x in row["engines"]) or "–" for row in rows]

    def seconds(step: str) -> list[str]:
        return [f"{row['seconds'][step]:.1f} s" if row["seconds"][step] is not None else "–" for row in rows]

    metric = next((row["accuracy"]["metric"] for row in rows if row["accuracy"]), "accuracy")
    intervals = [row["accuracy"]["drop_interval_points"] if row["accuracy"] else None for row in rows]
    return [
        [metric, *accuracy("percent", "{:.2f} %")],
        *_own_rows(rows),
        [f"{metric} drop, points", *accuracy("drop_points", "{:+.2f}")],
        ["95 % interval of the drop", *(f"{x[0]:+.2f} to {x[1]:+.2f}" if x else "–" for x in intervals)],
        ["agreement with float32", *accuracy("agreement_percent", "{:.2f} %")],
        ["ONNX file", *size(ONNX)],
        ["engine file", *size(ENGINE)],
        ["ONNX nodes", *(str(row["nodes"]) for row in rows)],
        ["engine layers", *engine("layers")],
        ["of them plugins", *engine("plugin_layers")],
        ["of them INT8 matrix products", *engine("int8_gemms")],
        ["kernels", *engine("kernels")],
        ["engine for", *engine("device")],
        ["ONNX against PyTorch, relative error", *(f"{row['relative_error']:.1e}" for row in rows)],
        ["plugin form against PyTorch", *(f"{row['plugin_form_relative_error']:.1e}" for row in rows)],
        *(["time to " + step, *seconds(step)] for step in ("quantize", "export", "build", "validate")),
    ]


def _own_rows(rows: list[dict[str, Any]]) -> list[list[str]]:
    """What only the task of these models has: a classifier's top-5, the other metrics of a detector with theirs."""
    found = [row["accuracy"] or {} for row in rows]
    lines = []
    if any("top5_percent" in x.get("classification", {}) for x in found):
        top5 = [x.get("classification", {}).get("top5_percent") for x in found]
        lines.append(["top-5", *("–" if value is None else f"{value:.2f} %" for value in top5)])
    others = [{x["metric"]: x for x in accuracy.get("other_metrics", [])} for accuracy in found]
    for metric in dict.fromkeys(name for x in others for name in x):
        cells = [x.get(metric) for x in others]
        lines.append([metric, *("–" if x is None else f"{x['percent']:.2f} %" for x in cells)])
        lines.append([f"{metric} drop, points", *("–" if x is None else f"{x['drop_points']:+.2f}" for x in cells)])
    return lines


def definitions(content: dict[str, Any]) -> list[str]:
    """Each metric in a sentence."""
    validated = next((row["accuracy"] for row in content["rows"] if row["accuracy"]), None)
    lines = []
    if validated:
        lines += [
            f"Accuracy: of the ONNX file with the same weights, on {validated['images']:,} images through "
            f"{validated['runtime']}; not of the engine, which needs its GPU. An engine with plugins was built from "
            f"that file's plugin form, which was checked against PyTorch at export: relative error "
            f"{_form_errors(content)}.",
            *DEFINITIONS[validated.get("task", "classification")],
            f"Drop: {validated['metric']} of the float32 PyTorch model minus that of this file on the same images; its "
            "interval is paired per image.",
            "The first time to validate includes the float32 PyTorch model's run over the images.",
        ]
    if content["latency"]:
        lines += [
            "Latency: the time of one batch, as the settings in its record say; with transfers it includes the copies "
            "to and from the GPU. p50, p90, p99: the time that 50, 90, 99 % of the runs did not exceed.",
            "Coefficient of variation: standard deviation over mean of the samples.",
            "Images per second: batch size over mean latency, unless the record says otherwise.",
        ]
    if content["sensitivity"]:
        lines += [
            "Sensitivity: what is lost when the layers of one group alone are INT8 and the rest stays as it was.",
            "KL: the mean over images of the divergence KL(reference ‖ quantised) of the class probabilities, in nats.",
            "SQNR: 20·log10(‖reference‖/‖difference‖) of the logits, in decibels.",
        ]
    return [
        *lines,
        "ONNX against PyTorch: ‖difference‖/‖PyTorch‖ of the logits on noise, both with the same INT8 rounding. Plugin "
        "form against PyTorch: the same of the file that plugin engines are built from, its plugins' arithmetic done "
        "by ONNX Runtime.",
        "A Retention counts as one ONNX node. Engine layers: what the builder lists, each at least one kernel.",
    ]


def _form_errors(content: dict[str, Any]) -> str:
    """The relative error of each recipe's plugin form, as `6.0e-04 (fp16)`."""
    return ", ".join(f"{row['plugin_form_relative_error']:.1e} ({row['recipe_name']})" for row in content["rows"])


def _measured(content: dict[str, Any]) -> list[str]:
    """The latencies of every record and the accuracies that came back from devices; nothing where there are none."""
    lines: list[str] = []
    if content["latency"]:
        lines += ["## Latency", "", *_table(list(LATENCY_HEADER), latency_rows(content["latency"])), ""]
    if content["device_accuracy"]:
        lines += ["## Accuracy on devices", "", *_table(list(DEVICE_HEADER), device_rows(content)), ""]
    return lines


# What a task's metrics mean, and what agreement with the float32 model is.
DEFINITIONS = {
    "classification": (
        "Top-1, top-5: the share of images whose label has the largest logit, or one of the five largest.",
        "Agreement: images on which both name the same class first.",
    ),
}
LATENCY_HEADER = ("candidate", "runner", "batch", "p50", "p90", "p99", "variation", "images/s", "on")
DEVICE_HEADER = ("candidate", "images", "accuracy", "drop, points", "95 % interval", "agreement", "on", "file")


def latency_rows(records: list[dict[str, Any]]) -> list[list[str]]:
    """A row for each run of each record."""

    def number(run: dict[str, Any], key: str, form: str) -> str:
        return form.format(run[key]) if run.get(key) is not None else "–"

    return [
        [
            "PyTorch" if is_peer(run) else record["recipe"].get("name", "–"),
            how_it_ran(run, record.get("kernels")),
            str(run["batch"]),
            *(number(run, key, "{:.3f} ms") for key in ("p50_ms", "p90_ms", "p99_ms")),
            number(run, "coefficient_of_variation", "{:.3f}"),
            number(run, "images_per_s", "{:,.0f}"),
            record["on"],
        ]
        for record in records
        for run in record["runs"]
    ]


def device_rows(content: dict[str, Any]) -> list[list[str]]:
    """A row for each engine whose accuracy was measured where it runs."""
    rows = []
    for x in content["device_accuracy"]:
        details = x["details"]
        low, high = details.get("drop_interval_points") or (None, None)
        drop = details.get("drop_points")
        rows.append(
            [
                x["recipe"].get("name", "–"),
                f"{details.get('images', 0):,}",
                f"{details['metric']} {details['percent']:.2f} %",
                "–" if drop is None else f"{drop:+.2f}",
                "–" if low is None else f"{low:+.2f} to {high:+.2f}",
                f"{details['agreement_percent']:.2f} %" if "agreement_percent" in details else "–",
                x["on"],
                x["subject"].get("name", "–"),
            ]
        )
    return rows


def kinds(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Layers by kind of each of a recipe's engines; none of an engine whose layers could not be listed."""
    counts = [[x["layers_by_kind"] or {} for x in row["engines"]] for row in rows]
    kinds = dict.fromkeys(kind for engines in counts for engine in engines for kind in engine)
    return [[kind, *(" / ".join(str(x.get(kind, 0)) for x in engines) or "–" for engines in counts)] for kind in kinds]


def _files(rows: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            x["name"],
            ", ".join(parent["name"] for parent in x["parents"]),
            f"{x['size_bytes'] / 1e6:.2f} MB",
            f"`{x['sha256'][:16]}…`",
        ]
        for row in rows
        for x in row["files"]
    ]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table; the first column left, the others right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
