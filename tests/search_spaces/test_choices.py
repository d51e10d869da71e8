"""The rank mapping: monotone, onto, inside the budget, one distribution; an option is found by brute force for comparison."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igcsearch.search_spaces.choices import admissible, fill, named, position, ranked
from igcsearch.spec import Budget, Cost

from .trials import Recorder

COSTS = st.builds(Cost, st.integers(1, 1000), st.integers(1, 1000))
BUDGETS = st.builds(Budget, st.none() | st.integers(1, 1000), st.none() | st.integers(1, 1000))


@given(st.integers(1, 50), st.floats(0, 1), st.floats(0, 1), st.floats(0.25, 4))
def test_position_is_monotone_and_reaches_both_ends(count: int, one: float, other: float, emphasis: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= position(low, count, emphasis) <= position(high, count, emphasis) <= count - 1
    assert position(0.0, count, emphasis) == 0
    assert position(1.0, count, emphasis) == count - 1


@given(st.integers(1, 40), st.floats(0.5, 2))
def test_every_option_has_a_part_of_the_ranks(count: int, emphasis: float) -> None:
    # option i has the ranks between (i / count) ** emphasis and ((i + 1) / count) ** emphasis
    middles = [((index + 0.5) / count) ** emphasis for index in range(count)]
    assert [position(middle, count, emphasis) for middle in middles] == list(range(count))


@given(st.integers(2, 40))
def test_parts_are_equal_without_emphasis_and_grow_with_it(count: int) -> None:
    ranks = [(step + 0.5) / (20 * count) for step in range(20 * count)]
    assert {sum(position(rank, count) == index for rank in ranks) for index in range(count)} == {20}
    later = sum(position(rank, count, 2.0) >= count - 1 for rank in ranks) / len(ranks)
    assert later == pytest.approx(1 - (1 - 1 / count) ** 2, abs=1.1 / len(ranks))


@given(st.lists(COSTS, min_size=1, max_size=12), BUDGETS, st.floats(0, 1))
def test_a_rank_takes_an_option_inside_the_budget_whenever_there_is_one(
    costs: list[Cost], budget: Budget, rank: float
) -> None:
    chosen = ranked(Recorder({"x": rank}), "x", costs, lambda cost: cost, budget)
    inside = [cost for cost in costs if budget.admits(*cost)]
    if inside:
        assert chosen in inside
    else:
        assert fill(chosen, budget) == min(fill(cost, budget) for cost in costs)
    assert sorted(inside) == sorted(admissible(costs, lambda cost: cost, budget)) or not inside


@given(st.lists(COSTS, min_size=1, max_size=12, unique=True), BUDGETS)
def test_every_admissible_option_is_reached_in_order_of_cost(costs: list[Cost], budget: Budget) -> None:
    ranks = [step / 500 for step in range(501)]
    chosen = [ranked(Recorder({"x": rank}), "x", costs, lambda cost: cost, budget) for rank in ranks]
    fills = [fill(cost, budget) for cost in chosen]
    assert fills == sorted(fills)
    assert set(chosen) == set(admissible(costs, lambda cost: cost, budget))


@given(st.lists(COSTS, min_size=1, max_size=6, unique=True), BUDGETS, st.data())
def test_a_name_stands_for_itself_or_for_an_admissible_one(
    costs: list[Cost], budget: Budget, data: st.DataObject
) -> None:
    options = {f"option {index}": cost for index, cost in enumerate(costs)}
    name = data.draw(st.sampled_from(sorted(options)))
    chosen = named(Recorder({"x": name}), "x", options, lambda cost: cost, budget)
    if budget.admits(*options[name]):
        assert chosen == options[name]
    elif any(budget.admits(*cost) for cost in costs):
        assert budget.admits(*chosen)


def test_ranks_outside_the_range_are_held_to_it() -> None:
    assert position(-1.0, 5) == 0
    assert position(7.0, 5) == 4


@pytest.mark.parametrize(("budget", "expected"), [(Budget(), 0.0), (Budget(params=200), 0.5), (Budget(200, 400), 0.75)])
def test_fill_is_the_share_of_the_nearest_limit(budget: Budget, expected: float) -> None:
    assert fill(Cost(100, 300), budget) == expected
