"""The page of a compression: what the network cost and how well it did before and now, layer by layer. Floor 7.

Made of plain data, the record that `igcsearch compress` keeps in compression.json. Figures that were not measured are said to be
missing. No script; names come from outside, and all text is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..entries.card import latency_line
from ..entries.entry import CARD
from ..errors import UsageError
from ..files import atomic_write
from ..wording import clock, count, figure, percent, plural, short
from .html import Html, figures, settings, table, text
from .layers import STYLE, curve_picture, is_cut, layers_picture, mark, sparse, timed
from .page import WHOLE, document
from .zoo import PAGE

Record = Mapping[str, Any]

_MISSING = "not measured"
_STYLE = """
a{color:var(--accent)}
.tile dd{font-size:20px}
.slower{color:var(--warn)}
""".strip()


def write_compression_page(folder: str | Path, record: Record) -> Path:
    """Write FOLDER/index.html and return its path.

    Raises:
        UsageError: the file cannot be written.
    """
    path = Path(folder) / PAGE
    try:
        atomic_write(path, compression_page(record))
    except OSError as error:
        raise UsageError(f"page '{path}' cannot be written: {error.strerror or error}") from None
    return path


def compression_page(record: Record) -> str:
    """The whole page as HTML text.

    Args:
        record: params, macs, params_before, macs_before and layers (rows of `Permuted.layers`) have to be there; further what
            compression.json holds, as far as it was measured. A row's `ms_before` and `ms` are shown where all rows have them.
    """
    name = str(record.get("name", "network"))
    record = _nonzero(record)
    header = f'<p class="eyebrow">igcsearch compression</p>\n<h1>{text(name)}</h1>\n{_lead(record)}'
    sections = [_tiles(record), _picture(record["layers"]), _tuning(record), _compared(record), _made(record)]
    sections.append(_table(record["layers"]))
    return document(name, [STYLE, _STYLE], header, "\n".join(filter(None, sections)), WHOLE)


def _nonzero(record: Record) -> Record:
    """The record of a sparse network with the multiply-adds that are not with zeros in place of all."""
    if not sparse(record["layers"]):
        return record
    rows = [{**row, "macs": row["nonzero_macs"]} for row in record["layers"]]
    return {**record, "macs": record["nonzero_macs"], "layers": rows}


def _lead(record: Record) -> str:
    rows = record["layers"]
    grouped = sum(map(is_cut, rows))
    source = text(record.get("source", "a dense network"))
    share = percent(record["macs"] / max(record["macs_before"], 1), digits=0)
    macs, what = "multiply-adds", f"{plural(len(rows), 'dense convolution')} became group convolutions"
    if sparse(rows):
        macs = "multiply-adds by weights that are not zero"
        what = f"{plural(len(rows), 'convolution')} that can be are N:M sparse now"
    return (
        f'<p class="lead"><b>{source}</b> with <b>{share}</b> of its {macs}: {grouped} of {what}. '
        f"{_accuracies(record)}</p>"
    )


def _accuracies(record: Record) -> str:
    """Test accuracy in the order of events, in words."""
    before, pruned, tuned = (record.get(f"accuracy_{key}") for key in ("before", "pruned", "finetuned"))
    if pruned is None:
        return "Its accuracy was not measured: no images were given."
    said = [f"{percent(before)} dense"] if before is not None else []
    said.append(f"{percent(pruned)} pruned, before fine-tuning")
    said.append("not fine-tuned" if tuned is None else f"<b>{percent(tuned)}</b> fine-tuned")
    return f"Test accuracy: {', '.join(said)}."


def _tiles(record: Record) -> str:
    before, now = record.get("accuracy_before"), record.get("accuracy_finetuned")
    if now is None:
        now = record.get("accuracy_pruned")
    if now is None:
        accuracy = ("Test accuracy", _MISSING, "no images were given")
    else:
        points = "" if before is None else f"{100 * (now - before):+.2f} points"
        pruned = percent(record.get("accuracy_pruned"))
        tuned = record.get("accuracy_finetuned") is not None
        small = f"{pruned} pruned, before fine-tuning" if tuned else "pruned, not fine-tuned"
        accuracy = (
            "Test accuracy",
            _change(before, now, lambda value: f"{100 * value:.2f}", "\N{NO-BREAK SPACE}%"),
            small,
        )
        accuracy = (*accuracy[:2], "; ".join(filter(None, (points, small))))
    latency, was = record.get("latency_ms"), record.get("latency_ms_before")
    return figures(
        accuracy,
        _cost("Parameters", record["params_before"], record["params"]),
        _cost(
            "Nonzero multiply-adds" if sparse(record["layers"]) else "Multiply-adds",
            record["macs_before"],
            record["macs"],
        ),
        (
            "Latency",
            _MISSING if latency is None else _change(was, latency, figure, "\N{NO-BREAK SPACE}ms"),
            "one image" if latency is None or was is None else f"{_ratio(was, latency, 'faster', 'slower')}; one image",
        ),
        (
            "Kept",
            percent(record.get("kept"), digits=1),
            f"of the {'weights' if sparse(record['layers']) else 'kernels'}' worth{_by(record.get('criterion'))} "
            f"{'stays' if sparse(record['layers']) else 'is inside the groups'}",
        ),
    )


def _cost(name: str, before: int, now: int) -> tuple[str, str, str]:
    return name, _change(before, now, short), f"{now:,} of {before:,}: {_ratio(before, now, 'fewer', 'more')}"


def _change(before: Any, now: Any, shown: Any, unit: str = "") -> str:
    """ "46.3 → 34.9 ms"; where it does not fit a line, it breaks before the arrow."""
    after = f"{shown(now)}{unit}"
    return after if before is None else f"{shown(before)} →\N{NO-BREAK SPACE}{after}"


def _ratio(before: float, now: float, less: str, more: str) -> str:
    """ "1.71 times fewer", "1.2 times more", "the same"."""
    if before <= 0 or now <= 0 or f"{before / now:.2f}" == "1.00":
        return "the same"
    return f"{before / now:.2f} times {less}" if now < before else f"{now / before:.2f} times {more}"


def _by(criterion: Any) -> str:
    return f" ({criterion})" if criterion else ""


def _picture(rows: Sequence[Record]) -> str:
    if not rows:
        return ""
    what = ("Nonzero multiply-adds" if sparse(rows) else "Multiply-adds") + (" and time" if timed(rows) else "")
    cut = "its N:M" if sparse(rows) else "its number of\ngroups"
    changed = "made sparse" if sparse(rows) else "given groups"
    return f"""<section>
<h2>Layer by layer</h2>
<p class="note">{what} of each layer that could be {changed}, in the network's order: before, and now. Below, {cut}
(1: it stayed dense) and the share of the criterion that it keeps.</p>
<div class="scroll">{layers_picture(rows)}</div>
<ul class="legend"><li><i class="was"></i>before</li><li><i class="now"></i>now</li>
<li><i class="kept"></i>kept share, 0 to 100 %</li></ul>
</section>"""


def _tuning(record: Record) -> str:
    curve = record.get("curve") or []
    if not curve:
        return ""
    last = curve[-1]
    seconds = sum(row.get("seconds") or 0.0 for row in curve)
    note = (
        f"{plural(len(curve), 'epoch')} in {clock(seconds)}; accuracy of the validation split, at the end "
        f"{percent(last.get('validation_accuracy'))}. The test split was not looked at while it trained."
    )
    rows = [
        [
            row.get("epoch"),
            f"{row['train_loss']:.4f}" if isinstance(row.get("train_loss"), float) else _MISSING,
            percent(row.get("validation_accuracy")),
            clock(row.get("seconds") or 0.0),
        ]
        for row in curve
    ]
    listed = table([">epoch", ">training loss", ">validation accuracy", ">time"], rows)
    return f"""<section>
<h2>Fine-tuning</h2>
<p class="note">{note}</p>
{curve_picture(curve)}
<details{" open" if len(curve) == 1 else ""}><summary>All epochs</summary>{listed}</details>
</section>"""


def _compared(record: Record) -> str:
    """What the method auto compared."""
    if not (auto := record.get("auto")):
        return ""
    rows = auto["compared"]
    columns = ["way", ">parameters", ">multiply-adds", ">kept", ">loss", ">right"]
    cells = [
        [
            *(row["way"], count(row["params"]), count(row["macs"]), percent(row["kept"])),
            *((f"{row['loss']:.4f}", percent(row["accuracy"])) if "loss" in row else (_MISSING, _MISSING)),
        ]
        for row in rows
    ]
    return f"""<section>
<h2>Methods compared</h2>
<p class="note">Each at once, without training, under the same budget; loss and share right are of training images. Taken:
{text(auto["chosen"])}, {text(auto["why"])}.</p>
{table(columns, cells, (row["way"] != auto["chosen"] for row in rows))}
</section>"""


def _made(record: Record) -> str:
    budget = record.get("budget") or {}
    of_sparse = sparse(record["layers"])
    macs = "nonzero multiply-adds" if of_sparse else "multiply-adds"
    words = {"params": "parameters", "macs": macs, "latency_ms": "ms"}
    limits = [f"at most {value:,} {words.get(name, name)}" for name, value in budget.items()]
    difference, size = record.get("max_rel_diff_masked_vs_converted"), record.get("input_size")
    ways = {
        "exact": f"exact: the best {'N of each layer' if of_sparse else 'group counts'} by the criterion",
        "uniform": f"uniform: one {'N:M' if of_sparse else 'number of groups'} throughout",
    }
    configuration = str(record.get("configuration", _MISSING))
    trained = record.get("epochs")
    facts: dict[str, object] = {
        "Source": record.get("source", "not recorded"),
        "Images": " × ".join(map(str, size)) if size else "not recorded",
        "Data": record.get("data") or "none",
        "Method": record.get("method", "not recorded"),
        "Criterion": record.get("criterion", "not recorded"),
        **_method(record),
        "Kept of the criterion": percent(record.get("kept")),
        "Budget": ", ".join(limits) or "none",
        "N:M" if of_sparse else "Group counts": ways.get(configuration, configuration),
        "Gathers added": count(record.get("gathers")),
        "Masked and deployed network differ by": _MISSING
        if difference is None
        else f"{difference:.2g} of the largest output",
        "Epochs": trained if trained else "none",
        "Seed": record.get("seed", "not recorded"),
        "Latency": latency_line(record.get("latency")),
        "Versions": ", ".join(f"{name} {value}" for name, value in (record.get("versions") or {}).items())
        or "not recorded",
    }
    command = record.get("command_line")
    again = f"<h3>The command</h3><pre>{text(command)}</pre>" if command else ""
    folder = json.dumps(str(record.get("name", "DIR")), ensure_ascii=False)
    code = f"import igcsearch\nnetwork = igcsearch.load({folder})  # this folder's path"
    return f"""<section>
<h2>How it was made, and how to load it</h2>
{settings(facts)}
{again}
<h3>Load it</h3>
<pre>{text(code)}</pre>
<p class="note"><br>All about the network is in <a href="{CARD}">{CARD}</a>; this page's figures are in compression.json.</p>
</section>"""


def _method(record: Record) -> dict[str, object]:
    """What single methods have to tell."""
    found: dict[str, object] = {}
    if distillation := record.get("distillation"):
        found["Distilled from"] = (
            f"{distillation['teacher']}, temperature {distillation['temperature']:g}, weight {distillation['weight']:g}"
        )
    if auto := record.get("auto"):
        found["Chosen"] = f"{auto['chosen']}: {auto['why']}"
    if sparsified := record.get("sparsified"):
        found["Epochs with the penalty"] = sparsified.get("epochs", 0)
    if notes := record.get("notes"):
        found["Left as they are"] = "; ".join(notes)
    if record.get("bytes_before"):
        found["Bytes of the weights"] = f"{count(record['bytes'])}, before {count(record['bytes_before'])}"
    return found


def _table(rows: Sequence[Record]) -> str:
    if not rows:
        return ""
    times = timed(rows)
    columns = [
        "layer",
        "channels",
        "kernel",
        ">N:M" if sparse(rows) else ">groups",
        ">kept",
        ">MACs before",
        ">nonzero now" if sparse(rows) else ">MACs now",
    ]
    columns += [">ms before", ">ms now", ">faster"] if times else []
    lines = [_line(row, times) for row in rows]
    before, now = (sum(row[key] for row in rows) for key in ("macs_before", "macs"))
    together = f"Together {count(before)} MACs before and {count(now)}{' nonzero ones' if sparse(rows) else ''} now"
    if times:
        was, took = (sum(row[key] for row in rows) for key in ("ms_before", "ms"))
        together += f", {figure(was)} ms before and {figure(took)} ms now"
    return f"""<section>
<h2>{plural(len(rows), "layer")}</h2>
<p class="note">Those that could be changed. {together}.</p>
{table(columns, lines, (not is_cut(row) for row in rows))}
</section>"""


def _line(row: Record, times: bool) -> list[object]:
    cells: list[object] = [
        row["layer"],
        f"{row['in_channels']} → {row['out_channels']}",
        "×".join(map(str, row["kernel_size"])),
        mark(row),
        percent(row["kept"]),
        count(row["macs_before"]),
        count(row["macs"]),
    ]
    if times:
        ratio = f"{row['ms_before'] / row['ms']:.2f} ×" if row["ms"] > 0 else _MISSING
        slower = row["ms"] > row["ms_before"]
        cells += [f"{row['ms_before']:.3f}", f"{row['ms']:.3f}"]
        cells.append(Html(f'<span class="slower">{ratio}</span>') if slower else ratio)
    return cells
