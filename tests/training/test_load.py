"""`load_data` whatever the source: subset, size, statistics, identity, and the specification's own refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from igcsearch.errors import UsageError
from igcsearch.spec import Budget
from igcsearch.training import DataSpec, load_data


def test_subset_of_training_images_leaves_the_rest_alone() -> None:
    # Rule: train_images cuts the training split alone, to the same images every time.
    whole = load_data(DataSpec("digits"))
    part, again = (load_data(DataSpec("digits", train_images=200)) for _ in range(2))
    assert len(part.train) == 200
    assert torch.equal(part.train.indices, again.train.indices)
    assert set(part.train.indices.tolist()) < set(whole.train.indices.tolist())
    assert torch.equal(part.validation.images, whole.validation.images)
    assert torch.equal(part.test.indices, whole.test.indices)
    assert torch.bincount(part.train.labels).min() >= 18
    with pytest.raises(UsageError, match="train images is 5000"):
        load_data(DataSpec("digits", train_images=5000))


def test_split_seed_moves_images() -> None:
    # Rule: another split seed, another split; the same one, the same.
    first, second, again = (load_data(DataSpec("digits", split_seed=seed)) for seed in (0, 1, 0))
    assert not torch.equal(first.test.indices, second.test.indices)
    assert first.fingerprint == again.fingerprint != second.fingerprint


def test_statistics_are_those_of_the_training_split(write_npz: Callable[..., Path]) -> None:
    # Rule: mean and population deviation per channel of training images scaled to 0..1.
    data = load_data(DataSpec(str(write_npz())))
    values = data.train.images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(data.mean, values.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(data.std, values.std((0, 2, 3)), atol=1e-6)


def test_a_channel_of_one_value_does_not_divide_by_nothing(write_npz: Callable[..., Path]) -> None:
    # Rule: deviation 1 where all pixels are the same.
    flat = np.full((120, 8, 8), 51, np.uint8)
    data = load_data(DataSpec(str(write_npz(x_train=flat, x_test=flat[:40]))))
    assert (data.mean, data.std) == ((0.2,), (1.0,))


def test_image_size_resizes_with_antialias(write_npz: Callable[..., Path]) -> None:
    # Rule: every split at the size asked for; a fine checkerboard becomes grey, as only antialiasing makes it.
    board = (np.indices((16, 16)).sum(0) % 2 * 255).astype(np.uint8)
    arrays = {f"x_{part}": np.repeat(board[None], count, 0) for part, count in (("train", 120), ("test", 40))}
    data = load_data(DataSpec(str(write_npz(**arrays)), image_size=8))
    for split in (data.train, data.validation, data.test):
        assert split.images.shape[2:] == (8, 8)
        assert (split.images[:, :, 2:-2, 2:-2].int() - 127).abs().max() <= 3
    assert data.problem(Budget(params=1000)).image_size == 8
    assert data.split["image_size"] == 8


def test_wide_arrays_keep_their_centre(write_npz: Callable[..., Path]) -> None:
    # Rule: with an image size, images that are not square lose their ends.
    wide = np.zeros((120, 8, 24), np.uint8)
    wide[:, :, 8:16] = 200
    data = load_data(DataSpec(str(write_npz(x_train=wide, x_test=wide[:40])), image_size=8))
    assert (data.train.images == 200).all()


@pytest.mark.parametrize(
    ("entries", "part"),
    [
        ({"name": "fashion_mnist"}, "did you mean 'fashion-mnist'"),
        ({"name": "digts"}, "did you mean 'digits'"),
        ({"name": "nothing-like-it"}, "known: digits"),
        ({"name": "nowhere/images"}, "data folder nowhere/images not found"),
        ({"name": "nowhere.npz"}, "data file nowhere.npz not found"),
        ({"name": ""}, "no text"),
        ({"name": "digits", "image_size": 3}, "image size is 3; it must be a whole number of at least 4"),
        ({"name": "digits", "image_size": 8.0}, "image size is 8.0"),
        ({"name": "digits", "train_images": 0}, "train images is 0"),
        ({"name": "digits", "train_images": 9}, "number of classes, 10"),
        ({"name": "digits", "split_seed": -1}, "split seed is -1"),
        ({"name": "digits", "size": 3}, "unknown entry 'size'"),
        ({"image_size": 8}, "'name' is missing"),
    ],
)
def test_bad_specifications_are_refused(entries: dict[str, Any], part: str) -> None:
    # Rule: value, rule and cure in one line, before anything is trained.
    with pytest.raises(UsageError) as caught:
        load_data(DataSpec.from_dict(entries))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_specification_and_split_are_json(quarters: Any) -> None:
    # Rule: both travel in studies and metrics.
    spec = DataSpec("cifar10", root="somewhere", download=True, train_images=100, image_size=16, split_seed=3)
    assert DataSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert json.loads(json.dumps(quarters.split)) == quarters.split
    assert {"sizes", "seed", "rule", "source"} <= set(quarters.split)
