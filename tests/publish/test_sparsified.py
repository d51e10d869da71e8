"""Structured sparsification: the penalty, lambda's schedule, interruption, and what comes out of a whole one."""

import numpy as np
import pytest
import torch

from igcsearch.compress.sparsify import SHRINKAGE, Sparsify, default_delta, periods
from igcsearch.errors import UsageError
from igcsearch.nn.graph import GraphNetwork
from igcsearch.publish.sparsified import sparsify
from igcsearch.publish.tuning import FineTuning
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.operations import Activation, AdaptivePool, Add, BatchNorm, Convolution, Flatten, Linear
from igcsearch.spec.problem import Budget
from igcsearch.training import CheckpointError, DataSpec, Recipe, load_data, train

LAYERS = ("one", "two")
RECIPE = Recipe(epochs=3, batch_size=4, lr=0.05, seed=3, schedule="constant", weight_decay=0.0, warmup_epochs=0.3)


@pytest.fixture
def images(tmp_path):
    """108 training images of 8x8x3; the class shows in the quarter that is bright."""
    content = {}
    for part, count in (("train", 120), ("test", 40)):
        rng = np.random.default_rng(count)
        labels = np.arange(count) % 4
        pixels = rng.integers(0, 130, (count, 8, 8, 3))
        for image, label in zip(pixels, labels, strict=True):
            image[label // 2 * 4 :][:4, label % 2 * 4 :][:, :4] += 120
        content[f"x_{part}"], content[f"y_{part}"] = pixels.astype(np.uint8), labels
    np.savez(tmp_path / "quarters.npz", **content)
    return load_data(DataSpec(str(tmp_path / "quarters.npz")))


@pytest.fixture
def graph():
    """A block of two convolutions with a sum over it, on 12 channels."""
    nodes = [
        Node("stem", Convolution(3, 12, (3, 3), (2, 2), (1, 1)), (INPUT,)),
        Node("one", Convolution(12, 12, (3, 3), padding=(1, 1)), ("stem",)),
        Node("norm", BatchNorm(12), ("one",)),
        Node("act", Activation("relu"), ("norm",)),
        Node("two", Convolution(12, 12, (3, 3), padding=(1, 1)), ("act",)),
        Node("sum", Add(), ("two", "stem")),
        Node("pool", AdaptivePool("avg", (2, 2)), ("sum",)),
        Node("flat", Flatten(), ("pool",)),
        Node("fc", Linear(48, 4), ("flat",)),
    ]
    return GraphArchitecture(3, 8, 4, tuple(nodes))


@pytest.fixture
def state(graph):
    torch.manual_seed(0)
    return GraphNetwork(graph).state_dict()


def half(graph):
    return Budget(macs=graph.macs // 2)


def callback(graph, budget=None, **how):
    return Sparsify(graph, LAYERS, budget or half(graph), epochs=3, lr=0.05, **how)


def run(graph, state, images, budget, epochs, folder, **how):
    tuning = FineTuning(0, {"batch_size": 4}, "cpu", 1)
    return sparsify(graph, state, images, budget, epochs, tuning, folder / "checkpoint", layers=LAYERS, **how)


# ---------------------------------------------------------------- lambda
def test_periods_of_the_papers_training_are_epochs():
    assert periods(100, 781) == (781, 100, 10)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 5), (3, 27), (3, 157), (5, 704), (200, 10)])
def test_a_step_of_lambda_for_any_length(epochs, steps):
    """Periods of 20 steps or more, 60 where there is room; all together can shrink a weight by the same."""
    period, number, warm = periods(epochs, steps)
    assert number * period <= epochs * steps
    assert period == steps or (period >= 20 and number <= 61)
    shrinkage = sum(default_delta(epochs, steps, 0.02) * n * 0.02 * period for n in range(1, number - warm + 1))
    assert shrinkage == pytest.approx(SHRINKAGE)


def test_lambda_follows_the_sparsity(graph, state, images):
    """Held at 0, then from delta up by delta where the network comes too slowly, and down where it is there."""
    watched = callback(graph)
    train(graph, images, RECIPE, device="cpu", initial_state=state, callbacks=[watched])
    record, target = watched.record, watched.targets["macs"]
    period, number, warm = periods(3, 27)
    assert [done["step"] for done in record["periods"]] == [period * (n + 1) for n in range(number)]
    expected = None
    for n, done in enumerate(record["periods"], 1):
        if n <= warm:
            expected = record["delta"] if n == warm else 0.0
        elif n > 1:
            gain = done["macs"] - record["periods"][n - 2]["macs"]
            if done["macs"] >= target:
                expected = max(0.0, expected - record["delta"])
            elif gain < (target - done["macs"]) / max(1, number - n):
                expected += record["delta"]
        if n > 1 or warm:
            assert done["lambda"] == pytest.approx(expected)
        else:
            expected = done["lambda"]
    assert max(done["lambda"] for done in record["periods"]) > 0


def test_no_penalty_where_the_budget_is_met(graph, state, images):
    watched = callback(graph, Budget(params=graph.params))
    train(graph, images, RECIPE, device="cpu", initial_state=state, callbacks=[watched])
    assert {done["lambda"] for done in watched.record["periods"]} == {0.0}


def test_the_penalty_is_what_must_vanish_for_the_next_level(graph, state):
    """lambda sign(W), by the level at which a kernel's channels part, up to the one behind the level that the layer has."""
    network = GraphNetwork(graph)
    network.load_state_dict(state)
    watched = callback(graph, threshold=0.5)
    watched.start(network, None, 27)
    watched.before_forward(0)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    weight = network.layer("two").weight
    watched.record["lambda"] = 0.25
    watched.before_optimizer(0)
    added = (weight.grad - 1) / 0.25
    cost = added * weight.detach().sign()
    groups = watched.record["levels"]["two"]
    assert groups in (2, 4)
    counts = [1, 2, 4, 12]
    expected = {0.0} | {0.5**depth for depth in range(counts.index(groups) + 1)}
    assert set(cost.unique().tolist()) == expected
    empty = 144 - 144 // counts[counts.index(groups) + 1]  # between the groups of the next level
    assert int((cost[:, :, 0, 0] > 0).sum()) == empty
    assert int((cost[:, :, 0, 0] == 1).sum()) == 72


# ---------------------------------------------------------------- interruption
@pytest.mark.parametrize("gathers", [False, True])
def test_interrupted_it_goes_on_bit_for_bit(graph, state, images, tmp_path, gathers):
    first, second = callback(graph, gathers=gathers), callback(graph, gathers=gathers)
    whole = train(graph, images, RECIPE, device="cpu", initial_state=state, callbacks=[first])
    how = {"device": "cpu", "initial_state": state, "checkpoint": tmp_path / "checkpoint"}
    train(graph, images, RECIPE, **how, callbacks=[callback(graph, gathers=gathers)], on_epoch=lambda epoch: False)
    again = train(graph, images, RECIPE, **how, callbacks=[second])
    assert again.resumed_from == 1
    assert second.record == first.record
    assert (second.places.stored == first.places.stored).all()
    assert set(second.places.reads) == (set(LAYERS) if gathers else set())
    for name, order in second.places.reads.items():
        assert (order == first.places.reads[name]).all()
    for name, tensor in whole.state_dict.items():
        assert torch.equal(again.state_dict[name], tensor), name
    with pytest.raises(CheckpointError, match=r"of another callbacks"):
        train(graph, images, RECIPE, **how, callbacks=[callback(graph, threshold=0.2)])


def test_a_whole_one_again_trains_nothing(graph, state, images, tmp_path):
    first = run(graph, state, images, half(graph), 2, tmp_path)
    lines = []
    second = run(graph, state, images, half(graph), 2, tmp_path, say=lines.append)
    assert not any(line.startswith("sparsified") for line in lines)
    assert second.sparsified == first.sparsified
    for name, tensor in first.state.items():
        assert torch.equal(second.state[name], tensor), name


# ---------------------------------------------------------------- what comes out
def test_more_is_kept_behind_the_penalty(graph, state, images, tmp_path):
    """Than without; inside the budget either way, the deployed network equal to the masked one."""
    once = run(graph, state, None, half(graph), 0, tmp_path)
    made = run(graph, state, images, half(graph), 3, tmp_path)
    for found in (once, made):
        assert found.architecture.macs <= graph.macs // 2
        assert found.difference < 1e-4
        assert found.gathers == 0
    assert made.kept > once.kept + 0.05
    assert once.sparsified["epochs"] == 0
    assert made.sparsified["at_threshold"]["macs"] <= graph.macs // 2
    assert 0 < made.sparsified["threshold"] < once.sparsified["threshold"]
    assert len(made.sparsified["periods"]) == periods(3, 27)[1]


def test_a_budget_out_of_reach_is_said_before_training(graph, state, images, tmp_path):
    with pytest.raises(UsageError, match=r"no group counts bring this network within .* the smallest has"):
        run(graph, state, images, Budget(macs=graph.macs // 20), 3, tmp_path)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("threshold", [0.0, 1.0, 2.0])
def test_a_threshold_that_is_no_share_is_refused(graph, state, tmp_path, threshold):
    with pytest.raises(UsageError, match=r"threshold .* is no share to lose"):
        run(graph, state, None, half(graph), 0, tmp_path, threshold=threshold)


def test_a_step_of_lambda_that_is_none_is_refused(graph):
    with pytest.raises(UsageError, match=r"delta 0 is no step of lambda"):
        callback(graph, delta=0.0)
    with pytest.raises(UsageError, match=r"needs a limit on parameters or multiply-adds"):
        callback(graph, Budget(latency_ms=1.0))
