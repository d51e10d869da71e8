"""A search with learned group counts, from proposals to an entry inside the budget."""

import json
import subprocess
import sys

import pytest

from igcsearch import open_study
from igcsearch.errors import UsageError
from igcsearch.publish import publish
from igcsearch.report.facts import collect
from igcsearch.report.page import render
from igcsearch.search import SearchConfig, run_search
from igcsearch.spec import Architecture, Budget
from igcsearch.spec.grouping import learns_groups, with_groups
from igcsearch.spec.learning import is_learned
from igcsearch.training import DataSpec

SPACE = """
from igcsearch.blocks import igcv2, igcv3, network, stage
from igcsearch.spec.grouping import opened_groups


def space(trial, problem):
    width = trial.suggest_int("width", 1, 2) * 12
    groups = trial.suggest_categorical("groups", ("searched", "learned"))
    widths = (3, 4) if width == 12 else (4, 6)
    stages = [stage(igcv2, width, width, 2, residual=True, branch_widths=widths)]
    stages += [stage(igcv3, width, width, 1, residual=True, expansion=2, groups=(4, 4))]
    made = network(problem, width, stages)
    return opened_groups(made) if groups == "learned" else made
"""
BUDGET = Budget(params=4_500, macs=200_000)


def config(folder, text=SPACE, **changes):
    path = folder / "space.py"
    path.write_text(text)
    values = {"trials": 2, "epochs": 3, "groups": "learned", "budget": BUDGET, "sampler": "random"} | changes
    return SearchConfig(space=f"{path}:space", data=DataSpec("digits", train_images=200), **values)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    run_search(config(folder), folder / "study")
    return folder / "study"


def test_both_architectures_are_recorded_and_the_one_found_is_inside_the_budget(study):
    candidates = open_study(study).candidates(["complete"])
    assert len(candidates) == 2
    for candidate in candidates:
        proposed, found = Architecture.from_dict(dict(candidate.proposed)), candidate.architecture
        assert learns_groups(proposed)
        assert not is_learned(found)
        assert candidate.hash == found.hash != proposed.hash
        assert (candidate.params, candidate.macs) == tuple(found.cost)
        assert BUDGET.admits(*found.cost)
        choices = {name: tuple(block["choice"]) for name, block in candidate.learned["groups"].items()}
        assert with_groups(proposed, choices) == found


def test_the_page_shows_how_group_counts_were_found(study):
    page = render(collect(open_study(study)))
    assert "Learned group counts" in page
    assert "Learned shuffles" not in page
    record = open_study(study).best().learned
    rows = sum(1 if block["of"] == "digits" else 2 for block in record["groups"].values())
    assert page.count('<figure class="matrix"') == rows * len(record["snapshots"]) > 0
    assert "each digit of 2 · 2 ·" in page
    assert "open or closed" in page
    assert "the expected cost was" in page


def test_publication(study, tmp_path):
    best = open_study(study).best()
    (entry,) = publish(study, candidates=[best.id], seeds=2, epochs=3, to=tmp_path / "zoo")
    assert entry.architecture == best.architecture
    assert entry.metrics["provenance"]["group_counts"] == "learned in the search"
    assert "shuffles" not in entry.metrics["provenance"]
    (again,) = publish(study, candidates=[best.id], seeds=2, epochs=3, to=tmp_path / "zoo2", relearn=True)
    assert again.metrics["provenance"]["group_counts"] == "learned by each retraining"
    assert list(again.metrics["provenance"]["relearned"]) == ["0", "1"]
    assert again.metrics["provenance"]["relearned_costs"]["0"] == again.architecture.cost._asdict()
    assert BUDGET.admits(*again.architecture.cost)
    assert again.metrics["params"] == again.architecture.params
    # An entry loads where nothing can be learned.
    block = "import sys; sys.modules['igcsearch.nn.grouping'] = sys.modules['igcsearch.training'] = None; "
    code = block + f"import igcsearch, torch; print(igcsearch.load({str(entry.path)!r})(torch.zeros(1, 1, 8, 8)).shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "torch.Size([1, 10])", done.stderr
    command = [sys.executable, "-m", "igcsearch", "check", str(again.path), "--json"]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout)
    assert said["blocks"][1]["complementary"] == "strict"


def test_a_space_that_cannot_learn_them_is_refused(tmp_path):
    text = SPACE.replace('("searched", "learned")', '("few", "many")')
    with pytest.raises(UsageError, match="offers no learned group counts; let it ask"):
        run_search(config(tmp_path, text), tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_proposals_without_anything_to_learn_are_settled(tmp_path):
    text = SPACE.replace(
        "    return opened_groups", "    if width == 12:\n        return made\n    return opened_groups"
    )
    study = run_search(config(tmp_path, text, trials=1, seed=2), tmp_path / "study")
    assert all(candidate.learned is not None for candidate in study.candidates(["complete"]))
    assert any(
        "no group counts to learn in igcv2+igcv3" in candidate.reason for candidate in study.candidates(["settled"])
    )


def test_a_study_keeps_its_question(study):
    with pytest.raises(UsageError, match="groups 'learned', not 'searched'; resume it with its own --groups"):
        run_search(config(study.parent, groups="searched", trials=3), study, resume=True)
    assert run_search(config(study.parent, groups=None), study, resume=True).config.groups == "learned"


def test_a_space_with_nothing_to_learn_is_refused(tmp_path):
    text = SPACE.replace("    return opened_groups(made) if", "    return made if")
    with pytest.raises(
        UsageError, match=r"made none of 10,000 random proposals that learn: no group counts to learn in igcv2\+igcv3"
    ):
        run_search(config(tmp_path, text), tmp_path / "study")
    assert not (tmp_path / "study").exists()
