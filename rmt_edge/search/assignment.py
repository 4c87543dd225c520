"""Which groups of layers to put in INT8: the cheapest choice for every amount of time saved. A 0/1 knapsack.

Cost and saving of a choice are taken as the sums of its groups'. Both are approximations, which is why the search
really evaluates what comes out of here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# Savings are rounded down to a total's 4096th: 26 groups are exact to 26/4096 = 0.6 % of what all of them save.
RESOLUTION = 4096


@dataclass(frozen=True)
class Item:
    """A group of layers. cost: what it loses in INT8, at least 0; saved_ms: what it saves."""

    name: str
    layers: frozenset[str]
    cost: float
    saved_ms: float


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


def frontier(items: Sequence[Item]) -> list[Choice]:
    """The choices that no other beats in both cost and time saved, from none to all groups that save time.

    Groups that save nothing, or less than the resolution, are in none of them.
    """
    total = sum(item.saved_ms for item in items if item.saved_ms > 0)
    if total <= 0:
        return [Choice(())]
    steps = [int(max(item.saved_ms, 0.0) / total * RESOLUTION) for item in items]
    # best[s]: the least cost of saving s steps, and which items do, as bits; the dynamic programme of the knapsack.
    best: dict[int, tuple[float, int]] = {0: (0.0, 0)}
    for index, (item, step) in enumerate(zip(items, steps, strict=True)):
        if step == 0:
            continue
        for saved, (cost, chosen) in list(best.items()):
            candidate = (cost + item.cost, chosen | 1 << index)
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
