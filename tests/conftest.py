"""What all tests share: one thread for torch, a zoo of their own, hypothesis without deadlines, real data."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; child processes inherit it

import gzip
import importlib
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

# A shell starts what runs in its background deaf to Ctrl-C, which tests press.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
RAW = "FashionMNIST/raw"

# The same examples every time, so that a failure comes again; --hypothesis-profile=default looks further.
hypothesis.settings.register_profile("igcsearch", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("igcsearch")


@pytest.fixture(scope="session", autouse=True)
def _own_zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither see nor write the networks of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IGCSEARCH_ZOO", str(tmp_path_factory.mktemp("zoo")))
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def load(root: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a module of benchmarks/, which is no installed package."""
    monkeypatch.syspath_prepend(str(root))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with FashionMNIST/raw/*-ubyte in it, as torchvision lays it out; without one the test is skipped."""
    given = os.environ.get("IGCSEARCH_TEST_DATA")
    if given and (Path(given) / RAW / "train-images-idx3-ubyte").is_file():
        return Path(given)
    packed = sorted((ROOT.parent / "shared" / "data" / "fashion-mnist").glob("*-ubyte.gz"))
    if given or len(packed) != 4:
        pytest.skip(f"no Fashion-MNIST: set IGCSEARCH_TEST_DATA to a folder that holds {RAW}/*-ubyte")
    folder = tmp_path_factory.mktemp("data")
    (folder / RAW).mkdir(parents=True)
    for archive in packed:
        with gzip.open(archive) as source, open(folder / RAW / archive.stem, "wb") as target:
            shutil.copyfileobj(source, target)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked gpu are skipped, with a reason, where torch sees no GPU."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
