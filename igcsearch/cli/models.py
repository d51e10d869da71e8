"""Commands about single networks: list, profile. Each takes a name, an entry's folder or an architecture.json."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ..errors import UsageError
from ..wording import percent, plural, short
from .options import AsJson, Model, count
from .output import print_json, print_table, say

if TYPE_CHECKING:
    from ..blocks.references import Reference
    from ..entries import Entry
    from ..spec import Architecture


class Found(NamedTuple):
    """A network that a command was given: its entry, where it is one with weights, and its architecture."""

    name: str
    architecture: Architecture
    entry: Entry | None


def find(network: str) -> Found:
    """The network of a name (of an entry or a reference network), an entry's folder, or a JSON file of an architecture.

    Raises:
        UsageError: there is none (near matches), or it cannot be read.
    """
    path = Path(network).expanduser()
    if path.suffix == ".json" and not path.is_dir():
        from ..spec import Architecture

        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise UsageError(f"architecture file {network!r} cannot be read: {reason}") from None
        try:
            return Found(
                path.stem if path.stem != "architecture" else path.resolve().parent.name,
                Architecture.from_json(text),
                None,
            )
        except UsageError as error:
            raise UsageError(f"{network}: {error}") from None
    from ..entries import Entry, find_model

    model = find_model(network)
    return Found(model.name, model.architecture, model if isinstance(model, Entry) else None)


def list_(
    pattern: Annotated[
        str, typer.Argument(metavar="[GLOB]", help="A shell pattern, such as '*digits*'.", show_default=False)
    ] = "*",
    references: Annotated[
        bool, typer.Option("--references", help="The named networks of published tables, which have no weights.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the published networks: those of the package, then those of your own zoo (IGCSEARCH_ZOO).

    Accuracy is that of the test split, the mean over the seeds. With --references: the networks of the papers' tables, by the
    names that profile, check and train take, with the figures that were published of them.
    Example: igcsearch list '*digits*'; igcsearch list --references 'igcv2*'
    """
    from ..entries import list_entries, list_references, user_zoo

    if references:
        _list_references(pattern, as_json)
        return
    entries = list_entries(pattern)
    if as_json:
        print_json([_listed(entry) for entry in entries])
        return
    if not entries and (others := list_references(pattern)):
        known = plural(len(others), "reference network")
        say(f"no published network matches {pattern!r}, but {known} without weights: add --references")
        return
    if not entries:
        say(
            f"no network matches {pattern!r}; 'igcsearch publish' puts one into {user_zoo()}, and 'igcsearch list --references' "
            "shows the networks of papers"
        )
        return
    rows = []
    for entry in entries:
        data = _listed(entry)
        accuracy = percent(data["accuracy"], data["accuracy_std"] if data["seeds"] > 1 else None)
        row = [entry.name, data["family"] or "-", data["data"] or "-", accuracy, str(data["seeds"])]
        rows.append([*row, f"{data['params']:,}", short(data["macs"]), data["zoo"]])
    print_table(["name", "family", "data", ">test accuracy", ">seeds", ">params", ">MACs", "zoo"], rows)


def _list_references(pattern: str, as_json: bool) -> None:
    from ..entries import list_references

    found = list_references(pattern)
    if as_json:
        print_json([_reference(reference) for reference in found])
        return
    if not found:
        say(f"no reference network matches {pattern!r}; 'igcsearch list --references' shows them all")
        return
    rows = []
    for reference in found:
        cost, accuracy = reference.architecture.cost, reference.published_accuracy
        figures = (reference.published_params, reference.published_macs)
        published = ["-" if figure is None else short(figure) for figure in figures]
        known = "-" if accuracy is None else percent(accuracy)
        rows.append([reference.name, reference.table, reference.data, f"{cost.params:,}", published[0]])
        rows[-1] += [short(cost.macs), published[1], known]
    columns = ["name", "table", "data", ">params", ">published", ">MACs", ">published", ">published accuracy"]
    print_table(columns, rows)


def _convolutions(architecture: Architecture) -> list[dict[str, Any]]:
    """Of a graph, what stands for the blocks: its convolutions."""
    from ..spec import GraphArchitecture

    if not isinstance(architecture, GraphArchitecture):
        return []
    rows = []
    for node, convolution in architecture.convolutions():
        channels, side, _ = architecture.shapes[node.name]
        groups = "convolution" if convolution.groups == 1 else f"{convolution.groups} groups"
        groups += f", {convolution.nm}" if convolution.nm else ""
        made = architecture.shapes[node.name]
        cost = _cost(convolution.params, convolution.macs(made), convolution.nonzero_macs(made))
        rows.append({"block": node.name, "family": groups, "out_channels": channels, "out_size": side, **cost})
    return rows


def _cost(params: int, macs: int, nonzero_macs: int) -> dict[str, int]:
    """The cost of a part; `nonzero_macs` only where an N:M sparsity makes a difference."""
    return {"params": params, "macs": macs, **({} if nonzero_macs == macs else {"nonzero_macs": nonzero_macs})}


def _reference(reference: Reference) -> dict[str, Any]:
    cost = reference.architecture.cost
    return {
        "name": reference.name,
        "table": reference.table,
        "data": reference.data,
        "params": cost.params,
        "published_params": reference.published_params,
        "macs": cost.macs,
        "published_macs": reference.published_macs,
        "published_accuracy": reference.published_accuracy,
        "reconstruction": reference.reconstruction,
        "note": reference.note,
        "source": reference.source,
    }


def _listed(entry: Entry) -> dict[str, Any]:
    metrics = entry.metrics
    return {
        "name": entry.name,
        "family": metrics.get("family"),
        "data": metrics.get("data"),
        "params": entry.architecture.params,
        "macs": entry.architecture.macs,
        "accuracy": metrics.get("accuracy"),
        "accuracy_std": metrics.get("accuracy_std"),
        "seeds": len(metrics.get("seeds") or []),
        "input_size": metrics.get("input_size"),
        "num_classes": entry.architecture.num_classes,
        "zoo": entry.zoo,
        "path": str(entry.path),
    }


def profile(
    network: Model,
    device: Annotated[
        str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where latency is measured.")
    ] = "cpu",
    threads: Annotated[
        int, typer.Option("--threads", parser=count, metavar="N", help="CPU threads for the latency.")
    ] = 1,
    batch: Annotated[
        int, typer.Option("--batch", parser=count, metavar="N", help="Images at once for the latency.")
    ] = 1,
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="float32|bfloat16|float16", help="Number format for the latency.")
    ] = "float32",
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size", parser=count, metavar="PIXELS", help="Side of the images; default: the network's own."
        ),
    ] = None,
    optimize: Annotated[
        bool,
        typer.Option(
            "--optimize", help="Also time it optimized for inference: norms folded, fastest plan of each block."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Count and time a network: parameters, multiply-adds (closed form, and as fvcore counts them), latency.

    One multiply-add is one MAC; 'nonzero_macs', where there is an N:M sparsity, has those with weights that it keeps. 'macs'
    and 'macs_fvcore' hold convolutions and linear layers only, 'fvcore_total' all that fvcore counts, 'macs_executed' what runs
    here for one image: more than the specification's where a product is multiplied out. Latency is in milliseconds for one
    batch. Example: igcsearch profile NAME --batch 32 --optimize
    """
    found = find(network)
    found = found._replace(architecture=found.architecture.with_(image_size=image_size))
    from ..nn import build, measure
    from ..training import resolve_device

    where = resolve_device(device)
    model = build(found.architecture, seed=0).eval()
    counted, total = measure.fvcore_macs(model)
    timed = measure.latency(model, device=str(where), batch=batch, threads=threads, dtype=dtype)
    executed = measure.macs_executed(model)
    optimized: dict[str, Any] = {}
    if optimize:
        if dtype != "float32":
            raise UsageError(f"--optimize runs in float32, not {dtype}; leave --dtype out")
        ready = measure.optimized(model, device=str(where), batch=batch, threads=threads)
        again = measure.latency(ready, device=str(where), batch=batch, threads=threads)
        optimized = {"plans": list(ready.plans), "macs_executed": measure.macs_executed(ready), "latency": again}
    blocks: list[dict[str, Any]] = []
    side = found.architecture.image_size
    for name, block in found.architecture.blocks():
        nonzero_macs = block.nonzero_macs_at(side)
        cost, side = block.cost_at(side)
        size = {"out_channels": block.out_channels, "out_size": side}
        blocks.append({"block": name, "family": block.family, **size, **_cost(*cost, nonzero_macs)})
    blocks += _convolutions(found.architecture)
    cost, nonzero_macs = found.architecture.cost, found.architecture.nonzero_macs
    if as_json:
        counts = {
            **_cost(*cost, nonzero_macs),
            "macs_fvcore": counted,
            "fvcore_total": total,
            "macs_executed": executed,
        }
        times = {"latency_ms": timed["median_ms"], "latency": timed, **({"optimized": optimized} if optimize else {})}
        print_json({"name": found.name, **counts, **times, "blocks": blocks})
        return
    rows = [
        [
            b["block"],
            b["family"] or "-",
            f"{b['out_channels']} x {b['out_size']} x {b['out_size']}",
            f"{b['params']:,}",
            f"{b['macs']:,}",
            f"{b.get('nonzero_macs', b['macs']):,}",
        ]
        for b in blocks
    ]
    rest = (cost.params - sum(b["params"] for b in blocks), cost.macs - sum(b["macs"] for b in blocks))
    rows.append(
        [
            "head" if next(found.architecture.blocks(), None) else "rest",
            "linear",
            str(found.architecture.num_classes),
            f"{rest[0]:,}",
            f"{rest[1]:,}",
            f"{rest[1]:,}",
        ]
    )
    columns = ["block", "family", "output", ">params", ">MACs", ">nonzero MACs"]
    shown = len(columns) if nonzero_macs != cost.macs else len(columns) - 1
    print_table(columns[:shown], [row[:shown] for row in rows], title=found.name)
    print(f"parameters        {cost.params:,}")
    print(
        f"MACs              {cost.macs:,} (closed form), {counted:,} (fvcore, conv + linear), {total:,} (fvcore, all)"
    )
    if nonzero_macs != cost.macs:
        print(f"nonzero MACs      {nonzero_macs:,} (with the weights that an N:M sparsity keeps)")
    setting = f"{timed.get('device', where)}, {plural(timed.get('threads', threads), 'thread')}, batch {batch}, {dtype}"
    print(f"MACs executed     {executed:,}")
    print(f"latency           median {timed['median_ms']:.3f} ms, p90 {timed['p90_ms']:.3f} ms ({setting})")
    if optimize:
        again = optimized["latency"]
        print(f"optimized         median {again['median_ms']:.3f} ms, p90 {again['p90_ms']:.3f} ms; ", end="")
        names = Counter(optimized["plans"])
        blocks_by_plan = ", ".join(f"{plural(number, 'block')} {name}" for name, number in names.most_common())
        print(f"{blocks_by_plan}; {optimized['macs_executed']:,} MACs executed")
