"""Networks compute what their specification says: against explicit dense matrices in float64, in every execution."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from igcsearch.blocks import (
    butterfly,
    dense,
    igcv1,
    igcv2,
    igcv2_grouped,
    igcv2_uniform,
    igcv3,
    mobilenet,
    mobilenetv2,
    monarch,
    network,
    resnet_basic,
    resnext,
    shufflenet,
    shufflenetv2,
    stage,
    xception,
)
from igcsearch.errors import UsageError
from igcsearch.nn import StagedNetwork, build
from igcsearch.nn.layers import FactorLayer
from igcsearch.nn.network import BlockLayer
from igcsearch.spec import Architecture, Block, Factor, Head, Parallel, Pool, Problem, Shuffle

BLOCKS = [
    igcv2(16, 16, branch_widths=(4, 4), residual=True),
    igcv2(24, 24, branch_widths=(2, 3, 4), shuffle="random", shuffle_seed=3),
    igcv2(16, 32, branch_widths=(4, 4), stride=2, residual=True),
    igcv2(24, 36, branch_widths=(2, 6), spatial_branch_width=2, residual=True),
    igcv2(192, 192, branch_widths=(12, 16)),  # wider than what is multiplied out
    igcv2_uniform(40, 40, branch_width=4),
    igcv1(24, 48, primary_groups=6, stride=2, residual=True),
    igcv3(16, 16),
    igcv3(16, 24, stride=2),
    xception(10, 14, residual=True),
    dense(8, 12, stride=2),
    mobilenet(8, 12, stride=2),
    mobilenetv2(8, 8),
    monarch(12, 24, groups=3, stride=2, residual=True),
    butterfly(9, 18, base=3, residual=True),
    igcv2_grouped(8, 12, groups=(4, 3), stride=2),
    resnext(16, 16, groups=4, preactivation=True, squeeze=4),
    resnet_basic(8, 12, stride=2),
    shufflenet(12, 12, groups=3),
    shufflenet(12, 24, groups=3, stride=2),
    shufflenetv2(8, 8),
    shufflenetv2(8, 12, stride=2),
    Block((Factor(8, 8, groups=2), Factor(8, 8, bias=True, activation="silu"), Factor(8, 8, groups=4))),
    Block((Parallel(((), (Factor(4, 4, groups=2),)), 8, split=(4, 4), shuffle=Shuffle("interleave")), Factor(8, 8))),
    Block((Parallel(((Factor(8, 8),), (Factor(8, 8, groups=2),)), 8, join="add"), Pool(8, "avg", 2, 2))),
]


def dense_weight(layer: FactorLayer) -> Tensor:
    """Oracle: a factor's group convolution and shuffle as one dense kernel (C_out, C_in, k, k)."""
    factor, weight = layer.factor, layer.conv.weight.detach()
    full = torch.zeros(
        factor.out_channels, factor.in_channels, factor.kernel_size, factor.kernel_size, dtype=weight.dtype
    )
    rows = factor.out_channels // factor.groups
    for out in range(factor.out_channels):
        branch = out // rows
        for k in range(factor.branch_width):
            full[out, branch * factor.branch_width + k] = weight[out, k]
    return torch.stack([full[channel] for channel in factor.order.tolist()])


def reference(layers: list[torch.nn.Module], x: Tensor) -> Tensor:
    """Steps one after the other, every factor as a dense convolution."""
    for layer in layers:
        if isinstance(layer, FactorLayer):
            conv, factor = layer.conv, layer.factor
            x = torch.nn.functional.conv2d(x, dense_weight(layer), None, conv.stride, conv.padding, conv.dilation)
            if conv.bias is not None:
                x = x + conv.bias.detach()[factor.order.copy()][None, :, None, None]
            x = layer.finish(x)
        else:
            x = layer(x)
    return x


@pytest.mark.parametrize(
    "block", BLOCKS, ids=lambda block: f"{block.family or 'other'}-{block.in_channels}-{block.out_channels}"
)
@pytest.mark.parametrize("execution", ["auto", "plain"])
def test_a_block_equals_its_explicit_dense_product(block: Block, execution: str) -> None:
    torch.manual_seed(0)
    layer = BlockLayer(block).double().eval()
    layer.execution = execution
    for module in layer.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()  # type: ignore[union-attr, operator]
            module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr, operator]
    x = torch.randn(2, block.in_channels, 7, 7, dtype=torch.float64)
    expected = reference(list(layer.steps), x)
    if layer.shortcut is not None:
        expected = expected + reference(list(layer.shortcut), x)
    if block.activation == "relu":
        expected = expected.relu()
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "block", BLOCKS[:8], ids=lambda block: f"{block.family}-{block.in_channels}-{block.out_channels}"
)
def test_both_executions_have_the_same_gradients(block: Block) -> None:
    torch.manual_seed(0)
    layer = BlockLayer(block).double()
    x = torch.randn(3, block.in_channels, 6, 6, dtype=torch.float64)
    gradients = []
    for execution in ("auto", "plain"):
        layer.execution = execution
        layer.zero_grad()
        layer(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "block", BLOCKS[:6], ids=lambda block: f"{block.family}-{block.in_channels}-{block.out_channels}"
)
def test_paths_are_where_the_jacobian_is_not_zero(block: Block) -> None:
    # with all weights 1 and one pixel, the Jacobian of the linear product counts the paths itself
    from igcsearch.spec.conditions import path_counts

    layer = BlockLayer(Block(block.steps)).double().eval()
    for parameter in layer.parameters():
        parameter.data.fill_(1.0)
    for execution in ("auto", "plain"):
        layer.execution = execution
        jacobian = torch.autograd.functional.jacobian(
            lambda x: layer(x)[0, :, 0, 0], torch.zeros(1, block.in_channels, 1, 1).double()
        )
        counts = jacobian[:, 0, :, 0, 0] * (1.0 + 1e-5) ** 0.5  # batch norm in eval mode divides by sqrt(1 + eps)
        np.testing.assert_allclose(counts.numpy(), path_counts(block.steps), rtol=1e-9)


def sample() -> Architecture:
    return network(
        Problem(16, 3, 5),
        16,
        [stage(igcv2, 16, 32, 2, stride=2, branch_widths=(4, 8), transition={"branch_widths": (4, 4)}, residual=True)],
        head_width=24,
    )


def test_initialisation_depends_on_the_seed_alone() -> None:
    first = build(sample(), seed=3)
    torch.manual_seed(99)
    torch.rand(7)
    second, other = build(sample(), seed=3, execution="plain"), build(sample(), seed=4)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    assert not torch.equal(first.stem.steps[0].conv.weight, other.stem.steps[0].conv.weight)  # type: ignore[union-attr]


def test_copies_moves_and_pickles_keep_working() -> None:
    network_ = build(sample(), seed=0).eval()
    x = torch.randn(2, 3, 16, 16)
    expected = network_(x)
    clone = copy.deepcopy(network_)
    with torch.no_grad():
        for parameter in network_.parameters():
            parameter.zero_()
    assert torch.equal(clone(x), expected)  # its plan refers to its own parameters
    assert torch.equal(pickle.loads(pickle.dumps(clone))(x), expected)
    torch.testing.assert_close(clone.double()(x.double()).float(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        torch.func.functional_call(clone.float(), dict(clone.named_parameters()), (x,)), expected
    )


def test_head_steps_dropout_and_shapes() -> None:
    architecture = sample()
    net = StagedNetwork(replace(architecture, head=Head(architecture.head.steps, 0.5)))
    assert net.forward_features(torch.zeros(2, 3, 16, 16)).shape == (2, 24)
    assert net(torch.zeros(1, 3, 16, 16)).shape == (1, 5)


def test_unknown_execution() -> None:
    with pytest.raises(UsageError, match="unknown execution 'fast'"):
        StagedNetwork(sample(), "fast")
