"""The command publish: a study's best candidates, or those that are named, retrained and put into a zoo."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..wording import DASH, percent
from . import options
from .options import AsJson, StudyDir, count
from .output import print_json, print_table, say
from .study import opened_study, write_page

if TYPE_CHECKING:
    from ..entries import Entry


def publish(
    study: StudyDir = None,
    top: Annotated[
        int | None,
        typer.Option("--top", parser=count, metavar="K", help="How many networks to publish, the best. Default: 1."),
    ] = None,
    candidates: Annotated[
        str | None,
        typer.Option(
            "--candidates",
            metavar="ID,ID,...",
            help="Retrain and publish these alone, each one, instead: ids as 'pareto' shows them.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", parser=count, metavar="N", help="Retrain each finalist with the seeds 0 to N - 1.")
    ] = 3,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="DIR", help="The zoo to write to. Default: IGCSEARCH_ZOO, or your data folder."),
    ] = None,
    agreement: Annotated[
        int | None,
        typer.Option(
            "--agreement",
            parser=count,
            metavar="N",
            help="Also retrain N candidates over the whole ranking, and give Kendall's tau.",
        ),
    ] = None,
    epochs: options.Epochs = None,
    train_images: options.TrainImages = None,
    workers: Annotated[
        int, typer.Option("--workers", parser=count, metavar="N", help="Training processes at once.")
    ] = 1,
    device: options.Device = "auto",
    engine: options.Engine = "local",
    address: options.Address = None,
    gpus_per_candidate: options.GpusPerCandidate = None,
    cpus_per_candidate: options.CpusPerCandidate = None,
    max_concurrent: options.MaxConcurrent = None,
    storage: options.Storage = None,
    name: options.StudyName = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace networks of the same name from another study, recipe or data.")
    ] = False,
    relearn: Annotated[
        bool,
        typer.Option(
            "--relearn",
            help="Learn shuffles and group counts anew with every seed; by default all seeds share what the search learned.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Retrain a study's best candidates and publish the winners as networks that igcsearch.create_model loads.

    The best 3K are retrained with N seeds on the whole training split, 3 x K x N trainings; the K with the best mean validation
    accuracy are evaluated once on the test split and written as entries: architecture, weights (of seed 0), metrics with every
    seed, card. The same command again goes on where it stopped. The study's page is written anew.

    With --candidates there is no choice: those, and no others, are retrained and published. The exit status is 1 where one of
    them fails in training; the others are published all the same.

    Examples:

    igcsearch publish DIR --top 2 --seeds 3 --epochs 40

    igcsearch publish DIR --candidates 62,55 --seeds 3
    """
    wanted = None if candidates is None else _ids(candidates)
    if agreement is not None and agreement < 2:
        raise UsageError(f"--agreement {agreement} must be at least 2: one candidate has no ranking")
    from .. import publish as publishing

    opened = opened_study(study, storage, name)
    how: dict[str, Any] = {
        "epochs": epochs,
        "device": device,
        "workers": workers,
        "on_event": tell,
        "train_images": train_images,
        "pool": publishing.Pool(engine, address, gpus_per_candidate, cpus_per_candidate, max_concurrent),
    }
    entries = publishing.publish(
        opened, top=top, candidates=wanted, seeds=seeds, to=to, overwrite=overwrite, relearn=relearn, **how
    )
    compared = None if agreement is None else publishing.agreement(opened, agreement, **how)
    write_page(opened, opened.path / "report.html")
    if as_json:
        print_json([published_row(entry) for entry in entries])
    else:
        _print_published(entries, compared)
    if wanted is not None and len(entries) < len(wanted):
        raise typer.Exit(1)  # which failed, and why, was said


def _print_published(entries: Iterable[Entry], compared: dict[str, Any] | None) -> None:
    print_table(["published", ">test accuracy", ">params", ">MACs", ">ms", "in"], map(_published, entries))
    if compared is not None and compared["tau"] is not None:
        print(
            f"Kendall's tau between search and retrained accuracy: {compared['tau']:.3f} over {len(compared['pairs'])} candidates"
        )


def _ids(text: str) -> list[int]:
    """Ids of candidates, such as 62,55."""
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not re.fullmatch(r"\d{1,9}", part, re.ASCII):
            raise UsageError(
                f"--candidates {text!r}: {part!r} is no id of a candidate; give whole numbers with commas between, such as 62,55"
            )
    return [int(part) for part in parts]


def _published(entry: Entry) -> list[str]:
    """An entry as a line of the table. Its latency is that of its metrics, which say of what setting."""
    row = published_row(entry)
    latency = DASH if row["latency_ms"] is None else f"{row['latency_ms']:.3f}"
    accuracy = percent(row["accuracy"], row["accuracy_std"])
    return [entry.name, accuracy, f"{row['params']:,}", f"{row['macs']:,}", latency, str(entry.path)]


def tell(event: Any) -> None:
    """A line for each thing that happened; epochs are too many for lines."""
    if type(event).__name__ != "EpochDone":
        say(event.message)


def published_row(entry: Entry) -> dict[str, Any]:
    """An entry as JSON data."""
    metrics = entry.metrics
    latency = (metrics.get("latency") or {}).get("median_ms")
    cost = {"params": entry.architecture.params, "macs": entry.architecture.macs, "latency_ms": latency}
    accuracy = {"accuracy": metrics["accuracy"], "accuracy_std": metrics["accuracy_std"], "seeds": metrics["seeds"]}
    return {"name": entry.name, "path": str(entry.path), **cost, **accuracy, "data": metrics["data"]}
