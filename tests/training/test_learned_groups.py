"""Trainings in which group counts are learned: both phases in one run, inside the budget, resumed exactly, what is refused."""

from dataclasses import replace

import pytest
import torch

from igcsearch.blocks import igcv2, igcv3, network, stage, xception
from igcsearch.errors import UsageError
from igcsearch.nn import build
from igcsearch.spec import Budget, Stage
from igcsearch.spec.conditions import level
from igcsearch.spec.grouping import opened_groups, questions, with_groups
from igcsearch.spec.learning import is_learned, opened
from igcsearch.spec.rounding import least_cost
from igcsearch.training import Recipe, evaluate, time_step, train

RECIPE = Recipe(epochs=5, batch_size=16, soft_share=0.6, ema_decay=0.9, max_params=2400)


def opened_for(data):
    stages = [
        stage(igcv2, 12, 12, 2, residual=True, branch_widths=(3, 4)),
        stage(igcv3, 12, 12, 1, residual=True, expansion=2, groups=(2, 2)),
    ]
    return opened_groups(network(data.problem(), 12, stages))


def test_a_training_ends_with_an_ordinary_network_inside_the_budget(quarters):
    architecture = opened_for(quarters)
    result = train(architecture, quarters, RECIPE, device="cpu", threads=1)
    assert not is_learned(result.architecture)
    assert least_cost(architecture).params <= result.architecture.params <= 2400
    net = build(result.architecture)
    net.load_state_dict(result.state_dict)
    assert evaluate(net, quarters.validation, device="cpu", threads=1)[0] == pytest.approx(result.validation_accuracy)
    learned = result.learned
    assert learned["soft_epochs"] == 3
    assert learned["difference"] < 1e-4
    assert learned["gaps"] == {}
    assert set(learned["groups"]) == {question.name for question in questions(architecture)[0]}
    found = with_groups(architecture, {name: tuple(block["choice"]) for name, block in learned["groups"].items()})
    assert result.architecture == found
    for block in learned["groups"].values():
        assert len(block["history"]) == len(learned["snapshots"]) == 4
        assert block["history"][0] == [[0.5] * 2] * len(block["history"][0])
    assert "params" not in result.curve[2]  # the last soft epoch
    assert result.curve[3]["params"] == result.curve[4]["params"] == result.architecture.params
    assert result.curve[4]["macs"] == result.architecture.macs
    blocks = dict(result.architecture.blocks())
    assert [level(blocks[f"stage1.block{i}"]) for i in (1, 2)] == ["strict", "strict"]


@pytest.mark.parametrize("limits", [{"max_params": 2000}, {"max_params": None, "max_macs": 70_000}])
def test_a_tighter_budget_is_kept(quarters, limits):
    recipe = replace(RECIPE, **limits)
    result = train(opened_for(quarters), quarters, recipe, device="cpu", threads=1)
    assert Budget(recipe.max_params, recipe.max_macs).admits(*result.architecture.cost)


# Interrupted after every epoch, soft and hard ones: weights, record and curve are those of an undisturbed training.
def test_a_resumed_training_is_the_same_bit_for_bit(quarters, tmp_path):
    architecture = opened_for(quarters)
    whole = train(architecture, quarters, RECIPE, device="cpu", threads=1)
    path = tmp_path / "checkpoint.safetensors"

    class BreakError(Exception):
        pass

    for stop in range(1, 6):

        def on_epoch(epoch, stop=stop):
            if epoch.epoch == stop:
                raise BreakError

        with pytest.raises(BreakError):
            train(architecture, quarters, RECIPE, device="cpu", threads=1, checkpoint=path, on_epoch=on_epoch)
    broken = train(architecture, quarters, RECIPE, device="cpu", threads=1, checkpoint=path)
    assert broken.resumed_from == 5
    assert broken.architecture == whole.architecture
    assert broken.learned == whole.learned
    assert [epoch["train_loss"] for epoch in broken.curve] == [epoch["train_loss"] for epoch in whole.curve]
    assert all(torch.equal(broken.state_dict[name], tensor) for name, tensor in whole.state_dict.items())


def test_one_that_is_stopped_early_is_hardened_all_the_same(quarters):
    result = train(opened_for(quarters), quarters, RECIPE, device="cpu", threads=1, on_epoch=lambda epoch: False)
    assert result.stopped
    assert result.epochs == 1
    assert not is_learned(result.architecture)
    assert result.architecture.params <= 2400
    build(result.architecture).load_state_dict(result.state_dict)


def test_shuffles_of_other_blocks_are_learned_beside_them(quarters):
    stages = [stage(igcv2, 12, 24, 2, residual=True, transition={"branch_widths": (3, 4)}, branch_widths=(4, 6))]
    architecture = opened(opened_groups(network(quarters.problem(), 12, stages)))
    result = train(architecture, quarters, RECIPE, device="cpu", threads=1)
    assert set(result.learned["groups"]) == {"stage1.block2"}
    assert {name.rpartition(".")[0] for name in result.learned["gaps"]} == {"stage1.block1"}
    assert result.learned["difference"] < 1e-4
    assert result.architecture.params <= 2400


def test_what_is_refused(quarters):
    architecture = opened_for(quarters)
    with pytest.raises(UsageError, match="learned under a budget, or all branches would end as one; give --max-params"):
        train(architecture, quarters, replace(RECIPE, max_params=None), device="cpu")
    with pytest.raises(UsageError, match="no group counts bring this network within 1,000 params"):
        train(architecture, quarters, replace(RECIPE, max_params=1000), device="cpu")
    with pytest.raises(UsageError, match="at least 2 epochs"):
        train(architecture, quarters, replace(RECIPE, epochs=1), device="cpu")
    # where nothing is left to learn, the budget holds all the same
    plain = network(quarters.problem(), 12, [stage(igcv2, 12, 24, 1, branch_widths=(3, 4))])
    block = replace(plain.stages[0].blocks[0], learned_groups=True)
    with pytest.raises(UsageError, match="no group counts bring this network within 500 params"):
        train(replace(plain, stages=(Stage((block,)),)), quarters, replace(RECIPE, max_params=500), device="cpu")
    start = build(architecture, 7).state_dict()
    with pytest.raises(UsageError, match="learned from fresh weights"):
        train(architecture, quarters, RECIPE, device="cpu", initial_state=start)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"groups_temperature": 2.0},
            "recipe: final temperature of group counts 2.0 must be at least 0.001 and below 1",
        ),
        ({"groups_penalty": -1}, "recipe: groups_penalty is -1; it must be a finite number of at least 0"),
        ({"max_params": 0}, "recipe: max_params is 0; it must be a whole number of at least 1"),
        ({"max_macs": 1.5}, "recipe: max_macs is 1.5; it must be a whole number of at least 1"),
    ],
)
def test_entries_of_the_recipe_outside_their_rule(entries, message):
    with pytest.raises(UsageError, match=message):
        Recipe(**entries)


def test_a_recipe_without_them_keeps_its_name(quarters):
    assert not [name for name in Recipe().to_dict() if name.startswith(("groups_", "max_"))]
    assert Recipe.from_dict(RECIPE.to_dict()) == RECIPE
    plain = network(quarters.problem(), 12, [stage(xception, 12, 12, 1)])
    assert Recipe().within(Budget(params=5), plain) == Recipe()
    assert Recipe().within(Budget(params=5), opened_for(quarters)).max_params == 5


def test_a_step_is_timed(quarters):
    assert time_step(opened_for(quarters), quarters, RECIPE, device="cpu") > 0
