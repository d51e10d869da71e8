"""The space of a network's group counts: one choice a layer, the network itself among them, cost in closed form."""

from __future__ import annotations

import pytest
from optuna.trial import FixedTrial

from igcsearch.errors import UsageError
from igcsearch.search_spaces import get_space
from igcsearch.search_spaces.regroup import Regroup
from igcsearch.spec import Architecture, Problem
from igcsearch.spec.graph import GraphArchitecture

from .trials import Recorder

PROBLEM = Problem(8, 1, 10)


def conv(name: str, before: int, after: int) -> dict[str, object]:
    sizes = {"in_channels": before, "out_channels": after, "kernel_size": [3, 3], "padding": [1, 1]}
    return {"name": name, "op": "convolution", **sizes}


@pytest.fixture
def regroup() -> Regroup:
    nodes = [
        *(conv("stem", 1, 12), conv("body", 12, 12), conv("out", 12, 8)),
        {"name": "pool", "op": "adaptive_pool"},
        {"name": "flat", "op": "flatten"},
        {"name": "head", "op": "linear", "in_features": 8, "out_features": 10},
    ]
    sizes = {"in_channels": 1, "image_size": 8, "num_classes": 10}
    graph = Architecture.from_dict({"schema": 1, "kind": "graph", **sizes, "nodes": nodes})
    assert isinstance(graph, GraphArchitecture)
    return Regroup(graph, {"body": (1, 2, 3, 4, 6, 12), "out": (1, 2, 4)})


def test_each_layer_is_one_choice_the_same_in_every_trial(regroup: Regroup) -> None:
    one, other = Recorder({"body": "3", "out": "4"}), Recorder({"body": "1", "out": "1"})
    for trial in (one, other):
        regroup.space.propose(trial, PROBLEM)
    wanted = {"body": ("categorical", "1", "2", "3", "4", "6", "12"), "out": ("categorical", "1", "2", "4")}
    assert one.distributions == wanted
    assert other.distributions == wanted


def test_proposals_are_the_network_with_those_groups(regroup: Regroup) -> None:
    made = regroup.space.propose(FixedTrial({"body": "3", "out": "4"}), PROBLEM)
    # 9 * 12 * 12 weights of body, a third of which stay; 9 * 12 * 8 of out, a quarter; on 8x8 maps
    saved = 9 * 12 * 12 * 2 // 3 + 9 * 12 * 8 * 3 // 4
    assert made.params == regroup.graph.params - saved
    assert made.macs == regroup.graph.macs - 64 * saved


def test_the_first_parameters_give_the_network_itself(regroup: Regroup) -> None:
    assert regroup.space.propose(FixedTrial(regroup.parameters({})), PROBLEM) == regroup.graph


def test_parameters_give_the_counts_asked_for(regroup: Regroup) -> None:
    assert regroup.parameters({"out": 2}) == {"body": "1", "out": "2"}


def test_the_smallest_has_the_most_groups(regroup: Regroup) -> None:
    smallest = regroup.space.smallest(PROBLEM)
    assert smallest == regroup.propose(FixedTrial({"body": "12", "out": "4"}), PROBLEM)


def test_by_name_alone_it_says_what_it_needs() -> None:
    with pytest.raises(UsageError, match="--init-from ENTRY"):
        get_space("regroup")
