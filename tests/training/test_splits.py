"""Cuts and subsets: disjoint, stratified, the same every time."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igcsearch.errors import UsageError
from igcsearch.training.datasets.splits import cut, subset

_COUNTS = st.lists(st.integers(3, 60), min_size=2, max_size=6)  # images of each class


def _labels(counts: list[int], seed: int) -> torch.Tensor:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def _names(counts: list[int]) -> tuple[str, ...]:
    return tuple(f"class {label}" for label in range(len(counts)))


@given(counts=_COUNTS, seed=st.integers(0, 1000), shares=st.sampled_from([(0.1,), (0.2, 0.2)]))
def test_cut_is_disjoint_complete_stratified_and_repeatable(
    counts: list[int], seed: int, shares: tuple[float, ...]
) -> None:
    # Rule: every row in exactly one part; each class within one image of its share, and in every part.
    labels = _labels(counts, seed)
    parts = cut(labels, shares, seed, _names(counts))
    assert sorted(torch.cat(parts).tolist()) == list(range(len(labels)))
    for share, part in zip(shares, parts[1:], strict=True):
        for label, count in enumerate(counts):
            there = int((labels[part] == label).sum())
            assert there >= 1
            assert abs(there - share * count) <= 1
    assert all((labels[parts[0]] == label).any() for label in range(len(counts)))
    torch.manual_seed(seed + 1)  # the global generator has no part in it
    again = cut(labels, shares, seed, _names(counts))
    assert all(torch.equal(one, two) for one, two in zip(parts, again, strict=True))


def test_another_seed_cuts_otherwise() -> None:
    # Rule: the seed chooses the rows.
    labels = _labels([50, 50], 0)
    assert not torch.equal(cut(labels, (0.2,), 0, ("a", "b"))[1], cut(labels, (0.2,), 1, ("a", "b"))[1])


def test_a_class_too_small_to_cut_is_named() -> None:
    # Rule: three parts need three images of each class.
    with pytest.raises(UsageError, match=r"class 'class 1' has 2 images; .* at least 3"):
        cut(_labels([9, 2], 0), (0.2, 0.2), 0, _names([9, 2]))


@given(counts=_COUNTS, seed=st.integers(0, 1000), data=st.data())
def test_subset_is_stratified_and_grows(counts: list[int], seed: int, data: st.DataObject) -> None:
    # Rule: exact size, every class within one image of its share (or its one image), smaller within larger.
    labels = _labels(counts, seed)
    sizes = sorted(data.draw(st.lists(st.integers(len(counts), len(labels)), min_size=2, max_size=2)))
    small, large = (subset(labels, torch.arange(len(labels)), size, seed, len(counts)) for size in sizes)
    assert set(small.tolist()) <= set(large.tolist())
    for size, rows in zip(sizes, (small, large), strict=True):
        assert len(set(rows.tolist())) == size
        assert rows.tolist() == sorted(rows.tolist())
        for label, count in enumerate(counts):
            share = Fraction(size * count, len(labels))
            there = int((labels[rows] == label).sum())
            assert there >= 1
            # each class's first image stands at the front, which takes up to one place of every other class
            assert abs(there - share) <= len(counts)


@pytest.mark.parametrize("size", [2, 31])
def test_impossible_subsets_are_refused(size: int) -> None:
    # Rule: at least one image a class, at most those there are; both bounds are named.
    with pytest.raises(UsageError, match=f"train images is {size}; .* 3, .* 30"):
        subset(_labels([10, 10, 10], 0), torch.arange(30), size, 0, 3)
