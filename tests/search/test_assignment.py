"""The knapsack: no choice that it leaves out beats one that it returns."""

import itertools
import random

import pytest

from rmt_edge.search.assignment import Choice, Item, frontier, spread


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
