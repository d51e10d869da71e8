"""N:M sparse convolutions from their kept weights beside the dense ones: is what is left out also time saved?

    python -m benchmarks.sparse [--json FILE --layers 64@56,128@28,256@14,512@7 --kernels 1,3 --patterns 2:4,1:4,1:8,2:8,1:16]
                                [--batch 1 --seconds 1 --patience 0]
    python -m benchmarks.sparse --device cuda --batch 64 --kernels 1 --patterns 2:4

Layers with as many input as output channels, stride 1, padded; N of every M input channels at each tap stay. One thread, float32
(on a GPU float16), the ways take turns, median milliseconds:

- dense: torch's convolution of a weight without zeros, in the memory format that is faster for it;
- masked: the same of the masked weight, contiguous: what a network with masks runs;
- ours: `fused.sparse.SparseRun`, contiguous; on a GPU semi-structured tensors, channels last (`semi_structured.py`); - where
  those cannot be used.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from igcsearch.machine import keep_freed_memory
from igcsearch.nn.fused import fused_available
from igcsearch.nn.fused.sparse import SparseRun
from igcsearch.nn.plans import in_format
from igcsearch.nn.semi_structured import use_semi_structured
from igcsearch.nn.sparse import SparseConv2d, strongest
from igcsearch.nn.workspace import Workspace
from igcsearch.spec import Sparsity

from .facts import check_output, save
from .timing import undisturbed


def ways(
    channels: int, side: int, kernel: int, n: int, m: int, batch: int, device: str
) -> dict[str, Callable[[], Tensor]]:
    """What takes turns."""
    place: dict[str, Any] = {"device": device, "dtype": torch.float32 if device == "cpu" else torch.float16}
    x_NCHW = torch.rand(batch, channels, side, side, **place)
    calls: dict[str, Callable[[], Tensor]] = {}
    for form, channels_last in (("first", False), ("last", True)):
        layout = torch.channels_last if channels_last else torch.contiguous_format
        layer = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, **place).eval().to(memory_format=layout)
        calls[f"dense {form}"] = partial(layer, in_format(x_NCHW, channels_last))
    layer = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, **place).eval()
    mask = strongest(layer.weight.abs(), Sparsity(n, m))
    layer.weight.mul_(mask)
    calls["masked"] = partial(layer, x_NCHW)
    if device == "cpu":
        run = SparseRun(layer.weight, layer.bias, padding=kernel // 2)
        calls["ours"] = partial(run, x_NCHW, None, None, Workspace())
        return calls
    given: dict[str, Any] = {"padding": kernel // 2, "sparsity": Sparsity(n, m), "bias": layer.bias}
    sparse = SparseConv2d.from_dense(channels, channels, kernel, weight=layer.weight, mask=mask, **given)
    net = nn.Sequential(sparse).eval()
    if use_semi_structured(net).replaced:
        calls["ours"] = partial(net, in_format(x_NCHW, True))
    return calls


def main() -> None:
    """Measure, print the table, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default="64@56,128@28,256@14,512@7", help="channels@side, with commas")
    parser.add_argument("--kernels", default="1,3")
    parser.add_argument("--patterns", default="2:4,1:4,1:8,2:8,1:16")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1, help="for the turns of one row")
    parser.add_argument("--patience", type=float, default=0, help="seconds to wait for a quiet machine, in all")
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    given.cold = False
    check_output(parser, given.json)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here")
    if given.device == "cpu" and not fused_available("cpu", torch.float32):
        parser.error("the fused kernels are not available here; a C++ compiler builds them")
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    print("| k | channels@side | N:M | dense ms | masked | ours | ours / dense |\n|" + "---|" * 7)
    for kernel in map(int, given.kernels.split(",")):
        for layer in given.layers.split(","):
            for pattern in given.patterns.split(","):
                channels, side = map(int, layer.split("@"))
                n, m = map(int, pattern.split(":"))
                with torch.inference_mode():
                    times, busy = undisturbed(ways(channels, side, kernel, n, m, given.batch, given.device), given)
                dense, ours = min(times["dense first"], times["dense last"]), times.get("ours")
                row = {"kernel": kernel, "layer": layer, "pattern": pattern, "dense_ms": dense, "ours_ms": ours}
                rows.append({**row, "times": times, "busy_elsewhere": busy})
                found = "- | -" if ours is None else f"{ours:.3f} | {ours / dense:.2f}"
                print(f"| {kernel} | {layer} | {pattern} | {dense:.3f} | {times['masked']:.3f} | {found} |", flush=True)
    device = "cpu" if given.device == "cpu" else torch.cuda.get_device_name()
    busy = max((row["busy_elsewhere"] or 0.0 for row in rows), default=0.0)
    save(given.json, rows, {"device": device, "batch": given.batch, "threads": 1, "cores_busy_elsewhere": busy})
    if busy > 0.1:
        print(f"\nother work kept up to {busy:.2f} cores busy")


if __name__ == "__main__":
    main()
