"""Orders of channels for N of every M: against enumeration, figures of others, and what must never get worse."""

import itertools

import numpy as np
import pytest

from igcsearch.errors import UsageError
from igcsearch.permutations.lines import Block, Reader, arrange, kept_of_lines, solve_lines


def by_hand(matrix, n, m, order=None):
    """The share that is kept, line by line and group by group."""
    matrix = matrix if order is None else matrix[:, order]
    total = 0.0
    for line in matrix.tolist():
        for at in range(0, len(line), m):
            group = sorted(line[at : at + m], reverse=True)
            total += sum(group[: -(-len(group) * n // m)])
    return total / matrix.sum()


def normal(lines, channels, seed=0):
    return np.abs(np.random.default_rng(seed).standard_normal((lines, channels)))


@pytest.mark.parametrize(("n", "m", "channels"), [(2, 4, 16), (1, 4, 10), (3, 8, 21), (2, 16, 40), (5, 6, 7)])
def test_what_is_kept_is_counted_group_by_group_and_never_falls(n, m, channels):
    matrix = normal(12, channels)
    assert kept_of_lines(matrix, n, m) == pytest.approx(by_hand(matrix, n, m))
    order = solve_lines(matrix, n, m)
    assert sorted(order) == list(range(channels))
    assert kept_of_lines(matrix, n, m, order) == pytest.approx(by_hand(matrix, n, m, order))
    assert by_hand(matrix, n, m, order) > by_hand(matrix, n, m)


def test_small_matrices_are_solved():
    # Rule: what enumeration of all orders finds is found, on 8 channels.
    for seed in range(5):
        matrix = normal(6, 8, seed)
        best = max(by_hand(matrix, 2, 4, [0, *rest]) for rest in orders_of(8))
        assert by_hand(matrix, 2, 4, solve_lines(matrix, 2, 4)) == pytest.approx(best)


def orders_of(channels):
    """One order for each way to cut the channels but the first into groups of 3 and 4."""
    for beside in itertools.combinations(range(1, channels), 3):
        yield [*beside, *(each for each in range(1, channels) if each not in beside)]


def test_as_good_as_the_published_searches():
    # 64 x 64 abs-normal, 2:4: the published searches go from 0.7453 to 0.7664 and 0.7670.
    matrix = normal(64, 64, 1)
    assert kept_of_lines(matrix, 2, 4) == pytest.approx(0.7453, abs=5e-5)
    assert kept_of_lines(matrix, 2, 4, solve_lines(matrix, 2, 4)) >= 0.7670


def test_better_than_random_orders():
    matrix = normal(128, 128)
    rng = np.random.default_rng(0)
    at_random = max(kept_of_lines(matrix, 2, 4, rng.permutation(128)) for _ in range(20))
    assert kept_of_lines(matrix, 2, 4, solve_lines(matrix, 2, 4)) > at_random + 0.01


def test_planted_groups_are_found():
    # Each line is large in two channels of every hidden group of four: with the right groups nothing is lost.
    rng = np.random.default_rng(0)
    matrix = np.concatenate(
        [rng.permuted(np.repeat([[1.0, 1.0, 0.0, 0.0]], 40, axis=0), axis=1) for _ in range(4)], axis=1
    )
    hidden = matrix[:, rng.permutation(16)]
    assert kept_of_lines(hidden, 2, 4) < 0.99
    assert kept_of_lines(hidden, 2, 4, solve_lines(hidden, 2, 4)) == pytest.approx(1.0)


def test_the_same_seed_gives_the_same_order():
    matrix = normal(32, 32)
    assert (solve_lines(matrix, 2, 4, seed=3) == solve_lines(matrix, 2, 4, seed=3)).all()


def test_readers_of_different_groups_share_an_order():
    # Rule: the sum over all readers does not fall; each has the channels in the same order.
    first, second = normal(20, 24, 1), normal(9, 24, 2)
    readers = [Reader(np.ascontiguousarray(first.T), 2, 4), Reader(np.ascontiguousarray(second.T), 1, 5)]
    before = [reader.total() for reader in readers]
    places = np.arange(24)
    held = arrange(Block(24, [(reader, places) for reader in readers]), np.random.default_rng(0))
    assert (readers[0].order == held).all()
    assert (readers[1].order == held).all()
    found = [by_hand(first, 2, 4, held) * first.sum(), by_hand(second, 1, 5, held) * second.sum()]
    assert [reader.total() for reader in readers] == pytest.approx(found)
    assert sum(found) > sum(before)


@pytest.mark.parametrize(
    ("matrix", "n", "m", "message"),
    [
        (np.ones((2, 4)), 5, 4, "5 of 4"),
        (np.ones((2, 4)), 0, 4, "0 of 4"),
        (-np.ones((2, 4)), 2, 4, "negative"),
        (np.ones(4), 2, 4, "matrix"),
    ],
)
def test_bad_input(matrix, n, m, message):
    with pytest.raises(UsageError, match=message):
        solve_lines(matrix, n, m)
