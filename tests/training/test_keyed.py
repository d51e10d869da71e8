"""Keyed random numbers against SplitMix64 written as its authors give it, and what splits and orders need of them."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from igcsearch.training.keyed import keyed, keyed_order

_KEYS = st.integers(0, 2**40)


class SplitMix64:
    """The generator as published: a counter that grows by the golden gamma, and a finaliser."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def next(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) % 2**64
        z = self.state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)


def test_published_sequence() -> None:
    # Rule: the oracle is the published generator (its known first outputs for seed 1234567).
    generator = SplitMix64(1234567)
    assert [generator.next() for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(keys=st.lists(_KEYS, min_size=1, max_size=3), start=st.integers(0, 10**6))
def test_numbers_are_splitmix64_of_the_keys(keys: list[int], start: int) -> None:
    # Rule: number i is the i-th output of the stream whose seed the keys make, one after the other.
    seed = 0
    for key in keys:
        seed = SplitMix64((seed + key) % 2**64).next()
    generator = SplitMix64((seed + start * 0x9E3779B97F4A7C15) % 2**64)
    expected = [generator.next() for _ in range(5)]
    assert [value % 2**64 for value in keyed(torch.arange(start, start + 5), *keys).tolist()] == expected


@given(seed=_KEYS, epoch=_KEYS, rows=st.lists(st.integers(0, 10**6), min_size=1, max_size=40, unique=True))
def test_order_of_a_subset_is_the_order_of_the_whole(seed: int, epoch: int, rows: list[int]) -> None:
    # Rule: which of two samples comes first depends on nothing but the keys and the two.
    ids = torch.tensor(rows)
    whole = ids[keyed_order(ids, seed, epoch)].tolist()
    half = ids[::2]
    assert half[keyed_order(half, seed, epoch)].tolist() == [row for row in whole if row in set(half.tolist())]


def test_bits_are_even_and_streams_differ() -> None:
    # Rule: every bit is set half of the time, and another key gives other numbers (bits agree half of the time).
    one, other = keyed(torch.arange(20_000), 1, 2), keyed(torch.arange(20_000), 1, 3)
    for bit in range(64):
        assert abs(((one >> bit) & 1).double().mean() - 0.5) < 0.02
        assert abs((((one ^ other) >> bit) & 1).double().mean() - 0.5) < 0.02
