"""The mobile space at its own size: sampled networks built at 224x224, counted by fvcore, and one trained on an image folder."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igcsearch.nn import build, measure
from igcsearch.search.settle import RandomTrial
from igcsearch.search_spaces import get_space
from igcsearch.spec import Budget, Problem
from igcsearch.training import DataSpec, Recipe, load_data, train

BUDGETS = [
    Budget(params=500_000, macs=50_000_000),
    Budget(params=2_000_000, macs=150_000_000),
    Budget(params=4_000_000, macs=300_000_000),
]


def check(budget: Budget, seed: int) -> None:
    """One sampled candidate: inside the budget, and built as counted."""
    architecture = get_space("mobile").propose(RandomTrial(random.Random(seed)), Problem(224, 3, 100, budget))
    assert budget.admits(*architecture.cost)
    network = build(architecture, seed=0)
    assert sum(parameter.numel() for parameter in network.parameters()) == architecture.params
    assert measure.fvcore_macs(network).macs == architecture.macs


@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: f"{budget.macs // 10**6}M")
def test_a_candidate_of_each_budget_costs_what_it_says(budget: Budget) -> None:
    check(budget, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: f"{budget.macs // 10**6}M")
@pytest.mark.parametrize("seed", range(10))
def test_ten_candidates_of_each_budget_cost_what_they_say(budget: Budget, seed: int) -> None:
    check(budget, seed)


def photographs(folder: Path, classes: int, images: int) -> Path:
    """Class folders of PNGs, each class with stripes of its own direction."""
    stream = np.random.default_rng(0)
    rows, columns = np.mgrid[0:240, 0:240]
    for kind in range(classes):
        (folder / f"class{kind}").mkdir(parents=True)
        for image in range(images):
            wave = np.sin((rows * kind + columns * (classes - kind)) / 20 + stream.uniform(0, 6))
            pixels = (wave[..., None] * 60 + 128 + stream.normal(0, 20, (240, 240, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class{kind}" / f"{image}.png")
    return folder


def test_one_epoch_on_a_folder_of_images(tmp_path: Path) -> None:
    data = load_data(DataSpec(str(photographs(tmp_path / "photos", 3, 10)), image_size=224))
    problem = data.problem(BUDGETS[0])
    assert (problem.image_size, problem.in_channels, problem.num_classes) == (224, 3, 3)
    architecture = get_space("mobile").limited(("interleave",)).propose(RandomTrial(random.Random(1)), problem)
    result = train(architecture, data, Recipe(epochs=1, batch_size=6, lr=0.05), device="cpu")
    assert result.epochs == 1
    assert np.isfinite(result.curve[0]["train_loss"])
    assert 0.0 <= result.validation_accuracy <= 1.0
