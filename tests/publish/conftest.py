"""One thread for the test's own process; one publication that many tests look at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from igcsearch.nn import plans

from .studies import Published, fake_study, run


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _own_times(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What these tests time is not remembered for whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("plans")
        patch.setattr(plans, "cache_folder", lambda: place)
        yield


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The best of 3 finalists out of 5 candidates, with 2 seeds of 1 epoch."""
    folder = tmp_path_factory.mktemp("publish")
    return run(fake_study(folder / "study"), folder / "zoo", top=1, seeds=2, workers=2)
