"""Learned group counts: expected costs against enumeration, rounding inside the budget, where there is nothing to learn."""

import itertools
import math

import numpy as np
import pytest

from igcsearch.blocks import igcv1, igcv2, igcv2_uniform, igcv3, network, stage, xception
from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Budget, Problem
from igcsearch.spec.conditions import level
from igcsearch.spec.grouping import (
    Digits,
    Gates,
    GroupRule,
    check_groups_budget,
    expected_cost,
    learns_groups,
    least_cost,
    opened_groups,
    questions,
    rounded,
    with_groups,
)
from igcsearch.spec.learning import gaps, is_learned, opened, reduced

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


def likelihood(architecture, shares, choices):
    total = 0.0
    for question in questions(architecture)[0]:
        total += question.best(shares[question.name])[choices[question.name]]
    return total


# Against all combinations of both blocks' options: inside the budget, and as likely as the likeliest or nearly so.
@pytest.mark.parametrize("seed", range(3))
def test_rounding_takes_the_likeliest_inside_the_budget(seed):
    rng = np.random.default_rng(seed)
    asked = questions(BOTH)[0]
    shares = {question.name: random_shares(question, rng) for question in asked}
    least, free = least_cost(BOTH), rounded(BOTH, shares, Budget())
    most = with_groups(BOTH, free).cost
    assert likelihood(BOTH, shares, free) == max(
        likelihood(BOTH, shares, dict(zip(shares, choices, strict=True)))
        for choices in itertools.product(*([o.choice for o in q.options(shares[q.name])] for q in asked))
    )
    for part in (0.0, 0.3, 0.7):
        budget = Budget(
            params=int(least.params + part * max(0, most.params - least.params)),
            macs=int(least.macs + part * max(0, most.macs - least.macs)) + 1,
        )
        found = rounded(BOTH, shares, budget)
        made = with_groups(BOTH, found)
        assert budget.admits(*made.cost)
        best = max(
            likelihood(BOTH, shares, dict(zip(shares, choices, strict=True)))
            for choices in itertools.product(*([o.choice for o in q.options(shares[q.name])] for q in asked))
            if budget.admits(*with_groups(BOTH, dict(zip(shares, choices, strict=True))).cost)
        )
        ours = likelihood(BOTH, shares, found)
        assert best - 3.0 < ours <= best + 1e-9
        # no single block can do better in what is left
        for question in asked:
            for option in question.options(shares[question.name]):
                other = {**found, question.name: option.choice}
                better = likelihood(BOTH, shares, other) > ours + 1e-9
                assert not (better and budget.admits(*with_groups(BOTH, other).cost))


def test_a_budget_that_no_group_counts_meet():
    least = least_cost(STRICT)
    check_groups_budget(STRICT, Budget(params=least.params))
    with pytest.raises(UsageError, match=rf"with the cheapest it has {least.params:,} params .* raise the budget"):
        check_groups_budget(STRICT, Budget(params=least.params - 1))
    with pytest.raises(UsageError, match="raise the budget"):
        rounded(STRICT, {}, Budget(macs=1000))


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
    ],
)
def test_where_there_is_nothing_to_learn(block, reason):
    from dataclasses import replace

    from igcsearch.spec import Stage

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
        ({"temperature": 1.0}, "final temperature of group counts 1.0 must be above 0 and below 1"),
        ({"penalty": -1.0}, "penalty of group counts -1.0 must be a finite number of at least 0"),
    ],
)
def test_values_outside_their_rule(values, message):
    with pytest.raises(UsageError, match=message):
        GroupRule(**values)


def test_both_kinds_are_asked_about():
    assert [type(question) for question in questions(BOTH)[0]] == [Digits, Gates]
