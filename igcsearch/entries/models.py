"""From an entry or a reference network to a module: checked weights, timm's conventions for another head or number of channels.

Weights are read once into memory, their SHA-256 is held against the metrics, every tensor's name, shape and type
against the architecture, and only then they are loaded, strictly. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from ..errors import UsageError
from ..nn import Network, build, module_of
from ..spec import Architecture
from .entry import Entry, read_folder
from .zoo import find_model

SHOWN = 3  # mismatches that an error names


def create_model(
    name: str | Path,
    pretrained: bool = False,
    num_classes: int | None = None,
    in_chans: int | None = None,
    *,
    image_size: int | None = None,
) -> Network:
    """The network of that name (or entry folder), as in timm; a reference network's name gives one without weights.

    Another `num_classes` gives a new, randomly initialised classifier, 0 none: the network then gives pooled features (N,
    features). Another `in_chans` gives a stem for it; with `pretrained`, its weights are the published ones summed over the
    channels (1) or repeated and rescaled (otherwise).
    Another `image_size` is the side of the images that it is for: it changes the counts and `pretrained_cfg`, no weight.
    A pretrained network comes in eval mode, an untrained one in train mode. `network.pretrained_cfg` holds what is
    needed to feed it: input_size (C, H, W), mean, std, class_names, licence.

    Raises UsageError for an unknown name (with near matches), a broken entry, one class, less than one channel, images
    smaller than its strides allow (names the least), or weights of a reference network, which has none.
    """
    found = find_model(name)
    if pretrained and not isinstance(found, Entry):
        raise UsageError(
            f"'{found.name}' is a reference network and has no weights: leave pretrained out, or choose one of "
            "list_models(pretrained=True)"
        )
    published = found.architecture
    for option, value, refused, rule in (
        ("num_classes", num_classes, 1, "a whole number of at least 2, or 0 for no classifier,"),
        ("in_chans", in_chans, 0, "a whole number of at least 1"),
        ("image_size", image_size, 0, "a whole number of pixels"),
    ):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and (not whole or value < 0 or value == refused):
            raise UsageError(f"{option} {value!r}: {rule} is needed")
    wanted = published.with_(
        num_classes=num_classes or published.num_classes,
        in_channels=in_chans,
        image_size=image_size,
    )
    network = build(wanted)  # from torch's generator: two calls differ, and torch.manual_seed repeats them
    if pretrained and isinstance(found, Entry):
        network.load_state_dict(_adapt(read_weights(found), network.state_dict()), strict=True)
        network.eval()
    if num_classes == 0:
        network.remove_classifier()
    classes = published.num_classes if num_classes is None else num_classes
    metrics = found.metrics if isinstance(found, Entry) else {}
    object.__setattr__(network, "pretrained_cfg", _pretrained_cfg(found.name, published, metrics, wanted, classes))
    return network


def load(folder: str | Path) -> Network:
    """The pretrained network of an entry's folder, in eval mode. Raises UsageError as `create_model` does."""
    read_folder(folder)  # a path here, never a name
    return create_model(Path(folder).expanduser().absolute(), pretrained=True)


def read_weights(entry: Entry) -> dict[str, torch.Tensor]:
    """The entry's tensors, checked: SHA-256, then names, shapes and types. Raises UsageError."""
    path = entry.weights
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"'{path}' cannot be read: {error.strerror or error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry.metrics["weights_sha256"]:
        raise UsageError(
            f"'{path}' has SHA-256 {digest[:12]}..., metrics.json says {entry.metrics['weights_sha256'][:12]}...: "
            "the file is damaged or was changed; get the entry again"
        )
    try:
        tensors: dict[str, torch.Tensor] = load_tensors(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise UsageError(f"'{path}' is no safetensors file: {error}") from error
    check_tensors(entry.architecture, tensors, f"'{path}'")
    return tensors


def check_tensors(architecture: Architecture, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Raise UsageError, naming the first few, unless the tensors are the network's: same names, shapes and types."""
    wanted = module_of(architecture).state_dict()
    wrong = [f"{key} is missing" for key in wanted if key not in tensors]
    wrong += [f"{key} does not belong to it" for key in tensors if key not in wanted]
    for key in wanted:
        if key not in tensors:
            continue
        have, want = tensors[key], wanted[key]
        if have.shape != want.shape:
            wrong.append(f"{key} has shape {tuple(have.shape)}, expected {tuple(want.shape)}")
        elif have.dtype != want.dtype:
            wrong.append(f"{key} has type {have.dtype}, expected {want.dtype}")
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UsageError(f"{where} do not fit architecture {architecture.hash}: {'; '.join(wrong[:SHOWN])}{more}")


def adapt_input_weight(weight_OIHW: torch.Tensor, in_chans: int) -> torch.Tensor:
    """A first convolution's weight (O, I, H, W) for another number of input channels, as timm does it.

    One channel: the sum over I, so that a grey image gives what its I equal channels gave. Otherwise repeated along I
    and rescaled by I / in_chans, so that the sum of the inputs keeps its size.
    """
    channels = weight_OIHW.shape[1]
    if in_chans == 1:
        return weight_OIHW.sum(dim=1, keepdim=True)
    repeats = -(-in_chans // channels)
    return weight_OIHW.repeat(1, repeats, 1, 1)[:, :in_chans] * (channels / in_chans)


def _adapt(published: Mapping[str, torch.Tensor], fresh: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Published tensors where they fit, an adapted stem, the fresh classifier where its number of classes is new."""
    result: dict[str, torch.Tensor] = {}
    for key, new in fresh.items():
        if key not in published:
            raise UsageError(f"{key} has no published weights: this network cannot be adapted so; use pretrained=False")
        old = published[key]
        if old.shape == new.shape:
            result[key] = old
        elif old.dim() == 4 and old.shape[:1] == new.shape[:1] and old.shape[2:] == new.shape[2:]:
            result[key] = adapt_input_weight(old, new.shape[1])
        else:
            result[key] = new
    return result


def _pretrained_cfg(
    name: str, published: Architecture, metrics: Mapping[str, Any], wanted: Architecture, classes: int
) -> dict[str, Any]:
    """What a caller needs to feed the network and to read its answer, in timm's words."""
    same_head = classes == published.num_classes
    return {
        "name": name,
        "architecture": published.hash,
        "input_size": (wanted.in_channels, wanted.image_size, wanted.image_size),
        "mean": _per_channel(metrics.get("mean"), wanted.in_channels),
        "std": _per_channel(metrics.get("std"), wanted.in_channels),
        "num_classes": classes,
        "class_names": metrics.get("class_names") if same_head else None,
        "license": metrics.get("licence"),
    }


def _per_channel(values: list[float] | None, channels: int) -> tuple[float, ...] | None:
    """Figures of normalisation for another number of channels: their mean for one, else repeated in turn."""
    if not values or len(values) == channels:
        return tuple(values) if values else None
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[index % len(values)] for index in range(channels))
