"""Where a network to compress comes from: an entry, torchvision, timm or a function of the user's; and its weights. Floor 6."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..entries import Entry, create_model, find_model
from ..errors import UsageError, near
from ..spec.graph import GraphArchitecture
from ..training import ImageData
from .trace import check_finite, trace

PICKLES = (".pt", ".pth", ".th", ".tar", ".bin", ".pkl", ".pickle", ".ckpt")
SHOWN = 3  # names that an error lists
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Source:
    """A network to compress.

    Args:
        name: short, for the entry.
        graph, state: its architecture and weights.
        mean, std: that its images are normalised with; None where it does not say.
    """

    name: str
    graph: GraphArchitecture
    state: dict[str, Tensor]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def normalised(
    images: ImageData, source: Source, mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None
) -> ImageData:
    """The images, checked against the network, normalised as it wants them; mean and std, where given, instead.

    Raises:
        UsageError: images of another size, or of other channels or classes.
    """
    graph = source.graph
    have, want = ((each.in_channels, each.image_size, each.num_classes) for each in (graph, images))
    if have != want:
        raise UsageError(
            f"{source.name} is for {have[0]} channels, {have[1]} pixels, {have[2]} classes; data {images.name} has {want[0]}, "
            f"{want[1]}, {want[2]}; give matching data (--image-size resizes it)"
        )
    means, deviations = mean or source.mean or images.mean, std or source.std or images.std
    splits = {
        name: replace(getattr(images, name), mean=means, std=deviations) for name in ("train", "validation", "test")
    }
    return replace(images, mean=means, std=deviations, **splits)  # in the splits too: checkpoints know images by them


def read_source(
    text: str,
    *,
    weights: str = "pretrained",
    names: Mapping[str, str] | None = None,
    image_size: int | None = None,
    in_channels: int = 3,
    num_classes: int | None = None,
) -> Source:
    """The network that a text names: an entry's name or folder, torchvision:NAME, timm:NAME, or file.py:function.

    Args:
        weights: pretrained (the source's own), none (as its constructor leaves them, torch seeded by 0), or a safetensors file.
        names: prefixes of the file's keys and what the network calls them.
        image_size, in_channels, num_classes: of the images; an entry has its own.

    Raises:
        UsageError: there is no such network, weights that do not fit it, a pickle; or as `trace`.
    """
    for given in (text, weights):
        if Path(given.rpartition(":")[0] or given).suffix in PICKLES or Path(given).suffix in PICKLES:
            raise UsageError(
                f"{given!r} is a pickle, which can run code when it is read: it is refused; in a session that trusts it, "
                "safetensors.torch.save_file(torch.load(FILE)['state_dict'], 'weights.safetensors') makes --weights of it"
            )
    kind, colon, rest = text.partition(":")
    library = bool(colon) and kind in ("torchvision", "timm")
    if not library and ".py" not in text:
        return _entry(text, weights)
    mean_std = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what has no weights is the same again when the command is
        if library:
            module, mean_std = _library(kind, rest, weights == "pretrained", in_channels, num_classes)
            name = rest
        else:
            module, name = _function(text), text.rpartition(":")[2]
            if weights == "pretrained":
                weights = "none"  # the function gives it with its weights
    if weights not in ("pretrained", "none"):
        _load(module, weights, dict(names or {}))
    size = image_size or 224
    traced = trace(module, size, in_channels, family=name)
    mean, std = mean_std or (None, None)
    return Source(name, traced.architecture, traced.state_dict, mean, std)


def _entry(text: str, weights: str) -> Source:
    found = find_model(text)
    if not isinstance(found, Entry) or weights != "pretrained":
        raise UsageError(
            f"{text!r} has no weights to compress: name an entry, torchvision:NAME, timm:NAME or file.py:function "
            "(--weights none and files are for the last three)"
        )
    network = create_model(found.path, pretrained=True).set_execution("plain")
    mean, std = (tuple(found.metrics[key]) if found.metrics.get(key) else None for key in ("mean", "std"))
    if isinstance(network.architecture, GraphArchitecture):
        check_finite(network.state_dict())
        return Source(found.name, network.architecture, dict(network.state_dict()), mean, std)
    architecture = network.architecture
    traced = trace(network, architecture.image_size, architecture.in_channels, family=architecture.family)
    return Source(found.name, traced.architecture, traced.state_dict, mean, std)


def _library(
    kind: str, name: str, pretrained: bool, in_channels: int, num_classes: int | None
) -> tuple[nn.Module, tuple[tuple[float, ...], tuple[float, ...]] | None]:
    """A model of torchvision or timm, and the normalisation of its published weights."""
    if importlib.util.find_spec(kind) is None:
        raise UsageError(f"{kind}:{name}: {kind} is not installed; pip install {kind}")
    if kind == "timm":
        library = importlib.import_module("timm")
        if name not in (known := library.list_models()):
            raise UsageError(f"timm has no model {name!r}{near(name, known)}")
        more = {} if num_classes is None else {"num_classes": num_classes}
        with _fetching(kind, name) if pretrained else nullcontext():
            made: Any = library.create_model(name, pretrained=pretrained, in_chans=in_channels, **more)
        about = made.pretrained_cfg
        return made, (tuple(about["mean"]), tuple(about["std"])) if pretrained and in_channels == 3 else None
    from torchvision import models

    if name not in (known := models.list_models(module=models)):
        raise UsageError(f"torchvision has no model {name!r}{near(name, known)}")
    if in_channels != 3:
        raise UsageError(f"torchvision's {name} reads 3 channels, the images have {in_channels}; give images of 3")
    if pretrained:
        with _fetching(kind, name):
            return models.get_model(name, weights="DEFAULT"), IMAGENET
    return models.get_model(name, weights=None, **({} if num_classes is None else {"num_classes": num_classes})), None


@contextmanager
def _fetching(kind: str, name: str) -> Iterator[None]:
    """What fails within is said to be the weights; a context."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"the weights of {kind}'s {name} cannot be fetched ({reason}); give --weights FILE or none"
        ) from error


def _function(text: str) -> nn.Module:
    """What the function of a file gives: `file.py:function`, called without arguments."""
    file, _, function = text.rpartition(":")
    if not file:
        raise UsageError(
            f"{text!r}: the function is missing; write file.py:function, for a function that returns an nn.Module"
        )
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError(f"{text!r}: there is no file {file!r}")
    loaded = _module(path)
    found = getattr(loaded, function, None)
    if not callable(found):
        known = [key for key, value in vars(loaded).items() if callable(value) and not key.startswith("_")]
        raise UsageError(f"{file} has no function {function!r}{near(function, known)}")
    try:
        made = found()
    except Exception as error:
        raise UsageError(f"{text} failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise UsageError(f"{text} returned {type(made).__name__}; it must return an nn.Module")
    return made


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"igcsearch_source_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.append(str(path.absolute().parent))  # for modules beside it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"{path.name} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _load(module: nn.Module, file: str, names: dict[str, str]) -> None:
    """Read weights into a module: every parameter and buffer, but counts of batches, must be there and fit."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError(f"--weights {file}: there is no such file; give pretrained, none or a safetensors file")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"--weights {file} is no safetensors file: {error}") from error
    renamed = {}
    for key, tensor in tensors.items():
        prefix = max((p for p in names if key.startswith(p)), key=len, default="")
        renamed[names[prefix] + key[len(prefix) :] if prefix else key] = tensor
    wanted = module.state_dict(keep_vars=True)
    given = {id(wanted[key]): renamed[key] for key in wanted if key in renamed}
    for key in wanted:
        if key.endswith("num_batches_tracked"):
            renamed.setdefault(key, torch.tensor(0))
        elif id(wanted[key]) in given:  # safetensors hold a tensor of two names once
            renamed.setdefault(key, given[id(wanted[key])])
    wrong = [f"{key} is missing" for key in wanted if key not in renamed]
    wrong += [f"{key} does not belong to it" for key in renamed if key not in wanted]
    for key in wanted:
        if key in renamed and renamed[key].shape != wanted[key].shape:
            wrong.append(f"{key} has shape {tuple(renamed[key].shape)}, expected {tuple(wanted[key].shape)}")
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise UsageError(
            f"--weights {file} do not fit: {'; '.join(wrong[:SHOWN])}{more}; --map OLD=NEW renames prefixes of keys"
        )
    module.load_state_dict(renamed)
