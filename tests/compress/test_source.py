"""Networks to compress, by their names: what an entry's weights must be."""

from pathlib import Path

import pytest
import torch
from torch import nn

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


class Library:
    """Stands for timm: a model with a normalisation of its own, or a server that is not there."""

    def __init__(self, *, offline: bool = False) -> None:
        self.offline = offline

    def list_models(self) -> list[str]:
        return ["it"]

    def create_model(self, name: str, *, pretrained: bool, in_chans: int) -> nn.Module:
        if self.offline and pretrained:
            raise OSError("no network")
        made = nn.Sequential(nn.Conv2d(in_chans, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        made.pretrained_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3)}
        return made


def put_timm(monkeypatch: pytest.MonkeyPatch, library: Library) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("importlib.import_module", lambda name: library)


def test_a_timm_model_has_its_own_normalisation(monkeypatch: pytest.MonkeyPatch) -> None:
    put_timm(monkeypatch, Library())
    found = read_source("timm:it", image_size=8)
    assert (found.mean, found.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    assert read_source("timm:it", weights="none", image_size=8).mean is None


def test_weights_that_cannot_be_fetched_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    put_timm(monkeypatch, Library(offline=True))
    with pytest.raises(
        UsageError, match=r"weights of timm's it cannot be fetched .no network.; give --weights FILE or none"
    ):
        read_source("timm:it", image_size=8)
