"""What is settled without training, how each sampler is told, and budgets that cannot be met."""

import random

import pytest
from optuna.trial import TrialState

from igcsearch.errors import UsageError
from igcsearch.search.settle import RandomTrial, check_budget, settle
from igcsearch.search_spaces import Space, get_space
from igcsearch.spec import Budget, Problem

PROBLEM = Problem(8, 1, 10)


@pytest.fixture
def architecture(fakes):
    return fakes.make(PROBLEM, "xception", (16, 24), (1, 2))


def test_the_budget_is_a_limit_that_may_be_reached(architecture):
    params, macs = architecture.cost
    assert settle(architecture, Budget(params=params, macs=macs), {}) is None
    for budget in (Budget(params=params - 1), Budget(macs=macs - 1), Budget(params=params - 1, macs=macs - 1)):
        settled = settle(architecture, budget, {})
        assert settled.kind == "budget"
        assert 0 < settled.violation < 0.01
        assert f"{params:,}" in settled.reason or f"{macs:,}" in settled.reason


def test_a_duplicate_is_found_by_its_key(architecture):
    settled = settle(architecture, Budget(), {architecture.key: 7})
    assert settled.kind == "duplicate"
    assert "candidate 7" in settled.reason


# IGCV2 with branch widths whose product falls short of the width: some outputs do not see some inputs.
def test_an_igcv2_block_must_be_complementary():
    from igcsearch.blocks import FAMILIES
    from igcsearch.blocks.assemble import network, stage
    from igcsearch.spec import conditions

    for branches, refused in (((4, 4), False), ((8, 8), True)):
        blocks = stage(FAMILIES["igcv2"], 16, 16, 1, branch_widths=branches)
        architecture = network(PROBLEM, 16, [blocks])
        level = conditions.level(architecture.stages[0].blocks[0])
        assert (level not in ("strict", "nearly")) == refused
        settled = settle(architecture, Budget(), {})
        assert (settled is not None) == refused
        assert settled is None or (settled.kind == "condition" and level in settled.reason)


# Over the budget and duplicates, for every sampler: recorded as settled, infeasible, never a candidate to compare.
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "evolution"])
@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "params")])
def test_settled_proposals_are_told_in_the_way_the_sampler_learns_from(driven, fakes, sampler, objectives):
    budget = Budget(params=15_000)
    search = driven(sampler=sampler, objectives=objectives, budget=budget, trials=20)
    assert search.run() == 20
    settled = [t for t in search.study.trials if t.user_attrs.get("igcsearch:state") == "settled"]
    assert settled
    assert search.coordinator.counts.settled == len(settled)
    for trial in settled:
        assert trial.state == (TrialState.COMPLETE if sampler == "nsga2" else TrialState.PRUNED)
        assert sum(trial.constraints.values()) > 0
        assert trial.values is None or trial.values[0] == 0.0
    kinds = {t.user_attrs["igcsearch:result"]["kind"] for t in settled}
    assert "budget" in kinds
    assert kinds <= {"budget", "duplicate"}
    trained = [t for t in search.study.trials if t.state == TrialState.COMPLETE and t not in settled]
    assert len(trained) == 20
    assert all(t.user_attrs["igcsearch:candidate"]["params"] <= 15_000 for t in trained)
    assert not {t.number for t in settled} & {t.number for t in search.study.best_trials}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "evolution"])
def test_no_network_is_trained_twice_and_an_exhausted_space_ends_the_search(driven, fakes, sampler, monkeypatch):
    monkeypatch.setattr("igcsearch.search.coordinator.MAX_SETTLED", 60)
    search = driven(space=fakes.TINY_SPACE, sampler=sampler, trials=10)
    assert search.run() == 4
    reason, message = search.coordinator.ended
    assert reason == "settled"
    assert "60 proposals in a row" in message
    assert "the same network" in message
    keys = [
        t.user_attrs["igcsearch:candidate"]["key"] for t in search.study.trials if "igcsearch:candidate" in t.user_attrs
    ]
    assert len(keys) == len(set(keys)) == 4


# What breaks off before it has all parameters must not take the others out of what the sampler models.
@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_proposal_that_the_space_refuses_is_settled_and_spoils_nothing(driven, fakes, sampler):
    search = driven(space=fakes.MOODY_SPACE, sampler=sampler, trials=30)
    assert search.run() == 30
    refused = [t for t in search.study.trials if t.user_attrs.get("igcsearch:result", {}).get("kind") == "space"]
    assert refused
    assert all(t.state == TrialState.FAIL for t in refused)
    trial = search.study.ask()
    space = search.study.sampler.infer_relative_search_space(search.study, trial)
    assert len(space) >= fakes.PARAMETERS


def test_a_budget_below_the_smallest_is_an_error_that_says_the_smallest():
    space = get_space("digits")
    smallest = space.smallest(PROBLEM)
    check_budget(space, Problem(8, 1, 10, Budget(params=smallest.params)), seed=0)
    with pytest.raises(UsageError, match=f"{smallest.params:,} params"):
        check_budget(space, Problem(8, 1, 10, Budget(params=10)), seed=0)


def test_without_a_smallest_random_proposals_are_looked_at(fakes, monkeypatch):
    monkeypatch.setattr("igcsearch.search.settle._TRIES", 300)
    space = Space("mine", fakes.space)
    check_budget(space, Problem(8, 1, 10, Budget(params=60_000)), seed=0)
    with pytest.raises(UsageError, match=r"smallest of 300 random proposals has [0-9,]+ params and [0-9,]+ macs"):
        check_budget(space, Problem(8, 1, 10, Budget(params=100)), seed=0)


def test_a_space_that_never_proposes_is_an_error_with_its_reason(fakes, monkeypatch):
    monkeypatch.setattr("igcsearch.search.settle._TRIES", 20)

    def refuse(trial, problem):
        raise UsageError("never")

    with pytest.raises(UsageError, match=r"made none of 20 random proposals: never"):
        check_budget(Space("mine", refuse), PROBLEM, seed=0)


def test_a_random_trial_repeats_what_it_has_drawn():
    trial = RandomTrial(random.Random(0))
    assert all(1 <= trial.suggest_int("a", 1, 3) == trial.suggest_int("a", 1, 3) <= 3 for _ in range(5))
    assert trial.suggest_categorical("b", ("x",)) == "x"
    assert 0 <= trial.suggest_float("c", 0, 1) <= 1
