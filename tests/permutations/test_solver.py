"""The permutation solver: what it returns, against enumeration, against hidden structure, and against what others do."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from igcsearch.errors import UsageError
from igcsearch.permutations import METHODS, kept, solve
from igcsearch.permutations.annealing import alike, anneal
from igcsearch.permutations.assignment import balanced
from igcsearch.permutations.published import random_groups


def planted(height, width, groups, seed, noise=0.0):
    """Blocks of 1 to 11 hidden by permutations, under uniform noise; and the share that the blocks hold."""
    rng = np.random.default_rng(seed)
    matrix = noise * rng.random((height, width))
    own = np.repeat(np.arange(groups), height // groups)[:, None] == np.repeat(np.arange(groups), width // groups)
    matrix[own] = 1 + 10 * rng.random(int(own.sum()))
    share = matrix[own].sum() / matrix.sum()
    return matrix[rng.permutation(height)][:, rng.permutation(width)], share


def best_by_enumeration(matrix, groups):
    """Over all ways to cut the columns into equal groups; the rows then by one assignment."""
    height, width = matrix.shape
    found = 0.0

    def cuts(left):
        if not left:
            yield ()
            return
        for rest in itertools.combinations(left[1:], width // groups - 1):
            chosen = (left[0], *rest)
            for others in cuts([column for column in left if column not in chosen]):
                yield (chosen, *others)

    for cut in cuts(list(range(width))):
        gains = np.stack([matrix[:, list(columns)].sum(axis=1) for columns in cut], axis=1)
        repeated = np.repeat(gains, height // groups, axis=1)
        rows, places = linear_sum_assignment(-repeated)
        found = max(found, repeated[rows, places].sum())
    return found / matrix.sum()


@given(
    st.sampled_from([(4, 4, 2), (6, 12, 3), (12, 6, 6), (8, 8, 8), (9, 6, 3), (5, 7, 1), (20, 30, 10)]),
    st.sampled_from(sorted(METHODS)),
    st.integers(0, 5),
)
def test_permutations_come_back(shape, method, seed):
    height, width, groups = shape
    matrix = np.random.default_rng(seed).random((height, width)) ** 3
    rows, cols = solve(matrix, groups, method=method, seed=seed)
    assert sorted(rows) == list(range(height))
    assert sorted(cols) == list(range(width))
    assert 0 <= kept(matrix, rows, cols, groups) <= 1 + 1e-12
    again = solve(matrix, groups, method=method, seed=seed)
    assert np.array_equal(rows, again[0])
    assert np.array_equal(cols, again[1])
    for side, order in ((height, rows), (width, cols)):  # within a group channels stand in their order
        assert all(np.all(np.diff(group) > 0) for group in order.reshape(groups, side // groups))


# Rule: the figure is the share inside the blocks, computed here entry by entry.
def test_what_is_kept():
    matrix = np.arange(24.0).reshape(4, 6)
    rows, cols = np.array([3, 1, 0, 2]), np.array([5, 0, 1, 2, 3, 4])
    inside = sum(matrix[r, c] for r, c in itertools.product((3, 1), (5, 0, 1)))
    inside += sum(matrix[r, c] for r, c in itertools.product((0, 2), (2, 3, 4)))
    assert kept(matrix, rows, cols, 2) == pytest.approx(inside / matrix.sum())
    assert kept(np.zeros((2, 2)), [0, 1], [0, 1], 2) == 1.0


@given(st.integers(0, 10_000), st.sampled_from([(8, 2), (12, 3), (12, 6), (10, 5), (30, 6)]))
def test_exact_assignments(seed, shape):
    count, groups = shape
    rng = np.random.default_rng(seed)
    gains = rng.standard_normal((count, groups)).round(rng.integers(0, 4))  # ties, too
    start = rng.permutation(np.repeat(np.arange(groups), count // groups))
    found = balanced(gains, start)
    assert np.array_equal(np.bincount(found, minlength=groups), np.full(groups, count // groups))
    repeated = np.repeat(gains, count // groups, axis=1)
    rows, places = linear_sum_assignment(-repeated)
    assert gains[np.arange(count), found].sum() == pytest.approx(repeated[rows, places].sum(), abs=1e-8)


@pytest.mark.parametrize(("size", "groups"), [(8, 2), (8, 4), (9, 3), (10, 5), (12, 2)])
def test_small_ones_are_solved_exactly(size, groups):
    gaps = []
    for seed in range(6):
        matrix = np.abs(np.random.default_rng(seed).standard_normal((size, size)))
        rows, cols = solve(matrix, groups, seed=seed)
        gaps.append(best_by_enumeration(matrix, groups) - kept(matrix, rows, cols, groups))
    assert min(gaps) > -1e-9
    assert max(gaps) < 1e-9


@pytest.mark.parametrize(
    ("height", "width", "groups"), [(64, 64, 32), (64, 64, 4), (48, 96, 24), (90, 60, 15), (32, 32, 32)]
)
def test_hidden_blocks_are_found(height, width, groups):
    for seed in range(3):
        matrix, _ = planted(height, width, groups, seed)
        assert kept(matrix, *solve(matrix, groups, seed=seed), groups) == pytest.approx(1.0)


def test_hidden_pairs_are_found_under_noise():
    shares = []
    for seed in range(6):
        matrix, share = planted(64, 64, 32, seed, noise=2.0)
        shares.append(kept(matrix, *solve(matrix, 32, seed=seed), 32) / share)
    assert np.mean(shares) >= 0.985  # 8 alternations: 0.91


@pytest.mark.parametrize("groups", [4, 16, 32])
@pytest.mark.parametrize("kind", ["normal", "lognormal"])
def test_it_keeps_more_than_what_others_do(kind, groups):
    figures = {method: [] for method in METHODS}
    for seed in range(4):
        rng = np.random.default_rng(seed)
        matrix = np.abs(rng.standard_normal((64, 64))) if kind == "normal" else rng.lognormal(0, 1, (64, 64))
        for method, into in figures.items():
            into.append(kept(matrix, *solve(matrix, groups, method=method, seed=seed), groups))
    mean = {method: np.mean(into) for method, into in figures.items()}
    assert mean["best"] > mean["alternating"] > max(mean["gconv-prune"], mean["strucspars"]) > mean["none"]


# Their published figures on this very kind of matrix (abs-normal, 64, G = 8; papers/compression.md 4.1): 0.1906 and 0.1933.
@pytest.mark.parametrize(("method", "figure"), [("gconv-prune", 0.1906), ("strucspars", 0.1933)])
def test_the_published_ways_are_what_was_published(method, figure):
    found = []
    for seed in range(5):
        matrix = np.abs(np.random.default_rng(seed).standard_normal((64, 64)))
        found.append(kept(matrix, *solve(matrix, 8, method=method), 8))
    assert np.mean(found) == pytest.approx(figure, abs=0.004)


def test_more_time_is_used_and_kept_to():
    matrix = np.random.default_rng(0).lognormal(0, 1, (128, 128))
    quick = kept(matrix, *solve(matrix, 16), 16)
    begin = time.monotonic()
    patient = kept(matrix, *solve(matrix, 16, seconds=1.5), 16)
    assert time.monotonic() - begin < 3.0
    assert patient >= quick


def test_groups_stay_equal_while_annealing():
    rng = np.random.default_rng(0)
    matrix = rng.random((30, 20))
    rows, cols = anneal(matrix, *random_groups(matrix, 5, rng), 50, (1.4, 0.3), None, rng)
    assert np.array_equal(np.bincount(rows), np.full(5, 6))
    assert np.array_equal(np.bincount(cols), np.full(5, 4))
    for groups in (2, 3, 5, 6, 10, 15):  # sizes that clusters of two do not fill, too
        assert np.array_equal(np.bincount(alike(matrix, groups)), np.full(groups, 30 // groups))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((np.ones((4, 4)), 3), r"3 groups do not divide a matrix of shape \(4, 4\); give a common divisor"),
        ((np.ones((4, 4)), 0), "groups is 0"),
        ((np.ones((4, 4)), 2.0), "groups is 2.0"),
        ((np.ones(4), 2), r"shape \(4,\)"),
        ((np.ones((0, 4)), 2), "not empty"),
        ((-np.ones((4, 4)), 2), "negative"),
        ((np.full((4, 4), np.nan), 2), "no numbers"),
    ],
)
def test_what_cannot_be_is_refused(arguments, said):
    with pytest.raises(UsageError, match=said):
        solve(*arguments)


def test_unknown_methods_and_times_are_refused():
    with pytest.raises(UsageError, match="did you mean 'gconv-prune'"):
        solve(np.ones((4, 4)), 2, method="gconvprune")
    with pytest.raises(UsageError, match="seconds is 0; it must be more than 0"):
        solve(np.ones((4, 4)), 2, seconds=0)


# With groups of two, no two of them can be divided better, both sides at once: by trying every division.
@pytest.mark.parametrize("seed", range(3))
def test_no_two_small_groups_can_be_divided_better(seed):
    matrix = np.random.default_rng(seed).standard_normal((16, 16)) ** 2
    rows, cols = (side.reshape(8, 2) for side in solve(matrix, 8, seed=seed))
    for g, h in itertools.combinations(range(8), 2):
        r, c = np.concatenate([rows[g], rows[h]]), np.concatenate([cols[g], cols[h]])
        now = matrix[np.ix_(rows[g], cols[g])].sum() + matrix[np.ix_(rows[h], cols[h])].sum()
        for a, b in itertools.product(itertools.permutations(range(4)), repeat=2):
            other = (
                matrix[np.ix_(r[list(a[:2])], c[list(b[:2])])].sum()
                + matrix[np.ix_(r[list(a[2:])], c[list(b[2:])])].sum()
            )
            assert other <= now + 1e-9
