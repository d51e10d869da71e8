"""Networks made ready for inference: every plan gives what the network gives, and what is measured is remembered."""

import copy
import json
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igcsearch.blocks import get_family, network, stage
from igcsearch.errors import UsageError
from igcsearch.nn import build, measure, plans
from igcsearch.nn.fused import fused_available
from igcsearch.nn.inference import PLANS, FusedRun, InferenceNetwork, block_layers
from igcsearch.nn.layers import FactorLayer
from igcsearch.spec import (
    Block,
    Factor,
    Head,
    Parallel,
    Pool,
    Problem,
    Shuffle,
    Stage,
    StagedArchitecture,
)

needs_kernels = pytest.mark.skipif(
    not fused_available("cpu", torch.float32), reason="no compiler for the fused kernels"
)
PROBLEM = Problem(16, 3, 10)


def lively(architecture, seed=0):
    """A network whose norms have statistics and weights of their own, as trained ones have."""
    net = build(architecture, seed)
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
    return net.eval()


def of_family(name, width=24, residual=True, activation="relu", **options):
    """Two stages of a family, the second of stride 2 and doubled width."""
    definition = get_family(name)
    wide = 2 * width
    ways = {
        "igcv1": ({"primary_groups": 4},) * 3,
        "igcv2": ({"branch_widths": (4, 6)}, {"branch_widths": (4, 6)}, {"branch_widths": (6, 8)}),
    }
    first, across, second = ways.get(name, ({}, {}, {}))
    stages = (
        stage(definition, width, width, 2, residual=residual, activation=activation, **first, **options),
        stage(
            definition,
            width,
            wide,
            2,
            stride=2,
            residual=residual,
            activation=activation,
            transition={**across, **options, "residual": False, "activation": activation},
            **second,
            **options,
        ),
    )
    return network(PROBLEM, width, stages)


def odd_ones():
    """What definitions do not make: lanes, pools, biases, dilation, silu, norms inside, a projection, a random shuffle."""
    inside = (
        Factor(24, 48, groups=4, norm=True, activation="relu6", shuffle=Shuffle("random", seed=3)),
        Factor(48, 48, kernel_size=5, groups=48, stride=2, norm=True, activation="hardswish", bias=True),
        Factor(48, 36, groups=12, bias=True),
        Factor(36, 36, groups=6, norm=True, activation="silu"),
    )
    lanes = Parallel(((Factor(18, 18, groups=3),), ()), 36, split=(18, 18), shuffle=Shuffle("interleave"))
    blocks = (
        Block(inside, shortcut=(Pool(24, "avg", 3, 2), Factor(24, 36, groups=2, norm=True)), activation="gelu"),
        Block(
            (lanes, Factor(36, 36, kernel_size=3, groups=6, dilation=2, bias=True), Factor(36, 36, groups=4)),
            shortcut=(),
        ),
        Block((Factor(36, 20, groups=2, stride=2), Factor(20, 20, groups=5)), activation="relu"),
    )
    stem = Block((Factor(3, 24, kernel_size=3, norm=True),), activation="relu")
    head = Head((Factor(20, 40, groups=4, norm=True, activation="relu"), Factor(40, 40, norm=True)))
    return StagedArchitecture(3, 16, 10, stem, (Stage(blocks),), head)


ARCHITECTURES = {
    "igcv1": lambda: of_family("igcv1"),
    "igcv2": lambda: of_family("igcv2"),
    "igcv3": lambda: of_family("igcv3"),
    "xception": lambda: of_family("xception", activation="hardswish"),
    "dense": lambda: of_family("dense"),
    "odd ones": odd_ones,
}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_gives_what_the_network_gives(name, plan, channels_last):
    net = lively(ARCHITECTURES[name]())
    ready = InferenceNetwork(net, [plan] * len(block_layers(net)), channels_last)
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = copy.deepcopy(net).double().set_execution("plain")(images.double())
        torch.testing.assert_close(ready(images).double(), expected, rtol=1e-4, atol=1e-5)


@given(st.integers(1, 5), st.sampled_from([9, 15, 16, 20]), st.sampled_from(PLANS))
def test_other_batches_and_sizes(batch, size, plan):
    net = lively(of_family("igcv2"))
    ready = InferenceNetwork(net, [plan] * len(block_layers(net)), False)
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(size))
    with torch.no_grad():
        torch.testing.assert_close(ready(images), net(images), rtol=1e-4, atol=1e-5)


def test_the_network_is_left_as_it_is():
    net = lively(of_family("igcv2")).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ready = net.optimize_for_inference(measure=False)
    assert net.training
    assert not ready.training
    assert not any(p.requires_grad for p in ready.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@needs_kernels
def test_measured_plans_are_remembered_for_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "cache_folder", lambda: tmp_path)
    net = lively(of_family("igcv2"))
    images = torch.zeros(2, 3, 16, 16)
    monkeypatch.setattr(plans.Elsewhere, "cores", lambda _: float(plans.available_cores()))
    net.optimize_for_inference(images)
    assert not list(tmp_path.iterdir()), "something else was busy"
    monkeypatch.setattr(plans.Elsewhere, "cores", lambda _: 0.0)
    first = net.optimize_for_inference(images)
    assert set(first.plans) <= set(PLANS)
    (kept,) = tmp_path.iterdir()
    assert json.loads(kept.read_text())["blocks"]

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(plans, "block_ms", never)
    assert set(net.optimize_for_inference(images).plans) <= set(PLANS)
    kept.write_text("{ damaged")
    with pytest.raises(AssertionError, match="measured again"):
        net.optimize_for_inference(images)


def test_a_plan_for_every_block_is_needed():
    net = lively(of_family("igcv2"))
    with pytest.raises(UsageError, match="give one for each"):
        InferenceNetwork(net, ["stock"], False)


@needs_kernels
def test_copies_have_their_own_weights():
    net = lively(of_family("igcv2"))
    ready = InferenceNetwork(net, ["fused"] * len(block_layers(net)), False)
    images = torch.randn(2, 3, 16, 16)
    expected = ready(images)
    for other in (copy.deepcopy(ready), pickle.loads(pickle.dumps(ready))):
        run = next(module for module in ready.modules() if isinstance(module, FusedRun))
        torch.testing.assert_close(other(images), expected)
        kept = run.weight0.clone()
        run.weight0.zero_()
        torch.testing.assert_close(other(images), expected)
        run.weight0.copy_(kept)


@needs_kernels
def test_compiled_and_exported():
    net = lively(of_family("igcv2", width=12))
    ready = InferenceNetwork(net, ["fused"] * len(block_layers(net)), False)
    images = torch.randn(2, 3, 16, 16)
    program = torch.export.export(ready, (images,))
    torch.testing.assert_close(program.module()(images), ready(images))


# What a plan executes is counted as it runs: a product that is multiplied out executes its dense matrix.
@needs_kernels
def test_multiply_adds_executed():
    architecture = of_family("igcv2")
    net = lively(architecture)
    layers = block_layers(net)
    for plan in ("fused", "split", "stock"):
        assert measure.macs_executed(InferenceNetwork(net, [plan] * len(layers), False)) == architecture.macs
    collapsed = measure.macs_executed(InferenceNetwork(net, ["collapsed"] * len(layers), False))
    size, expected = architecture.image_size, architecture.macs
    for layer, (_, block) in zip(layers, architecture.blocks(), strict=True):
        size = block.cost_at(size)[1]
        run = [step.factor for step in layer.steps if isinstance(step, FactorLayer)]
        dense = run[0].area * run[0].in_channels * run[-1].out_channels
        if dense > 16 * sum(factor.weights for factor in run):  # then the 1x1 factors alone
            run = [factor for factor in run if factor.kernel_size == 1]
            dense = run[0].in_channels * run[-1].out_channels
        if any(factor.groups > 1 for factor in run):
            expected += (dense - sum(factor.weights for factor in run)) * size**2
    assert collapsed == expected


@needs_kernels
def test_fvcore_counts_fused_operators():
    from fvcore.nn import FlopCountAnalysis

    architecture = of_family("igcv1")
    net = lively(architecture)
    analysis = FlopCountAnalysis(net, torch.zeros(1, 3, 16, 16)).set_op_handle(**measure.fused_handles())
    analysis.unsupported_ops_warnings(False)
    counted = analysis.by_operator()
    assert counted["product"] > 0
    assert sum(counted[name] for name in ("conv", "linear", "product")) == architecture.macs
