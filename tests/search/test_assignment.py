"""The knapsack: no choice that it leaves out beats one that it returns."""

import itertools
import random

import pytest

from rmt_edge.search.assignment import Choice, Item, drops_of_items, frontier, items_of_groups, spread
from rmt_edge.search.sensitivity import Group


def items_of(*pairs):
    return [Item(f"g{i}", frozenset({f"layer{i}"}), cost, saved) for i, (cost, saved) in enumerate(pairs)]


@pytest.mark.parametrize("seed", range(5))
def test_the_frontier_is_that_of_all_subsets(seed):
    rng = random.Random(seed)
    # Savings that are whole numbers of the knapsack's steps, so that rounding plays no part: they sum to 4096.
    cuts = sorted(rng.sample(range(1, 4096), 7))
    savings = [float(b - a) for a, b in itertools.pairwise([0, *cuts, 4096])]
    items = items_of(*((rng.random(), saved) for saved in savings))
    subsets = [x for n in range(9) for x in itertools.combinations(items, n)]
    for choice in frontier(items):
        assert not [
            x for x in map(Choice, subsets) if x.saved_ms >= choice.saved_ms and x.cost < choice.cost - 1e-12
        ], choice
    assert len(frontier(items)) > 3


def test_groups_that_save_no_time_are_never_taken():
    path = frontier(items_of((0.1, 2.0), (0.0, 0.0), (0.0, -1.0)))
    assert path[0].layers == frozenset()
    assert path[-1].layers == {"layer0"}
    assert [x.layers for x in frontier(items_of((0.0, 0.0)))] == [frozenset()]


def test_groups_that_cost_nothing_are_taken_at_once():
    path = frontier(items_of((0.0, 1.0), (0.0, 3.0)))
    assert [x.layers for x in path] == [{"layer0", "layer1"}]


def test_a_spread_keeps_both_ends():
    path = frontier(items_of(*((1.0 + i / 10, 1.0 + i) for i in range(10))))
    few = spread(path, 5)
    assert len(few) <= 5
    assert (few[0], few[-1]) == (path[0], path[-1])
    assert spread(path[:3], 5) == path[:3]


def test_of_alternatives_a_choice_has_one_at_most():
    linear = Item("fc1", frozenset({"fc1"}), 1.0, 2.0)
    both = Item("fc1_output", frozenset({"fc1", "fc1_output"}), 1.5, 5.0, "fc1")
    other = Item("fc2", frozenset({"fc2"}), 0.5, 1.0)
    path = frontier([linear, both, other])
    assert [{item.name for item in x.items} for x in path] == [
        set(), {"fc2"}, {"fc1"}, {"fc1_output"}, {"fc1_output", "fc2"},
    ]  # fmt: skip
    assert path[-1].layers == {"fc1", "fc1_output", "fc2"}
    assert (path[-1].cost, path[-1].saved_ms) == (2.0, 6.0)


def test_outputs_are_taken_with_their_layers_and_save_nothing_alone():
    a, b = "stages.0.blocks.0.fc1", "stages.0.blocks.1.fc1"
    groups = [Group("fc1 stage 0", "cell", frozenset({a, b}))]
    groups.append(Group("fc1_output stage 0", "cell", frozenset({f"{a}_output", f"{b}_output"})))
    measured = [
        {"group": g.name, "kl_nats": kl, "drop_points": d} for g, kl, d in zip(groups, (1, 2), (0.1, 0.2), strict=True)
    ]
    items = items_of_groups(groups, measured, lambda layers: {2: 3.0, 4: 7.0}[len(layers)])
    assert [(x.layers, x.cost, x.saved_ms, x.instead_of) for x in items] == [
        (frozenset({a, b}), 1, 3.0, None),
        (frozenset({a, b, f"{a}_output", f"{b}_output"}), 3, 7.0, "fc1 stage 0"),
    ]
    assert [x["saved_ms"] for x in measured] == [3.0, 4.0]
    assert drops_of_items(items, measured) == pytest.approx({"fc1 stage 0": 0.1, "fc1_output stage 0": 0.3})
    unlabelled = [x | {"drop_points": None} for x in measured]
    assert set(drops_of_items(items, unlabelled).values()) == {None}
