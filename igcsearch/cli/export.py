"""The command export: a published network as one file for other programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from ..errors import UsageError
from .models import find
from .options import AsJson, count
from .output import print_json


def export(
    network: Annotated[
        str,
        typer.Argument(metavar="ENTRY", help="A name that 'igcsearch list' shows, or an entry's folder."),
    ],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="onnx|torch-export",
            help="ONNX, or what torch.export.load reads. ONNX needs pip install 'igcsearch[export]'.",
        ),
    ] = "onnx",
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="FILE", help="Default: ENTRY's name with .onnx or .pt2, in the current folder."),
    ] = None,
    batch: Annotated[
        str, typer.Option("--batch", metavar="dynamic|N", help="Images at once: any number, or always N.")
    ] = "dynamic",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there already.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a published network to a file that other programs run without igcsearch: ONNX, or a torch.export archive.

    It reads normalised float32 images (N, channels, height, width) and gives logits (N, classes); input size, mean, std, class
    names and accuracy are in its metadata. Before it is written it is run against the network on random images; a difference of
    more than 1e-4 (absolute, relative above 1) is an error, and then there is no file.

    Example: igcsearch export NAME --format torch-export --out my-network.pt2
    """
    found = find(network)
    if found.entry is None:
        raise UsageError(
            f"export needs an entry with weights; {network!r} is an architecture alone; give the folder of its entry, "
            "or make one of it with 'igcsearch train'"
        )
    from ..publish.export import export as write

    written = write(found.entry, out, format=format, batch=_batch(batch), overwrite=overwrite)
    if as_json:
        print_json(asdict(written) | {"path": str(written.path)})
    else:
        images = "batches of any size" if written.batch == "dynamic" else f"batches of {written.batch}"
        print(
            f"{written.path}: {written.format}, {written.size / 1000:,.1f} kB, {images}; "
            f"largest difference from the network {written.difference:.1g}"
        )


def _batch(text: str) -> int | str:
    """The word dynamic, or a number of images. Raises UsageError."""
    if text == "dynamic":
        return text
    try:
        return count(text)
    except UsageError:
        raise UsageError(f"--batch {text!r}: give 'dynamic' or a whole number of at least 1") from None
