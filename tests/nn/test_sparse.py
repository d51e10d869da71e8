"""Sparse convolutions equal masked dense ones, from storage of exactly the stated size, wherever networks run.

Oracles: `F.conv2d` with a masked weight; a decoder of codes that reads bits as text.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from igcsearch.errors import UsageError
from igcsearch.nn import build, measure
from igcsearch.nn.graph_inference import GraphInference
from igcsearch.nn.products import LinearProduct, planned
from igcsearch.nn.sparse import SparseConv2d, compact, dense, storage_bytes, strongest, with_dense
from igcsearch.spec import Architecture, Block, Factor, Shuffle, Sparsity, Stage, StagedArchitecture
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.operations import Activation, AdaptivePool, Add, BatchNorm, Convolution, Flatten, Linear

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@dataclass(frozen=True)
class Case:
    """A convolution with a sparsity; padding keeps maps large enough."""

    sparsity: Sparsity
    in_channels: int
    out_channels: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    padding_mode: str = "zeros"

    def arguments(self) -> dict[str, Any]:
        fields = ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups", "padding_mode")
        return {name: getattr(self, name) for name in fields} | {"padding": self.kernel_size // 2}


CASES = [
    Case(Sparsity(2, 4), 8, 12),
    Case(Sparsity(2, 4), 8, 12, 3, stride=2, bias=False),
    Case(Sparsity(2, 4, "out"), 8, 12, 3, dilation=2),
    Case(Sparsity(1, 4), 10, 6, 3),  # an incomplete last group of 2
    Case(Sparsity(1, 4, "out"), 6, 10, 3),
    Case(Sparsity(3, 4), 12, 24, 3, groups=2),  # branches of 6: a last group of 2, none of which goes
    Case(Sparsity(2, 3, "out"), 24, 16, 3, groups=4, padding_mode="reflect"),
    Case(Sparsity(2, 16), 8, 6),  # M above the channels: 1 of 8
    Case(Sparsity(2, 16, "out"), 6, 8, 3, padding_mode="circular"),
    Case(Sparsity(4, 4), 8, 8, 3),  # N = M
    Case(Sparsity(1, 1), 5, 7),
    Case(Sparsity(8, 24), 50, 3),  # index codes, a last group of 2
    Case(Sparsity(8, 24, "out"), 3, 50, groups=1),
    Case(Sparsity(1, 2), 6, 6, 3, groups=6),  # channel-wise: lines of one
]


def drawn(stream: random.Random) -> Case:
    """Any convolution with any sparsity."""
    groups, size = stream.choice([1, 1, 2, 3]), stream.choice([1, 3])
    m = stream.randint(1, 26)
    return Case(
        Sparsity(stream.randint(1, m), m, stream.choice(["in", "out"])),
        groups * stream.randint(1, 30),
        groups * stream.randint(1, 30),
        size,
        stream.choice([1, 2]),
        stream.choice([1, 2]) if size > 1 else 1,
        groups,
        stream.random() < 0.5,
    )


def made(case: Case, dtype: torch.dtype) -> tuple[SparseConv2d, Tensor, Tensor]:
    """The layer of a random weight, the weight and its mask."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.out_channels, case.in_channels // case.groups, case.kernel_size, case.kernel_size)
    weight = torch.randn(shape, generator=generator, dtype=dtype)
    bias = torch.randn(case.out_channels, generator=generator, dtype=dtype) if case.bias else None
    mask = strongest(weight.abs(), case.sparsity, case.groups)
    layer = SparseConv2d.from_dense(**case.arguments(), weight=weight, mask=mask, sparsity=case.sparsity, bias=bias)
    return layer, weight, mask


def check(case: Case, dtype: torch.dtype) -> None:
    """Outputs, gradients, storage and state dict of a case."""
    layer, weight, mask = made(case, dtype)
    like = nn.Conv2d(**case.arguments(), bias=case.bias, dtype=dtype)
    like.weight = nn.Parameter(weight * mask)
    like.bias = layer.bias
    x = torch.randn(2, case.in_channels, 7, 7, generator=torch.Generator().manual_seed(1), dtype=dtype)
    expected, found = like(x), layer(x)
    close = TOLERANCE[dtype]
    assert float((found - expected).detach().abs().max()) <= close * float(expected.detach().abs().max())
    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2), dtype=dtype)
    (of_dense,) = torch.autograd.grad((expected * pull).sum(), like.weight)
    (of_values,) = torch.autograd.grad((found * pull).sum(), layer.values)
    placed = dense(of_values, layer.codes, case.sparsity, layer.weight_shape, case.groups)
    assert float((placed - of_dense * mask).abs().max()) <= close * float(of_dense.abs().max())
    assert torch.equal(layer.mask(), mask)
    size = (case.kernel_size, case.kernel_size)
    stored = layer.values.numel() * layer.values.element_size() + layer.codes.numel() * layer.codes.element_size()
    bits = 8 * layer.values.element_size()
    sizes = (case.in_channels, case.out_channels, size, case.groups)
    assert stored == storage_bytes(case.sparsity, *sizes, value_bits=bits)
    again = SparseConv2d(**case.arguments(), bias=case.bias, dtype=dtype, sparsity=case.sparsity)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again.dense_weight(), layer.dense_weight())
    assert sorted(layer.state_dict()) == sorted(["values", "codes", *(["bias"] if case.bias else [])])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_masked_dense_convolution(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


@pytest.mark.parametrize("seed", range(60))
def test_random_convolutions(seed: int) -> None:
    check(drawn(random.Random(seed)), torch.float64)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_strongest_of_each_group_stay(case: Case) -> None:
    _, weight, mask = made(case, torch.float64)
    s, rows, width = case.sparsity, case.out_channels // case.groups, case.in_channels // case.groups
    for g, y, x in itertools.product(range(case.groups), *[range(case.kernel_size)] * 2):
        branch, kept = weight[g * rows : (g + 1) * rows, :, y, x].abs(), mask[g * rows : (g + 1) * rows, :, y, x]
        if s.axis == "out":
            branch, kept = branch.T, kept.T
        for line, stays in zip(branch.tolist(), kept.tolist(), strict=True):
            for at in range(0, rows if s.axis == "out" else width, s.m):
                group, chosen = line[at : at + s.m], stays[at : at + s.m]
                count = -(-len(group) * s.n // s.m)
                assert sum(chosen) == count
                assert sorted(group)[-count:] == sorted(v for v, c in zip(group, chosen, strict=True) if c)


def test_the_layout_of_the_storage_is_as_documented() -> None:
    layer, weight, mask = made(Case(Sparsity(2, 4), 6, 3, 3), torch.float32)
    bits = "".join(f"{byte:08b}"[::-1] for byte in layer.codes.tolist())
    values = iter(layer.values.flatten().tolist())
    read = torch.zeros_like(weight)
    patterns = sorted(
        itertools.combinations(range(4), 2), key=lambda p: sum(math.comb(c, i + 1) for i, c in enumerate(p))
    )
    at = 0
    for o, y, x in itertools.product(range(3), range(3), range(3)):
        for begin, numbered in ((0, patterns), (4, [(0,), (1,)])):
            code = int(bits[at : at + 3][::-1], 2)
            at += 3
            for place in numbered[code]:
                read[o, begin + place, y, x] = next(values)
    assert torch.equal(read, weight * mask)
    assert len(layer.codes) == -(-at // 8)


# ---------------------------------------------------------------- the layer
def test_arguments_are_those_of_conv2d() -> None:
    x = torch.randn(1, 4, 9, 9)
    for padding in ("same", "valid", (1, 2), 1):
        torch.manual_seed(0)
        layer = SparseConv2d(4, 6, (3, 5), padding=padding, sparsity=Sparsity(1, 2))
        assert torch.equal(layer(x), F.conv2d(x, layer.dense_weight(), layer.bias, padding=padding))
    with pytest.raises(ValueError, match="divisible"):
        SparseConv2d(4, 6, 3, groups=3, sparsity=Sparsity(1, 2))
    assert SparseConv2d(4, 6, 3, device="meta", sparsity=Sparsity(1, 2))(x.to("meta")).shape == (1, 6, 7, 7)


def test_fresh_layers_are_a_function_of_the_seed() -> None:
    def fresh(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return SparseConv2d(64, 64, 3, sparsity=Sparsity(1, 4)).dense_weight().detach()

    assert torch.equal(fresh(0), fresh(0))
    assert not torch.equal(fresh(0) != 0, fresh(1) != 0)
    values = fresh(0)[fresh(0) != 0]
    assert float(values.abs().max()) == pytest.approx((16 * 9) ** -0.5, rel=0.01)


def test_codes_that_change_are_seen() -> None:
    layer, weight, _ = made(CASES[0], torch.float64)
    other = strongest(-weight.abs(), layer.sparsity)
    values, codes = compact(weight, other, layer.sparsity)
    with torch.inference_mode():
        layer(torch.randn(1, 8, 5, 5, dtype=torch.float64))
    with torch.no_grad():
        layer.values.copy_(values)
        layer.codes.copy_(codes)
    assert torch.equal(layer.dense_weight(), weight * other)
    layer(torch.randn(1, 8, 5, 5, dtype=torch.float64)).sum().backward()  # places of inference mode would be refused
    twin = copy.deepcopy(layer)
    twin.set_weight(weight, ~other)
    assert torch.equal(layer.dense_weight(), weight * other)
    assert torch.equal(twin.dense_weight(), weight * ~other)


def test_gradients_stay_compact() -> None:
    layer, _, _ = made(CASES[0], torch.float32)
    step = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    mask = layer.mask()
    for _ in range(3):
        step.zero_grad()
        layer(torch.randn(2, 8, 5, 5)).square().mean().backward()
        step.step()
    assert torch.equal(layer.dense_weight() != 0, mask)


def test_a_compiled_copy_follows_a_loaded_state() -> None:
    first, weight, _ = made(CASES[0], torch.float32)
    other = SparseConv2d.from_dense(
        8, 12, 1, weight=weight, mask=~first.mask(), sparsity=first.sparsity, bias=first.bias
    )
    first.load_state_dict(other.state_dict())
    exported = torch.export.export(first, (torch.zeros(1, 8, 4, 4),)).module()
    x = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(exported(x), other(x))


def test_masks_that_are_not_of_the_sparsity_are_refused() -> None:
    weight = torch.randn(4, 8, 1, 1)
    mask = strongest(weight.abs(), Sparsity(2, 4))
    mask[1, 4:] = True
    with pytest.raises(UsageError, match="does not keep 2 of channels 4 to 7"):
        compact(weight, mask, Sparsity(2, 4))
    with pytest.raises(UsageError, match="a mask of shape"):
        compact(weight, mask[:2], Sparsity(2, 4))
    layer = SparseConv2d(8, 4, 1, sparsity=Sparsity(2, 4))
    with pytest.raises(UsageError, match="is expected"):
        layer.set_weight(weight[:2], mask[:2])


@pytest.mark.parametrize("sparsity", [Sparsity(2, 4), Sparsity(8, 24)], ids=str)
def test_damaged_codes_are_refused(sparsity: Sparsity) -> None:
    layer = SparseConv2d(48, 4, 1, sparsity=sparsity)
    state = layer.state_dict()
    state["codes"] = torch.full_like(state["codes"], 255)
    with pytest.raises(UsageError, match="damaged"):
        layer.load_state_dict(state)


@pytest.mark.parametrize("case", CASES[:2], ids=str)
def test_a_layer_that_is_made_in_inference_mode_follows_its_codes(case: Case) -> None:
    with torch.inference_mode():
        layer, weight, mask = made(case, torch.float32)
        again = SparseConv2d(**case.arguments(), bias=case.bias, sparsity=case.sparsity)
        again.load_state_dict(layer.state_dict())
        assert torch.equal(layer.dense_weight(), weight * mask)
        assert torch.equal(again.dense_weight(), weight * mask)


# ---------------------------------------------------------------- networks
def staged() -> StagedArchitecture:
    """Sparse factors of all places: stem's follower, between linear 1x1 factors, in a shortcut, in the head-like last block."""
    product = (
        Factor(16, 16, 3, groups=4, norm=True),
        Factor(16, 16, groups=4, sparsity=(1, 2)),
        Factor(16, 16, groups=4, norm=True, activation="relu"),
    )
    behind = (Factor(16, 24, 3, stride=2, groups=2, bias=True, activation="relu", sparsity=(2, 4), sparse_axis="out"),)
    blocks = (
        Block(product, shortcut=()),
        Block(behind, shortcut=(Factor(16, 24, stride=2, sparsity=(1, 3), shuffle=Shuffle("random", seed=0)),)),
    )
    return StagedArchitecture(3, 12, 5, Block((Factor(3, 16, 3, norm=True, activation="relu"),)), (Stage(blocks),))


def graph(shared: bool = False) -> GraphArchitecture:
    """Sparse convolutions with a norm, in a group convolution with a sum behind it, and used twice."""
    nodes = [
        Node("a", Convolution(3, 12, (3, 3), padding=(1, 1), sparsity=(2, 3)), (INPUT,)),
        Node("norm", BatchNorm(12), ("a",)),
        Node("act", Activation("relu"), ("norm",)),
        Node(
            "b",
            Convolution(12, 12, (3, 3), padding=(1, 1), groups=2, bias=True, sparsity=(1, 2), sparse_axis="out"),
            ("act",),
        ),
        Node("sum", Add(), ("b", "act")),
    ]
    if shared:
        nodes.append(Node("b2", nodes[3].operation, ("sum",), shares="b"))
    last = nodes[-1].name
    nodes += [
        Node("pool", AdaptivePool(), (last,)),
        Node("flat", Flatten(), ("pool",)),
        Node("fc", Linear(12, 5), ("flat",)),
    ]
    return GraphArchitecture(3, 12, 5, tuple(nodes))


NETWORKS = {"staged": staged(), "graph": graph(), "shared": graph(shared=True)}


def warmed(architecture: Architecture) -> nn.Module:
    """A network whose norms have seen images."""
    network = build(architecture, seed=0)
    network(torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(3)))
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_count_run_and_optimize(name: str) -> None:
    architecture, network = NETWORKS[name], warmed(NETWORKS[name])
    assert sum(p.numel() for p in network.parameters()) == architecture.params
    assert measure.fvcore_macs(network).macs == architecture.macs
    assert measure.torch_flops(network) == 2 * architecture.macs
    assert architecture.nonzero_macs < architecture.macs
    x = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = network(x)
        for ready in (network.optimize_for_inference(measure=False), measure.optimized(network)):
            torch.testing.assert_close(ready(x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(copy.deepcopy(network).set_execution("plain")(x), expected, rtol=1e-4, atol=1e-5)
        plain = with_dense(copy.deepcopy(network))
        assert not any(isinstance(module, SparseConv2d) for module in plain.modules())
        torch.testing.assert_close(plain(x), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_states_hold_the_compact_storage_alone(name: str) -> None:
    network = warmed(NETWORKS[name])
    layers = {path: m for path, m in network.named_modules() if isinstance(m, SparseConv2d)}
    assert len(layers) == (3 if name == "staged" else 2)
    state = network.state_dict()
    for path, layer in layers.items():
        assert f"{path}.weight" not in state
        assert {key for key in state if key.startswith(f"{path}.")} - {f"{path}.bias"} == {
            f"{path}.values",
            f"{path}.codes",
        }
        assert layer.values.ndim > 1  # so that it decays, as weights do
    other = build(NETWORKS[name], seed=1).eval()
    other.load_state_dict(state)
    x = torch.randn(1, 3, 12, 12)
    assert torch.equal(other(x), network(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_fresh_networks_are_a_function_of_the_seed(name: str) -> None:
    first, same, other = (build(NETWORKS[name], seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], same[key]) for key in first)
    codes = [key for key in first if key.endswith("codes")]
    assert not any(torch.equal(first[key], other[key]) for key in codes)


def test_stock_plan_has_the_dense_weights() -> None:
    network = build(graph(), seed=0).eval()
    ready = GraphInference(network, ["stock", "stock"])
    x = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(ready(x), network(x), rtol=1e-4, atol=1e-5)


def test_linear_products_leave_sparse_factors_out() -> None:
    block = build(staged(), seed=0).stages[0][0]
    parts = planned(list(block.steps))
    inside = [layer.factor for part in parts if isinstance(part, LinearProduct) for layer in part.layers]
    assert inside
    assert all(factor.nm is None for factor in inside)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gpu(case: Case) -> None:
    layer, weight, mask = made(case, torch.float64)
    there = copy.deepcopy(layer).cuda()
    assert torch.equal(there.dense_weight().cpu(), layer.dense_weight())
    chosen = strongest(weight.cuda().abs(), case.sparsity, case.groups)
    assert torch.equal(chosen.cpu(), mask)
    values, codes = compact(weight.cuda(), chosen, case.sparsity, case.groups)
    assert torch.equal(values.cpu(), layer.values)
    assert torch.equal(codes.cpu(), layer.codes)
    x = torch.randn(2, case.in_channels, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(there(x.cuda()).cpu(), layer(x))
