"""Small images, architectures and files for the tests of training."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igcsearch.blocks import igcv2, network, stage
from igcsearch.spec import Architecture, Problem
from igcsearch.training import DataSpec, ImageData, load_data


@pytest.fixture
def make_architecture() -> Callable[..., Architecture]:
    """A network of two blocks for some images."""

    def make(data: ImageData | Problem, dropout: float = 0.0) -> Architecture:
        problem = data if isinstance(data, Problem) else data.problem()
        stages = [
            stage(igcv2, 8, 8, 1, branch_widths=(2, 4), residual=True),
            stage(igcv2, 8, 16, 1, stride=2, branch_widths=(4, 4), transition={"branch_widths": (2, 4)}),
        ]
        return network(problem, 8, stages, dropout=dropout)

    return make


@pytest.fixture
def write_npz(tmp_path: Path) -> Callable[..., Path]:
    """A .npz of images whose class shows in the quarter that is bright; arrays given by name take the place of its own."""

    def write(
        name: str = "quarters.npz", count: int = 120, size: int = 8, channels: int | None = 3, **arrays: object
    ) -> Path:
        content: dict[str, object] = {}
        for part, images in (("train", count), ("test", count // 3)):
            rng = np.random.default_rng(images)
            y = np.arange(images) % 4
            x = rng.integers(0, 130, (images, size, size) if channels is None else (images, size, size, channels))
            half = size // 2
            for image, label in zip(x, y, strict=True):
                image[label // 2 * half :][:half, label % 2 * half :][:, :half] += 120
            content[f"x_{part}"], content[f"y_{part}"] = x.astype(np.uint8), y
        content |= arrays
        path = tmp_path / name
        np.savez(path, **{key: value for key, value in content.items() if value is not None})
        return path

    return write


@pytest.fixture
def quarters(write_npz: Callable[..., Path]) -> ImageData:
    """108 training images of 8x8x3 in 4 classes, read from a .npz."""
    return load_data(DataSpec(str(write_npz())))


@pytest.fixture
def write_tree(tmp_path: Path) -> Callable[..., Path]:
    """Class folders of PNG files below a folder; sizes are taken in turn."""

    def write(
        folder: str, classes: dict[str, int], sizes: tuple[tuple[int, int], ...] = ((12, 12),), mode: str = "RGB"
    ) -> Path:
        rng = np.random.default_rng(len(folder))
        for label, (name, count) in enumerate(classes.items()):
            place = tmp_path / folder / name
            place.mkdir(parents=True)
            for index in range(count):
                width, height = sizes[index % len(sizes)]
                shape = (height, width) if mode == "L" else (height, width, 3)
                pixels = rng.integers(0, 100, shape) + 50 * label
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index:03}.png")
        return tmp_path / folder

    return write


@pytest.fixture
def write_idx(tmp_path: Path) -> Callable[..., Path]:
    """The four idx files of the MNIST family in a folder, packed or not."""

    def write(folder: str, packed: bool = True, counts: tuple[int, int] = (50, 20)) -> Path:
        place = tmp_path / folder
        place.mkdir(parents=True, exist_ok=True)
        for prefix, count in zip(("train", "t10k"), counts, strict=True):
            images = np.random.default_rng(count).integers(0, 256, (count, 28, 28))
            for kind, values in (("images-idx3", images), ("labels-idx1", np.arange(count) % 10)):
                header = bytes((0, 0, 8, values.ndim)) + b"".join(n.to_bytes(4, "big") for n in values.shape)
                content = header + values.astype(np.uint8).tobytes()
                path = place / f"{prefix}-{kind}-ubyte"
                if packed:
                    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
                else:
                    path.write_bytes(content)
        return place

    return write
