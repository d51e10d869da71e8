"""Fronts against their definition, written out."""

from hypothesis import given
from hypothesis import strategies as st

from igcsearch.search.pareto import front_indices, non_dominated_ranks, ranks_of_two

points = st.integers(1, 3).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, 5) for _ in range(n)]), max_size=25))


def beaten(a, b):
    """b is at least as good as a everywhere and better somewhere."""
    return all(y <= x for x, y in zip(a, b, strict=True)) and any(y < x for x, y in zip(a, b, strict=True))


@given(points)
def test_front_is_the_set_of_points_that_no_other_beats(losses):
    expected = [i for i, a in enumerate(losses) if not any(beaten(a, b) for b in losses)]
    assert front_indices(losses) == expected


@given(points)
def test_rank_is_the_number_of_fronts_peeled_off_before(losses):
    ranks = non_dominated_ranks(losses)
    for rank in range(max(ranks, default=-1) + 1):
        left = [i for i in range(len(losses)) if ranks[i] >= rank]
        front = {i for i in left if not any(beaten(losses[i], losses[j]) for j in left)}
        assert {i for i in left if ranks[i] == rank} == front


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40))
def test_one_sweep_ranks_two_losses_as_the_definition_does(points):
    assert ranks_of_two(points) == non_dominated_ranks(points)
