"""Channel permutations: what they are, and the trap of the wrong group count."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igcsearch.errors import UsageError
from igcsearch.spec import permutations
from igcsearch.spec.conditions import factorizations

WIDTHS = [(2, 3, 4), (2, 24), (8, 8), (4, 4, 4), (2,) * 6, (6, 6, 5), (12, 12), (3, 5)]


@given(st.integers(1, 12), st.integers(1, 12))
def test_interleave_takes_channel_g_k_plus_j_to_position_j_g_plus_g(groups: int, width: int) -> None:
    order = permutations.interleave(groups * width, groups)
    for g in range(groups):
        for j in range(width):
            assert order[j * groups + g] == g * width + j


@given(st.permutations(range(9)), st.permutations(range(9)))
def test_invert_and_compose(first: list[int], second: list[int]) -> None:
    x = np.arange(100, 109)
    a, b = np.array(first), np.array(second)
    np.testing.assert_array_equal(x[permutations.compose(a, b)], x[a][b])
    np.testing.assert_array_equal(x[a][permutations.invert(a)], x)


@pytest.mark.parametrize("widths", WIDTHS)
def test_all_interleaves_of_a_strict_product_multiply_to_the_identity(widths: tuple[int, ...]) -> None:
    channels = int(np.prod(widths))
    x = np.arange(channels)
    for width in widths:
        x = x[permutations.interleave(channels, channels // width)]
    np.testing.assert_array_equal(x, np.arange(channels))


def _counts(widths: tuple[int, ...], groups_of_shuffle: str) -> np.ndarray:
    """Path counts of group convolutions of `widths`, each behind a shuffle with groups G = C/K or (the trap) K."""
    channels = int(np.prod(widths))
    total = np.eye(channels, dtype=int)
    for width in widths:
        same_branch = np.arange(channels)[:, None] // width == np.arange(channels)[None, :] // width
        groups = channels // width if groups_of_shuffle == "G" else width
        total = (same_branch.astype(int) @ total)[permutations.interleave(channels, groups)]
    return total


@pytest.mark.parametrize("widths", [w for n in (24, 36, 48) for k in (2, 3) for w in factorizations(n, k)])
def test_groups_c_over_k_leave_one_path_where_groups_k_would_not(widths: tuple[int, ...]) -> None:
    assert (_counts(widths, "G") == 1).all()
    if widths in [(2, 3, 4), (2, 24)]:  # the papers' examples of the trap
        assert (_counts(widths, "K") == 0).any()


def test_the_trap_at_2_3_4_and_2_24() -> None:
    assert (_counts((2, 3, 4), "K") == 0).any()
    assert (_counts((2, 24), "K") == 0).any()
    assert (_counts((8, 8), "K") == 1).all()  # equal widths with C = K^n: both readings agree


def test_random_orders_are_permutations_and_stay_what_they_are() -> None:
    assert sorted(permutations.random_order(64, 3)) == list(range(64))
    assert permutations.random_order(8, 0).tolist() == permutations.random_order(8, 0).tolist()
    assert permutations.random_order(64, 1).tolist() != permutations.random_order(64, 2).tolist()


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UsageError, match="10 channels of 3 groups"):
        permutations.interleave(10, 3)
