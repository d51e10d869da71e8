"""The commands `zoo build`: from a study to a zoo along a ladder of budgets, with the zoo's table and page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..wording import DASH, percent
from . import options
from .options import AsJson, StudyDir, count
from .output import print_json, print_table, say
from .publish import published_row, tell
from .sizes import parse_size
from .study import opened_study, write_page

if TYPE_CHECKING:
    from pathlib import Path

    from ..publish.ladder import RungResult, Zoo

app = typer.Typer(
    name="zoo",
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Families of networks: a zoo is a folder of published networks.\n\n"
    "Example: `igcsearch zoo build DIR --ladder 20k,50k,100k --to ZOO`",
)


@app.callback(invoke_without_command=True)
def _zoo(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def sizes(text: str | None, option: str) -> list[int]:
    """A list such as 20k,50k,100k; empty for None.

    Raises:
        UsageError: what is no size.
    """
    return [] if text is None else [parse_size(part.strip(), f"{option}: rung") for part in text.split(",")]


@app.command("build")
def build(
    study: StudyDir = None,
    ladder: Annotated[
        str | None,
        typer.Option("--ladder", metavar="N,N,...", help="Limits on parameters, rising: 20k,50k,100k,250k."),
    ] = None,
    ladder_macs: Annotated[
        str | None,
        typer.Option(
            "--ladder-macs",
            metavar="N,N,...",
            help="Limits on multiply-adds: 1M,5M. With --ladder: as many, each rung has both.",
        ),
    ] = None,
    max_latency: options.MaxLatency = None,
    latency_device: options.LatencyDevice = None,
    latency_batch: options.LatencyBatch = None,
    latency_threads: options.LatencyThreads = None,
    latency_time: options.LatencyTime = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="ZOO", help="The zoo to write to. Default: IGCSEARCH_ZOO, or your data folder."),
    ] = None,
    top: Annotated[int, typer.Option("--top", parser=count, metavar="K", help="Networks of each rung.")] = 1,
    seeds: Annotated[
        int, typer.Option("--seeds", parser=count, metavar="N", help="Retrain each finalist with the seeds 0 to N - 1.")
    ] = 3,
    epochs: Annotated[
        int | None,
        typer.Option("--epochs", parser=count, metavar="E", help="Of the retrainings. Default: as in the study."),
    ] = None,
    min_candidates: Annotated[
        int,
        typer.Option(
            "--min-candidates",
            parser=count,
            metavar="N",
            help="Complete candidates that each rung needs; inherited ones that a smaller rung admits do not count.",
        ),
    ] = 10,
    workers: Annotated[
        int, typer.Option("--workers", parser=count, metavar="N", help="Training processes at once.")
    ] = 1,
    engine: options.Engine = "local",
    address: options.Address = None,
    gpus_per_candidate: options.GpusPerCandidate = None,
    cpus_per_candidate: options.CpusPerCandidate = None,
    max_concurrent: options.MaxConcurrent = None,
    checkpoints: options.Checkpoints = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="auto|cpu|cuda", help="Default: as in the study.")
    ] = None,
    storage: options.Storage = None,
    name: options.StudyName = None,
    as_json: AsJson = False,
) -> None:
    """Build a zoo along a ladder of budgets: a search within each limit, its winners retrained, tested once and published.

    Each rung begins with the complete candidates of STUDY and of the other rungs that are within its limit, and goes on with the
    search until --min-candidates are complete (inherited ones that a smaller rung admits too do not count). Of its best 3K,
    retrained with N seeds, the K with the best mean validation accuracy become entries of the zoo, with its table (README.md)
    and page (index.html). The same command again goes on where it stopped; rungs that are complete are left alone. A rung that
    fails does not end the others; the exit status is then 1.

    With --max-latency each rung has that limit too: latency is predicted in its search, as in 'search', and its finalists are
    measured as whole networks before they are retrained, those over the limit named and left out.

    Examples:

    igcsearch zoo build DIR --ladder 20k,50k,100k,250k --to ZOO --seeds 3 --workers 2

    igcsearch zoo build DIR --ladder-macs 1M,5M --top 2 --epochs 40
    """
    params, macs = sizes(ladder, "--ladder"), sizes(ladder_macs, "--ladder-macs")
    from ..publish.rungs import make_ladder

    rungs = make_ladder(params, macs, max_latency)
    opened = opened_study(study, storage, name)
    from ..publish.ladder import build_zoo
    from .progress import view

    given = {
        "address": address,
        "gpus_per_candidate": gpus_per_candidate,
        "cpus_per_candidate": cpus_per_candidate,
        "max_concurrent": max_concurrent,
        "checkpoints": checkpoints,
    }
    zoo = build_zoo(
        opened,
        rungs,
        to=to,
        top=top,
        seeds=seeds,
        epochs=epochs,
        min_candidates=min_candidates,
        device=device,
        latency=options.latency_fields(latency_device, latency_batch, latency_threads, latency_time),
        running={"workers": workers, "engine": engine, **{k: v for k, v in given.items() if v is not None}},
        storage=storage,
        on_event=tell,
        view=view,
    )
    for rung in zoo.rungs:
        if rung.state == "built":
            _rung_page(rung, opened.place.shared, storage)
    page = _zoo_page(zoo.path) if zoo.entries else None
    if as_json:
        print_json(_document(zoo, opened.path, page))
    else:
        _print(zoo)
    if zoo.interrupted:
        say("interrupted; the same command goes on where it stopped")
        raise typer.Exit(130)
    if zoo.failed:
        for rung in zoo.failed:
            say(f"error: rung {rung.rung.name}: {rung.error}")
        raise typer.Exit(1)


def _rung_page(rung: RungResult, shared: bool, storage: str | None) -> None:
    """The page of a rung's study, as a search leaves one."""
    from ..search import open_study
    from ..search.places import place_at

    place = place_at(rung.folder)
    url = storage if shared else None
    study = open_study(rung.folder, storage=url, study=place.description()["study"] if url else None)
    write_page(study, rung.folder / "report.html")
    study.close()


def _zoo_page(zoo: Path) -> str | None:
    """The zoo's page; work that is done is not lost because its page cannot be written, so that is only said."""
    from ..report import write_zoo_page

    try:
        page = write_zoo_page(zoo)
    except UsageError as error:
        say(f"the zoo's page was not written: {error}")
        return None
    say(f"page: {page}")
    return str(page)


def _print(zoo: Zoo) -> None:
    rows = []
    for rung in zoo.rungs:
        numbers = [f"{rung.complete:,}", f"{rung.inherited:,}"] if rung.entries else [DASH, DASH]
        if not rung.entries:
            rows.append([rung.rung.name, rung.state, *numbers, DASH, DASH, DASH, DASH])
        for entry in rung.entries:
            accuracy = percent(entry.metrics["accuracy"], entry.metrics["accuracy_std"])
            cost = [f"{entry.architecture.params:,}", f"{entry.architecture.macs:,}"]
            rows.append([rung.rung.name, rung.state, *numbers, entry.name, accuracy, *cost])
    columns = ["rung", "state", ">candidates", ">inherited", "winner", ">test accuracy", ">params", ">MACs"]
    print_table(columns, rows, title=f"zoo {zoo.path}")


def _document(zoo: Zoo, study: Path, page: str | None) -> dict[str, Any]:
    rungs = [
        {
            "rung": rung.rung.name,
            "limits": rung.rung.limits,
            "state": rung.state,
            "complete": rung.complete,
            "inherited": rung.inherited,
            "entries": [entry.name for entry in rung.entries],
            "error": rung.error or None,
            "study": str(rung.folder),
        }
        for rung in zoo.rungs
    ]
    entries = [published_row(entry) | {"rungs": list(entry.metrics["provenance"]["rungs"])} for entry in zoo.entries]
    return {"zoo": str(zoo.path), "study": str(study), "page": page, "rungs": rungs, "entries": entries}
