"""The loop: learns, repeats itself bit for bit, goes on after an interruption, stops when told, and says when it
diverges.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from igcsearch.errors import UsageError
from igcsearch.nn import build
from igcsearch.spec import Architecture
from igcsearch.training import (
    CheckpointError,
    DataSpec,
    Epoch,
    ImageData,
    Recipe,
    TrainingDiverged,
    TrainResult,
    default_recipe,
    evaluate,
    load_data,
    time_step,
    train,
)
from igcsearch.training.batches import Batches, epoch_batches
from igcsearch.training.step import Stepper

Make = Callable[..., Architecture]
RECIPE = Recipe(epochs=4, batch_size=32, lr=0.1, ema_decay=0.9, label_smoothing=0.1, crop_padding=1, flip=False)
CPU = torch.device("cpu")


def _same(one: TrainResult, two: TrainResult) -> bool:
    curves = [[(e["train_loss"], e["validation_accuracy"]) for e in result.curve] for result in (one, two)]
    weights = [result.state_dict for result in (one, two)]
    return curves[0] == curves[1] and all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_learns_digits(make_architecture: Make) -> None:
    # Rule: a few epochs on real images bring a small network far above chance, and the result carries its facts.
    data = load_data(DataSpec("digits"))
    recipe = default_recipe(data, epochs=8)
    result = train(make_architecture(data), data, recipe, device="auto", threads=1)
    assert result.validation_accuracy > 0.85
    assert [epoch["epoch"] for epoch in result.curve] == list(range(1, 9))
    assert result.curve[-1]["train_loss"] < result.curve[0]["train_loss"] / 2
    assert (result.epochs, result.stopped, result.threads, result.resumed_from) == (8, False, 1, 0)
    assert result.seconds == pytest.approx(sum(epoch["seconds"] for epoch in result.curve))
    network = build(result.architecture)
    network.load_state_dict(result.state_dict)
    # what is kept is what was evaluated
    assert evaluate(network, data.validation, device=result.device)[0] == pytest.approx(result.validation_accuracy)
    accuracy, images = evaluate(network, data, device=result.device)
    assert (images, accuracy > 0.85) == (len(data.test), True)


def test_same_seed_same_numbers(quarters: ImageData, make_architecture: Make) -> None:
    # Rule: seed, device and thread count fix every bit, whatever the global generator is at; another seed differs.
    architecture = make_architecture(quarters)
    one = train(architecture, quarters, RECIPE, device="cpu")
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert _same(one, train(architecture, quarters, RECIPE, device="cpu"))
    assert torch.equal(torch.get_rng_state(), before)
    other = train(architecture, quarters, dataclasses.replace(RECIPE, seed=1), device="cpu")
    assert not _same(one, other)


@pytest.mark.parametrize(
    "changes", [{}, {"ema_decay": 0.0}, {"momentum": 0.0}, {"precision": "bfloat16"}, {"dropout": 0.3}]
)
def test_interrupted_training_goes_on_to_the_same_result(
    changes: dict[str, Any], quarters: ImageData, make_architecture: Make, tmp_path: Path
) -> None:
    # Rule: going on from any epoch's checkpoint ends at the very weights of a training that was never interrupted.
    recipe = dataclasses.replace(RECIPE, **{k: v for k, v in changes.items() if k != "dropout"})
    architecture = make_architecture(quarters, dropout=changes.get("dropout", 0.0))
    whole = train(architecture, quarters, recipe, device="cpu")
    path = tmp_path / "deep" / "candidate.safetensors"
    for epochs in (1, 3):

        class InterruptedTestError(Exception):
            pass

        def interrupt(epoch: Epoch, last: int = epochs) -> None:
            if epoch.epoch == last:
                raise InterruptedTestError

        with pytest.raises(InterruptedTestError):
            train(architecture, quarters, recipe, device="cpu", checkpoint=path, on_epoch=interrupt)
    seen: list[Epoch] = []
    result = train(architecture, quarters, recipe, device="cpu", checkpoint=path, on_epoch=seen.append)
    assert _same(whole, result)
    assert result.resumed_from == 3
    assert [epoch.to_dict() for epoch in seen] == result.curve  # the epochs before are reported again
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no half-written file stays
    done = train(architecture, quarters, recipe, device="cpu", checkpoint=path)
    assert done.resumed_from == done.epochs == 4
    assert _same(whole, done)


def test_on_epoch_stops(quarters: ImageData, make_architecture: Make, tmp_path: Path) -> None:
    # Rule: False ends the training there; None and True do not. Asked again with its checkpoint it ends there again.
    path, architecture = tmp_path / "c", make_architecture(quarters)
    answers = {1: None, 2: True, 3: False}
    for _ in range(2):
        result = train(
            architecture, quarters, RECIPE, device="cpu", checkpoint=path, on_epoch=lambda e: answers[e.epoch]
        )
        assert (result.stopped, result.epochs, len(result.curve)) == (True, 3, 3)
        assert result.validation_accuracy == result.curve[2]["validation_accuracy"]
    result = train(architecture, quarters, RECIPE, device="cpu", checkpoint=path, on_epoch=lambda e: e.epoch < 4)
    assert (result.stopped, result.epochs) == (False, 4)  # at the last epoch there is nothing left to stop


def test_checkpoint_of_another_training_is_refused(
    quarters: ImageData, make_architecture: Make, write_npz: Callable[..., Path], tmp_path: Path
) -> None:
    # Rule: architecture, recipe, data and initial weights must be the same; the message says which differs, the file
    # stays.
    path, architecture = tmp_path / "c", make_architecture(quarters)
    recipe = dataclasses.replace(RECIPE, epochs=1)
    result = train(architecture, quarters, recipe, device="cpu", checkpoint=path)
    content = path.read_bytes()
    other_data = load_data(DataSpec(str(write_npz("other.npz", count=121))))
    cases: list[tuple[str, Architecture, ImageData, Recipe, dict[str, torch.Tensor] | None]] = [
        ("another architecture", make_architecture(quarters, dropout=0.5), quarters, recipe, None),
        ("another recipe .lr 0.1, now 0.2", architecture, quarters, dataclasses.replace(recipe, lr=0.2), None),
        ("another data", architecture, other_data, recipe, None),
        ("another initial weights", architecture, quarters, recipe, result.state_dict),
    ]
    for message, *arguments, state in cases:
        with pytest.raises(UsageError, match=f"{message}.*remove it"):
            train(*arguments, device="cpu", checkpoint=path, initial_state=state)
    assert path.read_bytes() == content
    for broken in (b"", content[:200], content[:-10]):
        path.write_bytes(broken)
        with pytest.raises(CheckpointError, match="cannot be read"):
            train(architecture, quarters, recipe, device="cpu", checkpoint=path)


@pytest.mark.parametrize("kept", [{}, {"format": 1}, {"format": 1, "identity": 7, "curve": []}, 3])
def test_checkpoint_that_does_not_say_what_it_is_is_refused(
    kept: object, quarters: ImageData, make_architecture: Make, tmp_path: Path
) -> None:
    # Rule: an error with the file and the cure, not that of a missing key.
    path, metadata = tmp_path / "c", {"igcsearch": json.dumps(kept)}
    save_file({"x": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match=f"checkpoint {path} .*remove it"):
        train(make_architecture(quarters), quarters, RECIPE, device="cpu", checkpoint=path)


def test_checkpoint_that_cannot_be_written_is_named(
    quarters: ImageData, make_architecture: Make, tmp_path: Path
) -> None:
    # Rule: one line with the path, not a traceback of the operating system.
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UsageError, match="cannot be written"):
        train(make_architecture(quarters), quarters, RECIPE, device="cpu", checkpoint=tmp_path / "file" / "c")


@pytest.mark.parametrize("lr", [1e30, 1e12])
def test_a_loss_that_is_not_finite_ends_it(lr: float, quarters: ImageData, make_architecture: Make) -> None:
    # Rule: an exception with epoch, step and reason, before the epoch is reported.
    recipe = dataclasses.replace(RECIPE, lr=lr, warmup_epochs=0, weight_decay=1.0)
    seen: list[Epoch] = []
    with pytest.raises(TrainingDiverged) as caught:
        train(make_architecture(quarters), quarters, recipe, device="cpu", on_epoch=seen.append)
    assert caught.value.epoch == len(seen) + 1
    assert caught.value.step >= 1
    assert caught.value.reason == str(caught.value)
    assert f"epoch {caught.value.epoch}" in caught.value.reason
    assert all(math.isfinite(epoch.train_loss) for epoch in seen)


def test_divergence_survives_the_way_between_processes() -> None:
    # Rule: workers hand it over pickled.
    import pickle

    error = pickle.loads(pickle.dumps(TrainingDiverged("the loss is nan", 2, 7)))
    assert (str(error), error.epoch, error.step) == ("the loss is nan", 2, 7)


@pytest.mark.parametrize(("images", "batch_size"), [(129, 128), (100, 32), (7, 3), (64, 64), (5, 64)])
def test_every_image_once_an_epoch_in_batches_of_two_or_more(images: int, batch_size: int, quarters: ImageData) -> None:
    # Rule: an epoch is a permutation, cut into batches that differ by at most one image; batch norm gets at least two.
    rows = torch.arange(images)
    split = dataclasses.replace(quarters.train, images=rows[:, None, None, None], labels=rows, indices=rows)
    batches = epoch_batches(split, batch_size, seed=0, epoch=1)
    assert sorted(torch.cat(batches).tolist()) == rows.tolist()
    sizes = [len(batch) for batch in batches]
    assert 2 <= min(sizes) <= max(sizes) <= min(batch_size, min(sizes) + 1)
    assert not torch.equal(torch.cat(batches), torch.cat(epoch_batches(split, batch_size, seed=0, epoch=2)))
    with Batches({"train": split}, CPU) as source:
        for batch in source.training("train", batch_size, 0, 1):
            assert torch.equal(batch.images.flatten(), batch.labels)
            assert torch.equal(batch.ids, batch.labels)


def test_step_is_sgd_as_written_by_hand(quarters: ImageData, make_architecture: Make) -> None:
    # Rule: Nesterov momentum and decay on weights only, after the schedule's rate; the average follows parameters and
    # buffers.
    recipe = dataclasses.replace(RECIPE, weight_decay=0.01, crop_padding=0, epochs=1).resolve(quarters, "float32")
    architecture = make_architecture(quarters)
    stepper = Stepper(architecture, quarters, recipe, CPU)
    network = build(architecture, recipe.seed)
    velocity = {name: torch.zeros_like(value) for name, value in network.named_parameters()}
    average = {name: value.clone() for name, value in network.state_dict().items()}
    assert stepper.average is not None
    mean, std = torch.tensor(quarters.mean)[:, None, None], torch.tensor(quarters.std)[:, None, None]
    stepper.network.train()
    with Batches({"train": quarters.train}, CPU) as batches:
        for index, batch in enumerate(batches.training("train", 32, 0, 1)):
            loss = stepper.step(batch, 1, index)
            x = (batch.images / 255 - mean) / std
            log = F.log_softmax(network(x), 1)
            by_hand = -(0.9 * log.gather(1, batch.labels[:, None])[:, 0] + 0.1 * log.mean(1)).mean()
            assert float(loss) == pytest.approx(by_hand.item(), rel=1e-4)
            network.zero_grad()
            by_hand.backward()
            rate = recipe.lr_at(index, stepper.steps)
            with torch.no_grad():
                for name, value in network.named_parameters():
                    assert value.grad is not None
                    gradient = value.grad + (0.01 * value if value.ndim > 1 else 0)
                    velocity[name] = 0.9 * velocity[name] + gradient
                    value -= rate * (gradient + 0.9 * velocity[name])
                decay = min(0.9, (1 + index) / (10 + index))
                for name, value in network.state_dict().items():
                    mixed = decay * average[name] + (1 - decay) * value
                    average[name] = mixed if value.is_floating_point() else value.clone()
    for name, value in stepper.average.state_dict().items():
        torch.testing.assert_close(value, average[name], rtol=1e-3, atol=1e-4, msg=name)
    for name, value in stepper.network.state_dict().items():
        torch.testing.assert_close(value, network.state_dict()[name], rtol=1e-3, atol=1e-4, msg=name)
    assert set(stepper.momentum_buffers()) == {name for name, _ in network.named_parameters()}


def test_initial_state_is_where_it_begins(quarters: ImageData, make_architecture: Make) -> None:
    # Rule: training that is hardly moved (tiny rate) stays at the weights that it was given.
    architecture = make_architecture(quarters)
    given = build(architecture, 77).state_dict()
    recipe = dataclasses.replace(RECIPE, epochs=1, lr=1e-9)
    result = train(architecture, quarters, recipe, device="cpu", initial_state=given)
    for name, parameter in build(architecture, 77).named_parameters():
        torch.testing.assert_close(result.state_dict[name], parameter.detach())


def test_architecture_for_other_data_is_refused(quarters: ImageData, make_architecture: Make) -> None:
    # Rule: channels, pixels and classes must be the data's, before anything is built.
    architecture = make_architecture(quarters)
    with pytest.raises(UsageError, match="3 channels, 8 pixels, 10 classes; data quarters has 3, 8, 4"):
        train(architecture.with_(num_classes=10), quarters, RECIPE, device="cpu")
    with pytest.raises(UsageError, match="3 channels, 16 pixels"):
        time_step(architecture.with_(image_size=16), quarters, RECIPE, device="cpu")


def test_evaluation_counts_by_hand(quarters: ImageData, make_architecture: Make) -> None:
    # Rule: the share of largest logits at the label, batch by batch or at once; mode and weights are left as they were.
    network = build(make_architecture(quarters), 0).train()
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    got = [evaluate(network, quarters, device="cpu", batch_size=size) for size in (1, 7, 512)]
    assert network.training
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    network.eval()
    mean, std = torch.tensor(quarters.mean)[:, None, None], torch.tensor(quarters.std)[:, None, None]
    assert isinstance(quarters.test.images, torch.Tensor)
    right = network((quarters.test.images / 255 - mean) / std).argmax(1) == quarters.test.labels
    assert got == [(right.double().mean().item(), len(quarters.test))] * 3
    shifted = evaluate(network, quarters.test, device="cpu", mean=(0.0,) * 3, std=(9.0,) * 3)
    assert shifted[1] == len(quarters.test)
    with pytest.raises(UsageError, match="normalisation is for 1 channels, the images have 3"):
        evaluate(network, quarters, device="cpu", mean=(0.5,), std=(0.5,))


def test_threads_are_set_and_put_back(quarters: ImageData, make_architecture: Make) -> None:
    # Rule: `threads` holds for the training alone; without it nothing is changed.
    inside: list[int] = []
    recipe = dataclasses.replace(RECIPE, epochs=1)
    before = torch.get_num_threads()
    for threads in (None, 2):
        train(
            make_architecture(quarters),
            quarters,
            recipe,
            device="cpu",
            threads=threads,
            on_epoch=lambda epoch: inside.append(torch.get_num_threads()),
        )
    assert inside == [before, 2]
    assert torch.get_num_threads() == before


def test_time_of_a_step_tells_the_time_of_an_epoch(make_architecture: Make) -> None:
    # Rule: steps times seconds a step is about the epoch's time (the machine is shared: within a factor of 8).
    data = load_data(DataSpec("digits"))
    recipe = default_recipe(data, epochs=1)
    architecture = make_architecture(data)
    seconds = time_step(architecture, data, recipe, device="cpu", runs=5)
    taken = train(architecture, data, recipe, device="cpu").seconds
    assert seconds * 34 / 8 < taken < seconds * 34 * 8


@pytest.mark.gpu
def test_gpu_learns_repeats_and_resumes(make_architecture: Make, tmp_path: Path) -> None:
    # Rule: the same promises on a GPU.
    data = load_data(DataSpec("digits"))
    recipe = default_recipe(data, epochs=4)
    one, two = (train(make_architecture(data), data, recipe, device="cuda") for _ in range(2))
    assert one.device == "cuda:0"
    assert one.validation_accuracy > 0.7
    assert _same(one, two)
    path = tmp_path / "c"
    train(make_architecture(data), data, recipe, device="cuda", checkpoint=path, on_epoch=lambda e: e.epoch < 2)
    assert _same(one, train(make_architecture(data), data, recipe, device="cuda", checkpoint=path))


def test_a_network_of_too_few_logits_is_not_evaluated(
    quarters: ImageData, make_architecture: Callable[..., Architecture]
) -> None:
    # Rule: an accuracy is of a network that tells the data's classes apart, not of one without its classifier.
    net = build(make_architecture(quarters).with_(num_classes=3))
    with pytest.raises(UsageError, match=r"gives \(3,\) numbers an image, the data has 4 classes"):
        evaluate(net, quarters, device="cpu")
