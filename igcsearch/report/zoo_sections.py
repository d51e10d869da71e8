"""The parts of a zoo's page: headline, figures, chart, ladder, table. Functions that return HTML of rows of zoo.py. Floor 7."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from ..entries.entry import CARD
from ..wording import DASH, count, percent, plural, short
from . import strip
from .html import Html, figures, text

LIMITS = {"params": "parameters", "macs": "MACs"}


def lead(rows: list[dict[str, Any]]) -> str:
    """The headline's sentence."""
    able = [row for row in rows if row["accuracy"] is not None]
    if not able:
        return '<p class="lead">No network is published here yet.</p>'
    best, least = max(able, key=lambda row: (row["accuracy"], -row["params"])), min(able, key=lambda row: row["params"])
    one = (
        f"The most accurate has <b>{percent(best['accuracy'])}</b> of the test split of {text(best['data'])} right with "
        f"<b>{best['params']:,} parameters</b>"
    )
    if best is least:
        return f'<p class="lead">{one}.</p>'
    return (
        f'<p class="lead">{one}; the smallest has <b>{percent(least["accuracy"])}</b> with '
        f"<b>{least['params']:,}</b>.</p>"
    )


def tiles(rows: list[dict[str, Any]], sets: dict[str, Any]) -> str:
    """The figures that one looks for first."""
    able = [row for row in rows if row["accuracy"] is not None]
    best = max(able, key=lambda row: row["accuracy"], default=None)
    rungs = sum(len(each["rungs"]) for each in sets.values())
    sizes = [row["params"] for row in rows]
    span = f"{short(min(sizes))} to {short(max(sizes))}" if len(set(sizes)) > 1 else short(sizes[0] if sizes else None)
    macs = [row["macs"] for row in rows]
    return figures(
        (
            "Best accuracy",
            percent(best["accuracy"] if best else None),
            "of the test split, mean over seeds",
        ),
        ("Networks", str(len(rows)), ", ".join(sorted({row["family"] for row in rows}))),
        ("Parameters", span, f"{short(min(macs))} to {short(max(macs))} MACs" if macs else ""),
        ("Not beaten", str(sum(row["front"] for row in rows)), "in accuracy and cost at once"),
        ("Rungs", str(rungs) if rungs else DASH, "of the ladder have a winner here" if rungs else "no ladder"),
    )


def chart(sets: dict[str, Any], shown: str, cost: str) -> str:
    """Accuracy against cost of the entries of one data set."""
    rows = [row for each in sets.values() for row in each["rows"] if row["accuracy"] is not None]
    if not rows:
        return ""
    families = sorted({row["family"] for row in rows})
    legend = "".join(f'<li><i style="--h:{strip.hue(family)}"></i>{text(family)}</li>' for family in families)
    legend += '<li><i class="line"></i>best for its cost</li>'
    if any(row["rungs"] for row in rows):
        legend += '<li><i class="rung"></i>rung of the ladder</li>'
    costs = _switch("costs", "cost on the horizontal axis", "cost", {"params": "Parameters", "macs": "MACs"}, cost)
    data = _switch("sets", "data set", "set", {name: name for name in sets}, shown) if len(sets) > 1 else ""
    return f"""
<section>
<div class="bar"><div><h2>Accuracy and cost</h2>
<p class="note">Each point is a published network: mean accuracy on the test split, the bar its deviation over the seeds; large
points are beaten by none in accuracy and both costs. Point at one to see it.</p></div>{data}{costs}</div>
<div class="chart" id="front" data-label="test accuracy against cost of all networks"></div>
<ul class="legend">{legend}</ul>
</section>
"""


def _switch(id: str, label: str, key: str, names: dict[str, str], pressed: str) -> str:
    buttons = "".join(
        f'<button type="button" data-{key}="{text(name)}" aria-pressed="{str(name == pressed).lower()}">{text(shown)}</button>'
        for name, shown in names.items()
    )
    return f'<div class="switch" id="{id}" role="group" aria-label="{label}">{buttons}</div>'


def ladder(sets: dict[str, Any]) -> str:
    """Each rung with its winners."""
    lines = []
    for data, each in sets.items():
        for rung in each["rungs"]:
            limit = " and ".join(f"{rung[key]:,} {word}" for key, word in LIMITS.items() if key in rung)
            for row in (row for row in each["rows"] if rung["name"] in row["rungs"]):
                also = [name for name in row["rungs"] if name != rung["name"]]
                cells: list[object] = [rung["name"], data, limit, _link(row), row["summary"]]
                cells += [count(row["params"]), count(row["macs"]), f"also {', '.join(also)}" if also else ""]
                lines.append((row["id"], cells))
    if not lines:
        return ""
    columns = ["rung", "data", "at most", "winner", ">test accuracy", ">parameters", ">MACs", ""]
    return f"""
<section>
<h2>The ladder</h2>
<p class="note">Each rung is a search of its own within its limit; its best networks were retrained with several seeds, and the
best of those by validation accuracy is here. One network can win several rungs.</p>
{_rows(columns, lines)}
</section>
"""


def table(rows: list[dict[str, Any]]) -> str:
    """All entries, with links to their cards."""
    if not rows:
        return ""
    columns = ["name", "data", "family", ">test accuracy", ">parameters", ">MACs", ">latency", "rungs"]
    lines: list[tuple[int, list[object]]] = [
        (
            row["id"],
            [
                *(_link(row), row["data"], row["family"], row["summary"], count(row["params"]), count(row["macs"])),
                *(row["time"], _labels(row["rungs"])),
            ],
        )
        for row in rows
    ]
    return f"""
<section>
<h2>{plural(len(rows), "network")}</h2>
<p class="note">Load one with <code>igcsearch.create_model(NAME, pretrained=True)</code>; names lead to the cards, which say all
about a network: every seed, data, recipe, origin. Latency is of one image on one thread, on the machine that published it.</p>
{_rows(columns, lines)}
</section>
"""


def _labels(rungs: dict[str, Any]) -> Html:
    return Html(
        '<span class="rungs">' + "".join(f'<span class="level">{text(name)}</span>' for name in rungs) + "</span>"
    )


def _link(row: dict[str, Any]) -> Html:
    return Html(f'<a href="{text(quote(row["name"]))}/{CARD}">{text(row["name"])}</a>')


def _rows(columns: Sequence[str], lines: Sequence[tuple[int, Sequence[object]]]) -> str:
    """A table as `html.table` makes it, whose rows know their points in the chart."""
    marks = [" class=n" if name.startswith(">") else "" for name in columns]
    head = "".join(f"<th{mark}>{text(name.removeprefix('>'))}</th>" for mark, name in zip(marks, columns, strict=True))
    body = "".join(
        f'<tr data-id="{number}">'
        + "".join(f"<td{mark}>{text(cell)}</td>" for mark, cell in zip(marks, cells, strict=True))
        + "</tr>"
        for number, cells in lines
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
