"""Commands about a study: status, pareto, report."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..wording import DASH, percent, plural
from . import options
from .options import AsJson, StudyDir
from .output import print_json, print_table, say

if TYPE_CHECKING:
    from ..search import Candidate, Study

# Of a candidate, in JSON and in CSV.
_COLUMNS = (
    *("id", "hash", "family", "params", "macs", "latency_ms", "accuracy", "epochs", "train_images", "image_size"),
    "architecture",
)


MIN_INTERVAL = 0.2  # seconds


def opened_study(folder: str | None, storage: str | None, name: str | None) -> Study:
    """The study that a command was given: a folder, or a server's URL and the name there, or both.

    Raises:
        UsageError: neither, or no such study.
    """
    if folder is None and storage is None:
        raise UsageError("no study was given; give its folder, or --storage URL --study NAME")
    from ..search import open_study

    return open_study(folder, storage=storage, study=name)


def status(
    study: StudyDir = None,
    storage: options.Storage = None,
    name: options.StudyName = None,
    as_json: AsJson = False,
    watching: Annotated[
        bool, typer.Option("--watch", help="Show it again and again, until no search is running or Ctrl-C.")
    ] = False,
    interval: Annotated[
        float,
        typer.Option("--interval", parser=options.seconds, metavar="TIME", help="Between looks of --watch."),
    ] = 2.0,
) -> None:
    """Say how far a search is: candidates by state, and the best. It may be running; reading does not disturb it.

    complete: trained to the end; stopped: early; settled: proposals outside the budget or seen before, which cost nothing.
    Example: igcsearch status DIR --watch
    """
    if watching:
        if as_json:
            raise UsageError("--watch and --json exclude each other; give one of them")
        if interval < MIN_INTERVAL:
            raise UsageError(f"--interval {interval:g} must be at least {MIN_INTERVAL:g} seconds, such as 2s")
        from .watch import watch

        try:
            watch(opened_study(study, storage, name), interval)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        return
    opened = opened_study(study, storage, name)
    found = opened.status()
    if as_json:
        print_json(found)
        return
    config, best = opened.config, opened.best()
    limits = config.budget.to_dict()
    budget = ", ".join(f"{name} <= {value:,}" for name, value in limits.items() if value is not None)
    running = {True: "a search is running on it", False: "no search is running on it", None: ""}[found["active"]]
    print(
        f"space {config.space}, data {config.data.name}, budget {budget or 'none'}{'; ' + running if running else ''}"
    )
    print(f"trained    {found['complete'] + found['stopped']} of {found['trials']}")
    for state in ("complete", "stopped", "settled", "failed", "running"):
        print(f"{state:<10} {found[state]}")
    if found["waiting"]:
        print(f"unfinished {found['waiting']} (they go on from their last epoch when the search is resumed)")
    print(f"accepted   {percent(found['acceptance'])} of {plural(found['proposals'], 'proposal')}")
    if best is None:
        print("best       none yet")
    else:
        print(
            f"best       {percent(best.accuracy)} validation, {best.params:,} parameters, {best.macs:,} MACs (candidate {best.id})"
        )


def pareto(
    study: StudyDir = None,
    storage: options.Storage = None,
    name: options.StudyName = None,
    as_json: AsJson = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print the table as CSV on stdout.")] = False,
) -> None:
    """Print the Pareto front: the candidates that no other beats in accuracy and cost at once, all trained alike.

    Accuracy is that of the validation split, a fraction in --json and --csv. Stopped candidates are never on it.
    Example: igcsearch pareto DIR --csv > front.csv
    """
    if as_json and csv:
        raise UsageError("--json and --csv exclude each other; give one of them")
    opened = opened_study(study, storage, name)
    front = opened.front()
    if as_json:
        print_json([front_row(candidate) for candidate in front])
    elif csv:
        _print_csv(front)
    elif not front:
        say("the front is empty: no candidate is complete yet")
    else:
        print_candidates(front, title="Pareto front", predicted=opened.latency is not None)


def print_candidates(
    candidates: Iterable[Candidate], *, title: str, marked: Collection[int] | None = None, predicted: bool = False
) -> None:
    """Candidates as a table; `marked`: the ids that bear a star in a column of their own, for "on the front".

    `predicted`: their latencies are.
    """
    ms = ">predicted ms" if predicted else ">ms"
    columns = [">id", "family", ">validation", ">params", ">MACs", ms, ">epochs", "hash"]
    rows = []
    for c in candidates:
        latency = DASH if c.latency_ms is None else f"{c.latency_ms:.2f}"
        costs = [f"{c.params:,}", f"{c.macs:,}", latency]
        rows.append([str(c.id), c.family, percent(c.accuracy), *costs, str(c.epochs), c.hash])
        if marked is not None:
            rows[-1].append("*" if c.id in marked else "")
    print_table(columns if marked is None else [*columns, "front"], rows, title=title)


def front_row(candidate: Candidate) -> dict[str, Any]:
    """One candidate of the front as JSON data."""
    row = {name: getattr(candidate, name) for name in _COLUMNS}
    return row | {"architecture": candidate.architecture.to_dict()}


def _print_csv(front: list[Candidate]) -> None:
    import csv

    writer = csv.DictWriter(sys.stdout, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for candidate in front:
        writer.writerow(front_row(candidate) | {"architecture": candidate.architecture.to_json()})


def report(
    study: StudyDir = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="The page. Default: STUDY/report.html.")
    ] = None,
    storage: options.Storage = None,
    name: options.StudyName = None,
) -> None:
    """Write a study's page: one HTML file that needs nothing else, with the front, the curves and the best network's drawing.

    Example: igcsearch report DIR --out page.html
    """
    from ..report import write_report

    opened = opened_study(study, storage, name)
    print(write_report(opened, Path(out).expanduser() if out else opened.path / "report.html"))


def write_page(study: Study, path: Path) -> None:
    """The study's page at `path`; work that is done is not lost because its page cannot be written, so that is only said."""
    from ..report import write_report

    try:
        print(f"report: {write_report(study, path)}", file=sys.stderr)
    except (OSError, UsageError) as error:
        say(f"the report could not be written: {error}; try: igcsearch report STUDY --out FILE")
