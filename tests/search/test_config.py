"""Configurations: checked when made, kept in JSON, compared on resume."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from igcsearch.errors import UsageError
from igcsearch.machine import available_cores
from igcsearch.search import SearchConfig
from igcsearch.search.config import check_same_question, question_name
from igcsearch.spec import Budget
from igcsearch.training import DataSpec, Recipe

CONFIG = SearchConfig(
    space="cifar",
    data=DataSpec("fashion-mnist", root="/somewhere", train_images=10_000),
    budget=Budget(params=100_000, macs=2_000_000),
    recipe=Recipe(epochs=2, lr=0.1),
    objectives=("accuracy", "macs"),
    timeout_s=60.0,
    workers=2,
)


def test_json_round_trip():
    again = SearchConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict())))
    assert again == CONFIG
    assert SearchConfig.from_dict(json.loads(json.dumps(replace(CONFIG, recipe=None, epochs=4).to_dict()))).epochs == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "trials = 0 must be a whole number of at least 1"),
        ({"workers": 0}, "workers = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"timeout_s": 0}, "timeout 0"),
        ({"sampler": "tpee"}, r"unknown sampler 'tpee' \(did you mean 'tpe'"),
        ({"stopping": "never"}, "unknown stopping 'never'"),
        ({"engine": "locl"}, r"unknown engine 'locl' \(did you mean 'local'"),
        ({"objectives": ("macs",)}, "the first is accuracy"),
        ({"objectives": ("accuracy", "flops")}, "unknown objective 'flops'.*params, macs, latency"),
        ({"stopping": "hyperband"}, "needs the single objective"),
        ({"groups": "lerned"}, r"unknown groups 'lerned' \(did you mean 'learned'"),
        ({"groups": "learned", "budget": Budget()}, "learned under a budget, or all branches would end as one; give"),
        (
            {"groups": "any", "objectives": ("accuracy", "latency")},
            "'any' does not go with a latency, which is predicted",
        ),
        ({"groups": "learned", "recipe": Recipe(epochs=1)}, "at least 2 epochs"),
        ({"families": ("igcv2", "monarhc")}, r"unknown family 'monarhc' \(did you mean 'monarch'"),
        ({"families": ("igcv2",), "space": "igcv2_figure3"}, "leave --families out"),
    ],
)
def test_bad_values_name_the_value_the_rule_and_the_cure(changes, message):
    with pytest.raises(UsageError, match=message):
        replace(CONFIG, **changes)


def test_what_may_differ_on_resume_may():
    changes = {"trials": 99, "timeout_s": None, "workers": 1, "device": "cpu", "threads_per_worker": 1}
    moved = replace(CONFIG.data, root="elsewhere", download=True)
    for other in (replace(CONFIG, **changes), replace(CONFIG, data=moved), replace(CONFIG, recipe=None)):
        check_same_question(CONFIG, other, "out")
    check_same_question(CONFIG, replace(CONFIG, recipe=replace(CONFIG.recipe, seed=5)), "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "digits"}, "space 'cifar', not 'digits'; resume it with its own SPACE"),
        ({"data": DataSpec("mnist", train_images=10_000)}, "data name = 'fashion-mnist', not 'mnist'"),
        ({"data": replace(CONFIG.data, train_images=500)}, "data train_images = 10000, not 500"),
        ({"data": replace(CONFIG.data, image_size=16)}, "data image_size = None, not 16"),
        ({"budget": Budget(params=100_000)}, "budget macs = 2000000, not None"),
        ({"recipe": Recipe(epochs=3, lr=0.1)}, "recipe epochs = 2, not 3"),
        ({"recipe": None, "epochs": 5}, "recipe epochs = 2, not 5"),
        ({"objectives": ("accuracy",)}, "objectives"),
        ({"sampler": "nsga2"}, "sampler 'tpe', not 'nsga2'"),
        ({"seed": 3}, "seed 0, not 3"),
        ({"stopping": "none"}, "stopping 'auto', not 'none'"),
        ({"groups": "any"}, "groups None, not 'any'; resume it with its own --groups"),
    ],
)
def test_a_study_of_another_question_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        check_same_question(CONFIG, replace(CONFIG, **changes), "out")


def test_data_paths_are_compared_wherever_they_are_written_from(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    stored = SearchConfig.from_dict(replace(CONFIG, data=DataSpec("images")).to_dict())
    assert stored.data.name == str(tmp_path / "images")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    check_same_question(stored, replace(CONFIG, data=DataSpec("../images")), "out")


def test_workers_share_the_cores():
    assert replace(CONFIG, workers=1).threads == available_cores()
    assert replace(CONFIG, workers=10_000).threads == 1
    assert replace(CONFIG, threads_per_worker=3).threads == 3


def test_paths_of_data_are_absolute_and_names_of_data_sets_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a study is published from any folder
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    named = SearchConfig("digits", DataSpec("digits")).to_dict()["data"]
    rooted = SearchConfig("cifar", DataSpec("mnist", root="here")).to_dict()["data"]
    folder = SearchConfig("cifar", DataSpec("photos/")).to_dict()["data"]
    assert (named["name"], rooted["root"], folder["name"]) == (
        "digits",
        str(tmp_path / "here"),
        str(tmp_path / "photos"),
    )


# Studies had names, and were read, before families could be chosen.
def test_families_are_those_of_the_space_unless_others_are_chosen():
    values = CONFIG.to_dict()
    del values["families"]
    old, own = SearchConfig.from_dict(values), ("igcv1", "igcv2", "igcv3", "xception", "dense")
    same, other = replace(CONFIG, families=own[::-1]), replace(CONFIG, families=("monarch", "igcv2"))
    assert (old.families, same.families, other.families) == (None, own, ("igcv2", "monarch"))
    assert question_name(old) == question_name(CONFIG) == question_name(same) != question_name(other)
    check_same_question(replace(old, shuffle=None), same, "out")
    with pytest.raises(
        UsageError, match=r"families 'igcv2,monarch', not 'igcv1,igcv2,igcv3,xception,dense'; resume it with"
    ):
        check_same_question(other, same, "out")
    assert SearchConfig.from_dict(json.loads(json.dumps(other.to_dict()))) == other


# Studies had names, and were read, before group counts could be learned.
def test_a_study_without_the_entry_is_one_of_searched_group_counts():
    values = CONFIG.to_dict()
    del values["groups"]
    old = SearchConfig.from_dict(values)
    assert old.groups == "searched"
    assert question_name(old) == question_name(CONFIG) == question_name(replace(CONFIG, groups="searched"))
    assert question_name(replace(CONFIG, groups="any")) != question_name(CONFIG)
