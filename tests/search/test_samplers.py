"""Samplers: they model what they are told, and evolution does what its paper says."""

import optuna
import pytest
from optuna.trial import TrialState

from igcsearch.search.evolution import EvolutionSampler
from igcsearch.search.samplers import derived_seed, make_sampler, resolve_stopping


class Counted:
    """Counts, from trial `first` on, where a study's parameters come from: the sampler's model or independent draws."""

    def __init__(self, monkeypatch, first):
        self.modelled = self.independent = 0
        for cls in (optuna.samplers.TPESampler, optuna.samplers.NSGAIISampler, EvolutionSampler):
            self._watch(monkeypatch, cls, first)

    def _watch(self, monkeypatch, cls, first):
        relative, independent = cls.sample_relative, cls.sample_independent

        def watched_relative(sampler, study, trial, search_space):
            params = relative(sampler, study, trial, search_space)
            self.modelled += len(params) * (trial.number >= first)
            return params

        def watched_independent(sampler, study, trial, name, distribution):
            self.independent += trial.number >= first
            return independent(sampler, study, trial, name, distribution)

        monkeypatch.setattr(cls, "sample_relative", watched_relative)
        monkeypatch.setattr(cls, "sample_independent", watched_independent)


# After 30 trials the parameters that every trial has come from the sampler's model. (NSGA-II draws each anew with probability
# one over their number: that is its mutation, so one parameter a trial is expected to.)
@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "macs")])
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "evolution"])
@pytest.mark.parametrize("space", ["fake", "cifar"])
def test_after_30_trials_parameters_come_from_the_model(driven, fakes, monkeypatch, space, sampler, objectives):
    from igcsearch.spec import Budget

    spec = fakes.SPACE if space == "fake" else space
    budget = Budget() if space == "fake" else Budget(params=100_000, macs=2_000_000)
    sizes = (8, 1) if space == "fake" else (32, 3)
    search = driven(space=spec, sizes=sizes, trials=60, sampler=sampler, objectives=objectives, budget=budget)
    search.run(30)
    counted = Counted(monkeypatch, first=len(search.study.trials))
    search.run(30)
    share = counted.modelled / (counted.modelled + counted.independent)
    assert share >= 0.9 if (sampler, space) != ("nsga2", "fake") else share >= 1 - 1.6 / fakes.PARAMETERS
    assert counted.modelled > 100


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "evolution"])
def test_same_seed_gives_the_same_study(driven, sampler):
    first, second, other = (driven(sampler=sampler, trials=14, seed=seed) for seed in (3, 3, 4))
    for search in (first, second, other):
        search.run()
    params = [[trial.params for trial in search.study.trials] for search in (first, second, other)]
    assert params[0] == params[1]
    assert params[0] != params[2]


# Real et al. 2019: a child differs from one member of the newest P in one or two parameters.
def test_evolution_mutates_one_or_two_parameters_of_a_recent_candidate(driven):
    search = driven(sampler="evolution", trials=36)
    population = 12
    search.run()
    trained = [trial for trial in search.study.trials if trial.state == TrialState.COMPLETE]
    for i, child in enumerate(trained):
        alive = trained[max(0, i - population) : i]
        if len(alive) == population:
            changes = [sum(child.params[name] != value for name, value in parent.params.items()) for parent in alive]
            assert 1 <= min(changes) <= 2


# The best of a tournament of the whole population is the parent: the front for several objectives.
def test_evolution_takes_its_parent_from_the_front():
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=EvolutionSampler(6, 6, seed=0))
    for i in range(6):
        distribution = {f"p{j}": optuna.distributions.IntDistribution(0, 10**6) for j in range(9)}
        values = [0.9, 1.0] if i == 2 else [0.5, 2.0 + i]
        params = {f"p{j}": i for j in range(9)}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distribution, values=values))
    trial = study.ask(distribution)
    assert sum(value == 2 for value in trial.params.values()) >= 7


@pytest.mark.parametrize(("population", "tournament"), [(1, 1), (5, 6), (5, 0)])
def test_evolution_refuses_impossible_sizes(population, tournament):
    with pytest.raises(ValueError, match=str(tournament if population > 1 else population)):
        EvolutionSampler(population, tournament)


def test_auto_stops_early_only_where_it_can_compare():
    def resolved(**changes):
        case = {"stopping": "auto", "epochs": 8, "trials": 40, "sampler": "tpe"} | changes
        return resolve_stopping(**case)

    assert resolved() == "halving"
    for change in ({"epochs": 3}, {"trials": 20}, {"sampler": "nsga2"}):
        assert resolved(**change) == "none"
    assert resolved(stopping="hyperband", trials=2) == "hyperband"


def test_derived_seeds_depend_on_both_parts():
    assert len({derived_seed(seed, name) for seed in range(10) for name in "abcde"}) == 50
    assert all(0 <= derived_seed(seed, "x") < 2**31 for seed in range(100))


def test_every_sampler_can_be_made():
    for name in ("tpe", "nsga2", "random", "evolution"):
        make_sampler(name, 0, 4)
