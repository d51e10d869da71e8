"""The page of a study: facts (facts.py) laid out as one HTML file with its style, script and drawings inside. Floor 7.

All text that comes from outside (space, data, candidates' reasons) is escaped, by `text` in HTML and by `embedded` in the
script's data.
"""

from __future__ import annotations

import json
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
    style = "\n".join((resource("page.css"), drawing.STYLE, strip.STYLE))
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="igcsearch {text(__version__)}">
<title>{text(facts.title)} · igcsearch</title>
<style>
{style}
</style>
</head>
<body>
<header>
<p class="eyebrow">igcsearch study · {text(facts.space)} space</p>
<h1>{text(facts.title)}</h1>
{lead(facts)}
</header>
<main>
{tiles(facts)}
<noscript><section>The charts and the table of candidates are drawn by the page's own script; please allow it.</section></noscript>
{"".join(sections)}
</main>
<footer>Written by igcsearch {text(__version__)} on {written}. It needs nothing else: keep it, mail it, open it offline.</footer>
<svg id="ns" hidden></svg>
<div id="tip" role="status"></div>
<script type="application/json" id="data">{embedded(_data(facts))}</script>
<script>
{resource("page.js")}
</script>
</body>
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
