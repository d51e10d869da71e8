"""Whole compressions of torchvision's networks to half of their multiply-adds: one network in two forms, in both precisions."""

import pytest

from igcsearch.compress import permute as module
from igcsearch.compress.criterion import criteria
from igcsearch.compress.permute import permute
from igcsearch.compress.trace import trace
from igcsearch.spec.problem import Budget

from .networks import LONG, QUICK, named


def single(state):
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [*QUICK, *LONG])
def test_half_of_the_multiply_adds(name, monkeypatch):
    traced = trace(named(name), 64)
    graph, state = traced.architecture, traced.state_dict
    real, in_single = module.difference_of, []

    def differences(graph, masked, made, deployed):
        in_single.append(real(graph, single(masked), made, single(deployed)))
        return real(graph, masked, made, deployed)

    monkeypatch.setattr(module, "difference_of", differences)
    found = permute(graph, state, criteria(graph, state, "l2"), Budget(macs=graph.macs // 2))
    assert found.difference < 1e-10
    assert in_single[0] < 1e-5
    assert found.gathers == 0
    assert 0.45 * graph.macs < found.architecture.macs <= graph.macs // 2
    assert found.architecture.params == sum(
        tensor.numel() for key, tensor in found.state.items() if "running" not in key and "tracked" not in key
    )
