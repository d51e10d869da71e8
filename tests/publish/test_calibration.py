"""The images that compression measures on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from igcsearch.errors import UsageError
from igcsearch.publish.tuning import calibration
from igcsearch.training import DataSpec, load_data
from igcsearch.training.datasets.images import Split


def chosen(split: Split, rows: torch.Tensor) -> Split:
    assert isinstance(split.images, torch.Tensor)
    indices = torch.arange(len(rows))  # as a data set that lies in this order has them
    return replace(split, images=split.images[rows], labels=split.labels[rows], indices=indices)


def test_calibration_images_are_of_every_class() -> None:
    """Data that lies sorted by class gives no set of one class."""
    images = load_data(DataSpec("digits"))
    images = replace(images, train=chosen(images.train, images.train.labels.argsort(stable=True)))
    found = calibration(images, 256)
    labels = torch.cat([labels for _, labels in found])
    assert 256 <= len(labels) < 256 + 128
    assert len(labels.unique()) == 10
    assert float(torch.cat([x for x, _ in found]).mean().abs()) < 0.2
    assert len(torch.cat([labels for _, labels in calibration(images, 10**6)])) == len(images.train)


def test_no_training_images_are_refused() -> None:
    images = load_data(DataSpec("digits"))
    empty = replace(images, train=chosen(images.train, torch.zeros(0, dtype=torch.int64)))
    with pytest.raises(UsageError, match=r"data digits has no training images to measure on"):
        calibration(empty)
