"""Layers of well-known networks, dense and as the group convolutions that compression makes of them: is less work less time?

    python -m benchmarks.converted [--json FILE --networks resnet18,resnet50,densenet121,vgg11_bn,mobilenet_v2 --image-size 224]
                                   [--channels 128 --groups 4,8 --batch 1 --seconds 2 --patience 0]

Every distinct dense convolution with at least so many input and output channels, with the activation behind it, on one thread,
float32. Its ways take turns; each in the memory format that is faster for it, median milliseconds:

- dense: torch's convolution, as in the original network;
- stock: torch's group convolution;
- ours: as `GraphNetwork.optimize_for_inference` runs it, the faster of stock and the fused kernels;
- gathered: channels brought into an order before the layer and back behind it (index_select), stock between: what peers run.

Ours beside dense decides: below 1 the multiply-adds saved are time saved.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from igcsearch.compress.source import read_source
from igcsearch.machine import keep_freed_memory
from igcsearch.nn.graph_inference import unit_layer
from igcsearch.nn.graph_units import Unit, units, without_norms
from igcsearch.nn.plans import in_format
from igcsearch.nn.workspace import Workspace

from .facts import check_output, save
from .timing import undisturbed

FORMATS = {"first": False, "last": True}


def layers(networks: list[str], size: int, channels: int) -> dict[str, tuple[Unit, int, int]]:
    """The distinct dense layers by what they are: their unit (without residual), and the sides of the map that they read."""
    found: dict[str, tuple[Unit, int, int]] = {}
    for name in networks:
        graph = without_norms(read_source(f"torchvision:{name}", weights="none", image_size=size).graph)[0]
        for unit in units(graph).values():
            it = unit.convolution
            _, height, width = graph.shapes[unit.node.reads[0]]
            if it.groups > 1 or min(it.in_channels, it.out_channels) < channels:
                continue
            area = "x".join(map(str, it.kernel_size))
            said = f"{it.in_channels} -> {it.out_channels}, {area}, stride {it.stride[0]}, {height}x{width}"
            found.setdefault(said, (replace(unit, residual=None, final=None), height, width))
    return found


def ways(unit: Unit, groups: int, x_NCHW: Tensor) -> dict[str, Callable[[], Tensor]]:
    """What takes turns, by way and memory format."""
    it = unit.convolution
    grouped = replace(unit, node=replace(unit.node, operation=replace(it, groups=groups)))
    calls: dict[str, Callable[[], Tensor]] = {}
    forward, back = torch.randperm(it.in_channels), torch.randperm(it.out_channels)
    for form, channels_last in FORMATS.items():
        layout = torch.channels_last if channels_last else torch.contiguous_format
        image, room = in_format(x_NCHW, channels_last), Workspace()

        def ready(of: Unit, plan: str, layout: torch.memory_format = layout) -> nn.Module:
            conv = of.convolution
            layer = nn.Conv2d(
                *(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation),
                groups=conv.groups,
            )
            return unit_layer(of, layer, plan).to(memory_format=layout).eval()

        stock = ready(grouped, "stock")
        calls[f"dense {form}"] = partial(ready(unit, "stock"), image)
        calls[f"stock {form}"] = partial(stock, image)
        calls[f"gathered {form}"] = partial(_gathered, stock, image, forward, back)
        if grouped.fusible:
            calls[f"fused {form}"] = partial(ready(grouped, "fused"), image, None, None, room)
    return calls


def _gathered(layer: nn.Module, x_NCHW: Tensor, forward: Tensor, back: Tensor) -> Tensor:
    y: Tensor = layer(x_NCHW.index_select(1, forward)).index_select(1, back)
    return y


def main() -> None:
    """Measure, print the table, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="resnet18,resnet50,densenet121,vgg11_bn,mobilenet_v2")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--groups", default="4,8")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2, help="for the turns of one layer")
    parser.add_argument("--patience", type=float, default=0, help="seconds to wait for a quiet machine, in all")
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    given.device, given.cold = "cpu", False
    check_output(parser, given.json)
    keep_freed_memory()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    print(
        "| layer | G | dense ms | stock | gathered | ours | ours / dense | gathered / dense |\n|---|---|---|---|---|---|---|---|"
    )
    for said, (unit, height, width) in layers(given.networks.split(","), given.image_size, given.channels).items():
        for groups in map(int, given.groups.split(",")):
            it = unit.convolution
            if it.in_channels % groups or it.out_channels % groups:
                continue
            with torch.inference_mode():
                x_NCHW = torch.rand(given.batch, it.in_channels, height, width)
                times, busy = undisturbed(ways(unit, groups, x_NCHW), given)
            best = {
                way: min(ms for name, ms in times.items() if name.startswith(way))
                for way in ("dense", "stock", "gathered")
            }
            ours = min(ms for name, ms in times.items() if name.startswith(("stock", "fused")))
            row = {"layer": said, "groups": groups, **best, "ours": ours, "times": times, "busy_elsewhere": busy}
            rows.append(row)
            print(
                f"| {said} | {groups} | {best['dense']:.3f} | {best['stock']:.3f} | {best['gathered']:.3f} | {ours:.3f} | "
                f"{ours / best['dense']:.2f} | {best['gathered'] / best['dense']:.2f} |",
                flush=True,
            )
    for groups in map(int, given.groups.split(",")):
        these = [row for row in rows if row["groups"] == groups]
        if not these:
            continue
        told: list[str] = []
        for way in ("ours", "stock", "gathered"):
            shares = [row[way] / row["dense"] for row in these]
            slower = sum(share >= 1 for share in shares)
            told.append(
                f"{way} {statistics.median(shares):.2f} (most {max(shares):.2f}; {slower} of {len(these)} not faster)"
            )
        print(f"\nG = {groups}, time beside dense, median: {', '.join(told)}")
    busy = max((row["busy_elsewhere"] or 0.0 for row in rows), default=0.0)
    save(given.json, rows, {"batch": given.batch, "threads": 1, "cores_busy_elsewhere": busy})
    if busy > 0.1:
        print(f"\nother work kept up to {busy:.2f} cores busy")


if __name__ == "__main__":
    main()
