"""The page of a study: facts (facts.py) laid out as one HTML file with its style, script and drawings inside. Floor 7.

All text that comes from outside (space, data, candidates' reasons) is escaped, by `text` in HTML and by `embedded` in the
script's data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import UsageError
from ..files import atomic_write
from . import drawing, strip
from .facts import Facts, collect
from .html import text
from .learned import learned_section
from .network import network_section
from .retrained import agreement_points, agreement_section, finalists_section
from .sections import (
    best_section,
    curves_section,
    front_section,
    importances_section,
    lead,
    settings_section,
    table_section,
    tiles,
)

if TYPE_CHECKING:
    from ..search import Study

GENERATOR = '<meta name="generator" content="igcsearch'  # how our own pages are known
WHOLE = "It needs nothing else: keep it, mail it, open it offline."


def write_report(study: Study, path: str | Path | None = None) -> Path:
    """Write a study's page and return its path.

    Args:
        study: as `igcsearch.open_study` gives it; the search may still be running.
        path: the HTML file; None: report.html in the study's folder.

    Raises:
        UsageError: the file cannot be written.
    """
    target = study.path / "report.html" if path is None else Path(path)
    page = render(collect(study, study.path))
    try:
        if target.parent == study.path:  # a study on a server may have no folder here yet
            study.path.mkdir(parents=True, exist_ok=True)
        atomic_write(target, page)
    except OSError as error:
        raise UsageError(
            f"report {str(target)!r} cannot be written: {error.strerror or error}; choose another file with --out"
        ) from None
    return target


def render(facts: Facts) -> str:
    """The whole page as HTML text."""
    sections = [
        front_section(facts),
        f'<div class="pair">{best_section(facts)}{curves_section(facts)}</div>',
        network_section(facts),
        learned_section(facts),
        finalists_section(facts),
        agreement_section(facts),
        importances_section(facts),
        table_section(facts),
        settings_section(facts),
    ]
    header = f"""<p class="eyebrow">igcsearch study · {text(facts.space)} space</p>
<h1>{text(facts.title)}</h1>
{lead(facts)}"""
    main = f"""{tiles(facts)}
<noscript><section>The charts and the table of candidates are drawn by the page's own script; please allow it.</section></noscript>
{"".join(sections)}"""
    style = (drawing.STYLE, strip.STYLE)
    return document(facts.title, style, header, main, WHOLE, _data(facts))


def document(
    title: str, style: Iterable[str], header: str, main: str, footer: str, data: Any = None, script: str = ""
) -> str:
    """A whole HTML file in the look of all pages.

    Args:
        title: plain text.
        style: CSS behind that of page.css.
        header, main: HTML.
        footer: HTML behind "Written by igcsearch on ...".
        data: what page.js reads; None for a page without a script.
        script: JavaScript behind page.js.
    """
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    moving = f"""<svg id="ns" hidden></svg>
<div id="tip" role="status"></div>
<script type="application/json" id="data">{embedded(data)}</script>
<script>
{resource("page.js")}
{script}
</script>
"""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{GENERATOR} {text(__version__)}">
<title>{text(title)} · igcsearch</title>
<style>
{chr(10).join((resource("page.css"), *style))}
</style>
</head>
<body>
<header>
{header}
</header>
<main>
{main}
</main>
<footer>Written by igcsearch {text(__version__)} on {written}. {footer}</footer>
{"" if data is None else moving}</body>
</html>
"""


def resource(name: str) -> str:
    """A file of this folder, to stand in a page."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8").strip()


def embedded(data: Any) -> str:
    """JSON that may stand inside a script element: no `<` in it, so that no tag can begin or end there."""
    plain = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return plain.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _data(facts: Facts) -> dict[str, Any]:
    """What page.js reads."""
    return {
        "rows": facts.rows,
        "cost": facts.cost,
        "budget": facts.limits,
        "latency": facts.latency,
        "best_so_far": facts.best_so_far,
        "trained": facts.counts["complete"] + facts.counts["stopped"],
        "left_out": facts.left_out,
        "agreement": agreement_points(facts),
        "hues": strip.HUES,
    }


__all__ = ["render", "write_report"]
