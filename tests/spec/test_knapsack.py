"""The multiple-choice knapsack against enumeration."""

import itertools

import numpy as np
import pytest

from igcsearch.spec.knapsack import choose


def enumerated(values, costs, limits, floors=None):
    """The highest value inside the limits, None if there is none."""
    best = None
    floors = [-np.inf] * len(limits) if floors is None else floors
    for chosen in itertools.product(*(range(len(each)) for each in values)):
        spent = [sum(costs[s][o][n] for s, o in enumerate(chosen)) for n in range(len(limits))]
        if all(f <= c <= m for f, c, m in zip(floors, spent, limits, strict=True)):
            value = sum(values[s][o] for s, o in enumerate(chosen))
            best = value if best is None else max(best, value)
    return best


def check(values, costs, limits, floors=None):
    best, found = enumerated(values, costs, limits, floors), choose(values, costs, limits, floors)
    assert (found is None) == (best is None)
    if found is None:
        return False
    spent = np.sum([costs[s][o] for s, o in enumerate(found)], axis=0)
    assert (spent <= np.asarray(limits)).all()
    assert (spent >= np.asarray(floors)).all() if floors is not None else True
    scale = max(abs(value) for each in values for value in each)
    assert sum(values[s][o] for s, o in enumerate(found)) == pytest.approx(best, abs=1e-6 * scale)
    return True


def drawn(rng, limits, most=10**7):
    """Random sets of 1 to 4 options, whose dearest come to `most` each."""
    sizes = rng.integers(1, 5, size=rng.integers(1, 7))
    values = [rng.normal(size=size).tolist() for size in sizes]
    costs = [rng.integers(0, most, size=(size, limits)).tolist() for size in sizes]
    return values, costs


@pytest.mark.parametrize("limits", [1, 2])
def test_the_best_choice_is_found(limits):
    rng, feasible = np.random.default_rng(limits), 0
    for _ in range(120):
        values, costs = drawn(rng, limits)
        total = np.sum([np.max(each, axis=0) for each in costs], axis=0)
        feasible += check(values, costs, (rng.random(limits) * total).astype(int).tolist())
    assert 20 < feasible < 120  # both answers were seen


@pytest.mark.parametrize("scale", [1e-9, 1e6])
def test_values_of_any_size(scale):
    rng = np.random.default_rng(3)
    for _ in range(30):
        values, costs = drawn(rng, 1)
        total = sum(max(each)[0] for each in costs)
        check([[scale * value for value in each] for each in values], costs, [total // 2])


def test_floors():
    rng, feasible = np.random.default_rng(5), 0
    for _ in range(120):
        values, costs = drawn(rng, 2)
        total = np.sum([np.max(each, axis=0) for each in costs], axis=0)
        limits = (rng.uniform(0.3, 1.0, size=2) * total).tolist()
        feasible += check(values, costs, limits, [0.97 * limits[0], -np.inf])
    assert 10 < feasible < 110


def test_a_floor_above_its_limit_is_met_by_nothing():
    assert choose([[1.0, 2.0]], [[[5], [6]]], [6], [7]) is None


def test_limits_of_zero():
    """Only what is free is inside a limit of 0, however dear the rest is."""
    rng, feasible = np.random.default_rng(7), 0
    for _ in range(60):
        values, costs = drawn(rng, 2, most=int(10 ** rng.integers(1, 10)))
        for each in costs:
            if rng.random() < 0.8:
                each[rng.integers(len(each))][0] = 0
        feasible += check(values, costs, [0, 10**9])
    assert 10 < feasible < 60


def test_a_limit_is_never_passed_by_rounding():
    """Costs one above the limit among ten million are above it, and what comes to the limit exactly is inside."""
    half = 5_000_000
    assert choose([[0.0, 1.0], [0.0, 1.0]], [[[0], [half]], [[0], [half]]], [2 * half]) == [1, 1]
    assert choose([[0.0, 1.0], [0.0, 1.0]], [[[0], [half]], [[0], [half + 1]]], [2 * half]) in ([0, 1], [1, 0])
    values = [[0.0, 1.0], [0.0, 1.0], [0.0, 0.9]]
    found = choose(values, [[[0], [half]], [[0], [half + 1]], [[0], [half]]], [2 * half])
    assert found == [1, 0, 1]
    assert choose([[1.0], [1.0]], [[[half]], [[half + 1]]], [2 * half]) is None


def test_many_near_misses():
    """Every pair but one is above the limit by less than the solver's tolerance."""
    half, count = 50_000_000, 12
    values = [[0.0, 2.0 + i / 100] for i in range(count)]
    costs = [[[0], [half + (i % 5 != 0)]] for i in range(count)]
    found = choose(values, costs, [2 * half])
    assert found is not None
    assert np.flatnonzero(found).tolist() == [5, 10]


def test_nothing_to_choose():
    assert choose([], [], [3]) == []
    assert choose([[1.0, 3.0, 2.0]], [[[], [], []]], []) == [1]
    assert choose([[1.0], []], [[[0]], []], [3]) is None


def test_what_the_solver_prints_is_not_on_stdout(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    import scipy.optimize

    solve = scipy.optimize.milp

    def chatty(*arguments: object, **options: object) -> object:
        os.write(1, b"HighsMipSolverData")
        return solve(*arguments, **options)

    monkeypatch.setattr(scipy.optimize, "milp", chatty)
    print("before")
    assert choose([[1.0, 2.0]], [[[1.0], [2.0]]], [2.0]) == [1]
    print("after")
    captured = capfd.readouterr()
    assert captured.out == "before\nafter\n"
    assert "HighsMipSolverData" in captured.err
