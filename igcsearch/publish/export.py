"""A network as one file for other programs: ONNX, or torch.export's own archive. Floor 7.

It is a published one, with what its entry says, or a `Network` from Python. Its plain form (stock group convolutions, eval mode,
float32, CPU) is traced once by torch.export; that, or its translation to ONNX, is made in memory and run against the network, and
only then put in its place. torch and the ONNX packages (the extra `export`) are imported when called.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..entries import Entry, read_entry
from ..errors import UsageError, near
from ..files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from ..nn import Network
    from ..spec import Architecture

DYNAMIC = "dynamic"
TOLERANCE = 1e-4  # of a logit: absolute below 1, relative above
LARGEST_BATCH = 1024  # a fixed batch is run here, in memory
TRIED = (1, 2, 5)  # batch sizes that a file for any batch is run with
INPUT, OUTPUT, POOLED = (
    "images",
    "logits",
    "features",
)  # names in an ONNX file; the last of a network without a classifier
METADATA = "igcsearch.json"  # the extra file of a torch.export archive

Metadata = dict[str, Any]
Run = Callable[["Tensor"], "Tensor"]  # images (N, C, H, W) to logits (N, num_classes), or features


class ExportError(RuntimeError):
    """A file was made that does not run, or does not compute what the network computes; it was not written."""


@dataclass(frozen=True)
class Exported:
    """What `export` wrote. `difference` is the largest one found, of a logit: absolute below 1, relative above."""

    name: str
    path: Path
    format: str
    batch: int | str
    size: int  # bytes
    difference: float
    metadata: Metadata = field(repr=False)


@dataclass(frozen=True)
class Format:
    """A kind of file: its ending, the packages it needs beside torch, how to make its content, how to run that."""

    suffix: str
    packages: tuple[str, ...]
    make: Callable[[ExportedProgram, Metadata], bytes]
    run: Callable[[bytes], Run]


@dataclass(frozen=True)
class _Given:
    """What is exported: its name, what is recorded of it as in metrics.json, and a network of its own to work on."""

    name: str
    architecture: Architecture
    classes: int  # 0: it gives features
    metrics: Mapping[str, Any]
    network: Callable[[], Network]


def export(
    model: Network | Entry | str | Path,
    path: str | Path | None = None,
    *,
    format: str = "onnx",
    batch: int | str = DYNAMIC,
    overwrite: bool = False,
) -> Exported:
    """Write a network to a file that needs no igcsearch, after comparing it with the network on random images.

    It reads normalised images (batch, channels, height, width), float32, and gives logits (batch, classes). What is needed to
    feed it (input size, mean, std, class names ...) is in the file: in ONNX's metadata_props, where all but text is JSON, or in
    a torch.export archive's extra file `igcsearch.json`.

    Args:
        model: a published one as `create_model` takes it, or its entry; or a `Network`, with the weights that it has now. Of
            that, only one that `create_model` or `load` gave knows its mean, std and class names.
        path: the file; default: the network's name (network-HASH for a `Network`) with .onnx or .pt2, in the current folder.
        format: "onnx" or "torch-export".
        batch: "dynamic" for any number of images, or the number.
        overwrite: replace a file that is there.

    Raises:
        UsageError: an unknown network, format or batch; a package that is missing; a file that exists or cannot be written;
            a module of another kind.
        ExportError: the file would not run, or differ from the network by more than 1e-4.
    """
    given = _given(model)
    if format not in FORMATS:
        raise UsageError(f"unknown format {format!r}{near(format, FORMATS)}; known: {', '.join(FORMATS)}")
    kind = FORMATS[format]
    if batch != DYNAMIC and not (type(batch) is int and 1 <= batch <= LARGEST_BATCH):
        raise UsageError(f"batch {batch!r}: give {DYNAMIC!r} or a whole number from 1 to {LARGEST_BATCH}")
    target = _target(Path(given.name + kind.suffix if path is None else path).expanduser(), format, overwrite)
    _need(format, kind.packages)
    from ..nn.sparse import with_dense

    network = given.network().set_execution("plain").float().cpu().eval()
    with_dense(network)  # what reads the file knows no compact storage
    with _quiet():
        metadata = _metadata(given, batch, kind.packages)
        content = kind.make(_traced(network, batch), metadata)
        sizes = (batch,) if isinstance(batch, int) else TRIED
        difference = _difference(given.name, network, kind.run(content), sizes)
    try:
        atomic_write(target, content)
    except OSError as error:
        raise UsageError(f"'{target}' cannot be written: {error.strerror or error}") from error
    return Exported(given.name, target, format, batch, len(content), difference, metadata)


def _given(model: Network | Entry | str | Path) -> _Given:
    """What `export` was given. Raises UsageError for an unknown name, a broken entry, or what is no network of ours."""
    if isinstance(model, str | Path):
        model = read_entry(model)
    if isinstance(model, Entry):
        return _of_entry(model)
    from ..nn import Network

    if not isinstance(model, Network):
        raise UsageError(
            f"a {type(model).__name__} cannot be exported; give a Network (before optimize_for_inference and without a wrapper), "
            "the name of a published one, or an entry's folder"
        )
    architecture = model.architecture
    told: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    classes = int(getattr(model.classifier, "out_features", 0))
    metrics = {key: told.get(key) for key in ("mean", "std")} | {"licence": told.get("license")}
    if told.get("num_classes") == classes:
        metrics["class_names"] = told.get("class_names")
    return _Given(f"network-{architecture.hash}", architecture, classes, metrics, lambda: copy.deepcopy(model))


def _of_entry(entry: Entry) -> _Given:
    def network() -> Network:
        from ..entries import load

        return load(entry.path)

    return _Given(entry.name, entry.architecture, entry.architecture.num_classes, entry.metrics, network)


def _target(path: Path, format: str, overwrite: bool) -> Path:
    """The file to write, refused before any work if it cannot be: UsageError."""
    other = next((name for name, kind in FORMATS.items() if name != format and path.suffix == kind.suffix), None)
    if other:
        raise UsageError(
            f"'{path}' ends as files of format {other} do, the format is {format}; "
            f"choose the format {other}, or a name that ends in {FORMATS[format].suffix}"
        )
    if os.path.isdir(path):
        raise UsageError(f"'{path}' is a folder; give the name of a file")
    if not os.path.isdir(path.parent):
        raise UsageError(f"'{path}' cannot be written: there is no folder '{path.parent}'; make it first")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"'{path}' exists already; choose another name, or overwrite it (--overwrite)")
    return path


def _need(format: str, packages: Sequence[str]) -> None:
    """Raise UsageError unless the packages are installed."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise UsageError(f"format {format} needs {', '.join(missing)}, not installed: pip install 'igcsearch[export]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what the libraries print, warn of and log; their result is checked by running it."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _metadata(given: _Given, batch: int | str, packages: Sequence[str]) -> Metadata:
    """What a program needs to feed the network and to name its answers, and where it comes from; unknown fields left out."""
    architecture, metrics = given.architecture, given.metrics
    left_out = architecture.num_classes - given.classes  # of the classifier, where it has another or none
    recorded = ("class_names", "mean", "std", "accuracy", "accuracy_std", "accuracy_split", "data", "licence", "family")
    fields = {
        "name": given.name,
        "architecture": architecture.hash,
        "input_size": [architecture.in_channels, architecture.image_size, architecture.image_size],
        "in_channels": architecture.in_channels,
        "num_classes": given.classes,
        "batch": batch,
        **{key: metrics.get(key) for key in recorded},
        "params": architecture.params - left_out * (architecture.features + 1),
        "macs": architecture.macs - left_out * architecture.features,
        "weights_sha256": metrics.get("weights_sha256"),
        "versions": {
            "igcsearch": __version__,
            **{package: str(import_module(package).__version__) for package in ("torch", *packages)},
        },
    }
    return {key: value for key, value in fields.items() if value is not None}


def _traced(network: Network, batch: int | str) -> ExportedProgram:
    """The network as a graph of torch's operators, for any batch or for a fixed one; without paths of this machine."""
    import torch

    architecture = network.architecture
    size = (architecture.in_channels, architecture.image_size, architecture.image_size)
    images = torch.zeros(batch if isinstance(batch, int) else 2, *size)  # traced with 1, a batch could not vary
    program = torch.export.export(network, (images,), dynamic_shapes=_shapes(batch))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # names the source files' folders
    return program


def _shapes(batch: int | str) -> tuple[dict[int, Any]] | None:
    """torch.export's dynamic_shapes for the one input."""
    import torch

    return ({0: torch.export.Dim("batch")},) if batch == DYNAMIC else None


def _make_onnx(program: ExportedProgram, metadata: Metadata) -> bytes:
    import torch

    translated = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        external_data=False,
        input_names=[INPUT],
        output_names=[OUTPUT if metadata["num_classes"] else POOLED],
        dynamic_shapes=_shapes(metadata["batch"]),  # traced already; this names the dimension
    )
    assert translated is not None  # it is None only for the exporter of old
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    translated.model.metadata_props.update(texts)
    content: bytes = translated.model_proto.SerializeToString()
    return content


def _run_onnx(content: bytes) -> Run:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; they are raised too
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.numpy()})[0])


def _make_archive(program: ExportedProgram, metadata: Metadata) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA: json.dumps(metadata)})
    return buffer.getvalue()


def _run_archive(content: bytes) -> Run:
    import torch

    run: Run = torch.export.load(io.BytesIO(content)).module()
    return run


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _make_onnx, _run_onnx),
    "torch-export": Format(".pt2", (), _make_archive, _run_archive),
}


def _difference(name: str, network: Network, run: Run, sizes: Sequence[int]) -> float:
    """The largest |a - b| / max(1, |b|) of a logit of the file (a) and of the network (b), over random images in batches.

    Raises:
        ExportError: it is above TOLERANCE or no number, the shapes differ, or the file does not run.
    """
    import torch

    architecture, generator = network.architecture, torch.Generator().manual_seed(0)
    differences = []
    for size in sizes:
        shape = (size, architecture.in_channels, architecture.image_size, architecture.image_size)
        images = torch.randn(shape, generator=generator)
        with torch.no_grad():
            expected_NK = network(images)
            try:
                found_NK = run(images)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise ExportError(f"'{name}' as exported does not run on a batch of {size}: {reason}") from error
        if found_NK.shape != expected_NK.shape:
            shapes = f"{tuple(found_NK.shape)}, expected {tuple(expected_NK.shape)}"
            raise ExportError(f"'{name}' as exported gives logits of shape {shapes}; nothing was written")
        differences.append(((found_NK - expected_NK).abs() / expected_NK.abs().clamp(min=1)).max())
    worst = float(torch.stack(differences).max())  # nan, if any is
    if not worst <= TOLERANCE:
        raise ExportError(
            f"'{name}' as exported differs from the network by {worst:.2g}, at most {TOLERANCE:g} is allowed; "
            "nothing was written"
        )
    return worst
