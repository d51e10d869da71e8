"""Random, TPE, NSGA-II and evolution at equal computing on digits: best validation accuracy so far, over several seeds.

    python -m benchmarks.samplers --out DIR [--trials 30 --epochs 8 --seeds 3 --workers 2] [--json FILE] [--svg FILE]

Each run is an ordinary study in DIR/SAMPLER-SEED (no early stopping, so that all train the same number of epochs); a run that is
there already is resumed, so the benchmark can be interrupted. Prints the mean and standard deviation over seeds of the best so
far after a third, two thirds and all of the trials.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from igcsearch.search import SearchConfig, Study, run_search
from igcsearch.spec import Budget
from igcsearch.training import DataSpec

from .facts import save

COLOURS = {"random": "#8a8a8a", "tpe": "#1f6fb2", "nsga2": "#c2571a", "evolution": "#3a7d44"}


def best_so_far(study: Study) -> list[float]:
    """Best validation accuracy after each complete candidate, in the order in which they were proposed."""
    curve: list[float] = []
    for candidate in study.candidates(("complete",)):
        curve.append(max([*curve[-1:], candidate.accuracy or 0.0]))
    return curve


def search(sampler: str, seed: int, given: argparse.Namespace) -> list[float]:
    """One study's curve, trained or read."""
    config = SearchConfig(
        space="digits",
        data=DataSpec("digits"),
        budget=Budget(params=given.max_params),
        epochs=given.epochs,
        trials=given.trials,
        sampler=sampler,
        stopping="none",
        workers=given.workers,
        seed=seed,
    )
    study = run_search(config, given.out / f"{sampler}-{seed}", resume=True)
    curve = best_so_far(study)
    study.close()
    print(f"{sampler:10s} seed {seed}  best {curve[-1]:.4f} of {len(curve)}", flush=True)
    return curve


def plot(curves: dict[str, list[list[float]]]) -> str:
    """An SVG of the mean curves, with the range over seeds behind each."""
    width, height, left, top = 720, 400, 64, 24
    count = min(len(curve) for group in curves.values() for curve in group)
    values = [value for group in curves.values() for curve in group for value in curve[2:count]]
    low, high = min(values), max(values)
    high += 0.05 * (high - low)

    def at(index: int, value: float) -> str:
        x = left + index / max(1, count - 1) * (width - left - 120)
        return f"{x:.1f},{top + (high - max(value, low)) / (high - low) * (height - top - 56):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for step in range(5):
        value = low + step * (high - low) / 4
        x, y = at(0, value).split(",")
        parts.append(f'<line x1="{x}" x2="{width - 120}" y1="{y}" y2="{y}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{left - 8}" y="{float(y) + 4:.1f}" text-anchor="end" fill="#555">{value:.1%}</text>')
    ends: list[tuple[float, str]] = []
    for name, group in curves.items():
        columns = list(zip(*[curve[:count] for curve in group], strict=True))
        band = [at(i, max(column)) for i, column in enumerate(columns)]
        band += [at(i, min(column)) for i, column in reversed(list(enumerate(columns)))]
        line = [at(i, statistics.mean(column)) for i, column in enumerate(columns)]
        parts.append(f'<polygon points="{" ".join(band)}" fill="{COLOURS[name]}" opacity="0.10"/>')
        parts.append(f'<polyline points="{" ".join(line)}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        ends.append((float(line[-1].split(",")[1]), name))
    previous = -99.0
    for end, name in sorted(ends):
        previous = max(end, previous + 15)
        parts.append(f'<text x="{width - 112}" y="{previous + 4:.1f}" fill="{COLOURS[name]}">{name}</text>')
    parts.append(
        f'<text x="{left}" y="{height - 14}" fill="#555">candidates trained (1 to {count}); best validation accuracy so far</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Run what is missing, print the table, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    for name, default in (("trials", 30), ("epochs", 8), ("seeds", 3), ("workers", 2), ("max-params", 20_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--svg", metavar="FILE")
    given = parser.parse_args()
    curves: dict[str, list[list[float]]] = {name: [] for name in COLOURS}
    for seed in range(given.seeds):
        for sampler in COLOURS:
            curves[sampler].append(search(sampler, seed, given))
    marks = sorted({max(1, given.trials // 3), max(1, 2 * given.trials // 3), given.trials})
    print("| sampler | " + " | ".join(f"best after {mark}" for mark in marks) + " |")
    print("|---" * (len(marks) + 1) + "|")
    rows: list[dict[str, Any]] = []
    for sampler, group in curves.items():
        cells = []
        for mark in marks:
            best = [curve[mark - 1] for curve in group]
            deviation = statistics.stdev(best) if len(best) > 1 else 0.0
            cells.append(f"{statistics.mean(best):.4f} +- {deviation:.4f}")
        print(f"| {sampler} | " + " | ".join(cells) + " |")
        rows += [{"sampler": sampler, "seed": seed, "best_so_far": curve} for seed, curve in enumerate(group)]
    save(given.json, rows)
    if given.svg:
        Path(given.svg).write_text(plot(curves))


if __name__ == "__main__":
    main()
