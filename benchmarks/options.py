"""Options, conditions and tables of the benchmarks of execution (blocks, networks)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from igcsearch.machine import available_cores, keep_freed_memory

from .facts import check_output, facts
from .timing import QUIET, Peaks

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def add_arguments(parser: argparse.ArgumentParser, seconds: float) -> None:
    """The options that the benchmarks of execution share."""
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="float32", choices=tuple(DTYPES))
    parser.add_argument("--threads", type=int, help="of torch on the CPU; default: torch's own choice")
    parser.add_argument("--quick", action="store_true", help="the most telling configurations alone")
    parser.add_argument("--seconds", type=float, default=seconds, help="for the turns of one configuration")
    parser.add_argument("--patience", type=float, default=0, help="seconds to wait, each time, for a quiet machine")
    parser.add_argument("--cold", action="store_true", help="stream through 64 MiB before each call")
    parser.add_argument("--plain-malloc", action="store_true", help="let freed tensors go back to the system")


def prepare(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, with threads, memory and seed set as they say."""
    given = parser.parse_args()
    check_output(parser, given.json)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("device cuda asked for, but torch sees no GPU; use --device cpu")
    if given.threads is not None:
        if given.threads < 1:
            parser.error(f"threads {given.threads} must be at least 1")
        torch.set_num_threads(given.threads)
    if not given.plain_malloc:
        keep_freed_memory()
    torch.manual_seed(0)
    return given


def conditions(given: argparse.Namespace, measured: Peaks | None = None) -> dict[str, Any]:
    """How the run was made, as JSON data beside `facts`."""
    device = torch.device(given.device)
    found: dict[str, Any] = {
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else facts()["processor"],
        "threads": torch.get_num_threads(),
        "caches": "cold" if given.cold else "warm",
        "freed_memory": "returned" if given.plain_malloc else "kept",
    }
    if measured is not None:
        found |= {"copy_bytes_per_s": measured.bytes_per_s, "gemm_flops_per_s": measured.flops_per_s}
    return found


def note_busy(rows: Iterable[Mapping[str, Any]], how: dict[str, Any]) -> None:
    """Where something else kept the machine busy while rows were measured: a line on stderr, once, and what it says in `how`.

    Args:
        rows: with "cores_busy_elsewhere", None where the system does not say.
        how: the conditions; they get "caveat" and the largest "cores_busy_elsewhere".
    """
    busy = max((row["cores_busy_elsewhere"] or 0.0 for row in rows), default=0.0)
    if busy < QUIET:
        return
    if "caveat" not in how:
        how["caveat"] = (
            "something else kept the machine busy while this was measured: rows with cores_busy_elsewhere not near 0 say little"
        )
        cores = f"{busy:.2f} of {available_cores()} cores"
        print(f"caveat: {how['caveat']} (now {cores}); --patience 60 waits for quiet", file=sys.stderr, flush=True)
    how["cores_busy_elsewhere"] = busy


def print_header(given: argparse.Namespace, found: Mapping[str, Any]) -> None:
    """What the conditions are, in sentences."""
    print(f"{found['device_name']}, {given.dtype}, {found['threads']} threads, torch {torch.__version__}")
    print(
        "Caches cold: 64 MiB are read and written before each call."
        if given.cold
        else "Caches warm: short calls run in loops of half a millisecond and more, behind one that does not count."
    )
    print(
        "Freed memory goes back to the system (--plain-malloc): page faults of fresh tensors are part of every time."
        if given.plain_malloc
        else "Freed memory is kept (igcsearch.machine.keep_freed_memory): without it, --plain-malloc, page faults of\n"
        "fresh tensors weigh more than much of what is measured."
    )
    if "copy_bytes_per_s" in found:
        copied, multiplied = found["copy_bytes_per_s"] / 1e9, found["gemm_flops_per_s"] / 1e9
        print(f"Peaks of this run: copy of 256 MiB {copied:,.1f} GB/s, matrix product {multiplied:,.0f} GFLOP/s.")
    print()


def print_row(cells: Iterable[object]) -> None:
    """A row of a table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def print_head(names: Iterable[str]) -> None:
    """The first two rows of a table."""
    names = list(names)
    print_row(names)
    print("|---" * len(names) + "|", flush=True)
