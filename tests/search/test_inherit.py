"""Candidates taken over by another study: which, with what parameters for the sampler, once each, and never trained again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from igcsearch.errors import UsageError
from igcsearch.search import Study, open_study, run_search
from igcsearch.search.engines.local import LocalEngine
from igcsearch.search.inherit import INHERITED, Inheritance, gather
from igcsearch.search.invert import FixedTrial, find_parameters
from igcsearch.search.settle import RandomTrial
from igcsearch.search_spaces import get_space
from igcsearch.spec import Budget, Problem


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Study]:
    """Studies by their options, each searched once."""
    from .conftest import FAKES, _config

    made: dict[str, Study] = {}

    def run(**changes: Any) -> Study:
        name = repr(sorted(changes.items()))
        if name not in made:
            config = _config(**{"trials": 8, **changes})
            folder = tmp_path_factory.mktemp("searched") / "parent"
            made[name] = run_search(config, folder, engine=LocalEngine(config, trainer=FAKES.TRAINER))
        return made[name]

    return run


@pytest.mark.parametrize("name", ["digits", "cifar"])
def test_parameters_under_a_tighter_budget_are_found(name: str) -> None:
    """Most networks of the package's spaces, whose choices all depend on the budget; a wrong answer never."""
    space, wide = get_space(name), Budget(100_000, 8_000_000)
    size, channels = (8, 1) if name == "digits" else (28, 1)
    stream, found, tried = random.Random(1), 0, 0
    while tried < 12:
        trial = RandomTrial(stream)
        network = space.propose(trial, Problem(size, channels, 10, wide))
        problem = Problem(size, channels, 10, Budget(int(network.params * stream.uniform(1.0, 1.5)), 8_000_000))
        tried += 1
        answer, asked = find_parameters(space, problem, network, trial.params)
        assert asked <= 3000
        if answer is not None:
            found += 1
            assert space.propose(FixedTrial(answer.params), problem).key == network.key
            assert list(answer.distributions) == list(answer.params)
    assert found >= 10


def test_a_space_that_does_not_look_at_the_budget_keeps_its_parameters(fakes: Any) -> None:
    space, problem = get_space(fakes.SPACE), Problem(8, 1, 10, Budget(5_000))
    trial = RandomTrial(random.Random(0))
    network = space.propose(trial, problem)
    answer, asked = find_parameters(space, problem, network, trial.params)
    assert answer is not None
    assert (answer.params, asked) == (trial.params, 1)


def test_only_what_fits_and_is_complete_is_gathered(searched: Callable[..., Study]) -> None:
    study = searched()
    sizes = sorted(candidate.params for candidate in study.candidates(("complete",)))
    budget = Budget(sizes[3])
    found = gather([study, study], budget)
    assert sorted(each.candidate.params for each in found.candidates) == sizes[:4]
    assert {tuple(each.origin.items()) for each in found.candidates} == {
        (("study", "parent"), ("trial", each.candidate.id)) for each in found.candidates
    }
    assert len(gather([study], replace(budget, macs=1)).candidates) == 0


def test_inherited_candidates_count_and_are_settled_when_proposed_again(
    searched: Callable[..., Study], fakes: Any, config: Callable[..., Any], tmp_path: Path, monkeypatch: Any
) -> None:
    """Of a space of four networks two are inherited; the search trains the other two, once each."""
    log = tmp_path / "log"
    parent = searched(space=fakes.TINY_SPACE, trials=2)
    monkeypatch.setenv("FAKE_LOG", str(log))
    told: list[Any] = []
    configured = config(space=fakes.TINY_SPACE, trials=4, budget=Budget(10_000))
    options = {"engine": LocalEngine(configured, trainer=fakes.TRAINER), "inherit": gather([parent], configured.budget)}
    study = run_search(configured, tmp_path / "study", on_event=told.append, **options)
    assert told[0].counts.complete == 2, "they count from the start"
    complete = study.candidates(("complete",))
    inherited = {c.hash: c.accuracy for c in parent.candidates(("complete",))}
    assert len(complete) == len({c.key for c in complete}) == 4
    assert {c.hash: c.accuracy for c in complete}.items() >= inherited.items()
    trained = {line.split()[0] for line in log.read_text().splitlines()}
    assert len(trained) == 2
    assert not trained & set(inherited)
    # Once more: nothing is added, nothing is trained.
    log.write_text("")
    options["engine"] = LocalEngine(configured, trainer=fakes.TRAINER)
    again = run_search(configured, tmp_path / "study", resume=True, **options)
    assert len(again.candidates(("complete",))) == 4
    assert log.read_text() == ""
    assert len([t for t in again.optuna.get_trials() if INHERITED in t.user_attrs]) == 2
    status = again.status()
    assert (status["complete"], status["failed"]) == (4, 0)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "evolution"])
def test_samplers_learn_from_them(
    searched: Callable[..., Study], fakes: Any, config: Callable[..., Any], tmp_path: Path, sampler: str
) -> None:
    """All are trials with values and parameters; with NSGA-II they are its first generation."""
    parent = searched(sampler=sampler)
    configured = config(sampler=sampler, trials=9, budget=Budget(150_000))
    inherit = gather([parent], configured.budget)
    engine = LocalEngine(configured, trainer=fakes.TRAINER)
    study = run_search(configured, tmp_path / "study", engine=engine, inherit=inherit)
    taken = [trial for trial in study.optuna.get_trials() if INHERITED in trial.user_attrs]
    assert len(taken) == len(inherit.candidates) > 0
    assert all(trial.state == optuna.trial.TrialState.COMPLETE and len(trial.params) == 8 for trial in taken)
    if sampler == "nsga2":
        assert all(0 in [v for k, v in trial.system_attrs.items() if k.endswith(":generation")] for trial in taken)


def test_a_network_whose_parameters_are_not_found_is_a_candidate_all_the_same(
    searched: Callable[..., Study], fakes: Any, config: Callable[..., Any], tmp_path: Path, monkeypatch: Any
) -> None:
    """For Optuna's samplers it is not there; for everything here it is."""
    monkeypatch.setattr("igcsearch.search.inherit.MOST_PROPOSALS", 0)
    parent = searched()
    configured = config(trials=8, budget=Budget(150_000))
    inherit = gather([parent], configured.budget)
    engine = LocalEngine(configured, trainer=fakes.TRAINER)
    study = run_search(configured, tmp_path / "study", engine=engine, inherit=inherit)
    taken = [trial for trial in study.optuna.get_trials() if INHERITED in trial.user_attrs]
    assert {trial.state for trial in taken} == {optuna.trial.TrialState.FAIL}
    complete = {candidate.hash for candidate in study.comparable()}
    assert complete >= {each.candidate.hash for each in inherit.candidates}
    best = study.best()
    assert best is not None
    assert (best.accuracy or 0) >= max(each.candidate.accuracy or 0 for each in inherit.candidates)
    # And it can be inherited on, as what it is.
    assert len(gather([study], Budget(150_000)).candidates) == len(complete)


def test_other_images_are_refused(
    searched: Callable[..., Study], fakes: Any, config: Callable[..., Any], tmp_path: Path
) -> None:
    inherit = gather([searched()], Budget(150_000))
    other = Inheritance(inherit.candidates, {**inherit.data, "fingerprint": "of others"})
    configured = config(budget=Budget(150_000))
    engine = LocalEngine(configured, trainer=fakes.TRAINER)
    with pytest.raises(UsageError, match="trained on other data \\(fingerprint of others"):
        run_search(configured, tmp_path / "study", engine=engine, inherit=other)
    assert open_study(tmp_path / "study").candidates() == []


def test_a_space_that_was_changed_is_refused(config: Callable[..., Any], fakes: Any, tmp_path: Path) -> None:
    file = tmp_path / "space.py"
    file.write_text(Path(fakes.__file__).read_text())
    configured = config(space=f"{file}:space", trials=1)
    study = run_search(configured, tmp_path / "study", engine=LocalEngine(configured, trainer=fakes.TRAINER))
    gather([study], Budget())
    file.write_text(file.read_text() + "\n# changed\n")
    with pytest.raises(UsageError, match="was changed since the study"):
        gather([study], Budget())
