"""Layers of the steps that leave channels in their places: values against plain torch, training, inference plans, cost."""

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from igcsearch.blocks import resnet_basic, resnext, shufflenet, shufflenetv2
from igcsearch.nn import build, measure
from igcsearch.nn.carry import carry_over
from igcsearch.nn.inference import PLANS, InferenceNetwork, block_layers
from igcsearch.nn.layers import NormActLayer, SqueezeExcitationLayer, step_layer
from igcsearch.spec import (
    Architecture,
    Block,
    Factor,
    Head,
    NormAct,
    SqueezeExcitation,
    Stage,
    StagedArchitecture,
)


def lively(net: nn.Module, seed: int = 0) -> nn.Module:
    """With statistics and weights of its own in every norm, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
    return net.eval()


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu", None])
def test_norm_and_activation(norm: bool, activation: str | None) -> None:
    if not norm and activation is None:
        return
    layer = lively(step_layer(NormAct(6, norm=norm, activation=activation)))
    assert isinstance(layer, NormActLayer)
    x = torch.randn(2, 6, 5, 5)
    expected: Tensor = x
    if norm:
        bn = layer.norm
        assert isinstance(bn, nn.BatchNorm2d)
        expected = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)
    expected = {"relu": F.relu, "gelu": F.gelu, None: lambda y: y}[activation](expected)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("gate", "written_out"), [("sigmoid", torch.sigmoid), ("hardsigmoid", F.hardsigmoid)])
def test_squeeze_excitation_is_torchvisions(gate: str, written_out: nn.Module) -> None:
    layer = step_layer(SqueezeExcitation(6, 4, "silu", gate))
    assert isinstance(layer, SqueezeExcitationLayer)
    modules = {"sigmoid": nn.Sigmoid, "hardsigmoid": nn.Hardsigmoid}
    theirs = torchvision.ops.SqueezeExcitation(6, 4, activation=nn.SiLU, scale_activation=modules[gate])
    x = torch.randn(2, 6, 5, 5)
    assert carry_over(theirs, layer, x) == [("fc1", "reduce"), ("fc2", "expand")]
    torch.testing.assert_close(layer(x), theirs(x))
    means = x.mean(dim=(2, 3))
    hidden = F.silu(means @ layer.reduce.weight[:, :, 0, 0].T + layer.reduce.bias)
    scale = written_out(hidden @ layer.expand.weight[:, :, 0, 0].T + layer.expand.bias)
    torch.testing.assert_close(layer(x), x * scale[:, :, None, None])


def several() -> Architecture:
    """Pre-activation, squeeze-excitation and lanes, in blocks, in a projection and in the head."""
    blocks = (
        resnet_basic(12, 12, preactivation=True, squeeze=4),
        resnext(12, 24, groups=4, stride=2, preactivation=True),
        shufflenet(24, 48, groups=3, stride=2),
        shufflenetv2(48, 48),
        Block(
            (
                NormAct(48, activation="hardswish"),
                Factor(48, 48, 3, groups=48, norm=True, activation="relu6"),
                SqueezeExcitation(48, 6, "relu", "hardsigmoid"),
                Factor(48, 48, groups=6),
                Factor(48, 48, groups=8),
                NormAct(48, norm=True),
            ),
            shortcut=(NormAct(48, norm=True, activation="relu"), Factor(48, 48, groups=48)),
        ),
    )
    stem = Block((Factor(3, 12, 3, norm=True), NormAct(12, activation="relu")))
    head = Head((NormAct(48, norm=True, activation="relu"), SqueezeExcitation(48, 8)))
    return StagedArchitecture(3, 16, 10, stem, (Stage(blocks),), head)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_plan_gives_what_the_network_gives(plan: str, channels_last: bool) -> None:
    net = build(several(), seed=0)
    lively(net)
    ready = InferenceNetwork(net, [plan] * len(block_layers(net)), channels_last)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = copy.deepcopy(net).double().set_execution("plain")(images.double())
        torch.testing.assert_close(ready(images).double(), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net(images).double(), expected, rtol=1e-4, atol=1e-5)


def test_a_network_in_double_is_made_ready_in_float() -> None:
    net = build(several(), seed=0)
    lively(net)
    images = torch.randn(2, 3, 16, 16)
    ready = copy.deepcopy(net).double().optimize_for_inference(measure=False)
    with torch.no_grad():
        torch.testing.assert_close(ready(images), net(images), rtol=1e-4, atol=1e-5)


def test_three_counts_agree() -> None:
    architecture = several()
    net = build(architecture, seed=0)
    assert measure.fvcore_macs(net).macs == architecture.macs
    assert measure.torch_flops(net) == 2 * architecture.macs
    assert sum(parameter.numel() for parameter in net.parameters()) == architecture.params


def test_it_trains_and_starts_from_the_seed_alone() -> None:
    net, again = build(several(), seed=3), build(several(), seed=3)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())
    squeezes = [module for module in net.modules() if isinstance(module, SqueezeExcitationLayer)]
    assert len(squeezes) == 3
    assert all(not layer.expand.bias.any() for layer in squeezes if layer.expand.bias is not None)
    net(torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert all(layer.reduce.weight.grad is not None and layer.reduce.weight.grad.any() for layer in squeezes)
