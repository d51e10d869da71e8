"""Cutting batches among processes, and micro-batches within one process."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igcsearch.errors import UsageError
from igcsearch.nn import build
from igcsearch.spec import Architecture
from igcsearch.training import ImageData, Recipe, train
from igcsearch.training.batches import Batches
from igcsearch.training.norms import use_global_statistics, use_own_statistics
from igcsearch.training.shares import Share
from igcsearch.training.step import Stepper

RECIPE = Recipe(epochs=2, batch_size=32, lr=0.1, ema_decay=0.9, crop_padding=1, flip=False)
CPU = torch.device("cpu")


@given(whole=st.integers(0, 70), world_size=st.integers(1, 9), accumulate=st.integers(1, 6))
def test_every_image_is_somebodys(whole: int, world_size: int, accumulate: int) -> None:
    # Rule: the processes' parts of a micro-batch follow each other without gap or overlap, as do the micro-batches, and
    # lengths differ by one at most; `of` picks those images (the oracle: tensor_split, twice).
    rows = torch.randperm(whole, generator=torch.Generator().manual_seed(whole))
    micro = rows.tensor_split(accumulate)
    taken = []
    for rank in range(world_size):
        share = Share(rank, world_size, accumulate)
        oracle = [part.tensor_split(world_size)[rank] for part in micro]
        assert torch.equal(share.of(rows), torch.cat(oracle))
        assert [part.end - part.begin for part in share.parts(whole)] == [len(part) for part in oracle]
        assert [part.whole for part in share.parts(whole)] == [len(part) for part in micro]
        taken.append(share.of(rows))
    assert sorted(torch.cat(taken).tolist()) == list(range(whole))


def test_pieces_too_small_for_a_norm_are_refused() -> None:
    # Rule: two images a piece where a norm sees the piece alone, with the numbers and the cure; else any.
    Share(0, 8, 1).check(100, 4, own_statistics=False)
    Share(0, 2, 2).check(96, 8, own_statistics=True)
    for share, own in ((Share(0, 2, 2), True), (Share(0, 1, 3), False)):
        with pytest.raises(UsageError, match=r"batches of 4 images cannot be cut into [34] pieces.*use larger"):
            share.check(100, 4, own_statistics=own)


@pytest.mark.parametrize("accumulate", [2, 5])
def test_accumulation_gives_the_whole_batchs_step(
    accumulate: int, quarters: ImageData, make_architecture: Callable[..., Architecture]
) -> None:
    # Rule: without a norm's say (running statistics) micro-batches, of unequal lengths, change nothing but rounding.
    after = []
    for cut in (1, accumulate):
        recipe = dataclasses.replace(RECIPE, precision="float64", batch_size=27, accumulate=cut).resolve(quarters)
        stepper = Stepper(make_architecture(quarters), quarters, recipe, CPU)
        stepper.network.eval()
        with Batches({"train": quarters.train}, CPU) as batches:
            losses = [float(stepper.step(b, 1, i)) for i, b in enumerate(batches.training("train", 27, 0, 1))]
        after.append(({k: v.clone() for k, v in stepper.network.state_dict().items()}, losses))
    assert after[0][1] == pytest.approx(after[1][1], rel=1e-12)
    for name, value in after[0][0].items():
        torch.testing.assert_close(value, after[1][0][name], rtol=1e-10, atol=1e-13)


def test_accumulation_trains_and_goes_on(
    quarters: ImageData, make_architecture: Callable[..., Architecture], tmp_path: Path
) -> None:
    # Rule: with norms a training in micro-batches learns, repeats itself and resumes; it is another one than in whole
    # batches, and its checkpoint is known as such.
    architecture, recipe = make_architecture(quarters), dataclasses.replace(RECIPE, accumulate=3)
    whole = train(architecture, quarters, recipe, device="cpu")
    path = tmp_path / "c"
    train(architecture, quarters, recipe, device="cpu", checkpoint=path, on_epoch=lambda epoch: False)
    again = train(architecture, quarters, recipe, device="cpu", checkpoint=path)
    assert all(torch.equal(value, again.state_dict[name]) for name, value in whole.state_dict.items())
    assert whole.curve[-1]["train_loss"] < whole.curve[0]["train_loss"]
    with pytest.raises(UsageError, match="accumulate 3, now as by default"):
        train(architecture, quarters, RECIPE, device="cpu", checkpoint=path)


def test_double_precision_comes_out_as_weights_for_use(
    quarters: ImageData, make_architecture: Callable[..., Architecture]
) -> None:
    # Rule: float64 is for the training alone; what it gives is float32 and near the training in float32.
    architecture = make_architecture(quarters)
    double = train(architecture, quarters, dataclasses.replace(RECIPE, precision="float64"), device="cpu")
    single = train(architecture, quarters, RECIPE, device="cpu")
    for name, value in single.state_dict.items():
        assert double.state_dict[name].dtype == value.dtype
        torch.testing.assert_close(double.state_dict[name], value, rtol=1e-3, atol=1e-3)


def test_recipes_that_leave_a_later_entry_alone_keep_their_name(root: Path) -> None:
    # Rule: at its default it is not written (checkpoints and retrainings are known by what is written), else it is; the
    # recipes of the published networks read and write as they stand.
    assert "accumulate" not in Recipe().to_dict()
    assert Recipe.from_dict({**Recipe().to_dict(), "accumulate": 1}) == Recipe()
    cut = Recipe(accumulate=4)
    assert cut.to_dict()["accumulate"] == 4
    assert Recipe.from_dict(cut.to_dict()) == cut
    found = sorted((root / "results").glob("*/metrics.json"))
    assert found
    for path in found:
        recipe = json.loads(path.read_text())["recipe"]
        assert {k: v for k, v in Recipe.from_dict(recipe).to_dict().items() if k != "seed"} == recipe


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_norms_are_swapped_without_a_trace(
    backend: str, quarters: ImageData, make_architecture: Callable[..., Architecture]
) -> None:
    # Rule: in and out again, the state dict has the same names and the very tensors, and evaluation the same bits.
    network = build(make_architecture(quarters), 0).eval()
    before, kinds = network.state_dict(keep_vars=True), [type(module) for module in network.modules()]
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = network(x)
    use_global_statistics(network, backend)
    assert torch.nn.BatchNorm2d not in map(type, network.modules())
    for _ in range(2):
        now = network.state_dict(keep_vars=True)
        assert list(now) == list(before)
        assert all(now[name] is before[name] for name in before)
        assert torch.equal(network(x), expected)
        use_own_statistics(network)
    assert [type(module) for module in network.modules()] == kinds
