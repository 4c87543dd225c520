"""Search: the mixed INT8/FP16 assignment with the lowest latency on a device within a budget of accuracy.

1. Sensitivities: each group of layers (a kind in a stage) alone in INT8, on the selection images.
2. Candidates: for every amount of estimated time saved, the groups with the least sum of KL divergence
   (assignment.py). KL ranks them and not top-1, of which one image in 2,000 is 0.05 points: most groups' drops are
   below what so few images tell apart, while KL adds up what happened to all of them. Groups whose INT8 saves no
   estimated time are left out.
3. Verification: candidates spread over the path, from all FP16 to all that save time, are really run on the selection
   images; then more of them between the fastest that keeps the budget and the next faster one, which does not.
4. Of those that keep the budget, the fastest is written as a recipe; of equally fast ones that of least KL divergence.

With measured latencies, the candidates are the recipes that were measured, and steps 1 and 2 fall away.
"""

import datetime
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmt_edge.accuracy.limits import held_to
from rmt_edge.accuracy.resume import finish
from rmt_edge.artifact import output_folder, versions, write_json, written_whole
from rmt_edge.data.dataset import Dataset, image_count, open_dataset
from rmt_edge.data.preprocess import Preprocessing
from rmt_edge.device.profile import DeviceProfile
from rmt_edge.errors import RmtEdgeError
from rmt_edge.latency.roofline import Network, latency_ms
from rmt_edge.model.checkpoint import Checkpoint, open_checkpoint
from rmt_edge.quantization.recipe import QuantizationRecipe
from rmt_edge.search.assignment import Choice, Item, frontier, spread
from rmt_edge.search.candidate import Candidate, measured_candidates
from rmt_edge.search.outcome import Outcomes, Subject, calibrated_subject, evaluate, summary
from rmt_edge.search.overlap import check_apart
from rmt_edge.search.sensitivity import groups_of, labels_of, measure_groups
from rmt_edge.settings import check_choice, check_positive
from rmt_edge.tasks.classification import Hits

METRICS = ("accuracy", "agreement")
CANDIDATES = 12
REFINEMENTS = 6
# Candidates this close in latency count as equally fast: neither an estimate nor a measurement, whose deviation is of
# that order, tells them apart, while their KL divergence may differ by a factor of 40 (bench/search.py: the stem).
TOLERANCE = 0.03
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Budget:
    """How much may be lost on the selection images.

    metric: of accuracy the drop, of agreement 100 minus it. points: of it. confidence: that what is lost on further
    images of the kind keeps within them, one-sided: 0.5 holds the loss measured against the budget, 0.975 the upper end
    of its paired 95 % interval. That end is at 0.19 points where none of 2,000 images flips: ask for it with a
    budget and images to match.
    """

    points: float
    metric: str = "accuracy"
    confidence: float = 0.5

    def __post_init__(self) -> None:
        check_choice("--metric", self.metric, METRICS)
        if not 0 <= self.points <= 100:
            raise RmtEdgeError(f"--budget is {self.points:g}.", "it is a number of points, 0 to 100.")
        if not 0.5 <= self.confidence < 1:
            raise RmtEdgeError(
                f"--confidence is {self.confidence:g}.",
                "it is at least 0.5, which holds the loss measured against the budget, and below 1.",
            )

    def loss(self, outcomes: Outcomes, row: int, labels: np.ndarray | None) -> dict[str, Any]:
        """What one set of layers lost by this metric, and whether that keeps within the budget."""
        right = outcomes.reference_classes if self.metric == "agreement" else labels
        assert right is not None, "labels are asked for before anything runs"
        drop = Hits(outcomes.reference_classes == right).drop_to(Hits(outcomes.classes[row] == right))
        upper, is_within = held_to(self.points, drop, None if self.confidence == 0.5 else self.confidence)
        return {
            "lost_points": drop.points,
            "lost_upper_points": drop.points if upper is None else upper,
            "is_within_budget": is_within,
        }


@dataclass(frozen=True)
class ImageSets:
    """The images of a search: those to calibrate and to choose on, and those of the test, only to keep them apart."""

    calibration: Path | None
    selection: Path
    test: Path | None = None
    count: int | None = None  # of the selection set; None for all

    def opened_selection(self, budget: Budget) -> Dataset:
        """The selection set, if it is apart from the others and has the labels that the budget needs."""
        dataset = open_dataset(self.selection)
        for path, role in ((self.calibration, "calibration"), (self.test, "test")):
            if path is not None:
                check_apart(dataset, open_dataset(path), role)
        if budget.metric == "accuracy" and dataset.labels is None:
            raise RmtEdgeError(
                f"{dataset.path} has no labels.", "a budget of accuracy needs them.", "Pass --metric agreement."
            )
        return dataset


@dataclass
class _Run:
    """What every evaluation of one search has in common. parts: what outcomes are kept for until the search is done."""

    subject: Subject
    dataset: Dataset
    labels: np.ndarray | None
    budget: Budget
    stem: Path
    seconds: float
    parts: list[Path]

    def next_part(self) -> Path:
        self.parts.append(self.stem.with_name(f"{self.stem.name}.search.{len(self.parts)}"))
        return self.parts[-1]

    def verified(self, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
        """The candidates as the record holds them, each really run on the selection images."""
        sets = {x.name: x.layers for x in candidates}
        outcomes = evaluate(self.subject, sets, self.dataset, self.next_part(), "candidates")
        self.seconds += outcomes.seconds
        rows = []
        for row, x in enumerate(candidates):
            loss = self.budget.loss(outcomes, row, self.labels)
            # Without INT8 nothing is lost, however few images say so.
            loss["is_within_budget"] |= not x.layers
            rows.append(x.to_dict() | summary(outcomes, row, self.labels) | loss)
        return rows


def search(
    checkpoint: Path | Checkpoint,
    recipe: QuantizationRecipe,
    output: Path,
    image_sets: ImageSets,
    budget: Budget,
    profile: DeviceProfile,
    batch: int = 1,
    measured: Sequence[Path] = (),
    preprocessing: Preprocessing | None = None,
    weights: str | None = None,
    device: str | None = None,
) -> tuple[Path, Path]:
    """Write `<checkpoint>.search.json` and the recipe `<checkpoint>.searched.toml` into `output`; returns both.

    recipe: whose ranges (method, images); its own assignment is evaluated beside the candidates, and not chosen.
    profile, batch: what the latency is estimated for. measured: records of `rmt-edge bench` to choose among instead
    (candidate.py). device: where PyTorch computes (torch_device). Killed, it goes on where it was.
    """
    start = time.monotonic()
    check_positive(batch=batch)
    dataset = image_sets.opened_selection(budget)
    dataset = dataset.drawn(image_count(dataset, image_sets.count))
    folder = output_folder(output)
    opened = open_checkpoint(checkpoint, weights)
    subject = calibrated_subject(opened, recipe, image_sets.calibration, folder, preprocessing, device)
    labels = labels_of(dataset, subject)
    seconds = time.monotonic() - start
    run = _Run(subject, dataset, labels, budget, folder / opened.path.stem, seconds, [])
    network = _network(subject)
    record: dict[str, Any] = {
        "kind": "search",
        **subject.facts(),
        "selection": dataset.identity,
        "images": len(dataset),
        "drawn": dataset.drawing(),
        "recipe": recipe.to_dict(),
        "budget": asdict(budget),
        "device": profile.name,
        "batch": batch,
    }
    if measured:
        candidates = measured_candidates(measured, network, profile, batch)
        record |= {"groups": None, "recipe_candidate": None, "candidates": run.verified(candidates)}
    else:
        record |= _search_groups(run, network, profile, batch, recipe)
    chosen = _chosen(record["candidates"])
    record |= {"chosen": chosen["name"], "seconds": round(run.seconds, 1), "versions": versions()}
    record["created"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    path, toml = folder / f"{opened.path.stem}.search.json", folder / f"{opened.path.stem}.searched.toml"
    with written_whole(toml) as temporary:
        temporary.write_text(recipe_toml(record, chosen, recipe), encoding="utf-8")
        write_json(path, record)
    for part in run.parts:
        finish(part)
    logger.info("search: %s, chose %s in %.0f s", path.name, chosen["name"], run.seconds)
    return path, toml


def _network(subject: Subject) -> Network:
    model = subject.model
    return Network(model.variant_name, model.num_classes, model.height, model.width)


def _search_groups(
    run: _Run, network: Network, profile: DeviceProfile, batch: int, recipe: QuantizationRecipe
) -> dict[str, Any]:
    """Steps 1 to 3: the groups with their costs, the recipe's own assignment and the candidates, fastest last."""
    in_fp16 = latency_ms(network, profile, batch, set())
    groups = groups_of(network.variant, ["cell"])
    measured = measure_groups(run.subject, groups, run.dataset, run.labels, run.next_part())
    run.seconds += measured["seconds"]
    items = []
    for group, found in zip(groups, measured["groups"], strict=True):
        found["saved_ms"] = in_fp16 - latency_ms(network, profile, batch, set(group.layers))
        items.append(Item(group.name, group.layers, found["kl_nats"], found["saved_ms"]))
    drops = {found["group"]: found["drop_points"] for found in measured["groups"]}

    def candidate(choice: Choice) -> Candidate:
        estimated = latency_ms(network, profile, batch, set(choice.layers))
        names = [item.name for item in choice.items]
        predicted = None if run.labels is None else sum(drops[name] for name in names)
        name = f"{len(names)} groups, {len(choice.layers)} layers, {estimated:.4f} ms"
        return Candidate(name, choice.layers, estimated, None, choice.cost, predicted)

    path = frontier(items)
    first = spread(path, CANDIDATES)
    own = frozenset(recipe.int8_layers(network.variant))
    own_candidate = Candidate(f"recipe {recipe.name}", own, latency_ms(network, profile, batch, set(own)))
    rows = run.verified([own_candidate, *(candidate(x) for x in first)])
    between = _between(path, first, [row["is_within_budget"] for row in rows[1:]])
    if between:
        rows += run.verified([candidate(x) for x in spread(between, REFINEMENTS)])
    candidates = sorted(rows[1:], key=lambda row: -row["estimated_latency_ms"])
    return {"groups": measured["groups"], "recipe_candidate": rows[0], "candidates": candidates}


def _between(path: list[Choice], tried: list[Choice], is_within: list[bool]) -> list[Choice]:
    """The choices that save more than the fastest tried one within the budget, and less than the next that is not."""
    fastest = max(i for i, within in enumerate(is_within) if within)  # all FP16 loses nothing
    if fastest == len(tried) - 1:
        return []
    low, high = tried[fastest].saved_ms, tried[fastest + 1].saved_ms
    return [choice for choice in path if low < choice.saved_ms < high]


def _chosen(candidates: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the candidates within the budget and as fast as the fastest of them, to TOLERANCE, that of least KL."""
    within = [row for row in candidates if row["is_within_budget"]]
    if not within:
        least = min(candidates, key=lambda row: row["lost_points"])
        raise RmtEdgeError(
            f"None of {len(candidates)} candidates keeps the budget.",
            f"{least['name']} loses least, {least['lost_points']:.2f} points, at that confidence up to "
            f"{least['lost_upper_points']:.2f}.",
            "Raise --budget, choose on more images, or measure a recipe with fewer INT8 layers.",
        )
    limit = (1 + TOLERANCE) * min(latency_of(row) for row in within)
    return min((row for row in within if latency_of(row) <= limit), key=lambda row: row["kl_nats"])


def latency_of(row: dict[str, Any]) -> float:
    """The latency that counts: measured where there is one."""
    measured = row["measured_latency_ms"]
    return row["estimated_latency_ms"] if measured is None else measured


def recipe_toml(record: dict[str, Any], chosen: dict[str, Any], recipe: QuantizationRecipe) -> str:
    """The chosen assignment as a recipe that `rmt-edge quantize --recipe` reads."""
    budget = record["budget"]
    estimated = "estimated" if chosen["measured_latency_ms"] is None else "measured"
    lines = [
        f"# Found by `rmt-edge search` for {record['checkpoint']['name']} ({record['checkpoint']['sha256'][:16]}…).",
        f"# Budget: {budget['points']:g} points of {budget['metric']} with confidence {budget['confidence']:g}.",
        f"# On {record['images']} images of {record['selection']['name']} it loses {chosen['lost_points']:.3f} points, "
        f"with that confidence at most {chosen['lost_upper_points']:.3f}.",
        f"# {estimated.capitalize()} latency on {record['device']}, batch {record['batch']}: "
        f"{latency_of(chosen):.4f} ms.",
        'name = "searched"',
    ]
    if not chosen["int8_layers"]:
        return "\n".join([*lines, 'precision = "fp16"', ""])
    lines += ['precision = "int8"', "int8 = ["]
    lines += [f"    {json.dumps(name)}," for name in chosen["int8_layers"]]
    settings = recipe.to_dict()
    kept = [key for key in settings if key not in ("name", "precision", "int8", "fp16", "residual_adds")]
    lines += ["]", *(f"{key} = {json.dumps(settings[key])}" for key in kept)]
    return "\n".join([*lines, ""])
