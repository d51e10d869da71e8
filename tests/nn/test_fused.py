"""Fused products give what the explicit dense product gives in float64, and so do their gradients, whatever the sizes, layouts,
numbers of threads and instruction sets; and a run gives the same bits as the one before."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from igcsearch.nn.fused import folded, fused_available, product, shared, wiring
from igcsearch.nn.fused.library import kernels
from igcsearch.spec import Factor, Shuffle

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
LEVELS = range(0 if kernels() is None else kernels().igc_level(-1) + 1)


@dataclass(frozen=True)
class Case:
    """A product and an input for it; `tile` None: the code's own choice, `level` -1: the best instruction set."""

    factors: tuple[Factor, ...]
    batch: int = 2
    height: int = 6
    width: int = 6
    before: int | None = None  # seed of a shuffle of the input
    bias: bool = False
    channels_last: bool = False
    dtype: torch.dtype = torch.float32
    threads: int = 1
    level: int = -1
    tile: int | None = None
    seed: int = 0

    @property
    def order(self) -> np.ndarray | None:
        """The shuffle of the input."""
        if self.before is None:
            return None
        return np.random.default_rng(self.before).permutation(self.factors[0].in_channels)

    def tensors(self) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Input, weights and bias, of about unit variance throughout."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        first = self.factors[0]
        x = normal(self.batch, first.in_channels, self.height, self.width).to(self.dtype)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        shapes = [(f.out_channels, f.branch_width, f.kernel_size, f.kernel_size) for f in self.factors]
        weights = [normal(*shape) / np.sqrt(np.prod(shape[1:])) for shape in shapes]
        return x, weights, normal(self.factors[-1].out_channels) if self.bias else None


# Branch widths 1, 2, 3, 5 and wide ones come of these; a factor's rows per branch are any number up to 20.
CHANNELS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 16, 20, 21, 24, 30, 33, 36, 40, 48, 60, 64, 72)
SIDES = st.one_of(st.integers(1, 9), st.sampled_from((15, 16, 17, 25, 32, 33)))


@st.composite
def shuffles(draw: st.DrawFn) -> Shuffle:
    """A shuffle of any kind that needs no number of channels."""
    kind = draw(st.sampled_from(("random", "interleave", "identity")))
    return Shuffle(kind, seed=draw(st.integers(0, 99)) if kind == "random" else None)


@st.composite
def products(draw: st.DrawFn) -> tuple[Factor, ...]:
    """One to four factors; the first is of any kernel and stride."""
    channels, factors = draw(st.sampled_from(CHANNELS)), []
    kernel, stride = draw(st.sampled_from(((1, 1), (1, 1), (1, 1), (3, 1), (3, 2), (5, 1), (5, 2), (1, 2))))
    for at in range(draw(st.integers(1, 4))):
        groups = draw(st.sampled_from([count for count in range(1, channels + 1) if channels % count == 0]))
        rows = draw(st.integers(1, max(1, min(20, 72 // groups))))
        size = (kernel, groups, stride) if at == 0 else (1, groups, 1)
        factors.append(Factor(channels, groups * rows, *size, shuffle=draw(shuffles())))
        channels = groups * rows
    return tuple(factors)


CASES = st.builds(
    Case,
    factors=products(),
    batch=st.integers(0, 4),
    height=SIDES,
    width=SIDES,
    before=st.none() | st.integers(0, 9),
    bias=st.booleans(),
    channels_last=st.booleans(),
    dtype=st.sampled_from(tuple(TOLERANCE)),
    threads=st.sampled_from((1, 2)),
    level=st.sampled_from((-1, *LEVELS)),
    tile=st.sampled_from((None, 16, 37, 64, 436)),
    seed=st.integers(0, 99),
)


def dense(factor: Factor, weight: Tensor) -> Tensor:
    """Oracle: a factor and its shuffle as one dense kernel (C_out, C_in, S, S), a block-diagonal matrix for each tap."""
    branches = weight.unflatten(0, (factor.groups, -1))
    side = range(factor.kernel_size)
    taps = [[torch.block_diag(*branches[..., y, x]) for x in side] for y in side]
    full = torch.stack([torch.stack(row, -1) for row in taps], -2)
    return full[factor.order.tolist()]


def oracle(case: Case, x: Tensor, weights: Sequence[Tensor], bias: Tensor | None) -> Tensor:
    """The product in float64: the first factor as a dense convolution, the others as matrices on the channels."""
    first = case.factors[0]
    kernel = dense(first, weights[0].double())
    if case.order is not None:
        kernel = kernel[:, np.argsort(case.order).tolist()]
    y = torch.nn.functional.conv2d(x.double(), kernel, stride=first.stride, padding=first.kernel_size // 2)
    for factor, weight in zip(case.factors[1:], weights[1:], strict=True):
        y = torch.einsum("oc,nchw->nohw", dense(factor, weight.double())[:, :, 0, 0], y)
    return y if bias is None else y + bias.double()[:, None, None]


@contextmanager
def setting(case: Case) -> Iterator[None]:
    """The case's threads, instruction set and tile; as before afterwards."""
    threads, library = torch.get_num_threads(), kernels()
    with pytest.MonkeyPatch.context() as patch:
        if case.tile is not None:
            patch.setattr(shared, "_tile", lambda *_: case.tile)
        try:
            torch.set_num_threads(case.threads)
            if library is not None:
                library.igc_level(case.level)
            yield
        finally:
            torch.set_num_threads(threads)
            if library is not None:
                library.igc_level(-1)


def run(case: Case) -> tuple[Tensor, list[Tensor]]:
    """The output, and the gradients of x, the bias if there is one, and the weights."""
    x, weights, bias = case.tensors()
    wanted = [tensor.requires_grad_() for tensor in (x, bias, *weights) if tensor is not None]
    groups = [factor.groups for factor in case.factors]
    with setting(case):
        y = product(x, weights, wiring(case.factors, case.order), groups, bias, case.factors[0].stride)
        return y.detach(), [*torch.autograd.grad(y, wanted, weight_of_outputs(y))]


def expected(case: Case) -> tuple[Tensor, list[Tensor]]:
    """The same by the oracle."""
    x, weights, bias = case.tensors()
    wanted = [tensor.requires_grad_() for tensor in (x, bias, *weights) if tensor is not None]
    y = oracle(case, x, weights, bias)
    return y.detach(), [*torch.autograd.grad(y, wanted, weight_of_outputs(y.to(case.dtype)).double())]


def weight_of_outputs(y: Tensor) -> Tensor:
    """What flows back: the same numbers for the code and for the oracle, in neither's memory format."""
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(y.dtype)


def assert_near(found: Tensor, wanted: Tensor, tolerance: float, what: str, terms: int = 1) -> None:
    """Near, relative to the largest number, or where all are small to a sum of so many terms of variance 1."""
    assert found.shape == wanted.shape, what
    if wanted.numel():
        error = (found.double() - wanted).abs().max() / wanted.abs().max().clamp(min=0.2 * terms**0.5)
        assert error < tolerance, f"{what}: relative error {error:.1e}"


def check(case: Case) -> None:
    y, gradients = run(case)
    y_wanted, wanted = expected(case)
    names = ["dx", *(["bias"] if case.bias else []), *(f"weight {i}" for i in range(len(case.factors)))]
    assert y.dtype is case.dtype
    assert_near(y, y_wanted, TOLERANCE[case.dtype], "y")
    places = max(1, y_wanted.numel() // y_wanted.shape[1])
    for name, found, want in zip(names, gradients, wanted, strict=True):
        assert_near(found, want, TOLERANCE[case.dtype], name, 1 if name == "dx" else places)


# Rule: a product is the product of its dense matrices, forward and backward, in every setting.
@settings(max_examples=250)
@given(CASES)
def test_a_product_equals_its_dense_matrices(case: Case) -> None:
    check(case)


def wide(kernel: int, stride: int) -> tuple[Factor, ...]:
    """A product as blocks have them: two factors, complementary, of branches that fill no vector."""
    shuffle = Shuffle("interleave")
    return (Factor(60, 60, kernel, 10, stride, shuffle=shuffle), Factor(60, 72, groups=6, shuffle=Shuffle("random", 1)))


# Rule: the same on maps and batches of many tiles, where every instruction set, layout and type has its own code.
@pytest.mark.parametrize("kernel_and_stride", [(1, 1), (3, 1), (3, 2), (5, 1)], ids=str)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("channels_last", [False, True])
def test_maps_of_many_tiles(
    kernel_and_stride: tuple[int, int], level: int, dtype: torch.dtype, channels_last: bool
) -> None:
    for batch, height, width in ((1, 61, 47), (9, 14, 14)):
        check(Case(wide(*kernel_and_stride), batch, height, width, 3, True, channels_last, dtype, 2, level))


# Rule: threads change a result by rounding alone, and not at all from one run to the next.
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_runs_repeat_to_the_bit(kernel: int, channels_last: bool, dtype: torch.dtype) -> None:
    one = Case(wide(kernel, 1), 5, 13, 13, channels_last=channels_last, dtype=dtype)
    results = {}
    for threads in (1, 2):
        case = replace(one, threads=threads)
        y, gradients = run(case)
        for _ in range(3):
            again, gradients_again = run(case)
            assert torch.equal(y, again)
            assert all(map(torch.equal, gradients, gradients_again))
        results[threads] = [y, *gradients]
    for alone, both in zip(results[1], results[2], strict=True):
        assert_near(both, alone.double(), TOLERANCE[dtype], "two threads")


# Rule: the output keeps the input's memory format, and any input is taken: slices, transposed, broadcast, unaligned.
@pytest.mark.parametrize("kernel", [1, 3])
def test_any_strides(kernel: int) -> None:
    case = Case(wide(kernel, 1))
    _, weights, _ = case.tensors()
    index, groups = wiring(case.factors), [factor.groups for factor in case.factors]
    base = torch.randn(4, 130, 9, 11)
    inputs = {
        "channels sliced": base[:, 3:63],
        "every second channel": base[:, :120:2],
        "places sliced": base[:, :60, 1:8, 2:9],
        "transposed": base[:, :60].transpose(2, 3),
        "broadcast": base[:1, :60].expand(4, -1, -1, -1),
        "unaligned": torch.randn(4 * 60 * 9 * 11 + 1)[1:].view(4, 60, 9, 11),
        "one pixel": base[:, :60, :1, :1],
    }
    for name, x in inputs.items():
        y = product(x, weights, index, groups)
        assert_near(y, oracle(case, x, weights, None), 1e-5, name)
    last = base[:, :60].contiguous(memory_format=torch.channels_last)
    assert product(last, weights, index, groups).is_contiguous(memory_format=torch.channels_last)
    assert product(last.contiguous(), weights, index, groups).is_contiguous()


# Rule: a wrong input is refused as `nn.Conv2d` refuses it, before any memory is touched.
@pytest.mark.parametrize("shape", [(2, 59, 4, 4), (2, 61, 4, 4), (60, 4, 4), (2, 60, 4)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    case = Case(wide(1, 1))
    _, weights, _ = case.tensors()
    with pytest.raises(RuntimeError, match=r"expected an input of shape \(N, 60, H, W\), got"):
        product(torch.zeros(shape), weights, wiring(case.factors), [10, 6])


# Rule: what is asked for is what is there: types without kernels run by stock operators.
def test_available() -> None:
    there = kernels() is not None
    assert [fused_available("cpu", dtype) for dtype in TOLERANCE] == [there] * 2
    assert not fused_available("cpu", torch.float64)
    assert not fused_available("meta", torch.float32)


ACTIVATIONS = (lambda y: y, torch.relu, torch.nn.functional.relu6, torch.nn.functional.hardswish)


# Rule: `folded` is the same with a bias and an activation behind each factor, and a residual and one more activation at the end.
@settings(max_examples=150)
@given(
    CASES,
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=4, max_size=4),
    st.integers(0, 3),
    st.booleans(),
)
def test_folded_blocks(case: Case, behind: list[tuple[int, bool]], final: int, add: bool) -> None:
    x, weights, _ = case.tensors()
    generator = torch.Generator().manual_seed(case.seed)
    activations, has_bias = zip(*behind[: len(weights)], strict=True)
    sizes = [weight.shape[0] if has else 0 for weight, has in zip(weights, has_bias, strict=True)]
    biases = [torch.randn(size, generator=generator) for size in sizes]
    y = x.double()
    for i, (factor, weight, bias) in enumerate(zip(case.factors, weights, biases, strict=True)):
        part = replace(case, factors=(factor,), before=None if i else case.before)
        by_channel = bias[factor.order.tolist()] if bias.numel() else None  # it stands before the shuffle
        y = ACTIVATIONS[activations[i]](oracle(part, y, [weight], by_channel))
    residual = torch.randn(y.shape, generator=generator).to(case.dtype) if add else None
    wanted = ACTIVATIONS[final](y if residual is None else y + residual.double())
    groups = [factor.groups for factor in case.factors]
    fixed = (weights, biases, wiring(case.factors, case.order), groups, case.factors[0].stride, list(activations))
    with setting(case):
        run = folded.Folded(*fixed)
        found = [folded.folded(x, *fixed, residual, final)]
        found += [run(x, residual, final) for _ in range(2)]
    for y in found:
        assert_near(y, wanted, TOLERANCE[case.dtype], "y")


# Rule: `folded` refuses what it cannot read, too.
def test_folded_refuses_wrong_shapes() -> None:
    case = Case(wide(1, 1), bias=False)
    _, weights, _ = case.tensors()
    none = [torch.empty(0)] * 2
    fixed = (weights, none, wiring(case.factors), [10, 6], 1, [0, 0])
    x = torch.randn(2, 60, 4, 4)
    for run in (folded.Folded(*fixed), lambda x, residual, final: folded.folded(x, *fixed, residual, final)):
        with pytest.raises(RuntimeError, match=r"expected an input of shape \(N, 60, H, W\), got"):
            run(torch.zeros(2, 61, 4, 4), None, 0)
        with pytest.raises(RuntimeError, match=r"residual"):
            run(x, torch.zeros(2, 72, 4, 5), 0)
