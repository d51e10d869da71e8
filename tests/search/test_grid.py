"""The sampler `grid`: every point once and in order, whatever dies in between, then an end; a space that is no grid is refused."""

import pytest
from optuna.trial import TrialState

from igcsearch.errors import UsageError
from igcsearch.search.candidate import INTERRUPTED, STATE
from igcsearch.search.grid import Grid, grid_points
from igcsearch.search.samplers import resolve_stopping
from igcsearch.search_spaces import Space, get_space
from igcsearch.spec import Budget, Problem

PROBLEM = Problem(8, 1, 10)
TINY = [{"width": width, "depth": depth} for width in (1, 2) for depth in (1, 2)]


def points_of(study):
    trials = [t for t in study.trials if t.user_attrs.get(STATE) != INTERRUPTED]
    return [t.params for t in trials]


def test_points_are_found_in_order_also_where_parameters_depend_on_others():
    def branching(trial, problem):
        if trial.suggest_categorical("kind", ("plain", "refused", "deep")) == "refused":
            raise UsageError("not this one")
        if trial.suggest_categorical("kind", ("plain", "refused", "deep")) == "deep":
            trial.suggest_int("depth", 3, 4)
        trial.suggest_categorical("last", (True, None))

    found = grid_points(Space("branching", branching), PROBLEM)
    assert found == [
        {"kind": "plain", "last": True},
        {"kind": "plain", "last": None},
        {"kind": "refused"},
        {"kind": "deep", "depth": 3, "last": True},
        {"kind": "deep", "depth": 3, "last": None},
        {"kind": "deep", "depth": 4, "last": True},
        {"kind": "deep", "depth": 4, "last": None},
    ]


@pytest.mark.parametrize("own", [True, False])
def test_a_space_with_numbers_is_no_grid(own, fakes):
    space = get_space(fakes.SPACE if own else "digits")  # a user's own turns what it raises into errors of its own
    parameter = "rank" if own else "schedule"
    with pytest.raises(
        UsageError, match=rf"needs a grid, but parameter '{parameter}' of space .* is any number in \[0, 1\]"
    ):
        grid_points(space, PROBLEM)


def test_a_grid_too_large_is_refused(monkeypatch):
    monkeypatch.setattr("igcsearch.search.grid.MOST_POINTS", 5)
    assert len(grid_points(Space("five", lambda trial, problem: trial.suggest_int("n", 1, 5)), PROBLEM)) == 5
    with pytest.raises(UsageError, match="space 'six' has more than 5 points"):
        grid_points(Space("six", lambda trial, problem: trial.suggest_int("n", 1, 6)), PROBLEM)


def test_every_point_is_trained_once_in_order_and_the_search_ends(driven, fakes):
    search = driven(space=fakes.TINY_SPACE, sampler="grid", trials=30)
    assert search.coordinator.remaining == 4  # not 30
    assert search.run() == 4
    assert points_of(search.study) == TINY
    reason, message = search.coordinator.ended
    assert reason == "grid"
    assert (
        message
        == "the grid is exhausted: each of its 4 points was proposed; 4 candidates are trained, 30 were asked for"
    )
    again = driven(search.study, space=fakes.TINY_SPACE, sampler="grid", trials=30)
    assert again.run() == 0
    assert again.coordinator.ended[0] == "grid"


def test_several_at_once_have_different_points_and_the_end_waits_for_them(driven, fakes):
    search = driven(space=fakes.TINY_SPACE, sampler="grid", trials=30)
    jobs = [search.coordinator.next_job() for _ in range(5)]
    assert [job is None for job in jobs] == [False, False, False, False, True]
    assert search.coordinator.ended is None
    for job in jobs[:4]:
        search.train(job)
    assert search.coordinator.next_job() is None
    assert search.coordinator.ended[0] == "grid"
    assert points_of(search.study) == TINY


def test_a_limit_ends_it_before_and_a_higher_one_goes_on(driven, fakes):
    search = driven(space=fakes.TINY_SPACE, sampler="grid", trials=3)
    assert search.run() == 3
    assert search.coordinator.ended[0] == "trials"
    again = driven(search.study, space=fakes.TINY_SPACE, sampler="grid", trials=4)
    assert again.run() == 1
    assert points_of(search.study) == TINY


# A coordinator that dies leaves trials that run, which the next one takes up; an interrupted one queues them.
@pytest.mark.parametrize("interrupted", [True, False])
def test_after_a_death_each_point_is_still_trained_once(interrupted, driven, fakes):
    search = driven(space=fakes.TINY_SPACE, sampler="grid", trials=30)
    search.run(1)
    search.coordinator.next_job()
    search.coordinator.next_job()
    if interrupted:
        search.coordinator.interrupt("interrupted")
    search.study.ask()  # killed before it knew its parameters
    again = driven(search.study, space=fakes.TINY_SPACE, sampler="grid", trials=30)
    assert again.run() == 3
    assert again.coordinator.ended[0] == "grid"
    trained = [t.params for t in search.study.get_trials(states=(TrialState.COMPLETE,))]
    assert sorted(trained, key=TINY.index) == TINY


def test_what_failed_or_is_over_budget_is_not_proposed_again(driven, fakes):
    space = get_space(fakes.TINY_SPACE)
    costs = [space.propose(_Fixed(point), PROBLEM).params for point in TINY]
    search = driven(space=fakes.TINY_SPACE, sampler="grid", trials=30, budget=Budget(params=sorted(costs)[2]))
    search.coordinator.failed(search.coordinator.next_job().id, "it broke")
    assert search.run() == 2
    assert search.coordinator.ended[0] == "grid"
    assert points_of(search.study) == TINY
    assert search.coordinator.counts.settled == 1


class _Fixed:
    def __init__(self, params):
        self.params = params

    def suggest_int(self, name, low, high):
        return self.params[name]

    def suggest_categorical(self, name, choices):
        return self.params[name]


def test_figure_3_is_a_grid_of_six_networks(driven):
    space = get_space("igcv2_figure3")
    points = Grid(space, PROBLEM).points
    networks = [space.propose(_Fixed(point), PROBLEM) for point in points]
    assert [len(network.stages[0].blocks[0].steps) - 1 for network in networks] == [1, 2, 3, 4, 5, 8]
    search = driven(space="igcv2_figure3", sampler="grid", trials=30)
    assert search.run() == 6
    assert points_of(search.study) == points


def test_all_of_a_grid_are_trained_to_the_end():
    assert resolve_stopping("auto", 20, 50, "grid") == "none"
