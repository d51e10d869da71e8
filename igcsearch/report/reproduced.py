"""The published tables beside the reference networks: what was printed, what ours cost, and where they differ. Floor 7.

Every figure of ours is found three ways: in closed form, on the built module (parameters) and by fvcore (multiply-adds).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any

from ..blocks.references import REFERENCES, Reference
from ..errors import UsageError, near
from ..wording import DASH, count, plural


@dataclass(frozen=True)
class Reproduced:
    """A reference network, with its counts on the module as built.

    Args:
        built: parameters of the module.
        fvcore: multiply-adds of one image as fvcore counts convolutions and linear layers.
    """

    reference: Reference
    built: int
    fvcore: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON data; "block" is a block of the first stage: its weights, without norms."""
        reference, cost = self.reference, self.reference.architecture.cost
        data = {
            "table": reference.table,
            "name": reference.name,
            "published_params": reference.published_params,
            "params": cost.params,
            "published_macs": reference.published_macs,
            "macs": cost.macs,
            "macs_fvcore": self.fvcore,
            "note": reference.note,
            "params_built": self.built,
            "params_agree": agreement(reference.published_params, cost.params, reference.params_unit),
            "macs_agree": agreement(reference.published_macs, cost.macs, reference.macs_unit),
            "reconstruction": reference.reconstruction,
            "source": reference.source,
        }
        if reference.published_block is not None:
            weights = _block_weights(reference)
            data |= {"published_block": reference.published_block, "block": weights}
            data["block_agree"] = agreement(reference.published_block, weights, 1)
        return data


def agreement(published: int | None, ours: int, unit: int) -> str:
    """Whether ours is the published figure: "exact", "rounds to it" (in the last digit published), or "+1.3 %"; a dash for none."""
    if published is None:
        return DASH
    if published == ours:
        return "exact"
    if abs(published - ours) * 2 <= unit:
        return "rounds to it"
    return f"{100 * (ours / published - 1):+.2g} %"


def table_names() -> list[str]:
    """The names of the tables, in their order."""
    return list(dict.fromkeys(reference.table for reference in REFERENCES.values()))


def rows_of(pattern: str | None = None) -> list[Reference]:
    """The networks of a table, of those that match a shell pattern, or of all, table by table.

    Raises:
        UsageError: no table is called so, with near names; or it is a network's name, with its table's.
    """
    tables = table_names()
    wanted = [table for table in tables if pattern is None or fnmatchcase(table, pattern)]
    if not wanted:
        if pattern in REFERENCES:
            raise UsageError(
                f"{pattern!r} is a network of table {REFERENCES[pattern].table!r}, not a table; give the table, or look at the "
                f"network with 'igcsearch profile {pattern}'"
            )
        raise UsageError(f"unknown table {pattern!r}{near(str(pattern), tables)}; tables: {', '.join(tables)}")
    return [reference for table in wanted for reference in REFERENCES.values() if reference.table == table]


def reproduced(references: Sequence[Reference]) -> Iterator[Reproduced]:
    """Each network built and counted, one after another: about 0.2 s each, large ones some seconds."""
    from ..nn import module_of
    from ..nn.measure import fvcore_macs

    for reference in references:
        network = module_of(reference.architecture, "plain")
        built = sum(parameter.numel() for parameter in network.parameters())
        yield Reproduced(reference, built, fvcore_macs(network).macs)


def columns(rows: Sequence[Reproduced]) -> list[str]:
    """Names of the columns of `cells`; a block's weights stand in tables where they were published."""
    block = ["published", "a block's weights", "difference"] if any(_has_block(row) for row in rows) else []
    return ["network", *block, "published", "parameters", "difference", "published", "MACs", "fvcore", "difference"]


def cells(row: Reproduced) -> list[str]:
    """A row under `columns`, in full digits; fvcore's count as "same" where it is the closed form's."""
    data = row.to_dict()
    block = [*map(count, (data["published_block"], data["block"])), data["block_agree"]] if _has_block(row) else []
    params = count(data["params"]) + ("" if row.built == data["params"] else f" ({row.built:,} built)")
    fvcore = "same" if row.fvcore == data["macs"] else count(row.fvcore)
    figures = [*block, count(data["published_params"]), params, data["params_agree"]]
    return [
        row.reference.name,
        *figures,
        count(data["published_macs"]),
        count(data["macs"]),
        fvcore,
        data["macs_agree"],
    ]


def notes(rows: Sequence[Reproduced]) -> list[tuple[list[str], str]]:
    """What is to be said of rows, each text once with the names that it holds for."""
    said: dict[str, list[str]] = {}
    for row in rows:
        said.setdefault(row.reference.note, []).append(row.reference.name)
    return [(names, note) for note, names in said.items()]


def by_table(rows: Sequence[Reproduced]) -> list[tuple[str, list[str], list[Reproduced]]]:
    """Name of each table, its sources, its rows."""
    grouped = [(table, list(group)) for table, group in groupby(rows, key=lambda row: row.reference.table)]
    return [(table, list(dict.fromkeys(row.reference.source for row in group)), group) for table, group in grouped]


def markdown(rows: Sequence[Reproduced]) -> str:
    """The document docs/reproduced.md: all tables, a heading each, and the notes below."""
    lines = [
        "# Published tables, rebuilt",
        "",
        "Made by `igcsearch reproduce --markdown`. Every name works in `igcsearch.create_model`, `profile`, `check` and `train`.",
        'Published figures are written out; "rounds to it": ours is the figure in the last digit that was published. Parameters',
        "in closed form and on the module as built are the same unless that is said; so are multiply-adds in closed form and by",
        "fvcore. The fact sheet is the project's own, of figures and layouts with their origin.",
        "",
        f"{summary(rows)}.",
        "",
    ]
    for table, sources, group in by_table(rows):
        lines += [f"## {table}", "", f"{'; '.join(sources)}", ""]
        names = columns(group)
        lines += [f"| {' | '.join(names)} |", "|---" + "|---:" * (len(names) - 1) + "|"]
        lines += [f"| {' | '.join([f'`{name}`', *rest])} |" for name, *rest in map(cells, group)]
        lines.append("")
        every = notes(group)
        for names, note in every:
            whom = "" if len(every) == 1 else f"{', '.join(f'`{name}`' for name in names)}: "
            lines.append(f"- {whom}{note}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _has_block(row: Reproduced) -> bool:
    return row.reference.published_block is not None


def _block_weights(reference: Reference) -> int:
    return sum(factor.weights for factor in dict(reference.architecture.blocks())["stage1.block1"].factors)


def summary(rows: Sequence[Reproduced]) -> str:
    """How many of the published figures are met: "70 networks; parameters: 20 exact, 9 to the digits published, 7 not; ..."."""
    parts = [plural(len(rows), "network")]
    for key, what in (("params", "parameters"), ("macs", "multiply-adds")):
        found = [row.to_dict()[f"{key}_agree"] for row in rows]
        counts = {"exact": found.count("exact"), "to the digits published": found.count("rounds to it")}
        counts |= {"not": sum(said.endswith("%") for said in found), "never published": found.count(DASH)}
        parts.append(f"{what}: {', '.join(f'{number} {how}' for how, number in counts.items() if number)}")
    return "; ".join(parts)
