"""Training under N:M: masks of the end, what the network holds between steps, the same numbers after an interruption."""

from pathlib import Path

import pytest
import torch

from igcsearch.compress.sparse_training import WAYS, SparseTraining
from igcsearch.errors import UsageError
from igcsearch.nn.graph import GraphNetwork
from igcsearch.spec.sparsity import Sparsity
from igcsearch.training import DataSpec, Epoch, Recipe, load_data, train

from .sparse_networks import chain

GRAPH = chain([1, 6, 10], classes=10)
SPARSITIES = {"conv0": Sparsity(1, 3, "out"), "conv1": Sparsity(2, 4)}
SLOPES = {"conv0": torch.rand(6, 1, 3, 3), "conv1": torch.rand(10, 6, 3, 3)}


@pytest.fixture(scope="module")
def digits():
    return load_data(DataSpec("digits", train_images=96))


def run(digits, training, epochs, path=None, ema=0.9, on_epoch=None):
    recipe = Recipe(epochs=epochs, batch_size=32, lr=0.1, ema_decay=ema, seed=1)
    torch.manual_seed(0)
    state = GraphNetwork(GRAPH).state_dict()
    state = {name: torch.randn_like(each) * 0.2 if name.startswith("conv") else each for name, each in state.items()}
    return train(
        *(GRAPH, digits, recipe),
        device="cpu",
        threads=1,
        initial_state=state,
        callbacks=[training],
        checkpoint=path,
        on_epoch=on_epoch,
    )


def check_counts(masks, weights):
    """Every group keeps as many as it is to, and nothing is outside."""
    assert not weights["conv0"][~masks["conv0"]].any()
    assert not weights["conv1"][~masks["conv1"]].any()
    assert (masks["conv0"].unflatten(0, (2, 3)).sum(1) == 1).all()
    assert (masks["conv1"][:, :4].sum(1) == 2).all()
    assert (masks["conv1"][:, 4:].sum(1) == 1).all()


@pytest.mark.parametrize("slopes", [None, SLOPES])
@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_in_the_end_every_group_keeps_n(digits, way, epochs, slopes):
    for ema in (0.9, 0.0):
        training = SparseTraining(SPARSITIES, epochs, way, slopes=slopes)
        result = run(digits, training, epochs, ema=ema)
        check_counts(training.masks, {name: result.state_dict[f"{name}.weight"] for name in SPARSITIES})


@pytest.mark.parametrize("way", WAYS)
def test_interrupted_training_goes_on_bit_for_bit(digits, way, tmp_path: Path):
    whole = SparseTraining(SPARSITIES, 4, way, slopes=SLOPES)
    expected = run(digits, whole, 4)
    for last in (1, 2, 3):
        path = tmp_path / f"{last}.safetensors"

        def interrupt(epoch: Epoch, last: int = last) -> None:
            if epoch.epoch == last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(digits, SparseTraining(SPARSITIES, 4, way, slopes=SLOPES), 4, path, on_epoch=interrupt)
        again = SparseTraining(SPARSITIES, 4, way, slopes=SLOPES)
        found = run(digits, again, 4, path)
        assert found.resumed_from == last
        assert all(torch.equal(tensor, found.state_dict[name]) for name, tensor in expected.state_dict.items())
        assert all(torch.equal(mask, again.masks[name]) for name, mask in whole.masks.items())


def test_a_checkpoint_of_another_way_is_refused(digits, tmp_path: Path):
    path = tmp_path / "it.safetensors"
    run(digits, SparseTraining(SPARSITIES, 2, "gradual"), 2, path)
    with pytest.raises(UsageError, match="callbacks"):
        run(digits, SparseTraining(SPARSITIES, 2, "straight-through"), 2, path)


def test_what_stays_falls_from_m_to_n_and_then_stands():
    training = SparseTraining({}, 9, "gradual")
    counts = [training.kept_in(Sparsity(2, 8), epoch) for epoch in range(1, 10)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 2
    assert counts[5] > 2
    assert counts[6:] == [2, 2, 2]  # the last third
    assert SparseTraining({}, 1, "gradual").kept_in(Sparsity(2, 8), 1) == 2


class Steps:
    """One layer of a graph in training, its gradients given by hand."""

    def __init__(self, way, epochs=3, **more):
        graph = chain([1, 4, 4], classes=2)
        torch.manual_seed(0)
        self.network = GraphNetwork(graph)
        self.weight = self.network.layer("conv1").weight
        self.dense = self.weight.detach().clone()
        self.training = SparseTraining({"conv1": Sparsity(2, 4)}, epochs, way, **more)
        self.training.start(self.network, None, 2)
        self.now = 0

    def step(self, gradient, lr=1.0):
        self.training.before_forward(self.now)
        self.weight.grad = gradient.clone()
        self.training.before_optimizer(self.now)
        with torch.no_grad():
            self.weight -= lr * self.weight.grad
        self.training.after_step(self.now)
        self.now += 1

    @property
    def mask(self):
        return self.training.masks["conv1"]


def test_straight_through_steps_are_those_of_the_paper():
    # w <- w - lr * (gradient at the masked weights + decay * (1 - mask) * w), Zhou et al. 2021, equation 9.
    steps = Steps("straight-through", decay=0.1)
    mask, gradient = steps.mask, torch.randn(4, 4, 3, 3)
    torch.testing.assert_close(steps.weight.detach(), steps.dense * mask)
    steps.step(gradient)
    dense = steps.dense - gradient - 0.1 * steps.dense * ~mask
    torch.testing.assert_close(steps.training.state_tensors()["dense.conv1"], dense)
    kept = dense.abs().argsort(dim=1, descending=True)[:, :2]
    expected = torch.zeros(4, 4, 3, 3, dtype=torch.bool).scatter_(1, kept, True)
    assert torch.equal(steps.mask, expected)
    torch.testing.assert_close(steps.weight.detach(), dense * expected)


def test_weights_come_back_until_masks_stay():
    for way in ("gradual", "straight-through"):
        steps = Steps(way)
        last = (steps.training.settled_from - 1) * 2
        while steps.now < last:
            steps.step(torch.zeros(4, 4, 3, 3))
        out = ~steps.mask if way == "straight-through" else torch.zeros_like(steps.mask)
        steps.training.before_forward(steps.now)
        mask = steps.mask
        steps.step(torch.where(out, -100.0, 0.0))  # would bring them back
        assert torch.equal(steps.mask, mask)
        assert not steps.training.state_tensors()["dense.conv1"][~mask].any()
    steps = Steps("straight-through")
    before = steps.mask
    steps.step(torch.where(before, 0.0, -100.0))
    assert torch.equal(steps.mask, ~before)


def test_one_shot_masks_are_those_of_the_start():
    steps = Steps("one-shot")
    mask = steps.mask
    for _ in range(3):
        steps.step(torch.randn(4, 4, 3, 3))
    assert torch.equal(steps.mask, mask)
    assert not steps.weight.detach()[~mask].any()


def test_bad_input():
    with pytest.raises(UsageError, match="did you mean 'gradual'"):
        SparseTraining(SPARSITIES, 3, "gradul")
    with pytest.raises(UsageError, match="decay -1"):
        SparseTraining(SPARSITIES, 3, "straight-through", decay=-1)
    with pytest.raises(UsageError, match="every 0 steps"):
        SparseTraining(SPARSITIES, 3, "straight-through", every=0)
