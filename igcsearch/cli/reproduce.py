"""The command reproduce: the papers' tables beside the networks that the package makes of them. Floor 8."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..errors import UsageError
from .options import AsJson
from .output import print_json, print_table, say


def reproduce(
    table: Annotated[
        str | None,
        typer.Argument(
            metavar="[TABLE]", help="A table, or a shell pattern such as 'igcv2*'; all without it.", show_default=False
        ),
    ] = None,
    as_json: AsJson = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown: what docs/reproduced.md is made of.")
    ] = False,
) -> None:
    """Rebuild the rows of published tables and set their counts beside the published ones.

    Parameters in closed form and on the module as built, multiply-adds in closed form and as fvcore counts them; below each table
    why ours differ where they do, and what had to be assumed. The names are those that profile, check, train and
    igcsearch.create_model take. All tables take about half a minute. Example: igcsearch reproduce 'igcv2*'
    """
    if as_json and as_markdown:
        raise UsageError("--json and --markdown exclude each other; give one of them")
    from ..report import reproduced as made

    references = made.rows_of(table)
    rows = []
    for number, row in enumerate(made.reproduced(references), 1):
        rows.append(row)
        if sys.stderr.isatty():
            print(f"\r[{number}/{len(references)}] {row.reference.name:<32}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(f"\r{'':<48}\r", end="", file=sys.stderr, flush=True)
    if as_json:
        print_json([row.to_dict() for row in rows])
        return
    if as_markdown:
        print(made.markdown(rows), end="")
        return
    for name, sources, group in made.by_table(rows):
        first, *others = made.columns(group)
        columns = [first, *(f">{column}" for column in others)]
        print_table(columns, map(made.cells, group), title=f"{name}: {'; '.join(sources)}")
        every = made.notes(group)
        for names, note in every:
            print(f"  {note}" if len(every) == 1 else f"  {', '.join(names)}: {note}")
        print()
    say(made.summary(rows))
