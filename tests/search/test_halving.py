"""Early stopping by non-dominated rank: who goes on at a rung, and that it depends on the curves alone."""

from hypothesis import given
from hypothesis import strategies as st

from igcsearch.search.halving import ParetoHalving, rungs
from igcsearch.search.pareto import dominates


def curve(*accuracies):
    return [{"epoch": i, "validation_accuracy": a} for i, a in enumerate(accuracies, 1)]


def test_rungs_grow_by_the_factor_and_end_before_the_last_epoch():
    assert rungs(30, 7, 3) == (7, 21)
    assert rungs(9, 1, 3) == (1, 3)
    assert rungs(1, 1, 3) == ()


def test_only_rungs_decide():
    halving = ParetoHalving(9, first=2)
    for id in range(6):
        halving.record(id, curve(0.9, 0.9), [1.0])
    halving.record(6, curve(0.1, 0.1), [2.0])
    assert not halving.stops(6, 1)
    assert halving.stops(6, 2)


points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30)


# A candidate on the front of its rung goes on, however many there are.
@given(points)
def test_who_is_dominated_by_nobody_goes_on(values):
    halving = ParetoHalving(4, first=1)
    for id, (accuracy, cost) in enumerate(values):
        halving.record(id, curve(accuracy / 10), [float(cost)])
    losses = [(-a, c) for a, c in values]
    for id, mine in enumerate(losses):
        if not any(dominates(other, mine) for other in losses):
            assert not halving.stops(id, 1)


# With one cost for all it is successive halving: about the best third goes on.
@given(st.lists(st.integers(0, 1000), min_size=3, max_size=40, unique=True))
def test_with_equal_costs_the_best_third_goes_on(accuracies):
    halving = ParetoHalving(4, first=1, factor=3)
    for id, accuracy in enumerate(accuracies):
        halving.record(id, curve(accuracy / 1000), [1.0])
    going_on = [a for id, a in enumerate(accuracies) if not halving.stops(id, 1)]
    assert sorted(going_on, reverse=True) == sorted(accuracies, reverse=True)[: max(1, len(accuracies) // 3)]


def test_epochs_may_come_one_by_one_or_together():
    together, apart = ParetoHalving(9, first=1), ParetoHalving(9, first=1)
    curves = {id: curve(*(0.1 * (id + e) for e in range(4))) for id in range(7)}
    for id, c in curves.items():
        together.record(id, c, [float(id % 3)])
        for record in c:
            apart.record(id, [record], [float(id % 3)])
    assert [together.stops(id, e) for id in curves for e in (1, 3)] == [
        apart.stops(id, e) for id in curves for e in (1, 3)
    ]
