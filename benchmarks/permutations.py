"""Permutation solvers on random and planted matrices: what share of the magnitude each keeps in its blocks, and how long it takes.

    python -m benchmarks.permutations [--json FILE --task FILE.py --sizes 64,256,512 --groups 2,4,8,16,32 --seeds 5 --methods best]

Matrices: abs-normal (1x1 kernels), conv3x3 (norms of 3x3 kernels), lognormal (heavy tails), planted (blocks alone, hidden by
permutations) and planted_noise (under a background as strong as the weak block entries), whose figures are shares of what was
planted. With --task a file that has `make_matrix(kind, n, G, seed)`, `m_alt_r(S, G)` and `kept_of(S, rows, cols, G)` of its own,
these are the matrices and the reference; else the reference is `alternating`, from 8 random starts. Times are of the processor,
one thread; methods take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from igcsearch.permutations import METHODS, kept, solve

from .facts import save

KINDS = ("absnormal", "conv3x3", "lognormal", "planted", "planted_noise")


def make_matrix(kind: str, n: int, groups: int, seed: int) -> tuple[NDArray[np.float64], float | None]:
    """A matrix (n, n) and, where blocks were planted, the share that they hold."""
    rng = np.random.default_rng(seed)
    if kind == "absnormal":
        return np.abs(rng.standard_normal((n, n))), None
    if kind == "conv3x3":
        return np.linalg.norm(rng.standard_normal((n, n, 9)), axis=-1), None
    if kind == "lognormal":
        return rng.lognormal(0.0, 1.0, (n, n)), None
    matrix = 2.0 * rng.random((n, n)) if kind == "planted_noise" else np.zeros((n, n))
    own = np.kron(np.eye(groups, dtype=bool), np.ones((n // groups, n // groups), dtype=bool))
    matrix[own] = rng.random(int(own.sum())) + 10 * rng.random(int(own.sum()))
    share = matrix[own].sum() / matrix.sum()
    return matrix[rng.permutation(n)][:, rng.permutation(n)], float(share)


def task(path: Path | None) -> Any:
    """The task's functions: a file's, or our own of the same names."""
    if path is None:
        return SimpleNamespace(
            make_matrix=make_matrix, kept_of=kept, m_alt_r=lambda S, G: solve(S, G, method="alternating")
        )
    spec = spec_from_file_location("permutation_task", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python file")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cell(given: Any, kind: str, n: int, groups: int, seeds: int, methods: list[str]) -> list[dict[str, Any]]:
    """A row for each method and one for the reference: mean share kept and mean seconds over the seeds."""
    figures: dict[str, list[tuple[float, float]]] = {}
    for seed in range(seeds):
        matrix, planted = given.make_matrix(kind, n, groups, seed)
        ways: dict[str, Callable[[], Any]] = {"alt x8": partial(given.m_alt_r, matrix, groups)}
        ways |= {name: partial(solve, matrix, groups, method=name, seed=seed) for name in methods}
        for name, way in ways.items():
            begin = time.process_time()
            rows, cols = way()
            seconds = time.process_time() - begin
            share = given.kept_of(matrix, rows, cols, groups) / (planted or 1.0)
            figures.setdefault(name, []).append((share, seconds))
    return [
        {
            **{"kind": kind, "n": n, "groups": groups, "method": name, "seeds": seeds},
            "kept": statistics.mean(share for share, _ in found),
            "seconds": statistics.mean(seconds for _, seconds in found),
        }
        for name, found in figures.items()
    ]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument("--task", type=Path, help="a Python file with the matrices and the reference")
    parser.add_argument("--sizes", default="64,256,512")
    parser.add_argument("--groups", default="2,4,8,16,32")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--methods", default="best", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    rows, short, slow, cells = [], 0, 0, 0
    methods, of = given.methods.split(","), task(given.task)
    with threadpool_limits(1):
        for kind in given.kinds.split(","):
            for n in map(int, given.sizes.split(",")):
                for groups in map(int, given.groups.split(",")):
                    found = cell(of, kind, n, groups, given.seeds, methods)
                    reference, first = found[0], found[1]
                    cells += 1
                    short += first["kept"] < reference["kept"] - 1e-6
                    slow += first["seconds"] > max(0.1, reference["seconds"])
                    figures = "   ".join(f"{row['method']} {row['kept']:.4f} {row['seconds']:.3f} s" for row in found)
                    print(f"{kind:14s}{n:4d} G={groups:<3d} {figures}", flush=True)
                    rows += found
    print(f"{methods[0]}: keeps less than alt x8 in {short} of {cells} cells, takes longer (and over 0.1 s) in {slow}")
    save(given.json, rows)


if __name__ == "__main__":
    main()
