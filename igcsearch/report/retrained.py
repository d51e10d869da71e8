"""The parts of the page on retraining: the finalists, and how well the search's ranking agrees with it. Floor 7.

Both read what igcsearch.publish left in STUDY/publish (finalists.json, agreement.json); without the files they are empty.
"""

from __future__ import annotations

from typing import Any

from ..wording import DASH, count, percent, plural
from .facts import Facts
from .html import table


def finalists_section(facts: Facts) -> str:
    """The retrained candidates, best first, with mean and deviation over the seeds."""
    found = facts.finalists or {}
    rows = [row for row in found.get("finalists", []) if isinstance(row, dict)]
    if not rows:
        return ""
    seeds = plural(max(len(row.get("seeds") or []) for row in rows), "seed")
    images = count(found.get("train_images"))
    columns = [">id", "family", ">parameters", ">MACs", ">in the search", ">retrained", ">test split", "published as"]
    listed = table(columns, map(_finalist, rows), (not row.get("chosen") for row in rows))
    how = "Chosen by mean validation accuracy;\nthe test split was used once, for the chosen ones only."
    if found.get("chosen_by") == "id":
        how = "Named by their ids, each one published;\nthe test split was used once for each."
    return f"""
<section>
<h2>Finalists, retrained</h2>
<p class="note">{seeds} each, {plural(found.get("epochs"), "epoch")} of {images} images. {how}</p>
{listed}
</section>
"""


def _finalist(row: dict[str, Any]) -> list[object]:
    failed = f"failed: {row['failed']}" if row.get("failed") else ""
    return [
        row.get("id"),
        row.get("family") or DASH,
        count(row.get("params")),
        count(row.get("macs")),
        percent(row.get("search_accuracy")),
        percent(row.get("validation_accuracy"), row.get("validation_std")),
        percent(row.get("test_accuracy"), row.get("test_std")),
        row.get("entry") or failed,
    ]


def agreement_section(facts: Facts) -> str:
    """Kendall's tau between accuracy in the search and after retraining, with the pairs as a chart."""
    points = agreement_points(facts)
    if not points:
        return ""
    found = facts.agreement or {}
    tau, p_value = found.get("tau"), found.get("p_value")
    if isinstance(tau, int | float):
        chance = f" (p = {p_value:.2g})" if isinstance(p_value, int | float) else ""
        said = (
            f"Kendall's tau is <b>{tau:.2f}</b>{chance} over {len(points)} candidates: 1 is the same ranking, 0 none."
        )
    else:
        said = f"Kendall's tau over {len(points)} candidates is not defined: all accuracies are equal."
    trained = f"{plural(found.get('epochs'), 'epoch')} with {plural(found.get('seeds'), 'seed')} each"
    return f"""
<section>
<h2>Does the search rank as full training does?</h2>
<p>{said}</p><p class="note">Retrained for {trained}; both are accuracies of the validation split.</p>
<div class="chart" id="agreement" data-label="retrained accuracy against accuracy in the search"></div>
</section>
"""


def agreement_points(facts: Facts) -> list[dict[str, Any]]:
    """Pairs of accuracies as the page's script draws them."""
    pairs = (facts.agreement or {}).get("pairs", [])
    return [
        {
            "id": pair.get("id"),
            "state": pair.get("state"),
            "search": pair["search_accuracy"],
            "retrained": pair["retrained_accuracy"],
        }
        for pair in pairs
        if isinstance(pair, dict)
        and isinstance(pair.get("search_accuracy"), int | float)
        and isinstance(pair.get("retrained_accuracy"), int | float)
    ]
