"""What every command prints with: results to stdout, all else to stderr, one JSON document where --json asks for it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def print_json(data: Any) -> None:
    """One JSON document on stdout. Numbers that JSON cannot say (nan, infinity) become null."""
    print(json.dumps(_plain(data), indent=1, allow_nan=False))


def _plain(data: Any) -> Any:
    """`data` in JSON's own types: numpy scalars and tuples unpacked."""
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(item) for item in data]
    if hasattr(data, "item") and not isinstance(data, str):
        data = data.item()
    if isinstance(data, float) and (data != data or data in (float("inf"), float("-inf"))):
        return None
    return data


def command_line() -> str:
    """The command that runs, for a record that others read: quoted for a shell, of each path its last part alone."""

    def bare(argument: str) -> str:
        option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        return option + equals + (PurePath(value).name or value)

    return shlex.join(["igcsearch", *map(bare, sys.argv[1:])])


def console(*, stderr: bool = False) -> Console:
    """A Rich console; without a terminal it never cuts a table's lines to 80 characters."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, soft_wrap=False, width=None if stream.isatty() else 160)


def say(message: str) -> None:
    """One line of progress or advice, to stderr."""
    print(message, file=sys.stderr, flush=True)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "", stderr: bool = False
) -> None:
    """A table; a column whose name starts with '>' is right-aligned, its name shown without it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, title_style="bold")
    for name in columns:
        right = name.startswith(">")
        table.add_column(name.lstrip(">"), justify="right" if right else "left", no_wrap=right)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console(stderr=stderr).print(table)
