"""The part of the page about what training learned beside the weights: shuffles and group counts over the epochs. Floor 7.

Of a shuffle every matrix is one picture of branches (rows) by channels (columns), channels in the order that they have in the end:
what is learned shows as blocks on the diagonal. Of group counts it is one of factors by prime digits. The pictures are PNG files of
a few hundred bytes, written with the standard library.
"""

from __future__ import annotations

import base64
import statistics
import struct
import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..spec import Architecture
from ..wording import count, percent, plural
from .facts import Facts
from .html import Html, table, text

_INK = (90, 110, 210)  # shows on light and on dark
_MOST_GAPS = 12


def learned_section(facts: Facts) -> str:
    """The section; empty where nothing was learned."""
    if facts.learned is None or facts.learned_by is None:
        return ""
    record, candidate = facts.learned, facts.learned_by
    gaps = list(record["gaps"].items())
    figures = "".join(_figure(name, gap, record["snapshots"]) for name, gap in gaps[:_MOST_GAPS])
    more = _more(len(gaps))
    shuffles = f"""<p class="note">It chose which channels share a branch, by the way {text(record["way"])}. A picture is branches
by channels, the channels in the order that they have in the end; dark: the channel is in that branch.</p>
{figures}{more}"""
    counts = record.get("groups", {})
    named = {name.rpartition(".")[0]: "shuffle" for name, _ in gaps} | dict.fromkeys(counts, "group counts")
    what = " and ".join(["shuffles"] * bool(gaps) + ["group counts"] * bool(counts))
    return f"""
<section>
<h2>Learned {what}</h2>
<p class="note">Of candidate {candidate["id"]}: {_told(record, candidate)}</p>
{shuffles if gaps else ""}{_group_counts(counts, record["snapshots"]) if counts else ""}
<h3>What became of it</h3>
{_blocks_table(candidate["architecture"], named)}
</section>
"""


def overhead(curve: Sequence[Mapping[str, Any]], soft_epochs: int) -> float | None:
    """Time of a whole training over that of as many epochs with hard shuffles; None where too little is known."""
    seconds = [float(epoch["seconds"]) for epoch in curve]
    hard = seconds[soft_epochs:]
    return sum(seconds) / (len(seconds) * statistics.median(hard)) if hard and statistics.median(hard) > 0 else None


def matrix(shares_GC: Sequence[Sequence[int]], order: Sequence[int], *, most: int) -> str:
    """A picture of shares from 0 to `most`, channels in `order`, as a data URI: one pixel a share."""
    rows = []
    for shares in shares_GC:
        pixels = bytes(value for i in order for value in (*_INK, 255 * min(shares[i], most) // most))
        rows.append(b"\0" + pixels)  # no filter
    header = struct.pack(">IIBBBBB", len(order), len(shares_GC), 8, 6, 0, 0, 0)  # 8 bits, RGBA
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows), 9)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _told(record: Mapping[str, Any], candidate: Mapping[str, Any]) -> str:
    parts = [f"{plural(record['soft_epochs'], 'epoch')} of {candidate['epochs']} were soft"]
    if "hard_accuracy" in record:
        before, after = percent(record["soft_accuracy"]), percent(record["hard_accuracy"])
        parts.append(
            f"validation accuracy {before} before and {after} after they were made hard, which changed a logit by "
            f"{record['difference']:.1e} at most"
        )
    if record.get("softness"):
        share = percent(record["softness"], digits=0)
        parts.append(
            f"when the branches were read off, {share} of a channel was in other branches, in the softest shuffle"
        )
    if "expected_params" in record:
        params, macs = (
            f"{count(round(record[name]))} {unit}"
            for name, unit in (("expected_params", "parameters"), ("expected_macs", "MACs"))
        )
        parts.append(f"the expected cost was {params} and {macs} when group counts were rounded")
    if (factor := overhead(candidate["curve"], record["soft_epochs"])) is not None:
        parts.append(f"the training took {factor:.2f} times as long as one with nothing to learn")
    return "; ".join(parts) + "."


def _figure(name: str, gap: Mapping[str, Any], epochs: Sequence[int]) -> str:
    history, groups = gap["history"], gap["groups"]
    channels = len(history[0])
    last = history[-1]
    order = sorted(range(channels), key=lambda c: (last[c], c))
    moved = [sum(a != b for a, b in zip(before, after, strict=True)) for before, after in pairwise(history)]
    pictures = []
    for number, epoch in enumerate(epochs):
        if "shares" in gap:
            shares, most = [[int(digit, 16) for digit in row] for row in gap["shares"][number]], 15
        else:
            shares, most = [[int(branch == g) for branch in history[number]] for g in range(groups)], 1
        label = "at the start" if epoch == 0 else f"after epoch {epoch}"
        size = f"width:{min(360, max(96, 3 * channels))}px;height:{min(96, max(24, 7 * groups))}px"
        alt = f"{name}, {label}: share of each channel in each branch"
        pictures.append(
            f'<figure class="matrix"><img src="{matrix(shares, order, most=most)}" style="{size}" alt="{text(alt)}">'
            f"<figcaption>{text(label)}</figcaption></figure>"
        )
    what = "outputs" if gap["of"] == "rows" else "inputs"
    changes = ", ".join(map(str, moved)) if moved else "none"
    title = f"{name}: {what}, {channels} channels in {plural(groups, 'branch').replace('branchs', 'branches')}"
    return (
        f"<h3>{text(title)}</h3>"
        f'<p class="note">Channels that changed their branch from picture to picture: {changes}.</p>'
        f'<div class="matrices">{"".join(pictures)}</div>'
    )


def _group_counts(counts: Mapping[str, Any], epochs: Sequence[int]) -> str:
    """Pictures of the shares of digits in factors, or of how open those of each factor are."""
    figures = []
    for name, record in list(counts.items())[:_MOST_GAPS]:
        widths = " × ".join(map(str, record["branch_widths"])) or "1"
        if record["of"] == "digits":
            digits = " · ".join(map(str, record["radices"]))
            title = f"{name}: each digit of {digits} in one factor; in the end branches of {widths} channels"
            histories = [record["history"]]
        else:
            digits = " and ".join(" · ".join(map(str, each)) or "none" for each in record["radices"])
            title = f"{name}: digits of {digits} open or closed; in the end branches of {widths} channels"
            histories = [
                [[[share[factor]] for share in shares_DL[: len(each)]] for shares_DL in record["history"]]
                for factor, each in enumerate(record["radices"])
                if each
            ]
        pictures = "".join(
            f'<div class="matrices">{_shares_pictures(name, history, epochs)}</div>' for history in histories
        )
        figures.append(f"<h3>{text(title)}</h3>{pictures}")
    return f"""<p class="note">It chose how many branches there are. A picture is factors by prime digits of the width; dark: the
factor mixes channels that differ in that digit.</p>
{"".join(figures)}{_more(len(counts))}"""


def _shares_pictures(name: str, history: Sequence[Sequence[Sequence[float]]], epochs: Sequence[int]) -> str:
    """A picture, factors by digits, for each of some epochs."""
    pictures = []
    for epoch, shares_DL in zip(epochs, history, strict=True):
        levels_LD = [[round(15 * share) for share in factor] for factor in zip(*shares_DL, strict=True)]
        label = "at the start" if epoch == 0 else f"after epoch {epoch}"
        size = f"width:{18 * len(shares_DL)}px;height:{18 * len(levels_LD)}px"
        source = matrix(levels_LD, range(len(shares_DL)), most=15)
        alt = f"{name}, {label}: shares of the prime digits in the factors"
        pictures.append(
            f'<figure class="matrix"><img src="{source}" style="{size}" alt="{text(alt)}">'
            f"<figcaption>{text(label)}</figcaption></figure>"
        )
    return "".join(pictures)


def _more(number: int) -> str:
    return f'<p class="note">{number - _MOST_GAPS} more are in the study.</p>' if number > _MOST_GAPS else ""


def _blocks_table(architecture: Architecture, learned: Mapping[str, str]) -> str:
    rows = []
    for name, block in architecture.blocks():
        report = block.report
        paths = report["paths"]
        rows.append(
            (
                name,
                block.family,
                Html("&times;".join(str(factor.groups) for factor in block.factors)),
                report["complementary"],
                f"{paths['min']} / {paths['mean']:.3g} / {paths['max']}",
                learned.get(name, ""),
            )
        )
    return table(("Block", "Family", "Groups", "Level", ">Paths min / mean / max", "Learned"), rows)
