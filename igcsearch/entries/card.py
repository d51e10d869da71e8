"""An entry's README.md (its card): made of the fields of metrics.json and architecture.json, and of nothing else.

YAML front matter for model hubs, then what the network is, its figures, how to load it, how it came about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..spec import Architecture
from ..wording import accuracy, percent, plural
from .drawing import draw

Metrics = Mapping[str, Any]


def make_card(architecture: Architecture, metrics: Metrics) -> str:
    """The card as Markdown. Fields that the metrics lack are left out or said to be missing."""
    name, data = str(metrics.get("name", architecture.hash)), str(metrics.get("data", "unknown data"))
    classes, channels, size = architecture.num_classes, architecture.in_channels, architecture.image_size
    parts = [
        _front_matter(name, data, architecture, metrics),
        f"# {cell(name)}\n\nAn image classifier of the family {cell(metrics.get('family') or architecture.family)} "
        f"for {cell(data)}: images of {channels} x {size} x {size}, {classes} classes. "
        f"Found or trained with igcsearch; architecture `{architecture.hash}`.",
        "## Accuracy\n\n" + _accuracy(metrics),
        "## Cost\n\n" + _cost(architecture, metrics),
        "## Load it\n\n" + _loading(name, metrics, architecture),
        "## Data\n\n" + _data(metrics),
        "## Recipe\n\n" + _fields(metrics.get("recipe")),
        "## Where it comes from\n\n" + _origin(metrics),
        "## The network\n\n```text\n" + draw(architecture) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def cell(value: object) -> str:
    """Text that is safe inside a table cell: one line, no column mark, no markup."""
    text = " ".join(str(value).split())
    for mark, safe in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("`", "'")):
        text = text.replace(mark, safe)
    return text


def rows(titles: list[str], lines: list[list[object]]) -> str:
    """A Markdown table; every cell is made safe."""
    table = [titles, ["---"] * len(titles), *([cell(value) for value in line] for line in lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in table)


def latency_line(latency: Metrics | None) -> str:
    """Latency with all it depends on, as in "1.23 ms median, 1.40 ms p90 (cpu, 1 thread, batch 1, float32)"."""
    if not latency:
        return "not measured"
    words = (("median_ms", "median"), ("p90_ms", "p90"), ("predicted_ms", "predicted"))
    figures = [f"{latency[key]:.2f} ms {word}" for key, word in words if key in latency]
    threads = latency.get("threads")
    how = [
        str(latency.get("device", "device unknown")),
        plural(threads, "thread") if threads else "",
        f"batch {latency.get('batch', '?')}",
        str(latency.get("dtype", "")),
        "optimized for inference" if latency.get("execution") == "optimized" else "",
    ]
    return f"{', '.join(figures)} ({', '.join(part for part in how if part)})"


def _front_matter(name: str, data: str, architecture: Architecture, metrics: Metrics) -> str:
    """Model hubs' YAML. JSON is valid YAML, so every value is written as JSON and needs no other escaping."""
    fields: dict[str, Any] = {
        "license": "other",
        "license_name": f"data: {metrics.get('licence') or 'unknown'}",
        "library_name": "igcsearch",
        "pipeline_tag": "image-classification",
        "tags": ["igcsearch", "image-classification", str(metrics.get("family") or architecture.family)],
        "datasets": [data],
        "metrics": ["accuracy"],
    }
    if metrics.get("accuracy") is not None:
        task = {"type": "image-classification"}
        figures = [{"type": "accuracy", "value": metrics["accuracy"], "name": "test accuracy, mean over seeds"}]
        result = {"task": task, "dataset": {"name": data, "type": data, "split": "test"}, "metrics": figures}
        fields["model-index"] = [{"name": name, "results": [result]}]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _accuracy(metrics: Metrics) -> str:
    seeds = metrics.get("seeds") or []
    summary = accuracy(metrics.get("accuracy"), metrics.get("accuracy_std"), len(seeds))
    text = f"Test accuracy: {summary}."
    if not seeds:
        return text
    lines: list[list[object]] = [
        [
            run.get("seed", "?"),
            percent(run.get("validation_accuracy")),
            percent(run.get("test_accuracy")),
            "" if run.get("seconds") is None else f"{run['seconds']:.0f}",
            "yes" if run.get("seed") == metrics.get("weights_seed") else "",
        ]
        for run in seeds
    ]
    table = rows(["seed", "validation accuracy", "test accuracy", "seconds", "these weights"], lines)
    return f"{text} The deviation is that of the sample (n - 1).\n\n{table}"


def _cost(architecture: Architecture, metrics: Metrics) -> str:
    lines: list[list[object]] = [
        ["parameters", f"{architecture.params:,}"],
        ["MACs (closed form: convolutions and linear layers)", f"{architecture.macs:,}"],
        ["MACs (fvcore, convolutions and linear layers)", _count(metrics.get("macs_fvcore"))],
        ["fvcore's own total", _count(metrics.get("fvcore_total"))],
        ["latency", latency_line(metrics.get("latency"))],
    ]
    if architecture.nonzero_macs != architecture.macs:
        lines.insert(2, ["MACs with weights that the N:M sparsity keeps", f"{architecture.nonzero_macs:,}"])
    return rows(["cost of one image", ""], lines)


def _loading(name: str, metrics: Metrics, architecture: Architecture) -> str:
    feeding = ""
    if metrics.get("mean") is not None and metrics.get("std") is not None:
        feeding = (
            f"\n\nIt reads batches of shape (N, {architecture.in_channels}, {architecture.image_size}, "
            f"{architecture.image_size}), scaled to [0, 1], less the mean {metrics['mean']}, divided by the standard "
            f"deviation {metrics['std']} of each channel, and gives logits (N, {architecture.num_classes})."
        )
    return (
        "```python\nimport igcsearch\n"
        f"network = igcsearch.create_model({json.dumps(name)}, pretrained=True)  # or igcsearch.load(folder)\n"
        f"print(network.pretrained_cfg)\n```{feeding}"
    )


def _data(metrics: Metrics) -> str:
    names = metrics.get("class_names") or []
    fields = {
        "data set": metrics.get("data"),
        "licence of the data": metrics.get("licence"),
        "training images": metrics.get("train_images"),
        "classes": ", ".join(map(str, names)) if 0 < len(names) <= 20 else (len(names) or None),
        **{f"split: {key}": value for key, value in (metrics.get("split") or {}).items()},
    }
    return _fields({key: value for key, value in fields.items() if value is not None})


def _origin(metrics: Metrics) -> str:
    changed = ", and changes to the code" if metrics.get("commit_modified") else ""
    return _fields(
        {
            **{f"origin: {key}": value for key, value in (metrics.get("provenance") or {}).items()},
            **{f"version: {key}": value for key, value in (metrics.get("versions") or {}).items()},
            "igcsearch commit": f"{metrics.get('commit') or 'not from a checkout'}{changed}",
            "weights": f"seed {metrics.get('weights_seed', '?')}, SHA-256 {metrics.get('weights_sha256')}",
        }
    )


def _fields(fields: Metrics | None) -> str:
    if not fields:
        return "Not recorded."
    return rows(["", ""], [[key, _value(value)] for key, value in fields.items()])


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value) or "none"
    return "none" if value is None else str(value)


def _count(value: int | None) -> str:
    return "not measured" if value is None else f"{value:,}"
