"""Callbacks see every step in order, their state is in the checkpoint, and an interrupted training goes on bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from igcsearch.errors import UsageError
from igcsearch.spec import Architecture
from igcsearch.spec.learning import opened
from igcsearch.training import CheckpointError, ImageData, Recipe, train
from igcsearch.training.callback import Callback

RECIPE = Recipe(epochs=3, batch_size=32, lr=0.1, seed=3)


class Drift(Callback):
    """Pushes the first weight by a number that it keeps, which grows every step and halves every epoch."""

    name = "drift"

    def __init__(self, by: float = 1e-3) -> None:
        super().__init__()
        self.by, self.seen = by, list[str]()

    def identity(self) -> Any:
        return self.by

    def start(self, network: nn.Module, average: nn.Module | None, steps: int) -> None:
        self.weight = next(network.parameters())
        self.push = torch.zeros(())
        self.record = {"epochs": []}

    def before_forward(self, now: int) -> None:
        self.seen.append(f"forward {now}")

    def before_optimizer(self, now: int) -> None:
        assert self.weight.grad is not None
        self.weight.grad += self.push
        self.seen.append(f"optimizer {now}")

    def after_step(self, now: int) -> None:
        self.push += self.by
        self.seen.append(f"step {now}")

    def after_epoch(self, epoch: int) -> None:
        self.push /= 2
        self.record["epochs"].append(float(self.push))

    def state_tensors(self) -> dict[str, Tensor]:
        return {"push": self.push}


def test_they_see_every_step_in_order(quarters: ImageData, make_architecture: Callable[..., Architecture]) -> None:
    drift = Drift()
    train(make_architecture(quarters), quarters, Recipe(epochs=1, batch_size=54), device="cpu", callbacks=[drift])
    assert drift.seen == ["forward 0", "optimizer 0", "step 0", "forward 1", "optimizer 1", "step 1"]


def test_interrupted_it_goes_on_bit_for_bit(
    quarters: ImageData, make_architecture: Callable[..., Architecture], tmp_path: Path
) -> None:
    architecture = make_architecture(quarters)
    whole = train(architecture, quarters, RECIPE, device="cpu", callbacks=[first := Drift()])
    path = tmp_path / "checkpoint"

    def stop(epoch: Any) -> bool:
        return epoch.epoch < 2

    train(architecture, quarters, RECIPE, device="cpu", checkpoint=path, on_epoch=stop, callbacks=[Drift()])
    resumed = train(architecture, quarters, RECIPE, device="cpu", checkpoint=path, callbacks=[second := Drift()])
    assert resumed.resumed_from == 2
    assert second.record == first.record
    for name, tensor in whole.state_dict.items():
        assert torch.equal(tensor, resumed.state_dict[name]), name
    plain = train(architecture, quarters, RECIPE, device="cpu")
    assert not all(torch.equal(tensor, whole.state_dict[name]) for name, tensor in plain.state_dict.items())


@pytest.mark.parametrize("others", [[], [0.5]], ids=["none", "another"])
def test_a_checkpoint_of_other_callbacks_is_refused(
    others: list[float], quarters: ImageData, make_architecture: Callable[..., Architecture], tmp_path: Path
) -> None:
    architecture, path = make_architecture(quarters), tmp_path / "checkpoint"
    recipe = Recipe(epochs=1, batch_size=54)
    train(architecture, quarters, recipe, device="cpu", checkpoint=path, callbacks=[Drift()])
    with pytest.raises(CheckpointError, match="of another callbacks"):
        train(architecture, quarters, recipe, device="cpu", checkpoint=path, callbacks=[Drift(by) for by in others])


def test_two_of_one_name_are_an_error(
    quarters: ImageData, make_architecture: Callable[..., Architecture], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="two callbacks of one name"):
        train(
            make_architecture(quarters),
            quarters,
            RECIPE,
            device="cpu",
            checkpoint=tmp_path / "c",
            callbacks=[Drift(), Drift()],
        )


def test_networks_that_learn_shuffles_train_alone(
    quarters: ImageData, make_architecture: Callable[..., Architecture]
) -> None:
    learned = opened(make_architecture(quarters))
    with pytest.raises(UsageError, match="trains alone"):
        train(learned, quarters, Recipe(epochs=4, batch_size=54), device="cpu", callbacks=[Drift()])
