"""The application: its commands, `--version`, and how errors end (one line on stderr; 2 for the user's, 1 for ours). Floor 8.

Each command lives in a module of this folder and imports what it needs when it is called, so that `--help` stays fast:
torch, numpy, pandas, Optuna and Ray take seconds to import.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import UsageError
from . import models, search, study, train

DEBUG = "IGCSEARCH_DEBUG"

app = typer.Typer(
    name="igcsearch",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Give it images and a budget: it finds, trains and hands over the best network built from interleaved "
    "structured sparse convolutions (the IGC family).\n\n"
    "A first run: `igcsearch search digits --trials 12 --max-params 20k`",
)
app.command("search", rich_help_panel="Search")(search.search)
app.command("status", rich_help_panel="Search")(study.status)
app.command("pareto", rich_help_panel="Search")(study.pareto)
app.command("report", rich_help_panel="Search")(study.report)
app.command("publish", rich_help_panel="Networks")(study.publish)
app.command("list", rich_help_panel="Networks")(models.list_)
app.command("profile", rich_help_panel="Networks")(models.profile)
app.command("check", rich_help_panel="Networks")(models.check)
app.command("train", rich_help_panel="Networks")(train.train)
app.command("evaluate", rich_help_panel="Networks")(train.evaluate)


def _print_version(value: bool) -> None:
    if value:
        print(f"igcsearch {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    """The command `igcsearch`. Exit status: 0 done, 1 a failure, 2 something the user can mend, 130 interrupted."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where a pipe that is closed can still be answered
    except UsageError as error:
        _end(f"error: {_one_line(error)}", error, 2)
    except BrokenPipeError:
        # The reader of a pipe has gone (`igcsearch list | head`): nothing is wrong, and nobody reads what we would say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        _end(f"error: {type(error).__name__}: {_one_line(error)} (set {DEBUG}=1 to see the traceback)", error, 1)


def _end(line: str, error: Exception, status: int) -> None:
    if os.environ.get(DEBUG):
        raise error
    print(line, file=sys.stderr)
    sys.exit(status)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
