"""Whole networks at equal multiply-adds: IGCV2 and IGCV3 against MobileNet V1 and torchvision's MobileNet V2 and ShuffleNet V2.

    python -m benchmarks.networks --json FILE [--device cpu --dtype float32 --batch 1,16,64 --size 224 --threads 2 --quick]
                                  [--seconds 20 --known-plans --cold --plain-malloc --patience 60 --plot FILE.svg]

All networks of a batch take turns in one run, in inference mode; times are medians. Executions:

- stock: eval mode by stock layers, as written; contiguous and channels_last, the better one counts;
- folded: the same with norms folded into convolutions (torch.fx), for torchvision's networks;
- planned: ours by `optimize_for_inference`, measured on this batch; MobileNet V1 too, so that the comparison is fair.

For each network to compare with there are two IGCV2, with channel-wise and with grouped 3x3 (and some IGCV3), of as many
multiply-adds, or as near below as their widths allow (layouts.py). Weights are random, norms' statistics those of random images.
Plans are measured anew unless --known-plans takes those that this machine remembers.
"""

from __future__ import annotations

import argparse
import copy
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from igcsearch.blocks.references.mobilenets import mobilenet_v1
from igcsearch.nn import StagedNetwork, build, plans
from igcsearch.spec import Architecture, Problem

from .bars import Bar, bars
from .facts import save
from .layouts import igcv2_below, igcv2_grouped_below, igcv3_below
from .options import DTYPES, FORMATS, add_arguments, conditions, note_busy, prepare, print_head, print_header, print_row
from .timing import undisturbed, wait_for_quiet

OURS = ("igcv2", "igcv3")
NEAR = 1.4  # a network is held against those of up to so many times its multiply-adds
COLUMNS = ("network", "M MACs", "M params", "stock ms", "layout", "folded ms", "planned ms", "images / s")


class Entry(NamedTuple):
    """A network in eval mode on the CPU, with what it costs; `ours` if it was built from an architecture."""

    name: str
    macs: int
    params: int
    network: nn.Module
    ours: bool


class Execution(NamedTuple):
    """How a network runs: layout of its images, and the module."""

    layout: str
    module: nn.Module


def entries(size: int, quick: bool) -> list[Entry]:
    """All networks for images of that size, those to compare with first."""
    problem = Problem(size, 3, 1000)
    found = [_ours("mobilenet_v1_x0.5", mobilenet_v1(0.5, problem)), _torchvision("shufflenet_v2_x1_0", size)]
    if not quick:
        found.append(_ours("mobilenet_v1_x1", mobilenet_v1(1.0, problem)))
        found += [_torchvision(name, size) for name in ("mobilenet_v2", "shufflenet_v2_x0_5")]
    made: dict[str, Architecture] = {}
    for entry in found:
        made.update([igcv2_below(problem, entry.macs), igcv2_grouped_below(problem, entry.macs)])
        if entry.name in ("shufflenet_v2_x1_0", "mobilenet_v2"):
            made.update([igcv3_below(problem, entry.macs)])
    return found + [_ours(name, made[name]) for name in sorted(made, key=lambda name: (name[:5], made[name].macs))]


def _ours(name: str, architecture: Architecture) -> Entry:
    network = build(architecture, seed=0, execution="plain")
    return Entry(name, architecture.macs, architecture.params, _settled(network, architecture.image_size), True)


def _torchvision(name: str, size: int) -> Entry:
    import torchvision

    torch.manual_seed(0)
    network = _settled(torchvision.models.get_model(name), size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, size, size))
    params = sum(parameter.numel() for parameter in network.parameters())
    return Entry(name, counter.get_total_flops() // 2, params, network, False)


@torch.no_grad()
def _settled(network: nn.Module, size: int) -> nn.Module:
    """In eval mode, with norms that know what comes their way: without that, activations of random networks fade."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain mean
    generator = torch.Generator().manual_seed(0)
    network.train()
    network(torch.randn(4, 3, size, size, generator=generator))
    return network.eval()


def executions(entry: Entry, x_NCHW: Tensor) -> dict[str, Execution]:
    """All ways to run a network on such images, by name; in the type of x."""
    device, found = x_NCHW.device, {}
    network = copy.deepcopy(entry.network).to(device)
    for layout, memory_format in FORMATS.items():
        laid = copy.deepcopy(network).to(dtype=x_NCHW.dtype, memory_format=memory_format)  # type: ignore[call-overload]
        found[f"stock {layout}"] = Execution(layout, laid)
        if not entry.ours:
            from torch.fx.experimental.optimization import fuse

            found[f"folded {layout}"] = Execution(layout, fuse(laid).to(memory_format=memory_format))
    if entry.ours:
        optimized = plans.optimize_for_inference(cast(StagedNetwork, network).set_execution("auto"), x_NCHW.float())
        layout = "channels_last" if optimized.channels_last else "contiguous"
        found["planned"] = Execution(layout, optimized.to(x_NCHW.dtype))
    return found


def measure(found: list[Entry], batch: int, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one batch: of every network one for each execution."""
    device, dtype = torch.device(given.device), DTYPES[given.dtype]
    images = torch.randn(batch, 3, given.size, given.size, dtype=dtype, device=device)
    laid = {layout: images.contiguous(memory_format=memory_format) for layout, memory_format in FORMATS.items()}
    wait_for_quiet(given.patience)
    ways = {entry.name: executions(entry, images) for entry in found}
    calls: dict[str, Callable[[], object]] = {}
    for name, by_name in ways.items():
        for execution, (layout, module) in by_name.items():
            calls[f"{name} {execution}"] = functools.partial(module, laid[layout])
    with torch.inference_mode():
        times, busy = undisturbed(calls, given)
    rows = []
    for entry in found:
        by_kind: dict[str, dict[str, float]] = {}
        for execution, (layout, _) in ways[entry.name].items():
            by_kind.setdefault(execution.split()[0], {})[layout] = times[f"{entry.name} {execution}"]
        for kind, layouts in by_kind.items():
            best = min(layouts, key=lambda layout: layouts[layout])
            rows.append(
                {
                    "name": entry.name,
                    "macs": entry.macs,
                    "params": entry.params,
                    "batch": batch,
                    "device": given.device,
                    "dtype": given.dtype,
                    "images_per_s": 1e3 * batch / layouts[best],
                    "ms": layouts[best],
                    "execution": kind,
                    "size": given.size,
                    "layout": best,
                    "layouts_ms": layouts,
                    "plans": getattr(ways[entry.name][kind].module, "plans", ()) if kind == "planned" else (),
                    "cores_busy_elsewhere": busy,
                }
            )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """The table of a batch."""
    batch, size, busy = (rows[0][key] for key in ("batch", "size", "cores_busy_elsewhere"))
    said = "unknown" if busy is None else f"{busy:.2f}"
    print(f"\nBatch {batch}, {size}x{size}; cores busy with something else meanwhile: {said}\n")
    print_head(COLUMNS)
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = {row["execution"]: row for row in rows if row["name"] == name}
        stock = mine["stock"]
        cells = [f"{mine[kind]['ms']:.1f}" if kind in mine else "-" for kind in ("folded", "planned")]
        cost = (f"{stock['macs'] / 1e6:.1f}", f"{stock['params'] / 1e6:.2f}", f"{stock['ms']:.1f}")
        print_row((name, *cost, stock["layout"], *cells, f"{_best(rows, name)['images_per_s']:.1f}"))


def verdicts(rows: list[dict[str, Any]]) -> None:
    """Each IGC network against those of as many multiply-adds, each by its best execution."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    print()
    for name in (name for name in names if name.startswith(OURS)):
        mine = _best(rows, name)
        for other in (other for other in names if not other.startswith(OURS)):
            theirs = _best(rows, other)
            if mine["macs"] <= theirs["macs"] <= NEAR * mine["macs"]:
                ratio = mine["images_per_s"] / theirs["images_per_s"]
                print(
                    f"{name} ({mine['macs'] / 1e6:.0f} M MACs, {mine['execution']}): {ratio:.2f} times the images a second of "
                    f"{other} ({theirs['macs'] / 1e6:.0f} M, {theirs['execution']})"
                )


def _best(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return min((row for row in rows if row["name"] == name), key=lambda row: cast(float, row["ms"]))


def picture(rows: list[dict[str, Any]]) -> str:
    """The networks of a batch, the fastest first: by stock layers, and by what is fastest."""
    names = sorted(dict.fromkeys(row["name"] for row in rows), key=lambda name: cast(float, _best(rows, name)["ms"]))
    found = []
    for name in names:
        best = _best(rows, name)
        stock = next(row["ms"] for row in rows if row["name"] == name and row["execution"] == "stock")
        found.append(
            Bar(name, f"{best['macs'] / 1e6:.0f} M MACs", stock, None if best["execution"] == "stock" else best["ms"])
        )
    batch, size = rows[0]["batch"], rows[0]["size"]
    return bars(found, f"stock layers, {batch} images {size}x{size}", "optimized for inference", "ms")


def main() -> None:
    """Measure, print a table and the verdicts for each batch, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, seconds=20)
    parser.add_argument("--batch", help="batches, as 1,16,64 (default; with --quick 1,16)")
    parser.add_argument("--size", type=int, default=224, help="side of the images")
    parser.add_argument("--plot", metavar="FILE.svg", help="the last batch as bars")
    parser.add_argument("--known-plans", action="store_true", help="take the plans that this machine remembers")
    given = prepare(parser)
    try:
        batches = [int(batch) for batch in (given.batch or ("1,16" if given.quick else "1,16,64")).split(",")]
    except ValueError:
        batches = [0]
    if min(batches) < 1:
        parser.error(f"--batch {given.batch}: whole numbers of at least 1, such as 1,16, are needed")
    how = conditions(given)
    print_header(given, how)
    found = entries(given.size, given.quick)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        if not given.known_plans:
            plans.cache_folder = lambda: Path(folder)
        for batch in batches:
            rows += (new := measure(found, batch, given))
            show(new)
            verdicts(new)
            note_busy(rows, how)
            save(given.json, rows, how)
    if given.plot:
        Path(given.plot).write_text(picture(new))


if __name__ == "__main__":
    main()
