"""A published network as one file for other programs: ONNX, or torch.export's own archive. Floor 7.

The plain form of a network (stock group convolutions, eval mode, float32, CPU) is traced once by torch.export; that, or its
translation to ONNX, is made in memory and run against the network, and only then put in its place. torch and the ONNX packages
(the extra `export`) are imported when called.
"""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
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

DYNAMIC = "dynamic"
TOLERANCE = 1e-4  # of a logit: absolute below 1, relative above
LARGEST_BATCH = 1024  # a fixed batch is run here, in memory
TRIED = (1, 2, 5)  # batch sizes that a file for any batch is run with
INPUT, OUTPUT = "images", "logits"  # names in an ONNX file
METADATA = "igcsearch.json"  # the extra file of a torch.export archive

Metadata = dict[str, Any]
Run = Callable[["Tensor"], "Tensor"]  # images (N, C, H, W) to logits (N, num_classes)


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


def export(
    entry_or_name: Entry | str | Path,
    path: str | Path | None = None,
    *,
    format: str = "onnx",
    batch: int | str = DYNAMIC,
    overwrite: bool = False,
) -> Exported:
    """Write a published network to a file that needs no igcsearch, after comparing it with the network on random images.

    It reads normalised images (batch, channels, height, width), float32, and gives logits (batch, classes). What is needed to
    feed it (input size, mean, std, class names ...) is in the file: in ONNX's metadata_props, where all but text is JSON, or in
    a torch.export archive's extra file `igcsearch.json`.

    Args:
        entry_or_name: as `create_model` takes it, or an entry.
        path: the file; default: the network's name with .onnx or .pt2, in the current folder.
        format: "onnx" or "torch-export".
        batch: "dynamic" for any number of images, or the number.
        overwrite: replace a file that is there.

    Raises:
        UsageError: an unknown network, format or batch; a package that is missing; a file that exists or cannot be written.
        ExportError: the file would not run, or differ from the network by more than 1e-4.
    """
    entry = entry_or_name if isinstance(entry_or_name, Entry) else read_entry(entry_or_name)
    if format not in FORMATS:
        raise UsageError(f"unknown format {format!r}{near(format, FORMATS)}; known: {', '.join(FORMATS)}")
    kind = FORMATS[format]
    if batch != DYNAMIC and not (type(batch) is int and 1 <= batch <= LARGEST_BATCH):
        raise UsageError(f"batch {batch!r}: give {DYNAMIC!r} or a whole number from 1 to {LARGEST_BATCH}")
    given = entry.name + kind.suffix if path is None else path
    target = _target(Path(given).expanduser(), format, overwrite)
    _need(format, kind.packages)
    from ..entries import load

    network = load(entry.path).set_execution("plain").float().cpu().eval()
    with _quiet():
        metadata = _metadata(entry, batch, kind.packages)
        content = kind.make(_traced(network, batch), metadata)
        sizes = (batch,) if isinstance(batch, int) else TRIED
        difference = _difference(entry.name, network, kind.run(content), sizes)
    try:
        atomic_write(target, content)
    except OSError as error:
        raise UsageError(f"'{target}' cannot be written: {error.strerror or error}") from error
    return Exported(entry.name, target, format, batch, len(content), difference, metadata)


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


def _metadata(entry: Entry, batch: int | str, packages: Sequence[str]) -> Metadata:
    """What a program needs to feed the network and to name its answers, and where it comes from; unknown fields left out."""
    architecture, metrics = entry.architecture, entry.metrics
    recorded = ("class_names", "mean", "std", "accuracy", "accuracy_std", "accuracy_split", "data", "licence", "family")
    fields = {
        "name": entry.name,
        "architecture": architecture.hash,
        "input_size": [architecture.in_channels, architecture.image_size, architecture.image_size],
        "in_channels": architecture.in_channels,
        "num_classes": architecture.num_classes,
        "batch": batch,
        **{key: metrics.get(key) for key in recorded},
        "params": architecture.params,
        "macs": architecture.macs,
        "weights_sha256": metrics["weights_sha256"],
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
        output_names=[OUTPUT],
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
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


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
