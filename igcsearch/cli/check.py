"""`igcsearch check`: what the blocks of a network satisfy, and one of them as a picture. Floor 8."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from ..wording import DASH, min_mean_max, plural
from .models import find
from .options import AsJson, Model
from .output import print_json, print_table, say


def check(
    network: Model,
    plot: Annotated[
        str | None,
        typer.Option(
            "--plot", metavar="FILE.svg", help="Draw a block: its channels, branches and paths, and its path counts."
        ),
    ] = None,
    block: Annotated[
        str | None,
        typer.Option(
            "--block", metavar="NAME", help="The block to draw, such as stage1.block1. Default: a telling one."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say of every block whether its factors are complementary: how many paths lead from each input to each output channel.

    strict: one path, and cut anywhere both parts are group convolutions with dense branches; nearly: one or two paths; loose:
    at least one; none: some pairs have no path. Balance is parameters over their lower bound: 1.00 is balanced. K/ln K is
    weights of an output channel for each nat of the inputs that they join, channel-wise factors left out; over e, its least: 1.00
    is best. Example: igcsearch check architecture.json --plot block.svg
    """
    from ..spec.grouping import questions
    from ..spec.learning import gaps

    if block is not None and plot is None:
        raise UsageError(f"--block {block} says what --plot draws; add --plot FILE.svg")
    found = find(network)
    if next(found.architecture.blocks(), None) is None:
        raise UsageError(
            f"check looks at products of factors; {found.name!r} is a graph of operations, as compression gives: "
            f"'igcsearch profile {network}' shows its layers"
        )
    blocks = [{"block": name, **block.report} for name, block in found.architecture.blocks()]
    if plot is not None:
        from ..report import write_paths

        written = write_paths(found.architecture, Path(plot).expanduser(), name=found.name, block=block)
        say(f"wrote {plot}: {written.block} of {found.name}")
        if written.note:
            say(written.note)
    if as_json:
        cost = found.architecture.cost
        head = {"name": found.name, "hash": found.architecture.hash, "key": found.architecture.key}
        print_json({**head, "params": cost.params, "macs": cost.macs, "blocks": blocks})
        return
    columns = ["block", "family", "level", "one path", ">paths min / mean / max", "branch widths K", ">balance"]
    columns += [">K/ln K", ">over e"]
    print_table(columns, map(_row, blocks), title=f"{found.name} ({found.architecture.hash})")
    learnable, reasons = gaps(found.architecture)
    if learnable:
        print(f"{plural(len(learnable), 'shuffle')} still to be learned; interleaves stand in their place here")
    asked, fixed = questions(found.architecture)
    if asked:
        print(
            f"the group counts of {plural(len(asked), 'block')} are still to be learned; those they stand at are shown"
        )
    for reason in (*reasons, *fixed):
        print(f"nothing to learn at {reason}")


def _row(block: dict[str, Any]) -> list[str]:
    widths = " x ".join(str(width) for width in block["branch_widths"])
    ratios = [block[key] for key in ("balance", "cost_per_nat", "cost_per_nat_ratio")]
    figures = [DASH if ratio is None else f"{ratio:.2f}" for ratio in ratios]
    one = "yes" if block["one_path"] else "no"
    return [
        block["block"],
        block["family"] or DASH,
        block["complementary"],
        one,
        min_mean_max(block["paths"]),
        widths,
        *figures,
    ]
