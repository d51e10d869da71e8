"""The results table: entries as Markdown, and the README.md of a zoo made of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..entries import Entry, read_folder
from ..entries.card import cell, latency_line
from ..entries.entry import CARD, looks_like_entry
from ..errors import UsageError
from ..files import atomic_write
from ..wording import accuracy

MARK = "<!-- written by igcsearch.publish.write_table: changes are lost -->"

TITLES = ["name", "data", "parameters", "MACs", "test accuracy", "epochs", "latency"]


def table(entries: Iterable[Entry]) -> str:
    """Entries as a Markdown table, by data set, the most accurate first; names link to their cards."""
    lines = ["| " + " | ".join(TITLES) + " |", "| --- | --- | ---: | ---: | --- | ---: | --- |"]
    for entry in sorted(entries, key=_rank):
        metrics = entry.metrics
        summary = accuracy(metrics.get("accuracy"), metrics.get("accuracy_std"), len(metrics.get("seeds") or []))
        values = [
            metrics.get("data", "?"),
            f"{entry.architecture.params:,}",
            f"{entry.architecture.macs:,}",
            summary,
            metrics.get("epochs", "?"),
            latency_line(metrics.get("latency")),
        ]
        link = f"[{cell(entry.name)}]({entry.name}/{CARD})"
        lines.append("| " + " | ".join([link, *map(cell, values)]) + " |")
    return "\n".join(lines)


def write_table(folder: str | Path) -> Path:
    """Write FOLDER/README.md: what the folder is, and the table of its entries. Returns the file's path.

    Raises UsageError when there is a README.md that somebody else wrote, or for a broken entry.
    """
    folder = Path(folder).expanduser()
    path = folder / CARD
    if path.exists() and not is_generated(path):
        raise UsageError(f"'{path}' was not written by igcsearch: it is left alone; rename it to have a table written")
    atomic_write(path, page(folder))
    return path


def page(folder: Path) -> str:
    """The text of a zoo's README.md."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    found = [read_folder(folder / name) for name in names if name[0] != "." and looks_like_entry(folder / name)]
    return f"""{MARK}
# Published networks

Each folder is an entry: `architecture.json`, `weights.safetensors`, `metrics.json` and a card. Load one with
`igcsearch.create_model(NAME, pretrained=True)`. Accuracy is of the test split, mean and sample deviation over seeds;
a MAC is one multiply-add, of convolutions and linear layers.

{table(found)}
"""


def is_generated(path: Path) -> bool:
    """True for a README.md that `write_table` wrote."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().strip() == MARK
    except (OSError, UnicodeDecodeError):
        return False


def _rank(entry: Entry) -> tuple[str, float, int, str]:
    accuracy = entry.metrics.get("accuracy")
    return str(entry.metrics.get("data", "")), -(accuracy or 0.0), entry.architecture.params, entry.name
