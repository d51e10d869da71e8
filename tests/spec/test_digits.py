"""Group counts as digits: every assignment is strict, and channels come back to their places."""

import itertools
import math

import numpy as np
import pytest

from igcsearch.blocks import igcv2, igcv3, xception
from igcsearch.errors import UsageError
from igcsearch.spec import Budget, Problem, Stage, StagedArchitecture
from igcsearch.spec.conditions import level, path_counts
from igcsearch.spec.digits import branch_widths, digit_table, prime_digits, with_digits


@pytest.mark.parametrize(
    ("width", "digits"), [(1, ()), (2, (2,)), (12, (2, 2, 3)), (97, (97,)), (360, (2, 2, 2, 3, 3, 5))]
)
def test_prime_digits(width, digits):
    assert prime_digits(width) == digits
    assert math.prod(digits) == width


# Rule: large primes are settled by division up to their root (a second's work was half a minute's).
def test_prime_digits_of_a_large_prime() -> None:
    assert prime_digits(179_424_673) == (179_424_673,)
    assert prime_digits(2 * 999_999_999_989) == (2, 999_999_999_989)


def test_the_first_digit_is_the_slowest():
    assert digit_table((2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


# Every way to give the digits to the factors, all of one factor included: strict, one path, and the branch widths that it says.
@pytest.mark.parametrize(("width", "template"), [(12, (3, 4)), (12, (2, 2, 3)), (16, (4, 4)), (30, (5, 6))])
def test_every_assignment_is_strict(width, template):
    block = igcv2(width, width, branch_widths=template, residual=True)
    radices = prime_digits(width)
    seen = set()
    for owners in itertools.product(range(len(template)), repeat=len(radices)):
        made = with_digits(block, owners)
        widths = tuple(k for k in branch_widths(owners, radices, len(template)) if k > 1)
        assert tuple(factor.branch_width for factor in made.factors[1:]) == widths
        assert (path_counts(made.steps) == 1).all()
        assert level(made) == "strict"
        assert made.factors[-1].norm
        assert made.shortcut == block.shortcut
        seen.add(widths)
    assert (width,) in seen
    assert template in seen


# Behind the last factor every channel is where it was: the shuffles together are the identity.
def test_channels_come_back_to_their_places():
    block = igcv2(30, 30, branch_widths=(5, 6))
    for owners in itertools.product(range(2), repeat=3):
        channels = np.arange(30)
        for step in with_digits(block, owners).steps:
            channels = channels[step.order]
        assert (channels == np.arange(30)).all()


# The digits of one factor are those that its branches differ in, and no others.
def test_a_factor_joins_channels_that_agree_in_all_other_digits():
    block, radices = igcv2(12, 12, branch_widths=(3, 4)), prime_digits(12)
    table = digit_table(radices)
    owners = (1, 0, 1)
    first = with_digits(block, owners).steps[:2]
    joined = np.eye(12, dtype=int)[first[0].order]
    groups = np.arange(12) // first[1].branch_width
    sources = joined.argmax(axis=1)
    for a, b in itertools.product(range(12), repeat=2):
        together = groups[a] == groups[b]
        same = [table[sources[a], d] == table[sources[b], d] for d in range(3) if owners[d] != 0]
        assert together == all(same)


def test_the_same_classes_as_interleaves():
    block = igcv2(12, 12, branch_widths=(3, 4))
    plain = StagedArchitecture(1, 8, 10, xception(1, 12), (Stage((block,)), Stage((xception(12, 12),))))
    digits = StagedArchitecture(
        1, 8, 10, xception(1, 12), (Stage((with_digits(block, (1, 1, 0)),)), Stage((xception(12, 12),)))
    )
    assert Problem(8, 1, 10, Budget()) == plain.problem()
    assert digits.key == plain.key
    assert digits.cost == plain.cost


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (igcv2(12, 24, branch_widths=(3, 4), stride=2), "where the width stays, not from 12 to 24"),
        (igcv2(12, 12, branch_widths=(4, 4)), "product is 16, not 12"),
        (igcv3(12, 12, expansion=2, groups=(2, 2)), "behind a channel-wise factor"),
        (igcv2(12, 12, branch_widths=(2, 3), spatial_branch_width=2), "behind a channel-wise factor"),
    ],
)
def test_what_is_outside_is_said(block, message):
    with pytest.raises(UsageError, match=message):
        with_digits(block, (0, 0, 0))


def test_owners_that_do_not_fit():
    with pytest.raises(UsageError, match="3 digits of 12 channels each need one of 2 factors"):
        with_digits(igcv2(12, 12, branch_widths=(3, 4)), (0, 2, 0))
