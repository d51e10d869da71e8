"""Block families as choices of one space: any of them in any layout, inside the budget, priced as built; the default as it was."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace

import pytest

from igcsearch.blocks import FAMILIES
from igcsearch.errors import UsageError
from igcsearch.search_spaces import SPACES, Space, cifar, digits, get_space, mobile
from igcsearch.search_spaces.forms import block, forms, numbers_of, stage_forms
from igcsearch.search_spaces.plans import Layout, any_shuffle, build, options_of, plan_cost, start
from igcsearch.search_spaces.staged import LEARNING, schedules_for
from igcsearch.spec import Budget, Problem
from igcsearch.spec.conditions import paths

from .test_forms import random_plan
from .trials import Extreme, Recorder

PROBLEMS = {
    "digits": Problem(8, 1, 10, Budget(20_000)),
    "cifar": Problem(28, 1, 10, Budget(100_000, 2_000_000)),
    "mobile": Problem(224, 3, 10, Budget(1_000_000, 100_000_000)),
}
LAYOUTS = {"digits": digits.LAYOUT, "cifar": cifar.LAYOUT, "mobile": mobile.LAYOUT}
WIDTHS = (8, 12, 16, 18, 20, 24, 32, 36, 48, 60, 64, 96, 128)


def everything(name: str) -> Space:
    return get_space(name).with_families(("all",))


# Studies go on under the command that began them: hash of network, parameters and distributions of 60 proposals, as of f9fe9dc.
@pytest.mark.parametrize(
    ("name", "digest"), [("digits", "2ac3bcf68b768731"), ("cifar", "c4d7fdce9feddfe8"), ("mobile", "a650663b7d3df0e2")]
)
def test_what_is_proposed_by_default_is_what_it_was(name: str, digest: str) -> None:
    for space in (get_space(name), get_space(name).with_families(("dense", "igcv3", "igcv2", "igcv1", "xception"))):
        generator, found = random.Random(0), hashlib.sha256()
        for _ in range(60):
            trial = Recorder(generator=generator)
            network = space.propose(trial, PROBLEMS[name])
            found.update(json.dumps([network.hash, trial.values, trial.distributions]).encode())
        assert found.hexdigest()[:16] == digest


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("share", [None, 0.2, 0.0], ids=["loose", "tight", "least"])
def test_every_family_is_proposed_within_the_budget_and_asks_the_same(name: str, share: float | None) -> None:
    space, problem = everything(name), PROBLEMS[name]
    least = space.smallest(replace(problem, budget=Budget()))
    assert least is not None
    if share is None:
        problem = replace(problem, budget=Budget())
    else:
        cost = max(least.params, int(share * (problem.budget.params or 0)))
        problem = replace(problem, budget=Budget(cost, None if share else least.macs))
    generator, plain = random.Random(1), Recorder()
    get_space(name).propose(plain, problem)
    seen = set()
    for number in range(140):
        trial = (Recorder, Extreme)[number % 2]({"family": list(FAMILIES)[number % 14]}, generator)
        network = space.propose(trial, problem)
        assert problem.budget.admits(*network.cost)
        asked = dict(trial.distributions)
        assert asked.pop("family") == ("categorical", *FAMILIES)
        assert asked == {name: each for name, each in plain.distributions.items() if name != "family"}
        seen.add(network.family)
    assert seen == set(FAMILIES) or share == 0.0


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_the_price_of_a_plan_is_the_cost_of_its_network(layout: Layout) -> None:
    generator = random.Random(3)
    size = {"digits": 11, "cifar": 28, "mobile": 97}[layout.name]
    for family in FAMILIES:
        for _ in range(8):
            plan = random_plan(replace(layout, families=(family,)), size, generator)
            problem = Problem(size, generator.choice((1, 3)), 10)
            chosen = tuple(generator.choice(options_of(plan, s)) for s in range(plan.stages))
            assert plan_cost(plan, problem, chosen) == build(plan, chosen, problem, shuffle="random").cost


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_smallest_is_the_smallest_of_its_families(name: str, family: str) -> None:
    space, problem = get_space(name).with_families((family,)), PROBLEMS[name]
    generator = random.Random(4)
    drawn = [space.propose(Extreme(generator=generator), problem) for _ in range(25)]
    for axis in ("params", "macs"):
        least = space.smallest(replace(problem, budget=Budget(**{axis: 1})))
        assert least is not None
        assert least.family == family
        assert getattr(least, axis) <= min(getattr(network, axis) for network in drawn)
    assert {network.family for network in drawn} == {family}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_family_begins_at_the_least_width_with_every_schedule(layout: Layout) -> None:
    for family in FAMILIES:
        for schedule in schedules_for(layout, layout.sizes[1]):
            assert set(start(layout, family, schedule).widths) == {layout.widths[0]}


@pytest.mark.parametrize("family", FAMILIES)
def test_forms_are_accepted_cheapest_first_and_leave_no_pair_without_a_path(family: str) -> None:
    number, counted = numbers_of(family)[1][0], 0
    for width in WIDTHS:
        for out in (width, width * 3 // 2, 2 * width):
            found = forms(family, number, 1, width, out)
            blocks = [block(family, form, width, out, residual=False) for form in found]
            assert [each.params for each in blocks] == sorted(each.params for each in blocks)
            for form in found:  # in a stage a form is used with a shortcut and a stride as well
                block(family, form, width, out, residual=True, stride=2)
            counted += len(found)
            if family == "shufflenetv2":  # the halves meet in the next unit
                continue
            assert {paths(each.steps).level for each in blocks} <= {"strict", "nearly", "loose"}
            if family == "butterfly":
                assert {paths(each.steps).level for each in blocks} <= {"strict"}
    assert counted


def test_a_width_without_forms_is_not_offered() -> None:
    """Butterfly's are powers: of the digits' widths 8, 16, 32, 64, 128, and 36 and 144, which have no way to grow."""
    generator, seen = random.Random(5), set()
    space = get_space("digits").with_families(("butterfly",))
    for _ in range(150):
        network = space.propose(Recorder(generator=generator), Problem(8, 1, 10))
        seen |= {stage.blocks[-1].out_channels for stage in network.stages}
    assert seen == {8, 16, 32, 36, 64, 128, 144, 256}
    assert not stage_forms("butterfly", 0, 1, 36, 72, True)


@pytest.mark.parametrize("family", ["butterfly", "monarch", "shufflenet"])
def test_random_shuffles_keep_the_level_where_they_are_taken(family: str) -> None:
    for width, out in ((16, 16), (16, 32), (64, 64)):
        for form in forms(family, 0, 1, width, out):
            level = paths(block(family, form, width, out, residual=False).steps).level
            if any_shuffle(family, form, width, out):
                for seed in range(5):
                    steps = block(family, form, width, out, shuffle="random", shuffle_seed=seed).steps
                    assert paths(steps).level == level
            else:
                assert family != "butterfly" or out != width


def test_families_are_names_in_one_order() -> None:
    space = get_space("digits")
    assert space.families == digits.LAYOUT.families
    assert space.with_families(("monarch", "igcv2", "monarch")).families == ("igcv2", "monarch")
    assert space.with_families(("all",)).families == tuple(FAMILIES)
    trial = Recorder()
    space.with_families(("monarch", "igcv2")).propose(trial, PROBLEMS["digits"])
    assert trial.distributions["family"] == ("categorical", "igcv2", "monarch")


@pytest.mark.parametrize("names", [("shufflenetv3",), ("igcv2", "shufflenetv3"), ("",), ()])
def test_an_unknown_family_names_near_ones_and_all(names: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=r"unknown family '.*families: igcv1, .*, dense; or all") as caught:
        get_space("digits").with_families(names)
    assert ("did you mean 'shufflenetv2'" in str(caught.value)) == ("shufflenetv3" in names)


def test_a_space_of_no_layout_has_no_families_to_choose() -> None:
    for name in set(SPACES) - set(LAYOUTS):
        assert get_space(name).families is None
        with pytest.raises(UsageError, match="has block families of its own, which cannot be chosen: leave --families"):
            get_space(name).with_families(("igcv2",))


def test_group_counts_are_learned_in_some_families_alone() -> None:
    space, problem = get_space("digits"), PROBLEMS["digits"]
    with pytest.raises(
        UsageError, match="families shufflenet, monarch have no group counts to learn; give igcv2 or igcv3"
    ):
        space.with_families(("monarch", "shufflenet")).limited(("interleave",), ("learned",))
    some = space.with_families(("all",)).limited(("interleave",), ("learned",))
    none = space.with_families(("monarch", "shufflenet")).limited(("interleave",), ("searched", "learned"))
    generator = random.Random(6)
    for _ in range(20):
        assert some.propose(Recorder(generator=generator), problem).family in LEARNING
        network = none.propose(Recorder({"groups": "learned"}, generator), problem)
        assert not any(each.learned_groups for _, each in network.blocks())
