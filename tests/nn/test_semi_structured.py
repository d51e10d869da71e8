"""What runs by semi-structured tensors: exactly the layers that torch can pack, and with the results of the convolution.

No GPU is needed but for the last tests: packing is torch's own conversion, which runs on the CPU too, and the product of a packed
weight is replaced by that of the unpacked one.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.sparse import SparseSemiStructuredTensor, SparseSemiStructuredTensorCUTLASS
from torch.sparse._semi_structured_conversions import (
    sparse_semi_structured_from_dense_cutlass,
    sparse_semi_structured_to_dense_cutlass,
)

from igcsearch.errors import UsageError
from igcsearch.nn import StagedNetwork, build
from igcsearch.nn.graph_inference import GraphInference
from igcsearch.nn.inference import InferenceNetwork
from igcsearch.nn.semi_structured import Pointwise, use_semi_structured, why_not
from igcsearch.nn.sparse import SparseConv2d
from igcsearch.spec import Architecture, Block, Factor, Shuffle, Sparsity, Stage, StagedArchitecture
from igcsearch.spec.graph import INPUT, GraphArchitecture, Node
from igcsearch.spec.operations import Activation, AdaptivePool, BatchNorm, Convolution, Flatten, Linear

GPU, HALF = torch.device("cuda"), torch.float16
ACCEPTED = ["2:4", "1:4", "1:2", "1:3", "2:8", "2:64", "1:16", "2:100"]
PROTOTYPE = pytest.mark.filterwarnings("ignore:The PyTorch API of SparseSemiStructuredTensor:UserWarning")


def convolution(sparsity: str = "2:4", axis: str = "in", *sizes: int, **more: Any) -> SparseConv2d:
    n, m = map(int, sparsity.split(":"))
    return SparseConv2d(*(sizes or (64, 96, 1)), sparsity=Sparsity(n, m, axis), **more).half()


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A GPU of compute capability 9.0 and cuSPARSELt, as far as questions go."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cusparselt, "is_available", lambda: True)
    return monkeypatch


# ---------------------------------------------------------------- which layers
@pytest.mark.parametrize("sparsity", ACCEPTED)
def test_what_is_accepted_is_packed_without_a_loss(sparsity: str, hopper: pytest.MonkeyPatch) -> None:
    layer = convolution(sparsity)
    assert why_not(layer, GPU, HALF) is None
    weight = layer.dense_weight().detach().flatten(1)
    packed = sparse_semi_structured_from_dense_cutlass(weight)
    assert torch.equal(sparse_semi_structured_to_dense_cutlass(*packed), weight)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (convolution("3:4"), "^3 of 4 weights side by side"),
        (convolution("4:8"), "^[34] of 4 weights"),
        (convolution("2:6"), "^[34] of 4 weights"),
        (convolution("2:4", "out"), "^[34] of 4 weights"),
        (nn.Conv2d(64, 96, 1).half(), "^4 of 4 weights"),
        (convolution("2:4", "in", 64, 96, 1, groups=2), "^it has 2 groups$"),
        (convolution("2:4", "in", 64, 96, 3, padding=1), "^its kernel is 3 x 3, not 1 x 1$"),
        (convolution("2:4", "in", 64, 96, 1, padding=1), r"^it pads by \(1, 1\)$"),
        (convolution("2:4", "in", 72, 96, 1), "^it has 96 output and 72 input channels; multiples of 16 and 16"),
        (convolution("2:4", "in", 64, 24, 1), "^it has 24 output and 64 input channels; multiples of 16 and 16"),
    ],
    ids=str,
)
def test_what_is_not_accepted(layer: nn.Conv2d | SparseConv2d, why: str, hopper: pytest.MonkeyPatch) -> None:
    reason = why_not(layer, GPU, HALF)
    assert reason is not None
    assert re.search(why, reason), reason


@pytest.mark.parametrize("padding", ["same", "valid", 0])
def test_a_padding_that_adds_nothing_is_accepted(padding: Any, hopper: pytest.MonkeyPatch) -> None:
    assert why_not(convolution("2:4", "in", 64, 96, 1, padding=padding), GPU, torch.bfloat16) is None


def test_where_it_cannot_run(hopper: pytest.MonkeyPatch) -> None:
    layer = convolution("2:4", "in", 32, 48, 1)
    assert why_not(layer, GPU, HALF) is None
    assert why_not(layer, torch.device("cpu"), HALF) == "it is on cpu; semi-structured tensors need a CUDA device"
    assert "torch.float32" in str(why_not(layer, GPU, torch.float32))
    with hopper.context() as patch:
        patch.setattr(torch.backends.cusparselt, "is_available", lambda: False)
        assert why_not(layer, GPU, HALF) == "this torch was built without cuSPARSELt"
    with hopper.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        assert "compute capability 7.5" in str(why_not(layer, GPU, HALF))
    hopper.setattr(SparseSemiStructuredTensor, "_FORCE_CUTLASS", True)
    assert "8.x, the GPU has 9.0" in str(why_not(layer, GPU, HALF))
    hopper.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert "multiples of 32 and 64" in str(why_not(layer, GPU, HALF))


# ---------------------------------------------------------------- what they compute
@pytest.mark.parametrize("stride", [1, 2, (1, 3)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_linear_layer_is_the_convolution(stride: Any, bias: bool, layout: torch.memory_format) -> None:
    conv = nn.Conv2d(6, 10, 1, stride, bias=bias, dtype=torch.float64).requires_grad_(False)
    x = torch.randn(3, 6, 7, 5, dtype=torch.float64).contiguous(memory_format=layout)
    found = Pointwise(conv.weight.flatten(1), conv.bias, conv.stride)(x)  # type: ignore[arg-type]
    torch.testing.assert_close(found, conv(x))
    assert found.is_contiguous(memory_format=torch.channels_last)


def graph() -> GraphArchitecture:
    """1x1 convolutions of 2:4, one of them used twice, one strided, one of another sparsity; a 3x3."""
    wide = Convolution(64, 64, (1, 1), sparsity=(2, 4))
    nodes = [
        Node("stem", Convolution(3, 64, (3, 3), padding=(1, 1)), (INPUT,)),
        Node("a", wide, ("stem",)),
        Node("norm", BatchNorm(64), ("a",)),
        Node("act", Activation("relu"), ("norm",)),
        Node("b", wide, ("act",)),
        Node("b2", wide, ("b",), shares="b"),
        Node("c", Convolution(64, 64, (1, 1), stride=(2, 2), bias=True, sparsity=(2, 4)), ("b2",)),
        Node("c.d", Convolution(64, 64, (1, 1), sparsity=(3, 4)), ("c",)),
        Node("pool", AdaptivePool(), ("c.d",)),
        Node("flat", Flatten(), ("pool",)),
        Node("fc", Linear(64, 5), ("flat",)),
    ]
    return GraphArchitecture(3, 8, 5, tuple(nodes))


def staged() -> StagedArchitecture:
    """The same kinds in a block: 2:4 with a shuffle behind it, one in a shortcut; a dense factor beside."""
    product = (
        Factor(64, 64, norm=True, sparsity=(2, 4), shuffle=Shuffle("random", seed=0)),
        Factor(64, 64, 3, groups=4, norm=True, activation="relu", stride=2),
    )
    block = Block(product, shortcut=(Factor(64, 64, stride=2, sparsity=(2, 4), bias=True),))
    return StagedArchitecture(3, 8, 5, Block((Factor(3, 64, 3, norm=True, activation="relu"),)), (Stage((block,)),))


NETWORKS = {
    "graph": (graph(), ("a", "b", "c"), ("c.d",)),
    "staged": (staged(), ("stages.0.0.steps.0.conv", "stages.0.0.shortcut.0.conv"), ()),
}
OPTIMIZED = {
    "graph": (tuple(f"units.{i}.layer" for i in (1, 2, 4)), ("units.0.layer", "units.5.layer")),
    "staged": (
        ("blocks.1.parts.0", "blocks.1.shortcut.0"),
        ("blocks.0.parts.0", "blocks.1.parts.1"),
    ),
}


def warmed(architecture: Architecture) -> nn.Module:
    network = build(architecture, seed=0)
    network(images())
    return network.eval()


def stock(network: Any) -> nn.Module:
    """Made ready as on a GPU, whatever there is here."""
    if isinstance(network, StagedNetwork):
        return InferenceNetwork(network, ["stock"] * 2, channels_last=False)
    return GraphInference(network, ["stock"] * 6, channels_last=True)


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def emulated(hopper: pytest.MonkeyPatch) -> list[Tensor]:
    """The CPU as if it were a GPU: weights really are packed, a product unpacks them. The list of inputs of such products."""
    seen: list[Tensor] = []

    def pack(weight: Tensor) -> SparseSemiStructuredTensor:
        values, meta = sparse_semi_structured_from_dense_cutlass(weight)
        return SparseSemiStructuredTensorCUTLASS(weight.shape, values, meta, None, None, None)

    def product(packed: Any, x: Tensor, *, bias: Tensor | None = None, should_transpose_dense: bool = False) -> Tensor:
        assert should_transpose_dense
        seen.append(x)
        return F.linear(x, packed.to_dense(), bias)

    hopper.setattr(torch.sparse, "to_sparse_semi_structured", pack)
    hopper.setattr(SparseSemiStructuredTensorCUTLASS, "_mm", product)
    hopper.setattr("igcsearch.nn.semi_structured._why_not_there", lambda device, dtype: None)
    return seen


@PROTOTYPE
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_gives_what_it_gave(name: str, optimized: bool, dtype: torch.dtype, emulated: list[Tensor]) -> None:
    architecture, replaced, left = NETWORKS[name]
    network: Any = warmed(architecture)
    if optimized:
        network, (replaced, left) = stock(network), OPTIMIZED[name]
    network = network.to(dtype)
    x = images().to(dtype)
    with torch.no_grad():
        expected = network(x)
    found = use_semi_structured(network)
    assert found.replaced == replaced
    assert tuple(found.left) == left
    assert optimized or name != "graph" or "c.d.values" in network.state_dict()  # within c, which was replaced
    again = copy.deepcopy(network).to(memory_format=torch.channels_last)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(network(x), expected)
            torch.testing.assert_close(again(x), expected)
    products = len(replaced) + (name == "graph")  # b works twice
    assert len(emulated) == 4 * products


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_on_the_cpu_is_left(name: str) -> None:
    architecture, replaced, left = NETWORKS[name]
    network = warmed(architecture).half()
    before = dict(network.named_modules())
    found = use_semi_structured(network)
    assert found.replaced == ()
    assert sorted(found.left) == sorted((*replaced, *left))
    assert set(found.left.values()) == {"it is on cpu; semi-structured tensors need a CUDA device"}
    assert dict(network.named_modules()) == before


def test_a_network_in_training_is_refused() -> None:
    with pytest.raises(UsageError, match=r"call eval\(\) first"):
        use_semi_structured(build(graph(), seed=0))


# ---------------------------------------------------------------- on a GPU
@PROTOTYPE
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_on_a_gpu(bias: bool, stride: int, dtype: torch.dtype) -> None:
    layer = SparseConv2d(128, 256, 1, stride, bias=bias, sparsity=Sparsity(2, 4)).to("cuda", dtype)
    network = nn.Sequential(layer).eval()
    x = torch.randn(3, 128, 7, 5, device="cuda", dtype=dtype)
    expected = copy.deepcopy(layer).double()(x.double())
    found = use_semi_structured(network)
    assert found.replaced == ("0",), found.left
    with torch.inference_mode():
        y = network(x)
        once_more = copy.deepcopy(network)(x)
    error = float((y.double() - expected).abs().max() / expected.abs().max())
    assert error < {torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert torch.equal(once_more, y)


@PROTOTYPE
@pytest.mark.gpu
@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_on_a_gpu(name: str, optimized: bool) -> None:
    architecture, replaced, _ = NETWORKS[name]
    network: Any = warmed(architecture).cuda()
    with torch.no_grad():
        expected = network(images().cuda())
    if optimized:
        network, (replaced, _) = stock(network), OPTIMIZED[name]
    network = network.half()
    found = use_semi_structured(network)
    assert found.replaced == replaced, found.left
    with torch.inference_mode():
        y = network(images().cuda().half())
    error = float((y.float() - expected).abs().max() / expected.abs().max())
    assert error < 2e-2
