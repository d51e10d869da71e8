"""How many architectures a second one core settles without building them, beside fvcore on the built network.

    python -m benchmarks.settle [--count 3000] [--json FILE]

Every architecture is a new object, proposed at random by a space within a budget; blocks are shared between architectures
as they are in a search, and their first analysis is part of the time. "settle" is closed-form cost and the level of every
block; "hash" adds the hash and the equivalence key.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections.abc import Callable
from typing import Any

from igcsearch.search.settle import RandomTrial
from igcsearch.search_spaces import get_space
from igcsearch.spec import Architecture, Budget, Problem

from .facts import save

PROBLEMS = {
    "digits": Problem(8, 1, 10, Budget(params=20_000)),
    "cifar": Problem(32, 3, 10, Budget(params=250_000, macs=20_000_000)),
    "mobile": Problem(224, 3, 1000, Budget(params=4_000_000, macs=300_000_000)),
}


def settle(architecture: Architecture) -> None:
    """Cost and conditions of one architecture."""
    assert architecture.params > 0
    for _, block in architecture.blocks():
        assert block.report["complementary"]


def settle_and_hash(architecture: Architecture) -> None:
    """`settle`, the hash and the equivalence key."""
    settle(architecture)
    assert architecture.hash
    assert architecture.key


def rate(function: Callable[[Architecture], object], items: list[Architecture]) -> float:
    """Calls a second of processor time over all items, once each."""
    gc.collect()
    gc.disable()  # as timeit does: a collection of all that stands in memory belongs to no single call
    try:
        start = time.process_time()
        for item in items:
            function(item)
        return len(items) / (time.process_time() - start)
    finally:
        gc.enable()


def fvcore_rate(items: list[Architecture]) -> float:
    """Networks built and counted by fvcore a second."""
    from igcsearch.nn import build, measure

    def count(architecture: Architecture) -> None:
        assert measure.fvcore_macs(build(architecture, seed=0)).macs == architecture.macs

    count(items[0])
    return rate(count, items)


def measure_space(name: str, count: int, counted: int) -> dict[str, Any]:
    """One row of the table."""
    space, problem, stream = get_space(name).limited(("interleave", "random")), PROBLEMS[name], random.Random(0)
    start = time.process_time()
    items = [space.propose(RandomTrial(stream), problem) for _ in range(2 * count)]
    propose = len(items) / (time.process_time() - start)
    return {
        "space": name,
        "architectures": count,
        "propose_per_s": propose,
        "settle_per_s": rate(settle, items[:count]),
        "settle_and_hash_per_s": rate(settle_and_hash, items[count:]),
        "fvcore_per_s": fvcore_rate(items[:counted]),
    }


def main() -> None:
    """Print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--fvcore-count", type=int, default=6)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    rows = [measure_space(name, arguments.count, arguments.fvcore_count) for name in PROBLEMS]
    print("| space | proposed / s | settled / s | settled and hashed / s | fvcore / s |\n|---|---|---|---|---|")
    for row in rows:
        figures = (row["propose_per_s"], row["settle_per_s"], row["settle_and_hash_per_s"])
        print(
            f"| {row['space']} | "
            + " | ".join(f"{figure:,.0f}" for figure in figures)
            + f" | {row['fvcore_per_s']:.1f} |"
        )
    save(arguments.json, rows)


if __name__ == "__main__":
    main()
