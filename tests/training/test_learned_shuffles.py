"""Trainings in which shuffles are learned: both phases in one run, resumed exactly, on several processes, what is refused."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from igcsearch.blocks import igcv2, igcv3, network, stage
from igcsearch.errors import UsageError
from igcsearch.nn import build
from igcsearch.spec.learning import WAYS, gaps, hardened, is_learned, opened
from igcsearch.training import CheckpointError, Recipe, TrainingDiverged, evaluate, time_step, train

RECIPE = Recipe(epochs=5, batch_size=16, soft_share=0.6, ema_decay=0.9)


def opened_for(data, block=igcv3, **options):
    options = options or {"expansion": 2, "groups": (2, 2)}
    return opened(network(data.problem(), 12, [stage(block, 12, 12, 2, residual=True, **options)]))


@pytest.mark.parametrize("way", WAYS)
def test_a_training_ends_with_an_ordinary_network(quarters, way):
    architecture = opened_for(quarters)
    seen = []
    recipe = replace(RECIPE, shuffle_way=way)
    result = train(architecture, quarters, recipe, device="cpu", threads=1, on_epoch=lambda epoch: seen.append(epoch))
    assert len(seen) == 5
    assert not is_learned(result.architecture)
    assert result.architecture.cost == architecture.cost
    net = build(result.architecture)
    net.load_state_dict(result.state_dict)
    assert evaluate(net, quarters.validation, device="cpu", threads=1)[0] == pytest.approx(result.validation_accuracy)
    learned = result.learned
    assert learned["way"] == way
    assert learned["soft_epochs"] == 3
    assert learned["difference"] < 1e-4
    assert learned["soft_accuracy"] == result.curve[2]["validation_accuracy"] == learned["hard_accuracy"]
    assert set(learned["gaps"]) == {gap.name for gap in gaps(architecture)[0]}
    for gap in learned["gaps"].values():
        assert len(gap["history"]) == len(learned["snapshots"]) == 4  # the start and three soft epochs
        assert ("shares" in gap) == (way != "assignment")
        assert sorted(gap["order"]) == list(range(len(gap["order"])))
    # what is recorded is what the network has
    assert result.architecture == hardened(architecture, {name: gap["order"] for name, gap in learned["gaps"].items()})


# Interrupted after every epoch, soft and hard ones: weights, record and curve are those of an undisturbed training.
@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_training_is_the_same_bit_for_bit(quarters, tmp_path, way):
    architecture, recipe = opened_for(quarters), replace(RECIPE, shuffle_way=way)
    whole = train(architecture, quarters, recipe, device="cpu", threads=1)
    path = tmp_path / "checkpoint.safetensors"

    class BreakError(Exception):
        pass

    for stop in range(1, 6):

        def on_epoch(epoch, stop=stop):
            if epoch.epoch == stop:
                raise BreakError

        with pytest.raises(BreakError):
            train(architecture, quarters, recipe, device="cpu", threads=1, checkpoint=path, on_epoch=on_epoch)
    with safe_open(path, framework="pt") as file:
        assert not any(".columns." in name for name in file.keys())  # noqa: SIM118 - no mapping
    broken = train(architecture, quarters, recipe, device="cpu", threads=1, checkpoint=path)
    assert broken.resumed_from == 5
    assert broken.architecture == whole.architecture
    assert broken.learned == whole.learned
    assert [epoch["train_loss"] for epoch in broken.curve] == [epoch["train_loss"] for epoch in whole.curve]
    assert all(torch.equal(broken.state_dict[name], tensor) for name, tensor in whole.state_dict.items())


def test_a_soft_checkpoint_of_another_way_is_refused(quarters, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    train(opened_for(quarters), quarters, RECIPE, device="cpu", checkpoint=path, on_epoch=lambda epoch: False)
    with pytest.raises(CheckpointError, match="another recipe"):
        train(opened_for(quarters), quarters, replace(RECIPE, shuffle_way="sinkhorn"), device="cpu", checkpoint=path)


def test_one_that_is_stopped_early_is_hardened_all_the_same(quarters):
    result = train(opened_for(quarters), quarters, RECIPE, device="cpu", threads=1, on_epoch=lambda epoch: False)
    assert result.stopped
    assert result.epochs == 1
    assert result.curve[0]["soft"] is True
    # what is said of it is what it is
    net = build(result.architecture)
    net.load_state_dict(result.state_dict)
    found = evaluate(net, quarters.validation, device="cpu", threads=1)[0]
    assert result.validation_accuracy == result.learned["hard_accuracy"] == pytest.approx(found)
    assert not is_learned(result.architecture)
    build(result.architecture).load_state_dict(result.state_dict)


def test_one_epoch_has_no_room_for_learning(quarters):
    with pytest.raises(UsageError, match="at least 2 epochs, one soft and one hard; the recipe has 1"):
        train(opened_for(quarters), quarters, replace(RECIPE, epochs=1), device="cpu")


def test_without_anything_to_learn_it_is_an_ordinary_training(quarters):
    block = igcv2(12, 12, branch_widths=(3, 4), shuffle="learned")
    asked = network(quarters.problem(), 12, [stage(igcv2, 12, 12, 1, branch_widths=(3, 4), shuffle="learned")])
    assert asked.stages[0].blocks[0] == block
    result = train(asked, quarters, replace(RECIPE, epochs=1), device="cpu")
    assert result.learned is None
    assert len(result.notes) == 1
    assert "the dense factor before the block absorbs" in result.notes[0]


def test_weights_to_begin_with(quarters):
    architecture = opened_for(quarters)
    start = build(architecture, 7).state_dict()
    result = train(architecture, quarters, RECIPE, device="cpu", threads=1, initial_state=start)
    other = train(architecture, quarters, RECIPE, device="cpu", threads=1)
    assert result.curve[0]["train_loss"] != other.curve[0]["train_loss"]
    assert not is_learned(result.architecture)


def test_a_checkpoint_of_other_gaps_is_refused(quarters, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    train(opened_for(quarters), quarters, RECIPE, device="cpu", checkpoint=path, on_epoch=lambda epoch: False)
    with safe_open(path, framework="pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={key: text.replace("step2", "step9") for key, text in about.items()})
    with pytest.raises(CheckpointError, match="learns other shuffles"):
        train(opened_for(quarters), quarters, RECIPE, device="cpu", checkpoint=path)


def test_a_diverging_training_says_so(quarters):
    with pytest.raises(TrainingDiverged, match=r"loss is|weights are not finite"):
        train(opened_for(quarters), quarters, replace(RECIPE, lr=1e30), device="cpu", threads=1)


def test_few_snapshots_of_many_epochs(quarters):
    recipe = replace(RECIPE, epochs=14, soft_share=0.9)
    learned = train(opened_for(quarters), quarters, recipe, device="cpu", threads=1).learned
    assert learned["snapshots"] == [0, 2, 5, 7, 10, 12]
    assert all(len(gap["history"]) == 6 for gap in learned["gaps"].values())


def test_float64_and_no_moving_average(quarters):
    recipe = replace(RECIPE, precision="float64", ema_decay=0.0, shuffle_way="sinkhorn")
    result = train(opened_for(quarters), quarters, recipe, device="cpu", threads=1)
    assert result.learned["difference"] < 1e-12


def test_a_step_is_timed(quarters):
    assert time_step(opened_for(quarters), quarters, RECIPE, device="cpu") > 0
