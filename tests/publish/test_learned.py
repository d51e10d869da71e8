"""A search with learned shuffles, from the command line to entries that know nothing of learning."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from igcsearch import open_study
from igcsearch.errors import UsageError
from igcsearch.publish import publish
from igcsearch.report.facts import collect
from igcsearch.report.page import render
from igcsearch.search import SearchConfig, run_search
from igcsearch.search.config import question_name
from igcsearch.spec import Architecture, Budget
from igcsearch.spec.learning import hardened, is_learned
from igcsearch.training import DataSpec

SPACE = """
from igcsearch.blocks import igcv3, network, stage
from igcsearch.spec.learning import opened


def space(trial, problem):
    width = trial.suggest_int("width", 2, 4) * 4
    shuffle = trial.suggest_categorical("shuffle", ("interleave", "learned"))
    made = network(problem, width, [stage(igcv3, width, width, 2, residual=True, expansion=2, groups=(2, 2))])
    return opened(made) if shuffle == "learned" else made
"""
SILENT = """
from igcsearch.blocks import network, stage, xception


def space(trial, problem):
    width = trial.suggest_int("width", 8, 16)
    return network(problem, width, [stage(xception, width, width, 1)])
"""


def config(folder: Path, text: str = SPACE, **changes) -> SearchConfig:
    path = folder / "space.py"
    path.write_text(text)
    values = {"trials": 2, "epochs": 3, "shuffle": "learned", "budget": Budget(params=20_000)} | changes
    return SearchConfig(space=f"{path}:space", data=DataSpec("digits", train_images=200), **values)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    run_search(config(folder), folder / "study")
    return folder / "study"


def test_both_architectures_are_recorded(study):
    candidates = open_study(study).candidates(["complete"])
    assert len(candidates) == 2
    for candidate in candidates:
        proposed, found = Architecture.from_dict(dict(candidate.proposed)), candidate.architecture
        assert is_learned(proposed)
        assert not is_learned(found)
        assert candidate.hash == found.hash != proposed.hash
        assert candidate.key == found.key
        assert candidate.params == found.params == proposed.params
        assert candidate.learned["way"] == "assignment"
        assert hardened(proposed, {name: gap["order"] for name, gap in candidate.learned["gaps"].items()}) == found


def test_the_page_shows_how_channels_moved(study):
    page = render(collect(open_study(study)))
    assert "Learned shuffles" in page
    candidate = open_study(study).best()
    pictures = sum(min(6, len(gap["history"])) for gap in candidate.learned["gaps"].values())
    assert page.count('<figure class="matrix"') == pictures > 0
    assert "times as long as one with nothing to learn" in page


# All seeds share the permutation that the search learned; with `relearn` each learns its own.
def test_publication(study, tmp_path):
    best = open_study(study).best()
    (entry,) = publish(study, candidates=[best.id], seeds=2, epochs=3, to=tmp_path / "zoo")
    assert entry.architecture == best.architecture
    assert entry.metrics["provenance"]["shuffles"] == "learned in the search (assignment)"
    (again,) = publish(study, candidates=[best.id], seeds=2, epochs=3, to=tmp_path / "zoo2", relearn=True)
    hashes = again.metrics["provenance"]["relearned"]
    assert list(hashes) == ["0", "1"]
    assert hashes["0"] == again.architecture.hash
    assert len({best.hash, *hashes.values()}) == 3
    assert not is_learned(again.architecture)
    # An entry loads where nothing can be learned, and 'check' reports its path counts.
    block = "import sys; sys.modules['igcsearch.nn.learned'] = sys.modules['igcsearch.training'] = None; "
    code = block + f"import igcsearch, torch; print(igcsearch.load({str(again.path)!r})(torch.zeros(1, 1, 8, 8)).shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "torch.Size([1, 10])", done.stderr
    command = [sys.executable, "-m", "igcsearch", "check", str(again.path), "--json"]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout)
    assert "paths" in json.dumps(said)


def test_relearning_needs_something_learned(tmp_path):
    run_search(config(tmp_path, trials=1, epochs=1, shuffle="interleave"), tmp_path / "study")
    with pytest.raises(UsageError, match="none of the finalists has learned shuffles"):
        publish(tmp_path / "study", seeds=1, epochs=1, to=tmp_path / "zoo", relearn=True)


def test_a_space_that_leaves_no_shuffle_open_is_refused(tmp_path):
    with pytest.raises(UsageError, match="offers no learned shuffles"):
        run_search(config(tmp_path, SILENT), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_parameter_of_that_name_with_another_meaning_is_left_alone(tmp_path):
    text = SPACE.replace('("interleave", "learned")', '("on", "off")')
    study = run_search(config(tmp_path, text, trials=1, epochs=1, shuffle=None), tmp_path / "study")
    assert study.best() is not None
    with pytest.raises(UsageError, match="offers no learned shuffles"):
        run_search(config(tmp_path, text), tmp_path / "other")


# A space may refuse some of its own proposals: that is no reason to refuse the search.
def test_a_space_that_refuses_some_proposals_is_searched(tmp_path):
    text = SPACE.replace("    shuffle = ", "    if width < 16:\n        raise ValueError('too narrow')\n    shuffle = ")
    study = run_search(config(tmp_path, text, trials=1, seed=1), tmp_path / "study")
    assert study.best().learned is not None


# Where learned ones alone are asked for, a proposal that has none is not trained; where they may be, it is.
def test_proposals_without_anything_to_learn_are_settled(tmp_path):
    text = SPACE.replace("    return opened", "    if width == 8:\n        return made\n    return opened")
    study = run_search(config(tmp_path, text, trials=2, sampler="random", seed=2), tmp_path / "study")
    assert all(candidate.learned is not None for candidate in study.candidates(["complete"]))
    settled = study.candidates(["settled"])
    assert any("no shuffle to learn" in candidate.reason for candidate in settled)


def test_one_epoch_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(UsageError, match="at least 2 epochs"):
        config(tmp_path, epochs=1)


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"unknown shuffle 'lerned' \(did you mean 'learned'"):
        config(tmp_path, shuffle="lerned")


def test_a_study_keeps_its_question(study):
    with pytest.raises(
        UsageError, match="a study with shuffle 'learned', not 'interleave'; resume it with its own --shuffle"
    ):
        run_search(config(study.parent, shuffle="interleave", trials=3), study, resume=True)


# A study from before there was a choice drew interleaves and random shuffles.
def test_a_study_without_the_entry_is_one_of_fixed_shuffles(tmp_path):
    values = config(tmp_path).to_dict()
    del values["shuffle"]
    old = SearchConfig.from_dict(values)
    assert old.shuffle == "fixed"
    # and it goes by the name, and takes the command, that it had
    assert question_name(old) == question_name(config(tmp_path, shuffle=None))
    assert question_name(config(tmp_path, shuffle="any")) != question_name(old)


def test_the_same_command_resumes_a_study_of_any_shuffles(study):
    resumed = run_search(config(study.parent, shuffle=None, trials=2), study, resume=True)
    assert resumed.config.shuffle == "learned"
