"""Which groups of layers to put in INT8: the cheapest choice for every amount of time saved. A 0/1 knapsack.

Cost and saving of a choice are taken as the sums of its groups'. Both are approximations, which is why the search
really evaluates what comes out of here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rmt_edge.model.layers import source_of
from rmt_edge.search.sensitivity import Group

# Savings are rounded down to a total's 4096th: 26 groups are exact to 26/4096 = 0.6 % of what all of them save.
RESOLUTION = 4096


@dataclass(frozen=True)
class Item:
    """A group of layers. cost: what it loses in INT8, at least 0; saved_ms: what it saves.

    instead_of: the name of a smaller group that this one holds, so that a choice has one of them or neither.
    """

    name: str
    layers: frozenset[str]
    cost: float
    saved_ms: float
    instead_of: str | None = None


@dataclass(frozen=True)
class Choice:
    """Groups in INT8 with the sums of their costs and savings."""

    items: tuple[Item, ...]

    @property
    def layers(self) -> frozenset[str]:
        return frozenset().union(*(item.layers for item in self.items))

    @property
    def cost(self) -> float:
        return sum(item.cost for item in self.items)

    @property
    def saved_ms(self) -> float:
        return sum(item.saved_ms for item in self.items)


def items_of_groups(
    groups: list[Group], measured: list[dict[str, Any]], saved_ms: Callable[[frozenset[str]], float]
) -> list[Item]:
    """The groups as the knapsack takes them; what each saves is noted in `measured` too.

    A group of outputs saves nothing alone. It is taken with that of its layers, and costs what both do.
    """
    items: dict[str, Item] = {}
    by_layers = {group.layers: group.name for group in groups}
    for group, found in zip(groups, measured, strict=True):
        sources = frozenset(source for x in group.layers if (source := source_of(x)))
        inner = items[by_layers[sources]] if sources else None
        layers = group.layers | sources
        found["saved_ms"] = saved_ms(layers) - (inner.saved_ms if inner else 0.0)
        cost, saved = found["kl_nats"], found["saved_ms"]
        if inner is not None:
            cost, saved = cost + inner.cost, saved + inner.saved_ms
        items[group.name] = Item(group.name, layers, cost, saved, inner.name if inner else None)
    return list(items.values())


def drops_of_items(items: list[Item], measured: list[dict[str, Any]]) -> dict[str, Any]:
    """The points that each item loses, that of outputs with what their layers lose; None without labels."""
    alone = {found["group"]: found["drop_points"] for found in measured}
    return {
        x.name: alone[x.name] + alone[x.instead_of] if x.instead_of and alone[x.name] is not None else alone[x.name]
        for x in items
    }


def frontier(items: Sequence[Item]) -> list[Choice]:
    """The choices that no other beats in both cost and time saved, from none to all groups that save time.

    Groups that save nothing, or less than the resolution, are in none of them.
    """
    slots: dict[str, list[Item]] = {}  # of alternatives
    for item in items:
        slots.setdefault(item.instead_of or item.name, []).append(item)
    total = sum(max([0.0, *(item.saved_ms for item in slot)]) for slot in slots.values())
    if total <= 0:
        return [Choice(())]
    numbers = {item.name: index for index, item in enumerate(items)}
    # best[s]: the least cost of saving s steps, and which items do, as bits; the dynamic programme of the knapsack.
    best: dict[int, tuple[float, int]] = {0: (0.0, 0)}
    for slot in slots.values():
        without = list(best.items())
        for item in slot:
            step = int(max(item.saved_ms, 0.0) / total * RESOLUTION)
            for saved, (cost, chosen) in without if step else ():
                candidate = (cost + item.cost, chosen | 1 << numbers[item.name])
                if saved + step not in best or candidate[0] < best[saved + step][0]:
                    best[saved + step] = candidate
    found, least = [], float("inf")
    for saved in sorted(best, reverse=True):
        cost, chosen = best[saved]
        if cost < least:
            found.append(Choice(tuple(item for index, item in enumerate(items) if chosen >> index & 1)))
            least = cost
    return found[::-1]


def spread(choices: Sequence[Choice], count: int) -> list[Choice]:
    """At most `count` of the choices, evenly over the time they save, the first and the last among them."""
    if len(choices) <= count:
        return list(choices)
    low, high = choices[0].saved_ms, choices[-1].saved_ms
    targets = [low + (high - low) * i / (count - 1) for i in range(count)]
    nearest = [min(range(len(choices)), key=lambda i: abs(choices[i].saved_ms - target)) for target in targets]
    return [choices[i] for i in sorted({0, *nearest, len(choices) - 1})]
