"""Fused products within PyTorch: registered as its operators are, under autocast, compiled, exported, in copies of a network, in
several threads, and without a compiler."""

import copy
import io
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from igcsearch.blocks import igcv2, network, stage
from igcsearch.nn import Network, build
from igcsearch.nn.fused import product, wiring
from igcsearch.nn.fused.library import kernels
from igcsearch.nn.fused.reference import reference
from igcsearch.nn.products import LinearProduct
from igcsearch.spec import Factor, Problem, Shuffle

needs_kernels = pytest.mark.skipif(kernels() is None, reason="no compiled kernels")
SHAPES = ((1, 1), (3, 1), (3, 2))  # kernel and stride of the first factor


def sample(kernel: int = 1, stride: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor], Tensor]:
    """An input, the weights of two factors of four branches, and their wiring."""
    first = Factor(12, 12, kernel, 4, stride, shuffle=Shuffle("interleave"))
    factors = (first, Factor(12, 20, groups=4, shuffle=Shuffle("random", 1)))
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(f.out_channels, 3, f.kernel_size, f.kernel_size, generator=generator) / 3 for f in factors]
    x = torch.randn(2, 12, 7, 6, generator=generator).to(dtype)
    return x.requires_grad_(), [weight.requires_grad_() for weight in weights], wiring(factors)


class TwoFactors(nn.Module):
    """The sample as a module."""

    def __init__(self, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        _, weights, index = sample(kernel, stride)
        self.weights, self.stride = nn.ParameterList(weights), stride
        self.register_buffer("index", index)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return product(x_NCHW, list(self.weights), self.index, [4, 4], None, self.stride)


def small_network() -> Network:
    """Wide enough to run fused, with a 3x3 of a stride in the product and a transition."""
    options = {"branch_widths": (4, 4), "transition": {"branch_widths": (4, 4)}, "residual": True}
    return build(network(Problem(8, 3, 5), 16, [stage(igcv2, 16, 32, 1, stride=2, **options)], head_width=24), seed=0)


def products_of(network_: nn.Module) -> list[LinearProduct]:
    plans = [layer for module in network_.modules() for layer in getattr(module, "plan", [])]
    return [layer for layer in plans if isinstance(layer, LinearProduct)]


# Rule: the operators keep torch's rules: schemas, fake tensors, autograd, tracing with dynamic shapes.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own doing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), SHAPES)
def test_operators_are_registered_right(kernel: int, stride: int, channels_last: bool, dtype: torch.dtype) -> None:
    x, weights, index = sample(kernel, stride, dtype)
    if channels_last:
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    bias = torch.randn(20, requires_grad=True)
    torch.library.opcheck(torch.ops.igcsearch.product.default, (x, weights, index, [4, 4], bias, stride))
    y, fixed = product(x, weights, index, [4, 4], bias, stride).detach(), [weight.detach() for weight in weights]
    backward = torch.ops.igcsearch.product_backward.default
    for needs_x in (True, False):
        torch.library.opcheck(backward, (torch.randn_like(y), x.detach(), fixed, index, [4, 4], stride, needs_x))


# Rule: types without kernels are differentiable to any order, exactly.
@pytest.mark.parametrize(("kernel", "stride"), SHAPES)
def test_double_precision(kernel: int, stride: int) -> None:
    x, weights, index = sample(kernel, stride)
    x, *weights = (tensor.detach().double().requires_grad_() for tensor in (x[:1, :, :3, :4], *weights))
    bias = torch.randn(20, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, bias: Tensor, *weights: Tensor) -> Tensor:
        return product(x, weights, index, [4, 4], bias, stride)

    assert torch.autograd.gradcheck(run, (x, bias, *weights))
    assert torch.autograd.gradgradcheck(run, (x, bias, *weights))


# Rule: only what needs a gradient gets one, and a weight's is in the weight's type.
def test_gradients_where_they_are_needed() -> None:
    x, weights, index = sample()
    weights[0].requires_grad_(False)
    last = weights[1].detach().double().requires_grad_()
    product(x.detach(), [weights[0], last], index, [4, 4]).sum().backward()
    assert x.grad is None
    assert weights[0].grad is None
    assert last.grad is not None
    assert last.grad.dtype is torch.float64


# Rule: under autocast a product runs in autocast's type, as a convolution does; parameters and gradients stay as they are.
def test_autocast() -> None:
    x, weights, index = sample()
    with torch.autocast("cpu", torch.bfloat16):
        y = product(x, weights, index, [4, 4])
    y.float().square().sum().backward()
    assert y.dtype is torch.bfloat16
    assert {tensor.grad.dtype for tensor in (x, *weights) if tensor.grad is not None} == {torch.float32}
    exact = reference(x.detach(), [weight.detach() for weight in weights], index, [4, 4], None)
    torch.testing.assert_close(y.detach().float(), exact, rtol=0.03, atol=0.03)


# Rule: a network compiles as one graph, without a warning, and gives what it gives uncompiled, gradients included.
@pytest.mark.parametrize(("backend", "layout"), [("aot_eager", "channels_last"), ("inductor", "contiguous_format")])
def test_compiled(backend: str, layout: str) -> None:
    torch._dynamo.reset()
    eager = small_network()
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, backend=backend)
    x = torch.randn(3, 3, 8, 8).contiguous(memory_format=getattr(torch, layout))
    wanted, found = eager(x), compiled(x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    wanted.square().sum().backward()
    found.square().sum().backward()
    for one, other in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4)


# Rule: torch.export keeps the product as one operator, for any size of batch and map, through a file and back.
@pytest.mark.parametrize(("kernel", "stride"), SHAPES)
def test_exported(kernel: int, stride: int) -> None:
    module = TwoFactors(kernel, stride).eval()
    sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(module, (torch.randn(2, 12, 7, 6),), dynamic_shapes=(sizes,))
    assert [str(node.target) for node in program.graph.nodes if node.op == "call_function"].count(
        "igcsearch.product.default"
    ) == 1
    file = io.BytesIO()
    torch.export.save(program, file)
    again = torch.export.load(io.BytesIO(file.getvalue())).module()
    x = torch.randn(5, 12, 9, 4)
    assert torch.equal(again(x), module(x))


# Rule: copies and pickles of a network that has run fused work, with parameters of their own.
@needs_kernels
def test_copies_of_a_network_that_ran_fused() -> None:
    original, x = small_network().eval(), torch.randn(2, 3, 8, 8)
    assert "fused" in {
        one.choice(torch.zeros(1, one.layers[0].factor.in_channels, 4, 4)) for one in products_of(original)
    }
    expected = original(x).detach()
    clone, pickled = copy.deepcopy(original), pickle.loads(pickle.dumps(original))
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.zero_()
    for other in (clone, pickled):
        assert torch.equal(other(x), expected)
        other(x).sum().backward()
        assert all(
            parameter.grad is not None
            for one in products_of(other)
            for layer in one.layers
            for parameter in layer.parameters()
        )
    torch.testing.assert_close(clone.set_execution("plain")(x), expected, rtol=1e-4, atol=1e-5)


# Rule: threads of one process may run products at the same time.
@pytest.mark.parametrize("kernel", [1, 3])
def test_threads_at_once(kernel: int) -> None:
    module = TwoFactors(kernel)
    inputs = [torch.randn(2, 12, 5 + i, 20) for i in range(8)]

    def gradient(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(module(x).square().sum(), x)[0]

    expected = [gradient(x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert all(map(torch.equal, expected, pool.map(gradient, inputs)))


# Rule: a stride that the kernels have no room for runs by stock operators. In a process of its own: it once crashed.
LONG_STRIDES = """
import torch
from igcsearch.nn.fused import product, wiring
from igcsearch.nn.fused.reference import reference
from igcsearch.spec import Factor

for stride in (8, 9, 11):
    factors = (Factor(12, 12, 3, 4, stride), Factor(12, 8, groups=2))
    x, first, last = (torch.randn(*shape, requires_grad=True) for shape in ((2, 12, 25, 17), (12, 3, 3, 3), (8, 6, 1, 1)))
    found, expected = (
        torch.autograd.grad(run(x, [first, last], wiring(factors), [4, 2], None, stride).square().sum(), [x, first, last])
        for run in (product, reference)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
"""


def test_long_strides(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LONG_STRIDES], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Rule: on the meta device shapes are found as for stock layers, and autocast leaves float64 alone, as it does for convolutions.
def test_meta_tensors_and_double_precision_under_autocast() -> None:
    x, weights, index = sample(3, 2)
    meta = [weight.to("meta") for weight in weights]
    assert product(x.to("meta"), meta, index.to("meta"), [4, 4], None, 2).shape == (2, 20, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert (
            product(x.double(), [weight.double() for weight in weights], index, [4, 4], None, 2).dtype is torch.float64
        )


@pytest.fixture(scope="module")
def bare(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package without a compiled library."""
    target = tmp_path_factory.mktemp("bare")
    ignore = shutil.ignore_patterns("__pycache__", "studies", "_kernels*")
    for name in ("igcsearch", "blocks", "search_spaces", "results"):
        shutil.copytree(root / name, target / name, symlinks=True, ignore=ignore)
    return target


# Rule: without a compiler all is as it is with one, through plain PyTorch, forward and backward; why is said once.
WITHOUT = """
import copy, torch
from test_fused_operators import TwoFactors, products_of, small_network
from igcsearch.nn.fused import fused_available, library

assert "bare" in library.__file__ and not fused_available("cpu", torch.float32)
network = small_network()
for way in (None, "fused"):  # the table's, and products in any case
    plain = copy.deepcopy(network).set_execution("plain")
    for one in products_of(network):
        one.way = way
    x = torch.randn(2, 3, 8, 8)
    for each in (network, plain):
        each.zero_grad()
        each(x).square().sum().backward()
    for one, other in zip(network.parameters(), plain.parameters()):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-3)
module = TwoFactors(3, 2)
exported = torch.export.export(module, (torch.randn(2, 12, 7, 6),)).module()
exported(torch.randn(2, 12, 7, 6)).sum().backward()
print("done")
"""


def test_without_a_compiler(bare: Path, tmp_path: Path) -> None:
    paths = os.pathsep.join([str(bare), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "IGCSEARCH_CXX": "", "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", WITHOUT]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("plain PyTorch is used instead: IGCSEARCH_CXX is empty") == 1, done.stderr
