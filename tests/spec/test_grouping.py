"""Learned group counts: expected costs against enumeration, rounding inside the budget, where there is nothing to learn."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from igcsearch.blocks import igcv1, igcv2, igcv2_uniform, igcv3, network, stage, xception
from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Budget, Problem, Stage
from igcsearch.spec.conditions import level
from igcsearch.spec.grouping import (
    Digits,
    Gates,
    GroupRule,
    expected_cost,
    learns_groups,
    opened_groups,
    questions,
    with_groups,
)
from igcsearch.spec.learning import gaps, is_learned, opened, reduced
from igcsearch.spec.rounding import check_groups_budget, least_cost, most_cost, rounded


def with_factor(block, index, **changes):
    """The block with another factor at a place."""
    steps = list(block.steps)
    steps[index] = replace(steps[index], **changes)
    return replace(block, steps=tuple(steps))


PROBLEM = Problem(image_size=16, in_channels=1, num_classes=10)
STRICT = opened_groups(network(PROBLEM, 12, [stage(igcv2, 12, 12, 2, residual=True, branch_widths=(3, 2, 2))]))
LOOSE = opened_groups(network(PROBLEM, 12, [stage(igcv3, 12, 18, 2, stride=2, expansion=2, groups=(2, 2))]))
BOTH = opened_groups(
    network(
        PROBLEM,
        12,
        [stage(igcv2, 12, 12, 1, branch_widths=(3, 4)), stage(igcv3, 12, 12, 1, stride=2, expansion=2, groups=(2, 2))],
    )
)


def random_shares(question, rng):
    shares = rng.random(question.shape)
    return shares / shares.sum(axis=1, keepdims=True) if isinstance(question, Digits) else shares


# Over all configurations of independent digits: the sum of probability times the cost of the block that is built.
def test_the_expected_cost_of_digits_is_that_of_all_configurations():
    question, rng = questions(STRICT)[0][0], np.random.default_rng(0)
    shares = random_shares(question, rng)
    params = macs = total = 0.0
    for owners in itertools.product(range(3), repeat=3):
        share = math.prod(shares[digit, owner] for digit, owner in enumerate(owners))
        cost = question.answered(owners).cost_at(question.size)[0]
        params, macs, total = params + share * cost.params, macs + share * cost.macs, total + share
    assert total == pytest.approx(1)
    assert question.expected_cost(shares) == pytest.approx((params, macs), rel=1e-12)


def test_the_expected_cost_of_gates_is_that_of_all_configurations():
    question, rng = questions(LOOSE)[0][0], np.random.default_rng(1)
    assert question.radices == ((2, 2, 3), (2, 3))  # of gcd(12, 24) and gcd(24, 18)
    shares = random_shares(question, rng)
    params = macs = 0.0
    for gates in itertools.product((0, 1), repeat=5):
        opens = (gates[:3], gates[3:])
        share = math.prod(
            shares[d, f] if one else 1 - shares[d, f] for f, each in enumerate(opens) for d, one in enumerate(each)
        )
        groups = [math.prod(p for p, one in zip(question.radices[f], opens[f], strict=True) if not one) for f in (0, 1)]
        cost = question.answered(tuple(groups)).cost_at(question.size)[0]
        params, macs = params + share * cost.params, macs + share * cost.macs
    assert question.expected_cost(shares) == pytest.approx((params, macs), rel=1e-12)


def test_one_hot_shares_have_the_cost_of_the_network():
    rng = np.random.default_rng(2)
    for architecture in (STRICT, LOOSE, BOTH):
        shares, choices = {}, {}
        for question in questions(architecture)[0]:
            if isinstance(question, Digits):
                owners = rng.integers(question.shape[1], size=question.shape[0])
                shares[question.name], choices[question.name] = np.eye(question.shape[1])[owners], tuple(owners)
            else:
                opens = rng.integers(2, size=question.shape).astype(float)
                shares[question.name] = opens
                choices[question.name] = tuple(
                    math.prod(p for d, p in enumerate(question.radices[f]) if not opens[d, f]) for f in (0, 1)
                )
        assert expected_cost(architecture, shares) == tuple(with_groups(architecture, choices).cost)


@pytest.mark.parametrize("architecture", [STRICT, LOOSE, BOTH])
def test_every_option_keeps_the_condition_and_says_its_cost(architecture):
    rng = np.random.default_rng(3)
    for question in questions(architecture)[0]:
        options = question.options(random_shares(question, rng))
        assert len({option.cost for option in options}) >= 3
        for option in options:
            made = question.answered(option.choice)
            assert not made.learned_groups
            assert level(made) == "strict" if isinstance(question, Digits) else level(made) != "none"
            assert made.cost_at(question.size)[0] == option.cost
            widths = tuple(f.branch_width for f in made.factors if f.kernel_size == 1 and f.branch_width > 1)
            assert widths == tuple(width for width in question.widths(option.choice) if width > 1)


# Against all combinations of both blocks' options: inside the budget, and as likely as the likeliest there.
@pytest.mark.parametrize("seed", range(3))
def test_rounding_takes_the_likeliest_inside_the_budget(seed):
    rng = np.random.default_rng(seed)
    asked = questions(BOTH)[0]
    shares = {question.name: random_shares(question, rng) for question in asked}
    every = [
        dict(zip(shares, choices, strict=True))
        for choices in itertools.product(*([o.choice for o in q.options(shares[q.name])] for q in asked))
    ]
    costs = [with_groups(BOTH, choices).cost for choices in every]
    likelihoods = [sum(q.best(shares[q.name])[choices[q.name]] for q in asked) for choices in every]
    budgets = [
        Budget(),
        *(Budget(*costs[i]) for i in rng.integers(len(every), size=3)),
        Budget(params=min(costs).params),
    ]
    for budget in budgets:
        found = rounded(BOTH, shares, budget)
        assert budget.admits(*with_groups(BOTH, found).cost)
        inside = [likelihood for likelihood, cost in zip(likelihoods, costs, strict=True) if budget.admits(*cost)]
        assert likelihoods[every.index(found)] == pytest.approx(max(inside))


def test_a_budget_that_no_group_counts_meet():
    least = least_cost(STRICT)
    check_groups_budget(STRICT, Budget(params=least.params))
    with pytest.raises(UsageError, match=rf"the fewest are {least.params:,} params .* raise the budget"):
        check_groups_budget(STRICT, Budget(params=least.params - 1))
    with pytest.raises(UsageError, match="raise the budget"):
        rounded(STRICT, {q.name: np.full(q.shape, 0.5) for q in questions(STRICT)[0]}, Budget(macs=1000))


# Where the map shrinks within a bottleneck, the group counts of the fewest parameters are not those of the fewest multiply-adds.
def test_both_limits_at_once():
    asked = opened_groups(network(PROBLEM, 24, [stage(igcv3, 24, 48, 1, stride=2, expansion=2, groups=(2, 2))]))
    (question,) = questions(asked)[0]
    options = question.options(np.full(question.shape, 0.5))
    costs = [with_groups(asked, {question.name: option.choice}).cost for option in options]
    least = least_cost(asked)
    assert least == (min(cost.params for cost in costs), min(cost.macs for cost in costs))
    assert tuple(least) not in {tuple(cost) for cost in costs}
    even = {question.name: np.full(question.shape, 0.5)}
    for cost in costs:
        found = rounded(asked, even, Budget(*cost))
        assert Budget(*cost).admits(*with_groups(asked, found).cost)
    check_groups_budget(asked, Budget(macs=least.macs))
    with pytest.raises(UsageError, match="each with group counts of its own; raise the budget"):
        check_groups_budget(asked, Budget(*least))
    assert most_cost(asked) == with_groups(asked, {question.name: (1, 1)}).cost


def test_the_least_cost_is_that_of_all_choices():
    least = least_cost(STRICT)
    every = [
        with_groups(STRICT, {"stage1.block1": a, "stage1.block2": b}).cost
        for a in itertools.product(range(3), repeat=3)
        for b in [(0, 1, 2)]
    ]
    other = with_groups(STRICT, {"stage1.block1": (0, 1, 2), "stage1.block2": (0, 1, 2)}).cost
    assert least == min(every) == other


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (igcv2(12, 24, branch_widths=(4, 6)), "where the width stays, not from 12 to 24"),
        (
            igcv2_uniform(16, 16, branch_width=8),
            "product is 64, not 16: group counts are learned in strict blocks alone",
        ),
        (igcv2(7, 7, branch_widths=(7,)), "1 prime digits of 7 channels and 1 1x1 factors leave nothing to choose"),
        (xception(12, 12), "1 1x1 factors leave nothing to choose"),
        (igcv1(12, 12, primary_groups=3), "behind a channel-wise factor; this block begins with another step"),
        (with_factor(igcv2(12, 12, branch_widths=(3, 4)), 1, stride=2), "products of 1x1 factors of one width"),
        (with_factor(igcv3(12, 12, groups=(2, 2), residual=False), 0, bias=True), "begins with another step"),
    ],
)
def test_where_there_is_nothing_to_learn(block, reason):
    asked = replace(network(PROBLEM, block.in_channels, []), stages=(Stage((replace(block, learned_groups=True),)),))
    made, reasons = reduced(asked)
    assert len(reasons) == 1
    assert reason in reasons[0]
    assert not learns_groups(made)
    assert made.stages[0].blocks[0] == block
    assert opened_groups(made) == made


def test_json_hash_and_key():
    plain = network(PROBLEM, 12, [stage(igcv2, 12, 12, 2, residual=True, branch_widths=(3, 2, 2))])
    assert Architecture.from_json(STRICT.to_json()) == STRICT
    assert is_learned(STRICT)
    assert STRICT.hash != plain.hash
    assert STRICT.key != plain.key
    assert STRICT.cost == plain.cost
    assert '"learned_groups"' not in plain.to_json()
    import hashlib
    import json

    data = {key: value for key, value in STRICT.to_dict().items() if key != "schema"}
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    assert STRICT.hash == hashlib.sha256(text.encode()).hexdigest()[:8]


# The digits decide which channels share a branch: nothing is left to a learned shuffle in such a block.
def test_shuffles_and_group_counts_of_one_block_are_not_both_learned():
    both = opened(STRICT)
    assert both == STRICT
    transition = opened_groups(
        network(
            PROBLEM,
            12,
            [stage(igcv2, 12, 24, 2, residual=True, transition={"branch_widths": (3, 4)}, branch_widths=(4, 6))],
        )
    )
    found = opened(transition)
    assert {gap.block for gap in gaps(found)[0]} == {"stage1.block1"}
    assert {question.name for question in questions(found)[0]} == {"stage1.block2"}


def test_choices_that_are_missing():
    with pytest.raises(UsageError, match=r"no group counts for stage1.block2; given: stage1.block1"):
        with_groups(STRICT, {"stage1.block1": (0, 0, 1)})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 0.0}, "learning rate of group counts 0.0 must be a finite number above 0"),
        ({"temperature": 1.0}, "final temperature of group counts 1.0 must be at least 0.001 and below 1"),
        ({"penalty": -1.0}, "penalty of group counts -1.0 must be a finite number of at least 0"),
    ],
)
def test_values_outside_their_rule(values, message):
    with pytest.raises(UsageError, match=message):
        GroupRule(**values)


def test_both_kinds_are_asked_about():
    assert [type(question) for question in questions(BOTH)[0]] == [Digits, Gates]


# Any choice is, up to names of channels, the product of interleaves with the same branch widths.
@pytest.mark.parametrize(("width", "template"), [(12, (3, 2, 2)), (24, (4, 6))])
def test_a_choice_has_the_key_of_interleaves(width, template):
    asked = opened_groups(
        network(PROBLEM, width, [stage(igcv2, width, width, 1, residual=True, branch_widths=template)])
    )
    (question,) = questions(asked)[0]
    for owners in itertools.product(range(len(template)), repeat=question.shape[0]):
        widths = tuple(k for k in question.widths(owners) if k > 1)
        twin = network(PROBLEM, width, [stage(igcv2, width, width, 1, residual=True, branch_widths=widths)])
        assert with_groups(asked, {question.name: owners}).key == twin.key


@pytest.mark.parametrize("groups", [(1, 2), (2, 3), (4, 6), (12, 2), (3, 6), (12, 6)])
def test_group_counts_that_leave_a_pair_without_a_path(groups):
    question = questions(LOOSE)[0][0]
    assert question.is_joined(groups) == (level(question.answered(groups)) != "none")


@pytest.mark.parametrize(("before", "after", "groups"), [(16, 27, (2, 1)), (27, 25, (3, 1))])
def test_a_factor_without_a_digit(before, after, groups):
    (question,) = questions(
        opened_groups(network(PROBLEM, before, [stage(igcv3, before, after, 1, expansion=2, groups=groups)]))
    )[0]
    assert () in question.radices
    assert question.expected_weights(np.full(question.shape, 0.5))
    assert len(question.options(np.full(question.shape, 0.5))) > 1
