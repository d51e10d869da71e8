"""The method auto takes what does best on calibration images, says why, and goes on with it alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from igcsearch.compress.permute import permute
from igcsearch.compress.source import Source
from igcsearch.errors import UsageError
from igcsearch.nn.graph import GraphNetwork
from igcsearch.nn.network import initialise
from igcsearch.publish.auto import automatic, judged, unseen
from igcsearch.publish.methods import Compression, Lines, Penalty, cross_channel, permutation
from igcsearch.publish.tuning import CALIBRATION, FineTuning, calibration
from igcsearch.spec import Budget
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.operations import Activation, AdaptivePool, BatchNorm, Convolution, Flatten, Linear
from igcsearch.training import DataSpec, load_data

NODES = [
    Node("stem", Convolution(1, 8, (3, 3), padding=(1, 1)), (INPUT,)),
    Node("norm", BatchNorm(8), ("stem",)),
    Node("relu", Activation("relu"), ("norm",)),
    Node("wide", Convolution(8, 16, (3, 3), padding=(1, 1)), ("relu",)),
    Node("more", Convolution(16, 16, (3, 3), padding=(1, 1)), ("wide",)),
    Node("pool", AdaptivePool(), ("more",)),
    Node("flat", Flatten(), ("pool",)),
    Node("head", Linear(16, 10), ("flat",)),
]
GRAPH = GraphArchitecture(1, 8, 10, tuple(NODES))


@pytest.fixture(scope="module")
def images():
    return load_data(DataSpec("digits"))


@pytest.fixture
def asked(tmp_path, images):
    network = GraphNetwork(GRAPH)
    initialise(network, 0)
    given = Source("it", GRAPH, dict(network.state_dict()))
    budget, said = Budget(macs=GRAPH.macs * 6 // 10), []
    made = Compression(given, images, budget, tmp_path / "partial", FineTuning(0, {}), 3, say=said.append)
    return made, said


def harsh(asked):
    """The same inside half the budget: it can only be worse."""
    return permutation(replace(asked, budget=Budget(macs=asked.budget.macs // 2)))


def test_the_least_loss_on_images_no_method_saw_is_taken(asked, images):
    made, said = asked
    outcome = automatic(made, {"harsh": harsh, "permute": permutation})
    told = outcome.more["auto"]
    rows = {row["way"]: row for row in told["compared"]}
    assert set(rows) == {"harsh, lost", "harsh, sensitivity", "permute, lost", "permute, sensitivity"}
    assert rows[told["chosen"]]["loss"] == min(row["loss"] for row in rows.values())
    assert outcome.found.architecture.macs == rows[told["chosen"]]["macs"]
    assert outcome.epochs == 3
    loss, right = judged(outcome.found.architecture, outcome.found.state, images)
    assert (loss, right) == pytest.approx((rows[told["chosen"]]["loss"], rows[told["chosen"]]["accuracy"]))
    assert any(line.startswith(f"auto: {told['chosen']}: least loss") for line in said)


@pytest.mark.parametrize("count", [1500, 2048, 3000, 5000])
def test_what_judges_is_what_no_method_calibrates_on(tmp_path, count):
    numbers = np.arange(count)
    pixels = np.stack([numbers % 256, numbers // 256, 0 * numbers], axis=1).astype(np.uint8)
    pixels = np.broadcast_to(pixels[:, None, None, :], (count, 4, 4, 3))
    content = {
        f"{kind}_{part}": each for part in ("train", "test") for kind, each in (("x", pixels), ("y", numbers % 4))
    }
    np.savez(tmp_path / "numbers.npz", **content)
    images = load_data(DataSpec(str(tmp_path / "numbers.npz")))

    def which(batches):
        every = torch.cat([inputs[:, :2, 0, 0] for inputs, _ in batches])
        return {tuple(row) for row in every.tolist()}

    calibrated, judging = which(calibration(images)), which(unseen(images))
    assert judging
    assert not calibrated & judging
    assert len(judging) >= min(len(images.train) - len(calibrated), CALIBRATION - 128)


def test_without_images_most_kept_is_taken(asked):
    made, _ = asked
    outcome = automatic(replace(made, images=None, epochs=0), {"harsh": harsh, "permute": permutation})
    told = outcome.more["auto"]
    assert told["chosen"] == "permute, lost"
    assert [row["way"] for row in told["compared"]] == ["harsh, lost", "permute, lost"]


def test_a_method_that_cannot_is_passed_over_and_said(asked):
    made, said = asked

    def never(asked):
        raise UsageError("no way to it")

    outcome = automatic(made, {"never": never, "permute": permutation})
    assert outcome.more["auto"]["chosen"].startswith("permute")
    assert said.count("auto: never is not compared: no way to it") == 1
    with pytest.raises(UsageError, match="no method can: never: no way to it"):
        automatic(made, {"never": never})


def test_steps_are_refused_before_anything_is_compared(asked):
    made, said = asked
    with pytest.raises(UsageError, match="auto is not done in steps"):
        automatic(replace(made, steps=2), {"permute": permutation})
    assert said == []


def test_epochs_with_the_penalty_are_for_the_chosen_method_alone(asked):
    made, _ = asked
    seen = []

    def watched(asked):
        seen.append((asked.epochs, asked.penalty.epochs))
        return permutation(asked)

    automatic(replace(made, images=None, epochs=3, penalty=Penalty(epochs=2)), {"watched": watched})
    assert seen == [(0, None), (3, 2)]


def test_cci_refuses_all_gathers_too(asked):
    made, _ = asked
    with pytest.raises(UsageError, match="leave --gathers out"):
        cross_channel(replace(made, gathers=None))


def test_another_budget_is_another_setting(asked):
    made, _ = asked
    first = permutation(replace(made, images=None, epochs=0)).found
    tight = Budget(macs=made.budget.macs // 2)
    assert permutation(replace(made, images=None, epochs=0, budget=tight)).found.architecture.macs <= tight.macs
    assert first.architecture.macs > tight.macs


def test_without_images_single_weights_are_not_held_against_kernels(asked):
    made, said = asked
    made = replace(made, images=None, epochs=0, budget=Budget(params=GRAPH.params * 6 // 10))
    outcome = automatic(made, {"permute": permutation, "cci": cross_channel})
    assert [row["way"] for row in outcome.more["auto"]["compared"]] == ["permute, lost"]
    assert any(line.startswith("auto: cci is not compared: without images") for line in said)


def test_what_was_searched_to_compare_is_not_searched_again(asked, monkeypatch):
    made, _ = asked
    seen = []

    def counted(*given, **more):
        seen.append(more["measure"] is not None)
        return permute(*given, **more)

    monkeypatch.setattr("igcsearch.publish.methods.permute", counted)
    first = automatic(made, {"permute": permutation})
    assert seen == [False, True]
    again = automatic(made, {"permute": permutation})
    assert seen == [False, True]
    assert again.more == first.more


def test_what_is_judged_is_what_the_method_makes(asked, images):
    """Sparse networks too, whose codes are loaded after they are made."""
    made, _ = asked
    outcome = automatic(replace(made, budget=Budget(params=GRAPH.params * 6 // 10)), {"cci": cross_channel}, ["lost"])
    (row,) = outcome.more["auto"]["compared"]
    with torch.no_grad():
        loss, _ = judged.__wrapped__(outcome.found.architecture, outcome.found.state, images)
    assert row["loss"] == pytest.approx(loss, rel=1e-5)


def test_n_that_is_given_is_not_chosen_by_importances(asked):
    made, _ = asked
    given = replace(made, budget=Budget(params=GRAPH.params), epochs=0, lines=Lines(n=1, m=2))
    told = automatic(given, {"permute": permutation, "cci": cross_channel}).more["auto"]
    assert [row["way"] for row in told["compared"]] == ["permute, lost", "permute, sensitivity", "cci, lost"]
