"""A sparse convolution by its kept weights gives what the masked dense one gives, whatever the sizes, strides, groups, threads and
instruction sets; what it stores is the weight and no more; copies, other dtypes, export and the workspace work as in
`FusedRun`."""

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from igcsearch.errors import UsageError
from igcsearch.nn.fused import fused_available
from igcsearch.nn.fused.library import kernels
from igcsearch.nn.fused.sparse import SparseRun
from igcsearch.nn.fused.sparse_layout import store
from igcsearch.nn.workspace import Workspace

LIBRARY = kernels()
LEVELS = range(0 if LIBRARY is None else LIBRARY.igc_level(-1) + 1)
needs_kernels = pytest.mark.skipif(not fused_available("cpu", torch.float32), reason="no fused kernels")


def masked(out: int, each: int, kernel: int, n: int, m: int, seed: int = 0) -> Tensor:
    """N of every M input channels at each tap stay, others are zero; any N where M does not divide the channels."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, each, kernel, kernel, generator=generator)
    for first in range(0, each, m):
        part = weight[:, first : first + m]
        part *= torch.rand(part.shape, generator=generator).argsort(1).argsort(1) < n
    return weight


@contextmanager
def machine(threads: int, level: int) -> Iterator[None]:
    """So many threads of torch, and an instruction set."""
    library, before = kernels(), torch.get_num_threads()
    assert library is not None
    torch.set_num_threads(threads)
    library.igc_level(level)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        library.igc_level(-1)


def error(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape
    return ((got.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)).item()


# Rule: the same as F.conv2d of the masked weight, to 1e-5 of the largest output.
@needs_kernels
@settings(max_examples=150)
@given(st.data())
def test_as_the_masked_convolution(data: st.DataObject) -> None:
    draw = data.draw
    groups, kernel = draw(st.sampled_from([1, 1, 2, 5])), draw(st.sampled_from([1, 3, 3, 5]))
    each, rows = draw(st.integers(1, 70)), draw(st.integers(1, 9))
    n, m = draw(st.sampled_from([(2, 4), (1, 4), (1, 16), (4, 4)]))
    stride, dilation, batch = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2])), draw(st.integers(1, 4))
    padding = draw(st.sampled_from([kernel // 2 * dilation, 0, 2]))
    least = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
    height, width = (draw(st.integers(least, max(least, 40))) for _ in "hw")
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    x = torch.randn(batch, groups * each, height, width, generator=generator)
    weight = masked(groups * rows, each, kernel, n, m)
    bias = torch.randn(groups * rows, generator=generator) if draw(st.booleans()) else None
    inside, final = (draw(st.sampled_from([None, "relu", "hardswish"])) for _ in "if")
    wanted = F.conv2d(
        x.double(), weight.double(), None if bias is None else bias.double(), stride, padding, dilation, groups
    )
    wanted = wanted if inside is None else getattr(F, inside)(wanted)
    more = torch.randn(wanted.shape, generator=generator) if draw(st.booleans()) else None
    wanted = wanted if more is None else wanted + more
    wanted = wanted if final is None else getattr(F, final)(wanted)
    geometry: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "activation": inside,
    }
    run = SparseRun(weight, bias, **geometry, terms=draw(st.sampled_from([None, 7, 16, 256])))
    with machine(draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from(LEVELS))):
        assert error(run(x, more, final), wanted) < 1e-5


# Rule: at the sizes of real layers too, several tiles an image, and one tile for several images.
@needs_kernels
@pytest.mark.parametrize(("channels", "size", "batch"), [(64, 56, 1), (128, 28, 2), (96, 7, 5)])
@pytest.mark.parametrize("threads", [1, 2])
def test_real_layers(channels: int, size: int, batch: int, threads: int) -> None:
    x = torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))
    for kernel, stride in ((1, 1), (3, 1), (3, 2)):
        weight = masked(channels, channels, kernel, 2, 4)
        run = SparseRun(weight, stride=stride, padding=kernel // 2)
        with machine(threads, -1):
            assert error(run(x), F.conv2d(x.double(), weight.double(), None, stride, kernel // 2)) < 1e-5


# Rule: what is stored gives the weight back exactly, at 5 bytes a kept weight and little more.
@pytest.mark.parametrize(
    ("groups", "each", "kernel", "n", "m"), [(1, 64, 3, 2, 4), (4, 24, 1, 1, 4), (6, 1, 3, 1, 1), (1, 300, 1, 1, 8)]
)
def test_the_weight_comes_back(groups: int, each: int, kernel: int, n: int, m: int) -> None:
    weight = masked(12 * groups, each, kernel, n, m)
    run = SparseRun(weight, groups=groups, padding=kernel // 2)
    assert torch.equal(run.dense_weight(), weight)
    values, terms = store(weight, groups)[:2]
    assert len(values) == weight.count_nonzero()
    assert (values.dtype, terms.dtype, len(terms)) == (torch.float32, torch.uint8, len(values))
    assert not any(each.numel() >= weight.numel() and each.is_floating_point() for each in run.buffers() if n < m)


# Rule: rows of zeros alone, and a weight of nothing but zeros, give the bias.
@needs_kernels
def test_nothing_kept() -> None:
    run = SparseRun(torch.zeros(3, 40, 3, 3), torch.tensor([1.0, 2.0, 3.0]), padding=1)
    assert torch.equal(run(torch.rand(2, 40, 5, 5)), torch.tensor([1.0, 2.0, 3.0])[:, None, None].expand(2, 3, 5, 5))


# Rule: the input's memory format is the output's; other dtypes, copies, pickles and exported programs give the same.
def test_elsewhere_the_same() -> None:
    weight, x = masked(8, 16, 3, 1, 4), torch.rand(2, 16, 9, 6)
    run = SparseRun(weight, torch.rand(8), padding=1, activation="relu")
    wanted = run(x)
    last = run(x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, wanted, rtol=0, atol=1e-5)
    for other in (copy.deepcopy(run), pickle.loads(pickle.dumps(run))):
        assert torch.equal(other(x), wanted)
    double = copy.deepcopy(run).double()
    torch.testing.assert_close(double(x.double()).float(), wanted, rtol=0, atol=1e-5)
    exported = torch.export.export(run, (x,)).module()
    torch.testing.assert_close(exported(x), wanted, rtol=0, atol=1e-5)


# Rule: new numbers in the buffers, by exchange or in place, are what counts.
@needs_kernels
def test_exchanged_buffers() -> None:
    x = torch.rand(1, 8, 4, 4)
    run = SparseRun(masked(4, 8, 1, 1, 4))
    first = run(x)
    run.load_state_dict({name: t * 2 if name == "values" else t for name, t in run.state_dict().items()}, assign=True)
    torch.testing.assert_close(run(x), 2 * first)


# Rule: the result lies in the workspace and not in what is busy.
@needs_kernels
def test_in_a_workspace() -> None:
    room, run, x = Workspace(), SparseRun(masked(8, 8, 1, 2, 4)), torch.rand(1, 8, 6, 6)
    first = run(x, room=room)
    assert room.holds(first)
    second = run(first, room=room, busy=(x,))
    assert second.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
    torch.testing.assert_close(second, run(run(x)))


# Rule: what does not fit is refused before any memory is touched.
def test_what_does_not_fit_is_refused() -> None:
    run = SparseRun(masked(4, 8, 3, 2, 4))
    for shape in ((1, 7, 5, 5), (8, 5, 5), (1, 8, 2, 5)):
        with pytest.raises(RuntimeError, match="expected"):
            run(torch.rand(shape))
    with pytest.raises(RuntimeError, match="residual"):
        run(torch.rand(1, 8, 5, 5), torch.rand(1, 4, 5, 5))
    with pytest.raises(UsageError, match="groups"):
        SparseRun(torch.rand(4, 8, 1, 1), groups=3)
    with pytest.raises(UsageError, match="activation"):
        SparseRun(torch.rand(4, 8, 1, 1), activation="gelu")
