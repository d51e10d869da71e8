"""Searches that begin from a network: what they propose, the weights that they begin with, resuming, publishing, refusals."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from igcsearch.entries import create_model, read_entry, write_entry
from igcsearch.errors import UsageError
from igcsearch.nn.graph import GraphNetwork
from igcsearch.publish import publish, retrain, rounds
from igcsearch.report import write_report
from igcsearch.search import Study, open_study, run_search
from igcsearch.search.config import SearchConfig, question_name
from igcsearch.search.engines.local import LocalEngine
from igcsearch.search.engines.trainer import Trainer
from igcsearch.search.engines.worker import WorkerSpec
from igcsearch.search.invert import find_parameters
from igcsearch.search.jobs import Job
from igcsearch.search.run import space_of
from igcsearch.search.start import read_start, start_ref
from igcsearch.spec import Architecture, Budget, Problem
from igcsearch.training import DataSpec, Recipe, evaluate, load_data
from igcsearch.training.recipe import FINE_TUNING_LR

ENTRY = "dense-digits-16k-6891413a"
DATA = DataSpec("digits", train_images=200)


def config(**changes: Any) -> SearchConfig:
    values = {"space": "regroup", "data": DATA, "init_from": ENTRY, "trials": 3, "epochs": 1, "sampler": "random"}
    return SearchConfig(**values | changes)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A real search of three candidates of one epoch."""
    return run_search(config(), tmp_path_factory.mktemp("start") / "study")


@pytest.fixture
def pretend(fakes: ModuleType, tmp_path: Path) -> Callable[..., None]:
    """Search in tmp_path/study with workers that train nothing."""

    def run(init_from: Path | str = ENTRY, trials: int = 1, resume: bool = False, **changes: Any) -> None:
        asked = config(init_from=str(init_from), trials=trials, recipe=Recipe(epochs=1), **changes)
        engine = LocalEngine(asked, trainer=fakes.TRAINER)
        run_search(asked, tmp_path / "study", resume=resume, engine=engine).close()

    return run


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A copy of the entry that a test may change."""
    return Path(shutil.copytree(read_entry(ENTRY).path, tmp_path / "own"))


def test_the_first_candidate_is_the_network_itself(searched: Study) -> None:
    first = searched.candidates()[0]
    assert first.data == read_start(ENTRY).source.graph.to_dict()
    assert first.state == "complete"


def test_a_resumed_search_goes_on_and_does_not_begin_again(tmp_path: Path, pretend: Callable[..., None]) -> None:
    pretend(trials=2)
    pretend(trials=4, resume=True)
    first, *others = open_study(tmp_path / "study").candidates()
    own = read_start(ENTRY).source.graph.hash
    assert first.hash == own
    assert len(others) == 3
    assert own not in [candidate.hash for candidate in others]


def test_outside_the_budget_the_network_is_settled_and_the_solvers_choice_trained(
    tmp_path: Path, pretend: Callable[..., None]
) -> None:
    pretend(budget=Budget(macs=300_000))
    first, second = open_study(tmp_path / "study").candidates()
    assert (first.state, first.macs) == ("settled", 478_056)
    assert second.state == "complete"
    assert 0.9 * 300_000 < second.macs <= 300_000


def test_the_rate_is_that_of_fine_tuning_unless_it_is_given(searched: Study) -> None:
    assert searched.config.recipe is not None
    assert searched.config.recipe.lr == FINE_TUNING_LR
    assert Trainer(WorkerSpec(DATA, None, {"lr": 0.1}, "cpu", 1, start=start_ref(config()))).facts.recipe["lr"] == 0.1


def test_the_page_shows_the_network_it_began_from_and_the_groups(searched: Study, tmp_path: Path) -> None:
    page = write_report(searched, tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"{ENTRY}, 16,058 parameters, 478,056 MACs" in page
    assert ">groups<" in page


def test_the_first_candidate_begins_with_the_accuracy_of_the_network() -> None:
    ref = start_ref(config())
    assert ref is not None
    loaded, graph = ref.read(), read_start(ENTRY).source.graph
    network = GraphNetwork(graph).eval()
    network.load_state_dict(loaded.state(graph))
    split = loaded.images(load_data(DataSpec("digits"))).validation
    whole = evaluate(create_model(ENTRY, pretrained=True), split, device="cpu")
    assert evaluate(network, split, device="cpu") == whole
    assert whole[0] > 0.98


def test_a_worker_trains_from_the_pruned_weights(searched: Study, tmp_path: Path, monkeypatch: Any) -> None:
    ref, seen = start_ref(searched.config), []

    def caught(*arguments: Any, **options: Any) -> Any:
        seen.append(options["initial_state"])
        raise RuntimeError

    monkeypatch.setattr("igcsearch.search.engines.trainer.train_in_study", caught)
    trainer = Trainer(WorkerSpec(DATA, None, {"epochs": 1}, "cpu", 1, start=ref))
    candidate = searched.candidates()[1]
    job = Job(1, candidate.architecture.to_json(), trainer.facts.recipe, str(tmp_path / "checkpoint"))
    with pytest.raises(RuntimeError):
        trainer.train(job, lambda record: True, lambda text: None)
    assert ref is not None
    expected = ref.read().state(candidate.architecture)
    assert all(torch.equal(tensor, seen[0][name]) for name, tensor in expected.items())


def test_a_retraining_begins_with_the_same_weights_and_images(searched: Study, monkeypatch: Any) -> None:
    seen = []

    def caught(architecture: Architecture, data: Any, recipe: Recipe, **options: Any) -> Any:
        seen.append((data.fingerprint, options["initial_state"]))
        raise RuntimeError

    setting = rounds.make_setting(
        searched, epochs=None, data=None, train_images=200, device="cpu", workers=1, on_event=None
    )
    candidate = searched.candidates()[1]
    parts = (searched.path, candidate, setting.spec, setting.data, replace(setting.recipe, seed=7))
    monkeypatch.setattr("igcsearch.search.training.train_in_study", caught)
    with pytest.raises(RuntimeError):
        retrain.run_job(retrain.make_job(*parts, "cpu", 1, start=setting.start), lambda epoch: None)
    ref = start_ref(searched.config)
    assert ref is not None
    expected = ref.read().state(candidate.architecture)
    assert seen[0][0] == setting.data.fingerprint
    assert all(torch.equal(tensor, seen[0][1][name]) for name, tensor in expected.items())


def test_a_candidate_is_published_as_an_entry(searched: Study, tmp_path: Path) -> None:
    entry = publish(searched, candidates=[2], seeds=1, epochs=1, train_images=200, to=tmp_path, device="cpu")[0]
    assert entry.architecture.hash == searched.candidates()[2].hash
    assert entry.metrics["provenance"]["init_from"] == ENTRY


def test_a_rung_of_a_zoo_begins_with_what_was_trained(searched: Study) -> None:
    trials, space = searched.optuna.get_trials(), space_of(searched.config)
    problem = Problem(8, 1, 10, Budget(macs=300_000))
    for trial, candidate in zip(trials[:3], searched.candidates(), strict=True):
        found, asked = find_parameters(space, problem, candidate.architecture, trial.params)
        assert asked == 1
        assert found is not None
        assert found.params == trial.params
    assert find_parameters(space, problem, searched.candidates()[1].architecture, trials[0].params)[0] is None


def test_a_network_that_changed_or_is_gone_is_refused(own: Path, tmp_path: Path, pretend: Callable[..., None]) -> None:
    pretend(own)
    entry, tensors = read_entry(str(own)), load_file(own / "weights.safetensors")
    changed = {name: tensor + 0.5 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    write_entry(own, entry.architecture, changed, dict(entry.metrics), overwrite=True)
    with pytest.raises(UsageError, match="was changed since the study"):
        pretend(own, resume=True)
    with pytest.raises(UsageError, match="was changed since the study"):
        publish(open_study(tmp_path / "study"), to=tmp_path / "zoo")
    shutil.rmtree(own)
    with pytest.raises(UsageError, match=r"--init-from: .* does not exist"):
        pretend(own, resume=True)


def test_a_network_that_was_moved_is_the_same_and_another_is_not(
    own: Path, tmp_path: Path, pretend: Callable[..., None]
) -> None:
    pretend(own)
    moved = own.rename(tmp_path / "moved")
    pretend(moved, resume=True)
    assert open_study(tmp_path / "study").config.init_from == str(moved)
    with pytest.raises(UsageError, match=r"begins from .*moved, not xception-cifar10"):
        pretend("xception-cifar10-40k-1f9d454f", resume=True)


def test_the_question_knows_the_network_and_not_where_it_lies(own: Path) -> None:
    assert question_name(config()) == question_name(config(init_from=str(own)))
    assert question_name(config()) != question_name(config(init_from="xception-cifar10-40k-1f9d454f"))


def test_a_worker_refuses_a_network_that_is_not_the_one_of_the_study(own: Path) -> None:
    ref = start_ref(config(init_from=str(own)))
    assert ref is not None
    with pytest.raises(UsageError, match="was changed"):
        Trainer(WorkerSpec(DATA, None, {}, "cpu", 1, start=replace(ref, digest="other")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"init_from": None}, "give --init-from ENTRY"),
        ({"space": "digits"}, "goes with the space 'regroup', not 'digits'"),
        ({"shuffle": "learned", "epochs": 4}, "leave --families, --shuffle and --groups out"),
        ({"groups": "any", "budget": Budget(macs=10**6), "epochs": 4}, "leave --families, --shuffle and --groups out"),
        ({"objectives": ("accuracy", "latency")}, "limit --max-params"),
        ({"families": ("igcv1",)}, "leave --families, --shuffle"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        config(**changes)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("igcv1-digits-5k-7d34177c", "none of its layers can be given groups"),
        ("igcv3_d_100", "reference network, without weights"),
        ("torchvision:resnet18", "igcsearch compress torchvision:resnet18"),
        ("dense-digits-16k", "did you mean"),
    ],
)
def test_networks_that_cannot_be_begun_from_are_refused(tmp_path: Path, entry: str, words: str) -> None:
    folder = tmp_path / "study"
    with pytest.raises(UsageError, match=words):
        run_search(config(init_from=entry), folder)
    assert not folder.exists()


def test_a_worker_refuses_images_that_do_not_fit_the_network() -> None:
    ref = start_ref(config(init_from="xception-cifar10-40k-1f9d454f"))
    with pytest.raises(UsageError, match="is for 3 channels, 32 pixels, 10 classes; data digits has 1, 8, 10"):
        Trainer(WorkerSpec(DATA, None, {}, "cpu", 1, start=ref))


def test_reading_a_network_leaves_no_lock_among_processes(monkeypatch: Any) -> None:
    bar = import_module("tqdm").tqdm
    monkeypatch.delattr(bar, "_lock", raising=False)
    ref = start_ref(config())
    assert ref is not None
    monkeypatch.delattr(bar, "_lock", raising=False)  # reading it for the reference may have made one
    ref.read()
    assert type(bar.get_lock()) is type(RLock())
