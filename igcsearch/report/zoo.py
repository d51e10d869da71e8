"""The page of a zoo: one HTML file beside its entries, accuracy against cost with the ladder's rungs, a table with links. Floor 7.

Made of the entries' architecture.json and metrics.json alone, so it can be written for any zoo. The chart is the study page's
(page.js); what is different for entries is in the small script below. Entries may come from anybody: all text is escaped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..entries import Entry, read_folder
from ..entries.card import latency_line
from ..entries.entry import looks_like_entry
from ..errors import UsageError
from ..files import atomic_write
from ..search.pareto import front_indices
from ..wording import accuracy
from . import strip
from .html import text
from .page import GENERATOR, document
from .zoo_sections import LIMITS, chart, ladder, lead, table, tiles

PAGE = "index.html"

_STYLE = """
.chart .rung{stroke:var(--muted);stroke-width:1;stroke-dasharray:2 5;opacity:.75}
.chart .spread{stroke:oklch(var(--dot-l) .14 var(--h));stroke-width:1.6;opacity:.55}
.legend i.rung{width:0;height:14px;border-left:2px dashed var(--muted);border-radius:0;background:none}
a{color:var(--accent);text-decoration:none}
a:hover,a:focus-visible{text-decoration:underline}
tr[data-id]:hover{background:var(--accent-soft)}
.rungs{display:flex;gap:5px}
""".strip()

_SCRIPT = """
for (const button of document.querySelectorAll("#sets button")) button.onclick = () => {
  document.querySelectorAll("#sets button").forEach(b => b.setAttribute("aria-pressed", b === button));
  D.rows = D.sets[button.dataset.set].rows;
  D.rungs = D.sets[button.dataset.set].rungs;
  drawFront();
};
for (const row of document.querySelectorAll("tr[data-id]")) {
  row.onpointerenter = () => markFront(+row.dataset.id);
  row.onpointerleave = () => markFront();
}
""".strip()


def write_zoo_page(zoo: str | Path) -> Path:
    """Write ZOO/index.html and return its path. Entries that cannot be read are left out.

    Raises:
        UsageError: there is an index.html that somebody else wrote, or the file cannot be written.
    """
    folder = Path(zoo).expanduser()
    path = folder / PAGE
    try:
        if path.exists() and GENERATOR not in path.read_text(encoding="utf-8", errors="replace")[:2000]:
            raise UsageError(
                f"'{path}' was not written by igcsearch: it is left alone; rename it to have a page written"
            )
        atomic_write(path, render(_entries(folder)))
    except OSError as error:
        raise UsageError(f"page '{path}' cannot be written: {error.strerror or error}") from None
    return path


def render(entries: Sequence[Entry]) -> str:
    """The whole page as HTML text."""
    rows = [_row(number, entry) for number, entry in enumerate(sorted(entries, key=_rank))]
    sets = {name: _set([row for row in rows if row["data"] == name]) for name in dict.fromkeys(r["data"] for r in rows)}
    shown = max(sets, key=lambda name: len(sets[name]["rows"]), default="")
    title = f"Networks for {' and '.join(sets)}" if 0 < len(sets) < 3 else "Networks"
    first = sets.get(shown, {"rows": [], "rungs": []})
    rungs = first["rungs"]
    cost = "macs" if rungs and not any("params" in rung for rung in rungs) else "params"
    data = {**first, "sets": sets, "cost": cost, "budget": {}, "best_so_far": [], "trained": 0, "left_out": 0}
    return document(
        title,
        [_STYLE],
        f'<p class="eyebrow">igcsearch zoo</p>\n<h1>{text(title)}</h1>\n{lead(rows)}',
        "\n".join((tiles(rows, sets), chart(sets, shown, cost), ladder(sets), table(rows))),
        "Links go to the entries beside this file.",
        {**data, "agreement": [], "hues": strip.HUES},
        _SCRIPT,
    )


def _entries(folder: Path) -> list[Entry]:
    found = []
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        if not name.startswith(".") and looks_like_entry(folder / name):
            try:
                found.append(read_folder(folder / name))
            except UsageError:
                continue  # the zoo's table says what is wrong with it
    return found


def _rank(entry: Entry) -> tuple[str, float, int, str]:
    metrics = entry.metrics
    return str(metrics.get("data", "")), -(metrics.get("accuracy") or 0.0), entry.architecture.params, entry.name


def _row(number: int, entry: Entry) -> dict[str, Any]:
    """An entry as the page and its script read it; accuracy is that of the test split."""
    metrics, architecture = entry.metrics, entry.architecture
    mean, deviation, seeds = metrics.get("accuracy"), metrics.get("accuracy_std"), len(metrics.get("seeds") or [])
    rungs = _rungs(metrics)
    family = str(metrics.get("family") or architecture.family)
    lines = [
        f"{accuracy(mean, deviation, seeds)}",
        entry.name,
        f"{family}, {architecture.params:,} parameters",
        f"{architecture.macs:,} MACs",
        *([f"won {', '.join(rungs)}"] if rungs else []),
    ]
    return {
        "id": number,
        "name": entry.name,
        "data": str(metrics.get("data", "unknown data")),
        "family": family,
        "params": architecture.params,
        "macs": architecture.macs,
        "latency": None,
        "accuracy": mean,
        "std": deviation if seeds > 1 else None,
        "summary": accuracy(mean, deviation, seeds),
        "time": latency_line(metrics.get("latency")).partition(" (")[0].partition(",")[0],
        "epochs": metrics.get("epochs") if isinstance(metrics.get("epochs"), int) else 0,
        "state": "complete",
        "front": False,
        "rungs": rungs,
        "lines": lines,
    }


def _rungs(metrics: dict[str, Any]) -> dict[str, dict[str, int]]:
    """The rungs that an entry has won, with their limits; what is no such thing is left out."""
    found = (metrics.get("provenance") or {}).get("rungs")
    if not isinstance(found, dict):
        return {}
    rungs = {}
    for name, limits in found.items():
        if isinstance(limits, dict):
            rungs[str(name)] = {key: limits[key] for key in LIMITS if isinstance(limits.get(key), int)}
    return rungs


def _set(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The entries of one data set and their rungs; those that none beats are marked."""
    able = [row for row in rows if row["accuracy"] is not None]
    for index in front_indices([(row["params"], row["macs"], -row["accuracy"]) for row in able]):
        able[index]["front"] = True
    rungs = {name: limits for row in rows for name, limits in row["rungs"].items()}
    ordered = sorted(rungs.items(), key=lambda item: (item[1].get("params", 0), item[1].get("macs", 0)))
    return {"rows": rows, "rungs": [{"name": name, **limits} for name, limits in ordered]}
