"""The GPU kernels compute a product's matrix and its gradients; here in Triton's interpreter, on a device with -m gpu.

The oracle is explicit and dense, in float64: permutations as one-hot matrices, group convolutions as block diagonals, gradients in
closed form. The interpreter is chosen when Triton is imported, so those tests run this file as a program of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from igcsearch.nn.fused import gpu, gpu_plan

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}
INTERPRETED = TOLERANCE | {"bfloat16": 1.5e-2}  # the interpreter cuts off where a device rounds

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton")


def _release(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version(package).split(".")[:2])


def _interpreter_is_broken() -> bool:
    """Triton's interpreter before 3.9 cannot loop to a number of an argument under NumPy 2.4 and later."""
    return (
        importlib.util.find_spec("triton") is not None and _release("triton") < (3, 9) and _release("numpy") >= (2, 4)
    )


class Case(NamedTuple):
    """A product: branches, channels that a branch reads and rows that it writes, of each factor; and what it is run on."""

    groups: tuple[int, ...]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    wires: str = "random"  # or interleave; strict: any permutations that give a strict product
    shape: tuple[int, int, int] = (2, 3, 5)  # images, height, width
    dtype: str = "float32"
    last: bool = True  # channels last
    bias: bool = False
    weights: str = ""  # another type
    flat: bool = False  # weights of shape (out, K)

    def name(self) -> str:
        """What pytest and messages call it."""
        sizes = "-".join(f"{g}x{k}x{r}" for g, k, r in zip(self.groups, self.reads, self.writes, strict=True))
        return f"{sizes}-{self.wires}-{self.dtype}-{'last' if self.last else 'first'}-{'x'.join(map(str, self.shape))}"


STRICT = [
    Case((4, 4), (4, 4), (4, 4), "interleave"),
    Case((4, 4), (4, 4), (4, 4), "strict", last=False, bias=True),
    Case((5, 4), (3, 5), (4, 2), "strict", bias=True, flat=True),  # rectangular: 15 channels to 8
    Case((12, 12), (12, 12), (12, 12), "interleave", (2, 13, 15), "bfloat16"),  # two ranges of pixels
    Case(
        (20, 17), (18, 20), (17, 19), "strict", dtype="bfloat16", bias=True, weights="float32"
    ),  # more than 16 branches
    Case((18, 33), (2, 18), (33, 9), "strict", shape=(1, 3, 5), bias=True),  # rows scattered by the store
    Case((6, 2), (1, 6), (2, 3), "strict", last=False, dtype="float16"),
    Case((3, 5), (40, 3), (5, 20), "strict"),  # too wide in float32: one kernel a factor
    Case((3, 5), (40, 3), (5, 20), "strict", dtype="bfloat16"),
    Case((2, 3), (3, 2), (3, 2), "strict", shape=(0, 4, 4)),
]
OTHERS = [
    Case((12, 8, 6), (2, 3, 4), (2, 3, 4), bias=True),
    Case((12, 8, 6), (2, 3, 4), (2, 3, 4), last=False, dtype="bfloat16"),
    Case((8, 8, 8, 8), (2, 2, 2, 2), (2, 2, 2, 2), "interleave", bias=True),
    Case((3, 15), (5, 1), (5, 2), shape=(5, 1, 1), flat=True),
    Case((7, 14), (5, 5), (10, 3), weights="bfloat16"),  # joined branches do not come out even
    Case((1,), (100,), (70,), last=False, bias=True),
    Case((5,), (72,), (40,), shape=(1, 3, 7)),
    Case((72, 36), (8, 16), (8, 16), shape=(1, 3, 3)),  # more channels than one program holds
    Case((2, 6), (24, 8), (24, 8), "random", (2, 13, 15), "bfloat16"),
    Case((4, 2), (4, 8), (4, 8), shape=(3, 0, 2)),
]
#: Real sizes, whose blocks no small case has: for devices.
LARGE = [
    Case((16, 16), (16, 16), (16, 16), "interleave", (32, 28, 28), "bfloat16"),
    Case((32, 32), (32, 32), (32, 32), "interleave", (32, 14, 14), "bfloat16", bias=True),
    Case((64, 32), (32, 64), (32, 64), "interleave", (16, 14, 14), "bfloat16"),
    Case((32, 32), (32, 32), (32, 32), "strict", (16, 14, 14), "bfloat16", bias=True),
    Case((32, 32), (32, 32), (32, 32), "interleave", (8, 14, 14)),
    Case((64, 64, 64), (8, 8, 8), (8, 8, 8), "interleave", (32, 14, 14), "bfloat16"),
    Case((128, 128), (8, 8), (8, 8), "random", (8, 7, 7)),
    Case((8, 16), (64, 32), (64, 32), "random", (32, 14, 14), "bfloat16", last=False),
]
#: Those that take most shared memory: for the compiler.
COMPILED = [LARGE[2], LARGE[4], LARGE[5]]


class Made(NamedTuple):
    """A case's tensors."""

    x: Tensor
    weights: list[Tensor]
    wiring: Tensor
    bias: Tensor | None
    dy: Tensor
    orders: list[np.ndarray]


def make(case: Case, device: str = "cpu") -> Made:
    """Random tensors, the same at each call."""
    random = np.random.default_rng(3)
    widths = [case.groups[0] * case.reads[0]] + [g * r for g, r in zip(case.groups, case.writes, strict=True)]
    orders = [random.permutation(width) for width in widths]
    if case.wires == "interleave":
        tables = [np.arange(width).reshape(g, -1) for width, g in zip(widths[1:], case.groups, strict=True)]
        orders = [np.arange(widths[0]), *(table.T.ravel() for table in tables[:-1]), np.argsort(tables[-1].T.ravel())]
    elif case.wires == "strict":
        table = random.permuted(np.arange(widths[1]).reshape(case.groups[0], -1), axis=1)
        orders[1] = random.permuted(table.T, axis=1).ravel()

    def tensor(*shape: int) -> Tensor:
        return torch.from_numpy(random.standard_normal(shape)).to(device)

    dtype = getattr(torch, case.dtype)
    layout = torch.channels_last if case.last else torch.contiguous_format
    images, height, width = case.shape
    weights = [
        (tensor(g * r, k) / k**0.5).to(getattr(torch, case.weights or case.dtype))
        for g, k, r in zip(case.groups, case.reads, case.writes, strict=True)
    ]
    return Made(
        tensor(images, widths[0], height, width).to(dtype).contiguous(memory_format=layout),
        weights if case.flat else [weight[:, :, None, None] for weight in weights],
        torch.from_numpy(np.concatenate(orders).astype(np.int32)).to(device),
        tensor(widths[-1]).float() if case.bias else None,
        tensor(images, widths[-1], height, width).to(dtype).contiguous(memory_format=layout),
        orders,
    )


def expected(case: Case, made: Made) -> list[np.ndarray]:
    """Oracle: y, dx and the gradients of the weights, pixels x channels or (out, K), in float64."""

    def pixels(x_NCHW: Tensor) -> np.ndarray:
        return x_NCHW.double().permute(0, 2, 3, 1).flatten(0, 2).cpu().numpy()

    # M = D W_L S_L ... W_1 S_1 with one-hot matrices S_l (row j has its one at source[j]) and D (row destination[r] at r)
    steps: list[np.ndarray] = []
    for groups, order, weight in zip(case.groups, made.orders, made.weights, strict=False):
        blocks = weight.double().flatten(1).cpu().numpy().reshape(groups, -1, weight.shape[1])
        dense = np.zeros((weight.shape[0], groups * weight.shape[1]))
        for g, block in enumerate(blocks):
            rows, columns = block.shape
            dense[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = block
        steps += [np.eye(len(order))[order], dense]
    steps.append(np.eye(len(made.orders[-1]))[made.orders[-1]].T)
    x_PC, dy_PC = pixels(made.x), pixels(made.dy)
    before = [x_PC]  # each step's input
    for step in steps:
        before.append(before[-1] @ step.T)
    behind = [dy_PC]  # each step's output's gradient, from the end
    for step in reversed(steps):
        behind.append(behind[-1] @ step)
    behind.reverse()
    y_PC = before[-1] if made.bias is None else before[-1] + made.bias.double().cpu().numpy()
    gradients = []
    for i, (groups, weight) in enumerate(zip(case.groups, made.weights, strict=True)):
        full = (behind[2 * i + 2].T @ before[2 * i + 1]).reshape(groups, weight.shape[0] // groups, groups, -1)
        gradients.append(np.concatenate([full[g, :, g] for g in range(groups)]))
    return [y_PC, behind[0], *gradients]


def errors(case: Case, device: str = "cpu") -> list[float]:
    """Relative errors of y, dx and the weights' gradients: the largest in float32; in half types the root mean square."""
    made = make(case, device)
    y = gpu.product(made.x, made.weights, made.wiring, case.groups, made.bias)
    dx, gradients = gpu.product_backward(made.dy, made.x, made.weights, made.wiring, case.groups, True)
    none, again = gpu.product_backward(made.dy, made.x, made.weights, made.wiring, case.groups, False)
    assert dx is not None
    assert none is None
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True)), "two runs differ"
    assert torch.equal(y, gpu.product(made.x, made.weights, made.wiring, case.groups, made.bias)), "two runs differ"
    layout = torch.channels_last if case.last else torch.contiguous_format
    for result, like in ((y, made.dy), (dx, made.x)):
        assert (result.dtype, result.shape) == (like.dtype, like.shape)
        assert result.is_contiguous(memory_format=layout) or result.is_contiguous() == made.x.is_contiguous()
    assert [g.shape for g in gradients] == [w.shape for w in made.weights]
    got = [tensor.double().permute(0, 2, 3, 1).flatten(0, 2).cpu().numpy() for tensor in (y, dx)]
    got += [gradient.double().flatten(1).cpu().numpy() for gradient in gradients]
    size = np.max if case.dtype == "float32" else np.linalg.norm
    return [
        float(size(np.abs(a - b)) / max(size(np.abs(b)), 1e-30)) if b.size else 0.0
        for a, b in zip(got, expected(case, made), strict=True)
    ]


def run(*arguments: str, **environment: str) -> Any:
    """This file as a program, with warnings as errors; the JSON that it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_triton
@pytest.mark.skipif(_interpreter_is_broken(), reason="this Triton's interpreter needs an older NumPy")
@pytest.mark.parametrize("cases", ["STRICT", "OTHERS"])
def test_products_and_gradients_equal_the_dense_matrix(cases: str) -> None:
    found = run("errors", cases, TRITON_INTERPRET="1")
    assert len(found) == len(globals()[cases])
    for case, worst in zip(globals()[cases], found, strict=True):
        assert max(worst) <= INTERPRETED[case.dtype], f"{case.name()}: y, dx, dw... off by {worst}"


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize("case", STRICT + OTHERS + LARGE, ids=Case.name)
def test_products_and_gradients_equal_the_dense_matrix_on_a_device(case: Case) -> None:
    if not gpu.available():
        pytest.skip("the GPU is too small for the kernels")
    worst = errors(case, "cuda")
    assert max(worst) <= TOLERANCE[case.dtype], f"{case.name()}: y, dx, dw... off by {worst}"


@needs_triton
def test_kernels_of_real_sizes_compile_for_a_hopper_gpu_within_its_shared_memory(tmp_path: Path) -> None:
    environment = {name: "" for name in ("TRITON_INTERPRET",) if name in os.environ}
    found = run("compile", "COMPILED", TRITON_CACHE_DIR=str(tmp_path), **environment)
    assert {name for name, _ in found} == {"strict", "strict_weights", "factor", "factor_weights"}
    assert max(shared for _, shared in found) <= gpu._SHARED


def test_a_plan_is_read_once_for_each_index_and_state_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made, case = make(STRICT[1]), STRICT[1]
    reads, read = [], gpu_plan._read

    def counted(*arguments: Any) -> gpu_plan.Plan:
        reads.append(1)
        return read(*arguments)

    monkeypatch.setattr(gpu_plan, "_read", counted)
    first = gpu_plan.plan_of(made.wiring, made.weights, case.groups)
    assert first.strict is not None
    assert (
        gpu_plan.plan_of(made.wiring.view(-1), made.weights, case.groups) is first
    )  # another view of the same numbers
    assert len(reads) == 1
    made.wiring[16:32] = torch.arange(16)  # no longer strict
    assert gpu_plan.plan_of(made.wiring, made.weights, case.groups).strict is None
    for _ in range(5):  # freed memory may come back under the same address
        other = make(STRICT[0])
        assert gpu_plan.plan_of(other.wiring, other.weights, case.groups).strict.maps[0].table is None  # type: ignore[union-attr]
        del other
    assert len(reads) == 7


def test_interleaves_need_no_table_and_two_paths_are_not_strict() -> None:
    plan = gpu_plan.plan_of(*_planned(Case((16, 16), (16, 16), (16, 16), "interleave")))
    assert plan.strict is not None
    assert all(at.table is None for at in plan.strict.maps)
    assert gpu_plan.plan_of(*_planned(Case((8, 8), (4, 4), (4, 4), "interleave"))).strict is None  # not K_2 = groups_1
    case = Case((4, 4), (4, 4), (4, 4), "strict")
    index, weights, groups = _planned(case)
    index[16 + 3], index[16 + 4] = int(index[16 + 4]), int(index[16 + 3])  # two channels change branches
    twice = len({int(row) // 4 for row in index[16:20]}) < 4
    assert (gpu_plan.plan_of(index, weights, groups).strict is None) == twice


def _planned(case: Case) -> tuple[Tensor, list[Tensor], tuple[int, ...]]:
    made = make(case)
    return made.wiring, made.weights, case.groups


def test_an_index_that_is_no_permutation_is_refused() -> None:
    index, weights, groups = _planned(STRICT[0])
    with pytest.raises(ValueError, match=r"40 numbers; factors .* need 48"):
        gpu_plan.plan_of(index[:40].clone(), weights, groups)
    index[0] = index[1]
    with pytest.raises(ValueError, match="part 0 of the index is no permutation of 16"):
        gpu_plan.plan_of(index, weights, groups)


def test_without_triton_the_module_imports_and_says_so() -> None:
    code = "import sys; sys.modules['triton'] = None; from igcsearch.nn.fused import gpu; print(gpu.available())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr


# ---------------------------------------------------------------- the program of its own


def compiled(cases: list[Case]) -> list[tuple[str, int]]:
    """Compile for sm_90, without a device, every kernel that the cases launch: names and shared memory in bytes."""
    import triton  # type: ignore[import-untyped]
    from triton.backends.compiler import GPUTarget  # type: ignore[import-untyped]

    from igcsearch.nn.fused import gpu_kernels

    class Driver:
        """As much of a driver as compiling takes."""

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: object = None) -> int:
            return 0

    found = []

    class Compiling:
        """A kernel that is compiled where it would be launched."""

        def __init__(self, kernel: Any) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int]) -> Any:
            def launch(*arguments: Any, **options: Any) -> None:
                kernel = self.kernel.warmup(*arguments, grid=grid, **options)
                found.append((self.kernel.__name__, kernel.metadata.shared))

            return launch

    triton.runtime.driver.set_active(Driver())
    for name in ("strict", "strict_weights", "factor", "factor_weights"):
        setattr(gpu_kernels, name, Compiling(getattr(gpu_kernels, name)))
    for case in cases:
        made = make(case)
        gpu.product(made.x, made.weights, made.wiring, case.groups, made.bias)
        gpu.product_backward(made.dy, made.x, made.weights, made.wiring, case.groups, True)
    return found


if __name__ == "__main__":
    wanted = globals()[sys.argv[2]]
    print(json.dumps([errors(case) for case in wanted] if sys.argv[1] == "errors" else compiled(wanted)))
