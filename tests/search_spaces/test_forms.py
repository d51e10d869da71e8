"""The forms of a block at two widths: which there are, against brute force and against counted paths; a plan's price."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igcsearch.errors import UsageError
from igcsearch.search_spaces import cifar, digits, mobile
from igcsearch.search_spaces.forms import SPREAD, block, branch_widths, forms, numbers_of
from igcsearch.search_spaces.plans import Layout, Plan, build, grown, options_of, plan_cost, start
from igcsearch.search_spaces.staged import schedules_for
from igcsearch.spec import Problem
from igcsearch.spec.conditions import paths

LAYOUTS = [digits.LAYOUT, cifar.LAYOUT, mobile.LAYOUT]
WIDTHS = st.sampled_from([8, 12, 16, 18, 20, 24, 30, 32, 36, 40, 48, 54, 60, 64, 72, 80, 96])
GROWTHS = st.sampled_from([2, 3, 4])


@given(WIDTHS, GROWTHS, st.integers(1, 3), st.sampled_from([1, 2, 4]))
def test_branch_widths_are_all_that_are_strict_or_nearly(width: int, growth: int, factors: int, spatial: int) -> None:
    out = width * growth // 2
    every = itertools.combinations_with_replacement([d for d in range(2, out + 1) if out % d == 0], factors)
    good = [ks for ks in every if width <= spatial * math.prod(ks) <= 2 * width and width % spatial == 0]
    expected = {ks for ks in good if sum(ks) <= SPREAD * min(map(sum, good))}
    if expected:
        found = branch_widths(width, out, factors, spatial)
        assert set(found) == expected
        assert list(map(sum, found)) == sorted(map(sum, found))
    else:
        with pytest.raises(UsageError):
            branch_widths(width, out, factors, spatial)


def test_a_width_without_factorization_names_the_nearest_ones() -> None:
    with pytest.raises(
        UsageError, match=r"width 61 has no factorization into 2 branch widths .*nearest widths: 60, 62"
    ):
        branch_widths(61, 61, 2)


@settings(deadline=None)
@given(
    st.sampled_from(["igcv1", "igcv2", "igcv3", "xception", "dense"]),
    WIDTHS,
    GROWTHS,
    st.sampled_from([2, 3, 4]),
    st.data(),
)
def test_every_family_has_forms_at_every_width_and_keeps_its_level(
    family: str, width: int, growth: int, number: int, data: st.DataObject
) -> None:
    out = width * growth // 2
    if out % 2:
        return
    found = forms(family, number, data.draw(st.sampled_from([1, 2, 4])), width, out)
    assert found
    costs = [block(family, form, width, out).params for form in found]
    assert costs == sorted(costs)
    form = data.draw(st.sampled_from(found))
    level = paths(block(family, form, width, out).steps).level
    more = {"igcv2": {"nearly"}, "igcv3": {"nearly", "loose"}}
    assert level in {"strict"} | more.get(family, set())


def random_plan(layout: Layout, size: int, generator: random.Random) -> Plan:
    family = generator.choice(layout.families)
    plan = start(layout, family, generator.choice(schedules_for(layout, size)))
    widths = ()
    while not widths:
        widths = grown(
            layout,
            family,
            generator.choice(layout.widths),
            tuple(generator.choice(layout.growths) for _ in plan.depths),
        )
    return plan._replace(
        depths=tuple(generator.choice(layout.depths) for _ in plan.depths),
        widths=widths,
        number=numbers_of(family)[1][-1],
        spatial=generator.choice((1, 2, 4)) if plan.family == "igcv2" else 1,
        head=generator.choice(layout.heads),
        residual=generator.random() < 0.5,
    )


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_the_price_of_a_plan_is_the_cost_of_its_network(layout: Layout) -> None:
    generator = random.Random(2)
    for _ in range(60):
        size = generator.choice({"digits": (8, 11), "cifar": (28, 32, 45), "mobile": (97, 224)}[layout.name])
        problem = Problem(size, generator.choice((1, 3)), generator.choice((2, 100)))
        plan = random_plan(layout, size, generator)
        chosen = tuple(generator.choice(options_of(plan, s)) for s in range(plan.stages))
        assert plan_cost(plan, problem, chosen) == build(plan, chosen, problem, activation="hardswish").cost
        cheapest = tuple(options_of(plan, s)[0] for s in range(plan.stages))
        assert plan_cost(plan, problem) == build(plan, cheapest, problem).cost


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_the_start_is_the_cheapest_plan_of_its_family_and_schedule(layout: Layout) -> None:
    # `smallest` and the price of open choices rest on this: more blocks, growth, width, factors or a wider 3x3 cost more
    generator = random.Random(4)
    for _ in range(400):
        size = {"digits": 8, "cifar": 28, "mobile": 224}[layout.name]
        plan = random_plan(layout, size, generator)
        problem = Problem(size, 3, 10)
        least = plan_cost(start(layout, plan.family, plan.schedule), problem)
        narrow = grown(layout, plan.family, layout.widths[0], plan.growths) or plan.widths
        for other in (plan, plan._replace(widths=narrow), plan._replace(depths=(1,) * plan.stages)):
            cost = plan_cost(other, problem)
            assert least.params <= cost.params
            assert least.macs <= cost.macs
