"""Accuracy of a network on a split: the share of images whose largest logit is at their label."""

import torch
from torch import nn

from igcsearch.errors import UsageError
from igcsearch.training.augment import Normalise
from igcsearch.training.batches import Batches
from igcsearch.training.datasets.images import ImageData, Split
from igcsearch.training.device import autocast, repeatable, resolve_device, resolve_precision
from igcsearch.training.shares import WHOLE, Share


def evaluate(
    network: nn.Module,
    data: ImageData | Split,
    *,
    device: str | torch.device = "auto",
    batch_size: int = 512,
    precision: str = "float32",
    threads: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> tuple[float, int]:
    """(accuracy, number of images) of a network, which is left on the device.

    Args:
        network: images (N, C, H, W) to logits (N, num_classes).
        data: a split, or a data set for its test split.
        device: auto, cpu, cuda or cuda:N.
        batch_size: images a step.
        precision: float32, bfloat16 or auto.
        threads: of torch meanwhile; None leaves them.
        mean, std: normalise with these (a published network's own) instead of the data's.

    Raises:
        UsageError: a device that is not there, normalisation for other channels, a network of another number of classes.
    """
    split = data.test if isinstance(data, ImageData) else data
    mean, std = tuple(mean or split.mean), tuple(std or split.std)
    channels = split.images.shape[1]
    if not len(mean) == len(std) == channels:
        raise UsageError(
            f"normalisation is for {len(mean)} channels, the images have {channels}; use data of the network's kind"
        )
    classes = data.num_classes if isinstance(data, ImageData) else int(split.labels.max()) + 1
    place = resolve_device(device)
    network.to(place)
    normalise = Normalise(mean, std, place, channels_last=True)
    with repeatable(place, threads), Batches({"it": split}, place, torch.get_num_threads()) as batches:
        right = count_right(
            network, batches, "it", batch_size, normalise, resolve_precision(precision, place), classes=classes
        )
    return right / len(split), len(split)


@torch.inference_mode()
def count_right(
    network: nn.Module,
    batches: Batches,
    name: str,
    batch_size: int,
    normalise: Normalise,
    precision: str,
    share: Share = WHOLE,
    classes: int = 0,
) -> int:
    """How many of the share's images of a split the network, in evaluation mode, classifies as labelled.

    `classes`: how many logits it must give at least.
    """
    was_training = network.training
    network.eval()
    right = torch.zeros((), dtype=torch.int64, device=batches.device)
    for batch in batches.in_order(name, batch_size, share):
        with autocast(batches.device, precision):
            logits = network(normalise(batch.images))
        if logits.ndim != 2 or logits.shape[1] < classes:
            raise UsageError(
                f"the network gives {tuple(logits.shape[1:])} numbers an image, the data has {classes} classes; evaluate one "
                "that was trained for them (num_classes=0 leaves out the classifier)"
            )
        right += (logits.argmax(1) == batch.labels).sum()
    network.train(was_training)
    return int(right)
