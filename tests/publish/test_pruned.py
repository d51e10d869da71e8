"""Pruning in steps: budgets that fall, what is kept on disk and what is not taken from there."""

import dataclasses

import pytest
import torch

from igcsearch.compress.configuration import Budget
from igcsearch.compress.permute import Permuted
from igcsearch.compress.source import Source
from igcsearch.errors import UsageError
from igcsearch.nn.graph import GraphNetwork
from igcsearch.publish.pruned import falling, pruned
from igcsearch.publish.tuning import FineTuning
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.operations import AdaptivePool, Convolution, Flatten

NODES = [
    Node("it", Convolution(3, 6, (1, 1)), (INPUT,)),
    Node("pool", AdaptivePool(), ("it",)),
    Node("flat", Flatten(), ("pool",)),
]
GRAPH = GraphArchitecture(3, 8, 6, tuple(NODES))


def source(seed=0):
    torch.manual_seed(seed)
    return Source("it", GRAPH, GraphNetwork(GRAPH).state_dict(), None, None)


class Pruner:
    """Gives the convolution 3 groups, and counts how often."""

    def __init__(self):
        self.calls = []

    def __call__(self, graph, state, budget):
        self.calls.append(budget)
        operation = dataclasses.replace(graph.nodes[0].operation, groups=3)
        made = graph.with_nodes([dataclasses.replace(graph.nodes[0], operation=operation), *graph.nodes[1:]])
        return Permuted(
            made, {"it.weight": state["it.weight"][:, :1].clone()}, 0.5, 0, 0.0, [{"layer": "it"}], "exact", [[0, 0.5]]
        )


def run(given, prune, folder, how=("l2",)):
    return pruned(given, prune, [Budget(macs=500)], [], None, folder, FineTuning(0, {}), how=list(how))


def test_budgets_fall_by_equal_shares():
    last = Budget(params=GRAPH.params // 4, macs=GRAPH.macs // 4, latency_ms=2.0)
    first, second = falling(GRAPH, last, 2, dense_ms=8.0)
    assert second == last
    assert (first.params, first.macs) == pytest.approx((GRAPH.params / 2, GRAPH.macs / 2), abs=1)
    assert first.latency_ms == pytest.approx(4.0)
    assert falling(GRAPH, Budget(macs=10 * GRAPH.macs), 2)[0].macs == 10 * GRAPH.macs
    assert falling(GRAPH, Budget(params=5), 3)[0].macs is None


def test_what_was_pruned_is_not_pruned_again(tmp_path):
    prune, given = Pruner(), source()
    first, steps = run(given, prune, tmp_path / "kept")
    second, _ = run(given, prune, tmp_path / "kept")
    assert len(prune.calls) == 1
    assert second.architecture == first.architecture
    assert torch.equal(second.state["it.weight"], first.state["it.weight"])
    assert dataclasses.replace(second, state={}) == dataclasses.replace(first, state={})
    assert steps == [{"budget": {"macs": 500}, "params": 6, "macs": 6 * 64, "kept": 0.5}]


@pytest.mark.parametrize("change", ["weights", "way", "damage", "none"])
def test_another_networks_result_is_not_taken(tmp_path, change):
    prune = Pruner()
    run(source(), prune, tmp_path)
    if change == "damage":
        next(tmp_path.glob("step-1-*.safetensors")).write_bytes(b"{}")
    run(source(1 if change == "weights" else 0), prune, tmp_path, ["l1" if change == "way" else "l2"])
    assert len(prune.calls) == (1 if change == "none" else 2)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="choose another --out"):
        run(source(), Pruner(), tmp_path / "file" / "below")
