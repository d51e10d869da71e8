"""Commands about a study: status, pareto, report, publish."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from . import options
from .options import AsJson, StudyDir, at_least
from .output import print_json, print_table, say
from .sizes import clock, percent, short

if TYPE_CHECKING:
    from ..search import Candidate


def status(study: StudyDir, as_json: AsJson = False) -> None:
    """Say how far a search is: candidates by state, and the best. It may be running; reading does not disturb it.

    complete: trained to the end; stopped: early; settled: proposals outside the budget or seen before, which cost nothing.
    Example: igcsearch status DIR --json
    """
    from ..search import open_study

    opened = open_study(study)
    found = opened.status()
    if as_json:
        print_json(found)
        return
    config = opened.config
    print(f"space {config.space}, data {config.data.name}, budget: {budget_text(config.budget)}")
    for state in ("complete", "stopped", "settled", "failed", "running"):
        print(f"{state:<10} {found[state]}")
    print(f"{'trained':<10} {found['complete'] + found['stopped']} of {config.trials}")
    best = opened.best()
    if best is None:
        print("best       none yet")
    else:
        print(f"best       {percent(best.accuracy)} validation, {best.params:,} parameters, {best.macs:,} MACs (candidate {best.id})")


def pareto(
    study: StudyDir,
    as_json: AsJson = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print the table as CSV on stdout.")] = False,
) -> None:
    """Print the Pareto front: the candidates that no other beats in accuracy and cost at once, all trained alike.

    Accuracy is that of the validation split, a fraction in --json and --csv. Stopped candidates are never on it.
    Example: igcsearch pareto DIR --csv > front.csv
    """
    if as_json and csv:
        raise UsageError("--json and --csv exclude each other; give one of them")
    from ..search import open_study

    front = open_study(study).front()
    if as_json:
        print_json([front_row(candidate) for candidate in front])
    elif csv:
        _print_csv(front)
    elif not front:
        say("the front is empty: no candidate is complete yet")
    else:
        rows = [
            [str(c.id), c.family, percent(c.accuracy), f"{c.params:,}", f"{c.macs:,}", _latency(c), str(c.epochs), c.hash] for c in front
        ]
        print_table([">id", "family", ">validation", ">params", ">MACs", ">ms", ">epochs", "hash"], rows, title="Pareto front")


def front_row(candidate: Candidate) -> dict[str, Any]:
    """One candidate of the front as JSON data."""
    return {
        "id": candidate.id,
        "hash": candidate.hash,
        "family": candidate.family,
        "params": candidate.params,
        "macs": candidate.macs,
        "latency_ms": candidate.latency_ms,
        "accuracy": candidate.accuracy,
        "epochs": candidate.epochs,
        "train_images": candidate.train_images,
        "image_size": candidate.image_size,
        "architecture": candidate.architecture.to_dict(),
    }


def _print_csv(front: list[Candidate]) -> None:
    import csv

    columns = ["id", "hash", "family", "params", "macs", "latency_ms", "accuracy", "epochs", "train_images", "image_size"]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*columns, "architecture"])
    for candidate in front:
        row = front_row(candidate)
        writer.writerow([*(row[name] for name in columns), candidate.architecture.to_json()])


def report(
    study: StudyDir,
    out: Annotated[str | None, typer.Option("--out", metavar="FILE", help="The page. Default: STUDY/report.html.")] = None,
) -> None:
    """Write a study's page: one HTML file that needs nothing else, with the front, the curves and the best network's drawing.

    Example: igcsearch report DIR --out page.html
    """
    from ..report import write_report
    from ..search import open_study

    opened = open_study(study)
    print(write_report(opened, Path(out).expanduser() if out else study_folder(study) / "report.html"))


def publish(
    study: StudyDir,
    top: Annotated[int, typer.Option("--top", metavar="K", help="How many networks to publish.")] = 1,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="Retrain each finalist with so many seeds.")] = 3,
    to: Annotated[str | None, typer.Option("--to", metavar="DIR", help="The zoo to write to. Default: IGCSEARCH_ZOO, or your data folder.")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name of the entry (with --top 1); default: by data, family and hash.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an entry of the same name.")] = False,
    epochs: options.Epochs = None,
    train_images: options.TrainImages = None,
    workers: Annotated[int, typer.Option("--workers", metavar="N", help="Training processes at once.")] = 1,
    device: options.Device = "auto",
    threads: options.Threads = None,
    as_json: AsJson = False,
) -> None:
    """Retrain a study's best candidates and publish the winners as networks that 'igcsearch.create_model' loads.

    The best 3K of the front are retrained with N seeds on the whole training split; the K with the best mean validation
    accuracy are evaluated once on the test split and written as entries: architecture, weights (of the first seed), metrics
    with every seed, card. The same command again goes on where it stopped.

    Example: igcsearch publish DIR --top 2 --seeds 3 --epochs 40
    """
    for option, value in (("--top", top), ("--seeds", seeds), ("--workers", workers), ("--epochs", epochs), ("--threads", threads)):
        at_least(option, value, 1)
    from ..publish import publish as publish_study
    from ..search import open_study
