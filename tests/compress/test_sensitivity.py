"""Sensitivity: the loss of a network with one layer masked; which layers stay dense by it; never worse than uniform."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from igcsearch.compress import progress, sensitivity
from igcsearch.compress.configuration import configured, smallest, tables, uniform
from igcsearch.compress.criterion import criteria
from igcsearch.compress.permute import permute
from igcsearch.compress.sensitivity import measured
from igcsearch.errors import UsageError
from igcsearch.nn.graph import GraphNetwork
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.operations import Activation, AdaptivePool, Add, Convolution, Flatten, Linear
from igcsearch.spec.problem import Budget

from .networks import outputs, random_graph, weights


def two_branches():
    """Two equal layers side by side, summed: "dead" writes through a kernel of zeros, "alive" through one that matters."""
    nodes = [
        Node("stem", Convolution(3, 12, (3, 3), padding=(1, 1), bias=True), (INPUT,)),
        Node("act", Activation("relu"), ("stem",)),
    ]
    for name in ("dead", "alive"):
        nodes += [
            Node(name, Convolution(12, 12, (3, 3), padding=(1, 1)), ("act",)),
            Node(f"{name}.scale", Convolution(12, 12, (1, 1), groups=12), (name,)),
        ]
    nodes += [
        Node("sum", Add(), ("dead.scale", "alive.scale")),
        Node("pool", AdaptivePool(), ("sum",)),
        Node("flat", Flatten(), ("pool",)),
        Node("fc", Linear(12, 4), ("flat",)),
    ]
    return GraphArchitecture(3, 8, 4, tuple(nodes))


def labelled(graph, state, count=64, seed=0):
    """Images, and the labels that the network itself gives them: a network that is right, so that zeros do harm."""
    generator = torch.Generator().manual_seed(seed)
    channels, size = graph.in_channels, graph.image_size
    images = torch.randn(count, channels, size, size, generator=generator, dtype=torch.float64)
    images = images + 3 * torch.randn(count, channels, 1, 1, generator=generator, dtype=torch.float64)
    last = graph.nodes[-1].name
    state[f"{last}.bias"] = state[f"{last}.bias"] - outputs(graph, state, images).mean(0)  # no class is the favourite
    return images, outputs(graph, state, images).argmax(1)


@pytest.fixture(scope="module")
def branches():
    graph = two_branches()
    state = weights(graph)
    state["dead.scale.weight"] = torch.zeros_like(state["dead.scale.weight"])
    return graph, state, [labelled(graph, state)]


def test_harm_is_the_rise_of_the_loss(branches):
    """Against whole runs of networks with the zeros written into their weights; images in several batches or in one."""
    graph, state, batches = branches
    found = tables(graph, criteria(graph, state, "l2"))
    made = measured(found, graph, state, batches)
    (x, y), loss = batches[0], {}
    for table in made:
        for option in table.options:
            zeroed = dict(state)
            if option.alone is not None:
                rows, columns = option.alone
                blocks = np.kron(np.eye(option.groups), np.ones((12 // option.groups, len(columns) // option.groups)))
                mask = np.zeros(blocks.shape)
                mask[np.ix_(rows, columns)] = blocks
                zeroed[f"{table.name}.weight"] = (
                    state[f"{table.name}.weight"] * torch.from_numpy(mask)[:, :, None, None]
                )
            loss[table.name, option.groups] = float(F.cross_entropy(outputs(graph, zeroed, x), y))
            rise = loss[table.name, option.groups] - loss[table.name, 1]
            assert option.harm == pytest.approx(max(0.0, rise), abs=1e-9)
            assert table.harm(option) == option.harm
    assert [option.lost for table in made for option in table.options] == [o.lost for t in found for o in t.options]
    parts = measured(found, graph, state, [(x[:10], y[:10]), (x[10:], y[10:])])
    for one, other in zip(made, parts, strict=True):
        assert [o.harm for o in one.options] == pytest.approx([o.harm for o in other.options])


def test_a_layer_that_does_not_matter_is_cut(branches):
    graph, state, batches = branches
    found = {
        table.name: table for table in measured(tables(graph, criteria(graph, state, "l2")), graph, state, batches)
    }
    assert {option.harm for option in found["dead"].options} == {0.0}
    assert max(option.harm for option in found["alive"].options) > 0.01
    layers = [found["dead"], found["alive"]]
    for share in (0.9, 0.7, 0.62):
        groups = dict(
            zip(("dead", "alive"), configured(graph, layers, Budget(macs=int(share * graph.macs))), strict=True)
        )
        assert groups["dead"].groups > 1
        assert groups["alive"].groups == 1


def test_the_result_keeps_the_layer_that_matters_dense(branches):
    """The lost share alone cuts both layers; measured, only the one that the output does not need."""
    graph, state, batches = branches
    matrices = {name: matrix for name, matrix in criteria(graph, state, "l2").items() if name != "stem"}
    budget = Budget(macs=int(0.7 * graph.macs))

    def groups(measure):
        return {row["layer"]: row["groups"] for row in permute(graph, state, matrices, budget, measure=measure).layers}

    by_harm = groups(lambda found: measured(found, graph, state, batches))
    assert by_harm["alive"] == 1
    assert by_harm["dead"] > 1
    assert groups(None)["alive"] > 1


@pytest.mark.parametrize("seed", range(6))
def test_never_more_harm_than_uniform(seed):
    graph = random_graph(1000 + seed, steps=12)
    state = weights(graph, seed)
    matrices, batches = criteria(graph, state), [labelled(graph, state, 16, seed)]
    made = measured(tables(graph, matrices), graph, state, batches)
    least = smallest(graph, made)
    budget = Budget(params=int(least.params + 0.5 * (graph.params - least.params)))
    found = permute(graph, state, matrices, budget, measure=lambda given: made)
    groups = {row["layer"]: row["groups"] for row in found.layers}
    harm = sum(option.harm for table in made for option in table.options if option.groups == groups[table.name])
    other = uniform(graph, made, budget)
    assert harm <= sum(option.harm for option in other) + 1e-9
    assert budget.admits(*found.architecture.cost)


def test_kept_is_still_the_share_of_the_criterion(branches):
    graph, state, batches = branches
    matrices = criteria(graph, state, "l2")
    budget = Budget(macs=int(0.6 * graph.macs))
    found = permute(graph, state, matrices, budget, measure=lambda given: measured(given, graph, state, batches))
    assert found.kept == pytest.approx(np.mean([row["kept"] for row in found.layers]))


def test_single_precision_and_the_network_as_it_was(branches):
    graph, state, batches = branches
    state = {name: tensor.float() for name, tensor in state.items()}
    before = {name: tensor.clone() for name, tensor in state.items()}
    made = measured(tables(graph, criteria(graph, state)), graph, state, batches)
    assert all(torch.equal(before[name], tensor) for name, tensor in state.items())
    assert all(option.harm >= 0 for table in made for option in table.options)


def test_progress_is_said(branches, monkeypatch):
    graph, state, batches = branches
    monkeypatch.setattr(progress, "EVERY", -1.0)
    lines = []
    found = tables(graph, criteria(graph, state), say=lines.append)
    assert [line.partition(":")[0] for line in lines] == ["orders of channels"] * len(found)
    lines.clear()
    measured(found, graph, state, batches, say=lines.append)
    assert lines[0].startswith("sensitivity of layers: 0 % done")
    assert len(lines) == 2 * len(graph.nodes)


def test_options_whose_loss_is_no_number_are_left_out(branches, monkeypatch):
    graph, state, batches = branches
    found = tables(graph, criteria(graph, state))
    real = sensitivity._loss
    bad = len(found[1].options) - 1
    calls = iter(range(1000))

    def broken(*given):
        return float("nan") if next(calls) == len(found[0].options) - 1 else real(*given)

    monkeypatch.setattr(sensitivity, "_loss", broken)
    made = measured(found, graph, state, batches)
    assert [len(table.options) for table in made][:2] == [len(found[0].options), bad]


def test_without_images_it_is_refused(branches):
    graph, state, _ = branches
    found = tables(graph, criteria(graph, state))
    empty = torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.int64)
    for batches in ([], [empty]):
        with pytest.raises(UsageError, match=r"sensitivity is measured on images: give data"):
            measured(found, graph, state, batches)


def test_a_network_without_a_loss_is_refused(branches):
    graph, state, batches = branches
    broken = state | {"fc.bias": torch.full((4,), float("nan"), dtype=torch.float64)}
    with pytest.raises(UsageError, match=r"loss on these images is no finite number"):
        measured(tables(graph, criteria(graph, state)), graph, broken, batches)


def test_steps_give_what_the_network_gives():
    graph = random_graph(5)
    network = GraphNetwork(graph).double().eval()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    made = {INPUT: x}
    for node in graph.nodes:
        network.step(node, made)
    assert list(made) == [graph.nodes[-1].name]
    assert torch.equal(made[graph.nodes[-1].name], network(x))
