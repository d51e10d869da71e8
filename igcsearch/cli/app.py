"""The application: its commands, `--version`, and how errors end (one line on stderr; 2 for the user's, 1 for ours). Floor 8.

Each command lives in a module of this folder and imports what it needs when it is called, so that `--help` stays fast:
torch, numpy, pandas, Optuna and Ray take seconds to import.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from .. import __version__
from ..errors import UsageError, near
from . import check, compress, export, models, publish, reproduce, search, study, train, zoo

DEBUG = "IGCSEARCH_DEBUG"

app = typer.Typer(
    name="igcsearch",
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
app.command("publish", rich_help_panel="Networks")(publish.publish)
app.add_typer(zoo.app, name="zoo", rich_help_panel="Networks")
app.command("list", rich_help_panel="Networks")(models.list_)
app.command("profile", rich_help_panel="Networks")(models.profile)
app.command("check", rich_help_panel="Networks")(check.check)
app.command("reproduce", rich_help_panel="Networks")(reproduce.reproduce)
app.command("train", rich_help_panel="Networks")(train.train)
app.command("evaluate", rich_help_panel="Networks")(train.evaluate)
app.command("compress", rich_help_panel="Networks")(compress.compress)
app.command("export", rich_help_panel="Networks")(export.export)


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
    interrupted = _interruptions()
    try:
        try:
            status = app(standalone_mode=False) if len(sys.argv) > 1 else app(["--help"], standalone_mode=False) or 2
        finally:
            sys.stdout.flush()  # here, where a pipe that is closed can still be answered
    except (UsageError, typer.TyperException) as error:
        _end(f"error: {_one_line(_explained(error))}", error, 2)
    except typer.Abort:
        sys.exit(1)
    except BrokenPipeError:
        # The reader of a pipe has gone (`igcsearch list | head`): nothing is wrong, and nobody reads what we would say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if interrupted:  # in the middle of an import, say, which then fails in a way of its own
            sys.exit(130)
        line = _one_line(str(error)) or type(error).__name__
        _end(f"error: {type(error).__name__}: {line} (set {DEBUG}=1 to see the traceback)", error, 1)
    else:
        sys.exit(status)  # None, or what typer.Exit carries; Ctrl-C is 130


def _interruptions() -> list[int]:
    """Ctrl-C as Python has it; the list that is returned gets an item for each."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, note)
    return seen


def _explained(error: Exception) -> str:
    """What is wrong and where to look; for errors of Typer, which reads the options, in the words of our own."""
    if isinstance(error, UsageError):
        return str(error)
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    message = getattr(error, "message", "")
    if isinstance(error, typer.BadParameter) and message and parameter is not None and parameter.opts:
        # A message of our own parsers, which begins with the value.
        return f"{parameter.opts[0]} {message.removeprefix('Value error, ')}"
    name = getattr(error, "option_name", None)
    if name is not None and "No such option" in message and context is not None:
        options = [option for known in context.command.params for option in known.opts if option.startswith("-")]
        text = f"no such option {name}{near(name, options)}"
    else:
        text = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        text = (text[:1].lower() + text[1:]).rstrip(".")
    return text if context is None else f"{text}; see '{context.command_path} --help'"


def _end(line: str, error: Exception, status: int) -> None:
    if os.environ.get(DEBUG):
        raise error
    print(line, file=sys.stderr)
    sys.exit(status)


def _one_line(text: str) -> str:
    return " ".join(text.split())
