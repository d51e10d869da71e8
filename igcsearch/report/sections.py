"""The parts of the page about the search itself: headline, front, curves, importances, table, settings. Floor 7.

Each function returns HTML for one section; the charts in them are empty boxes that page.js fills.
"""

from __future__ import annotations

from ..wording import DASH, clock, percent
from . import strip
from .facts import Facts
from .html import figures, settings, text


def lead(facts: Facts) -> str:
    """The headline's sentence."""
    if facts.best is None:
        return '<p class="lead">No candidate is complete yet.</p>'
    best = facts.best
    budget = facts.settings["Budget"]
    within = "" if budget == "none" else f" The budget was {text(budget)}."
    return (
        f'<p class="lead">The best network found has <b>{percent(best["accuracy"])}</b> validation accuracy with '
        f"<b>{best['params']:,} parameters</b> and <b>{best['macs']:,} MACs</b>.{within}</p>"
    )


def tiles(facts: Facts) -> str:
    """The figures that one looks for first."""
    counts, best = facts.counts, facts.best
    trained = counts["complete"] + counts["stopped"]
    states = f"{counts['complete']} complete, {counts['stopped']} stopped early"
    if counts["failed"]:
        states += f", {counts['failed']} failed"
    if counts["running"]:
        states += f", {counts['running']} running"
    ordered = sorted(facts.reasons.items(), key=lambda item: -item[1])
    reasons = ordered[0][0] if len(ordered) == 1 else ", ".join(f"{number} {what}" for what, number in ordered)
    return figures(
        (
            "Best accuracy",
            percent(best["accuracy"] if best else None),
            "of the validation split" if best else "none yet",
        ),
        ("Its parameters", f"{best['params']:,}" if best else DASH, f"{best['macs']:,} MACs" if best else ""),
        ("On the front", str(len(facts.front)), "not beaten in accuracy and cost"),
        ("Candidates trained", str(trained), states),
        (
            "Proposals accepted",
            percent(facts.acceptance, digits=0),
            f"{counts['settled']} settled untrained{': ' + reasons if reasons else ''}",
        ),
        ("Training time", clock(facts.seconds), "all candidates together"),
    )


def front_section(facts: Facts) -> str:
    """Accuracy against cost of every candidate, the stopped ones apart."""
    rows = [row for row in facts.rows if row["state"] in ("complete", "stopped")]
    if not rows:
        return '<section><h2>Accuracy and cost</h2><p class="empty">Nothing is trained yet.</p></section>'
    names = {"params": "Parameters", "macs": "MACs"}
    if any(row["latency"] is not None for row in rows):
        names["latency"] = facts.latency.capitalize()
    buttons = "".join(
        f'<button type="button" data-cost="{key}" aria-pressed="{str(key == facts.cost).lower()}">{name}</button>'
        for key, name in names.items()
    )
    families = sorted({row["family"] for row in rows if row["family"]})
    legend = "".join(f'<li><i style="--h:{strip.hue(family)}"></i>{text(family)}</li>' for family in families)
    legend += '<li><i class="line"></i>best for its cost</li>'
    if any(row["state"] == "stopped" for row in rows):
        legend += '<li><i class="early"></i>stopped early, higher in the strip: later</li>'
    return f"""
<section>
<div class="bar"><div><h2>Accuracy and cost</h2>
<p class="note">Each point is a network trained to the end; large ones are on the study's Pareto front.
Point at one to see it.</p></div>
<div class="switch" id="costs" role="group" aria-label="cost on the horizontal axis">{buttons}</div></div>
<div class="chart" id="front" data-label="validation accuracy against cost of all candidates"></div>
<ul class="legend">{legend}</ul>
</section>
"""


def best_section(facts: Facts) -> str:
    """How the best accuracy grew."""
    body = '<div class="chart" id="best" data-label="best accuracy after so many candidates"></div>'
    if not facts.best_so_far:
        body = '<p class="empty">No candidate is complete yet.</p>'
    note = "How the best validation accuracy grew with the search."
    return f'<section><h2>Best so far</h2><p class="note">{note}</p>{body}</section>'


def curves_section(facts: Facts) -> str:
    """Learning curves."""
    body = '<div class="chart" id="curves" data-label="validation accuracy of each candidate by epoch"></div>'
    if not any(any(value is not None for value in row.get("curve", ())) for row in facts.rows):
        body = '<p class="empty">No curves are recorded yet.</p>'
    note = "Validation accuracy by epoch; dashed: stopped early, bold: on the front."
    return f'<section><h2>Learning curves</h2><p class="note">{note}</p>{body}</section>'


def importances_section(facts: Facts) -> str:
    """Which parameters of the space mattered, by Optuna."""
    if not facts.importances:
        body = f'<p class="empty">{text(facts.importances_note)}</p>'
    else:
        most = max(value for _, value in facts.importances) or 1.0
        bars = "".join(
            f'<span title="{text(name)}">{text(name)}</span>'
            f'<span><i style="width:{100 * value / most:.1f}%"></i></span><span>{100 * value:.0f} %</span>'
            for name, value in facts.importances[:14]
        )
        body = f'<p class="note">{text(facts.importances_note)}</p><div class="bars">{bars}</div>'
    return f"<section><h2>What mattered in the space</h2>{body}</section>"


def table_section(facts: Facts) -> str:
    """All candidates, sortable."""
    if not facts.rows:
        return ""
    left = (
        f" The {len(facts.rows):,} best are here; {facts.left_out:,} more are in the study." if facts.left_out else ""
    )
    return f"""
<section>
<h2>Candidates</h2>
<p class="note">Accuracy is that of the validation split after the last epoch; a MAC is one multiply-add of a convolution
or linear layer.{left}</p>
<div class="scroll"><table id="table"><thead><tr></tr></thead><tbody></tbody></table></div>
<button class="more" id="more" type="button" hidden>Show all</button>
</section>
"""


def settings_section(facts: Facts) -> str:
    """What was asked for."""
    return f"<section><h2>How it was searched</h2>{settings(facts.settings)}</section>"
