"""Augmentation against an image-by-image oracle, and its independence of how batches are cut."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from igcsearch.training.augment import Normalise, augment
from igcsearch.training.keyed import keyed


def _images(count: int, channels: int, size: int) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(count).integers(1, 256, (count, channels, size, size), dtype=np.uint8)
    )


@given(
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
    epoch=st.integers(1, 500),
    padding=st.integers(0, 3),
    flip=st.booleans(),
)
def test_pixels_do_not_depend_on_the_batches(cuts: list[int], seed: int, epoch: int, padding: int, flip: bool) -> None:
    # Rule: a sample's pixels are a function of (seed, epoch, sample id), whatever batch it is in.
    count = sum(cuts)
    images, ids = _images(count, 2, 6), torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:count]
    options = {"seed": seed, "epoch": epoch, "padding": padding, "flip": flip}
    whole = augment(images, ids, **options)
    pieces = [augment(i, k, **options) for i, k in zip(images.split(cuts), ids.split(cuts), strict=True)]
    assert torch.equal(whole, torch.cat(pieces))
    order = torch.arange(count - 1, -1, -1)
    assert torch.equal(whole[order], augment(images[order], ids[order], **options))


@given(size=st.integers(4, 9), padding=st.integers(1, 4), seed=st.integers(0, 2**31), flip=st.booleans())
def test_crop_and_flip_as_numpy_does_them(size: int, padding: int, seed: int, flip: bool) -> None:
    # Rule: pad with black, cut out a window of the old size at the keyed offset, mirror by the keyed bit.
    images, ids = _images(7, 3, size), torch.arange(100, 107)
    got = augment(images, ids, seed=seed, epoch=3, padding=padding, flip=flip)
    for image, bits, result in zip(images.numpy(), keyed(ids, seed, 3, 1).tolist(), got.numpy(), strict=True):
        bits %= 2**64
        down = bits % 2**24 * (2 * padding + 1) // 2**24
        right = bits // 2**24 % 2**24 * (2 * padding + 1) // 2**24
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        expected = padded[:, down : down + size, right : right + size]
        if flip and bits // 2**48 % 2:
            expected = expected[:, :, ::-1]
        np.testing.assert_array_equal(result, expected)


def test_all_shifts_come_equally_often() -> None:
    # Rule: each of the (2p + 1)^2 shifts and each mirroring has the same chance.
    image = torch.zeros(9000, 1, 5, 5, dtype=torch.uint8)
    image[:, :, 2, 1] = 255
    where = augment(image, torch.arange(9000), seed=0, epoch=1, padding=1, flip=True).flatten(1).argmax(1)
    counts = torch.bincount(where, minlength=25)
    # column 1 shifted by -1, 0, 1 and mirrored: columns 0, 1, 2 or 4, 3, 2, so that column 2 is met twice as often
    assert counts[[0, 1, 2, 3, 4, 20, 21, 22, 23, 24]].sum() == 0
    expected = torch.tensor([1, 1, 2, 1, 1] * 3) * 500
    assert ((counts[5:20] - expected).abs() < 5 * expected.sqrt()).all()


def test_epochs_and_seeds_differ_and_nothing_to_do_is_nothing() -> None:
    # Rule: another epoch or seed augments otherwise; without crop and mirroring the images come back as they are.
    images, ids = _images(32, 1, 8), torch.arange(32)
    base = augment(images, ids, seed=0, epoch=1, padding=2, flip=True)
    assert not torch.equal(base, augment(images, ids, seed=0, epoch=2, padding=2, flip=True))
    assert not torch.equal(base, augment(images, ids, seed=1, epoch=1, padding=2, flip=True))
    assert augment(images, ids, seed=0, epoch=1, padding=0, flip=False) is images


def test_normalisation_is_of_values_scaled_to_one() -> None:
    # Rule: (x / 255 - mean) / std per channel, float32, in channels_last where that is asked for.
    images = _images(4, 2, 5)
    got = Normalise((0.3, 0.6), (0.2, 0.4), torch.device("cpu"), channels_last=True)(images)
    expected = (images.numpy() / 255 - np.array([0.3, 0.6])[:, None, None]) / np.array([0.2, 0.4])[:, None, None]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert got.dtype == torch.float32
    assert got.is_contiguous(memory_format=torch.channels_last)
