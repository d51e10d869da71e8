"""Networks to compress, by their names: what an entry's weights must be."""

from pathlib import Path

import pytest
import torch

from igcsearch.compress.source import read_source
from igcsearch.entries import write_entry
from igcsearch.errors import UsageError
from igcsearch.spec.graph import GraphArchitecture

from .networks import random_graph, weights


def drawn() -> tuple[GraphArchitecture, dict[str, torch.Tensor]]:
    graph = random_graph(3)
    state = weights(graph)
    return graph, {name: each.float() if each.is_floating_point() else each for name, each in state.items()}


def test_an_entry_is_read_as_it_is(tmp_path: Path) -> None:
    graph, state = drawn()
    write_entry(tmp_path / "net", graph, state, {})
    found = read_source(str(tmp_path / "net"))
    assert found.graph == graph
    assert all(torch.equal(state[name], tensor) for name, tensor in found.state.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_entry_of_weights_that_are_not_finite_is_refused(value: float, tmp_path: Path) -> None:
    graph, state = drawn()
    name = next(name for name in state if name.startswith("convolution0"))
    state[name].reshape(-1)[0] = value
    write_entry(tmp_path / "net", graph, state, {})
    with pytest.raises(UsageError, match=rf"^{name} of the network holds values that are not finite"):
        read_source(str(tmp_path / "net"))
