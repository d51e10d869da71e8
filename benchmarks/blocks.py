"""Blocks as igcsearch plans them against stock group convolutions, the dense block they stand for, a copy and the roofline.

    python -m benchmarks.blocks --json FILE [--device cpu --dtype float32 --backward --quick --threads 2 --plot FILE.svg]
                                [--sampled 12 --case 64:8,8:32:32 --seconds 3 --cold --plain-malloc --patience 60]

All candidates of a block take turns in one run; times are medians. Each runs in NCHW and in channels_last and counts by its better
layout:

- stock: `F.conv2d` with groups, the shuffle as a view, a transpose and a copy within the layout, activations in place;
- dense: one dense 1x1 convolution in place of the 1x1 factors, behind a channel-wise 3x3 where there is a grouped one (cases.py);
- planned: forward, in inference mode, by the fastest of the plans that `igcsearch.nn.plans.block_ms` finds beforehand (in float32:
  plans have no other type yet); forward + backward, in training mode, by the static table;
- copy: `x.clone()`, the floor of a block that reads and writes memory once;
- roofline: the larger of bytes by the copy's peak and operations by the peak of a matrix product, both measured in this run. Bytes
  are those of input, output and weights, each once (backward: also their gradients, the input twice). What lies in a cache can be
  below it.

At inference norms are folded in all three, in training none is. Every configuration is checked: planned and stock agree. On a GPU
`fused_ms` stands beside: the fused operator wherever the table chooses otherwise.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from igcsearch.errors import UsageError
from igcsearch.nn.fused import fused_available
from igcsearch.nn.inference import PLANS, PlannedBlock
from igcsearch.nn.network import BlockLayer, initialise
from igcsearch.nn.plans import block_ms
from igcsearch.nn.products import LinearProduct
from igcsearch.spec import Block

from .cases import MORE, QUICK, Case, dense, parse, sampled
from .facts import save
from .options import DTYPES, FORMATS, add_arguments, conditions, note_busy, prepare, print_head, print_header, print_row
from .scatter import Point, scatter
from .stock import Stock
from .timing import Peaks, peaks, undisturbed, wait_for_quiet

COLUMNS = ("block", "map", "batch", "pass", "plan", "planned ms", "stock", "dense", "copy", "roofline", "elsewhere")
LEGEND = """Stock, dense: how many times as long as planned they take. Copy, roofline: how many times as long planned takes.
Elsewhere: cores that something else kept busy meanwhile; rows where it is not near 0 say little.
"""
SLOWER = (0.15, 0.05)  # than the best of stock and dense: a failure, and what is reported


def build(block: Block, device: torch.device) -> BlockLayer:
    """The block's layer with the same weights each time."""
    layer = BlockLayer(block)
    initialise(layer, seed=0)
    return layer.to(device)


def measure(case: Case, given: argparse.Namespace, backward: bool, measured: Peaks) -> dict[str, Any]:
    """One row: every candidate in both layouts, in turn."""
    device, dtype = torch.device(given.device), DTYPES[given.dtype]
    shape = (case.batch, case.block.in_channels, case.size, case.size)
    images = torch.randn(shape, dtype=dtype, device=device)
    wait_for_quiet(given.patience)
    plans: dict[str, dict[str, float]] = {}
    calls: dict[str, Callable[[], object]] = {}
    outputs: dict[str, Callable[[], Tensor]] = {}
    ways: dict[str, str] = {}
    for layout, memory_format in FORMATS.items():
        x = images.contiguous(memory_format=memory_format).requires_grad_(backward)
        if backward:
            planned: nn.Module = build(case.block, device)
            ways[layout] = _table(cast(BlockLayer, planned), x)
        else:
            layer = build(case.block, device).eval()
            plans[layout] = block_ms(layer, x.float(), _plans(case.block))
            ways[layout] = min(plans[layout], key=lambda plan: plans[layout][plan])
            planned = PlannedBlock(layer, ways[layout])
        modules = {
            "stock": Stock(build(case.block, device), not backward),
            "dense": Stock(build(dense(case.block), device), not backward),
            "planned": planned,
        }
        if device.type == "cuda" and (forced := _forced(case.block, device, dtype)) is not None:
            modules["fused"] = forced
        for name, module in modules.items():
            module.to(dtype=dtype, memory_format=memory_format).train(backward)  # type: ignore[call-overload]
            outputs[f"{name} {layout}"] = functools.partial(module, x)
            calls[f"{name} {layout}"] = _call(module, x, backward)
        calls[f"copy {layout}"] = x.detach().clone
    with torch.set_grad_enabled(backward), torch.inference_mode(not backward):
        times, busy = undisturbed(calls, given)
    best = {name: min(FORMATS, key=lambda layout: times[f"{name} {layout}"]) for name in modules}
    found = {f"{name}_ms": times[f"{name} {layout}"] for name, layout in best.items()}
    return {
        "channels": case.block.out_channels,
        "branch_widths": case.branch_widths,
        "size": case.size,
        "batch": case.batch,
        "device": given.device,
        "dtype": given.dtype,
        "pass": "forward+backward" if backward else "forward",
        **found,
        "plan": ways[best["planned"]],
        "copy_ms": times[f"copy {best['planned']}"],
        "roofline_ms": measured.roofline_ms(*_work(case, dtype.itemsize, backward)),
        "block": case.label,
        "macs": case.batch * case.block.cost_at(case.size)[0].macs,
        "dense_macs": case.batch * dense(case.block).cost_at(case.size)[0].macs,
        "cores_busy_elsewhere": busy,
        "layouts": best,
        "times_ms": times,
        "plans_ms": plans,
        "difference": max(_difference(outputs, layout) for layout in FORMATS),
    }


def _call(module: nn.Module, x: Tensor, backward: bool) -> Callable[[], object]:
    """The pass of a module that is timed."""
    if not backward:
        return functools.partial(module, x)
    with torch.no_grad():
        dy = torch.randn_like(module(x))
    wanted = [x, *module.parameters()]
    return lambda: torch.autograd.grad(module(x), wanted, dy)


def _plans(block: Block) -> list[str]:
    """The plans that differ for a block: without a k x k factor "split" is "fused"."""
    spatial = any(factor.kernel_size > 1 for factor in block.factors)
    return [plan for plan in PLANS if spatial or plan != "split"]


def _table(layer: BlockLayer, x: Tensor) -> str:
    """The static table's way of a block's products."""
    found = [part.choice(x) for part in layer.plan if isinstance(part, LinearProduct)]
    return "+".join(found) or "stock"


def _forced(block: Block, device: torch.device, dtype: torch.dtype) -> BlockLayer | None:
    """The block with every product run by the fused operator, where there is one and a kernel for it."""
    layer = build(block, device)
    products = [part for part in layer.plan if isinstance(part, LinearProduct)]
    for part in products:
        part.way = "fused"
    served = all(fused_available(device, dtype, spatial=part.spatial) for part in products)
    return layer if products and served else None


def _work(case: Case, width: int, backward: bool) -> tuple[float, float]:
    """Bytes that have to move, and multiply-adds, of one pass."""
    (params, macs), out = case.block.cost_at(case.size)
    read = case.batch * case.block.in_channels * case.size**2
    written = case.batch * case.block.out_channels * out**2
    if backward:  # x and dy are read once more, dx and the weights' gradients are written
        return width * (3 * read + 2 * written + 3 * params), 3 * case.batch * macs
    return width * (read + written + params), case.batch * macs


@torch.no_grad()
def _difference(outputs: dict[str, Callable[[], Tensor]], layout: str) -> float:
    """Of planned and stock, relative to the largest number."""
    stock, planned = (outputs[f"{name} {layout}"]().float() for name in ("stock", "planned"))
    return float((stock - planned).abs().max() / stock.abs().max().clamp(min=1e-30))


def show(row: dict[str, Any]) -> None:
    """A row of the table."""
    planned = row["planned_ms"]
    faster = (f"{row[f'{name}_ms'] / planned:.2f} x" for name in ("stock", "dense"))
    floors = (f"{planned / row[f'{name}_ms']:.2f}" for name in ("copy", "roofline"))
    start = (row["block"], row["size"], row["batch"], row["pass"], row["plan"], f"{planned:.3f}")
    busy = row["cores_busy_elsewhere"]
    print_row((*start, *faster, *floors, "-" if busy is None else f"{busy:.2f}"))


def check(rows: list[dict[str, Any]]) -> None:
    """Say where planned is slower than what a user would otherwise have, and how far results differ."""
    excess = {id(row): row["planned_ms"] / min(row["stock_ms"], row["dense_ms"]) - 1 for row in rows}
    print()
    for limit, above in zip(SLOWER, (float("inf"), *SLOWER), strict=False):
        found = [row for row in rows if limit < excess[id(row)] <= above]
        upto = "" if above == float("inf") else f", up to {above:.0%}"
        print(f"Planned slower than the best of stock and dense by over {limit:.0%}{upto}: {len(found)} of {len(rows)}")
        for row in found:
            print(f"  {row['block']}, map {row['size']}, batch {row['batch']}, {row['pass']}: {excess[id(row)]:.0%}")
    worst = max(rows, key=lambda row: row["difference"])
    print(f"Planned and stock differ by at most {worst['difference']:.1e} of the largest number ({worst['block']})")


def points(rows: list[dict[str, Any]]) -> list[Point]:
    """Of each row: time against operations, both as shares of the dense block's."""
    found = []
    for row in rows:
        label = f"{row['block']}, map {row['size']}, batch {row['batch']}, {row['pass']}"
        for name in ("stock", "planned", "copy"):
            share = row[f"{name}_ms"] / row["dense_ms"]
            found.append(Point(name, row["macs"] / row["dense_macs"], share, f"{label}: {name} {share:.2f}"))
    return found


def main() -> None:
    """Measure, print the table and what it says, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, seconds=3)
    parser.add_argument("--backward", action="store_true", help="forward + backward as well")
    parser.add_argument("--sampled", type=int, default=12, help="blocks as the spaces propose them; none with --quick")
    parser.add_argument("--case", action="append", help="CHANNELS:WIDTH,WIDTH:SIZE:BATCH instead of all others")
    parser.add_argument("--plot", metavar="FILE.svg", help="time against operations, by the dense block's")
    given = prepare(parser)
    try:
        cases = [parse(text) for text in given.case or ()]
    except UsageError as error:
        parser.error(str(error))
    if not cases:
        cases = list(QUICK) if given.quick else [*QUICK, *MORE, *sampled(given.sampled)]
    wait_for_quiet(given.patience)
    measured = peaks(torch.device(given.device), DTYPES[given.dtype], given.seconds / 2)
    how = conditions(given, measured)
    print_header(given, how)
    print(LEGEND)
    print_head(COLUMNS)
    rows = []
    for backward in (False, True) if given.backward else (False,):
        for case in cases:
            rows.append(measure(case, given, backward, measured))
            show(rows[-1])
            note_busy(rows, how)
            save(given.json, rows, how)  # each time, so that what is interrupted keeps what it has
    check(rows)
    if given.plot:
        Path(given.plot).write_text(scatter(points(rows), "multiply-adds / dense", "time / dense"))


if __name__ == "__main__":
    main()
