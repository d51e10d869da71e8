"""Recipes: JSON round trip, refusals, and the schedules' shapes."""

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igcsearch.errors import UsageError
from igcsearch.training import ImageData, Recipe, default_recipe, steps_per_epoch

_UNIT = st.floats(0, 1, exclude_max=True)
_RECIPES = st.builds(
    Recipe,
    epochs=st.integers(1, 100),
    batch_size=st.integers(2, 512),
    lr=st.floats(1e-6, 10),
    momentum=_UNIT,
    weight_decay=_UNIT,
    warmup_epochs=st.integers(0, 5) | st.floats(0, 5),
    label_smoothing=_UNIT,
    crop_padding=st.none() | st.integers(0, 8),
    flip=st.none() | st.booleans(),
    ema_decay=_UNIT,
    seed=st.integers(0, 2**40),
    precision=st.sampled_from(["auto", "float32", "bfloat16", "float64"]),
    channels_last=st.booleans(),
    accumulate=st.sampled_from([1, 2, 8]),
)


@given(recipe=_RECIPES)
def test_json_round_trip(recipe: Recipe) -> None:
    # Rule: what is written is read back equal, every entry included; one that came later, where it is not at its default.
    text = json.dumps(recipe.to_dict())
    assert Recipe.from_dict(json.loads(text)) == recipe
    later = {"accumulate", "shuffle_way", "soft_share", "shuffle_lr", "shuffle_temperature", "shuffle_penalty"}
    later |= {"schedule", "groups_lr", "groups_temperature", "groups_penalty", "max_params", "max_macs"}
    default = {field.name for field in dataclasses.fields(Recipe) if getattr(recipe, field.name) == field.default}
    entries = {field.name for field in dataclasses.fields(Recipe)}
    assert set(json.loads(text)) == entries - (later & default)


@given(recipe=_RECIPES, schedule=st.sampled_from(["cosine", "constant"]))
def test_a_schedule_is_written_where_it_is_not_the_default(recipe: Recipe, schedule: str) -> None:
    given = dataclasses.replace(recipe, schedule=schedule)
    data = json.loads(json.dumps(given.to_dict()))
    assert Recipe.from_dict(data) == given
    assert data.get("schedule", "cosine") == schedule


def test_a_constant_learning_rate_stays_at_its_top() -> None:
    recipe = Recipe(epochs=4, lr=0.2, warmup_epochs=1, schedule="constant")
    rates = [recipe.lr_at(step, 5) for step in range(20)]
    assert rates[:5] == pytest.approx([0.04, 0.08, 0.12, 0.16, 0.2])
    assert set(rates[5:]) == {0.2}


@given(recipe=_RECIPES, steps=st.integers(1, 50))
def test_learning_rate_rises_to_its_top_and_falls_to_nothing(recipe: Recipe, steps: int) -> None:
    # Rule: linear to lr over the warm-up, then half a cosine down to 0 at the end of the last epoch.
    rates = [recipe.lr_at(step, steps) for step in range(recipe.epochs * steps)]
    warm = min(len(rates), math.ceil(recipe.warmup_epochs * steps))
    assert all(0 <= rate <= recipe.lr * (1 + 1e-12) for rate in rates)
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    if recipe.warmup_epochs < recipe.epochs:
        assert recipe.lr_at(recipe.epochs * steps, steps) == pytest.approx(0, abs=1e-9)


def test_known_rates() -> None:
    # Rule: with one epoch of 4 warm-up steps in 3 epochs, lr / 4 first, lr at the 4th step, half of it midway.
    recipe = Recipe(epochs=3, lr=0.8, warmup_epochs=1)
    assert recipe.lr_at(0, 4) == pytest.approx(0.2)
    assert recipe.lr_at(3, 4) == pytest.approx(0.8)
    assert recipe.lr_at(8, 4) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("entries", "part"),
    [
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"learning": 3}, "known: epochs"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 2.5}, "epochs is 2.5"),
        ({"epochs": True}, "epochs is True"),
        ({"batch_size": 1}, "at least 2"),
        ({"lr": 0}, "above 0"),
        ({"lr": -0.1}, "lr is -0.1"),
        ({"lr": math.nan}, "lr is nan"),
        ({"lr": math.inf}, "lr is inf"),
        ({"lr": "0.1"}, "lr is '0.1'"),
        ({"momentum": 1}, "below 1"),
        ({"label_smoothing": 1.5}, "label_smoothing is 1.5"),
        ({"ema_decay": -1}, "ema_decay is -1"),
        ({"crop_padding": -1}, "crop_padding is -1"),
        ({"flip": 1}, "flip is 1"),
        ({"channels_last": "yes"}, "channels_last is 'yes'"),
        ({"precision": "bf16"}, "did you mean 'bfloat16'"),
        ({"seed": -1}, "seed is -1"),
        ({"accumulate": 0}, "accumulate is 0"),
    ],
)
def test_bad_entries_are_refused(entries: dict[str, Any], part: str) -> None:
    # Rule: one line with the value and the rule.
    with pytest.raises(UsageError) as caught:
        Recipe.from_dict(entries)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_is_no_recipe() -> None:
    # Rule: JSON of another form is refused as such.
    with pytest.raises(UsageError, match="JSON object"):
        Recipe.from_dict([1])  # type: ignore[arg-type]


def test_average_forgets_the_start_quickly() -> None:
    # Rule: decay (1 + t) / (10 + t) until the recipe's own is reached.
    recipe = Recipe(ema_decay=0.9)
    assert [recipe.ema_at(step) for step in (0, 10, 1000)] == [pytest.approx(x) for x in (0.1, 0.55, 0.9)]


@given(images=st.integers(2, 5000), batch_size=st.integers(2, 300))
def test_steps_are_those_of_full_batches_and_a_last_one(images: int, batch_size: int) -> None:
    # Rule: as many steps as batches are needed.
    steps = steps_per_epoch(images, batch_size)
    assert (steps - 1) * batch_size < images <= steps * batch_size


def test_default_leaves_nothing_open(quarters: ImageData) -> None:
    # Rule: a default recipe says how it crops and mirrors; epochs and seed are the caller's.
    recipe = default_recipe(quarters, epochs=3, seed=5)
    assert (recipe.epochs, recipe.seed, recipe.crop_padding, recipe.flip) == (3, 5, 0, False)


@pytest.mark.parametrize(("size", "padding"), [(8, 0), (16, 1), (28, 1), (32, 2), (224, 14)])
def test_crop_padding_left_open_is_a_sixteenth(size: int, padding: int, quarters: ImageData) -> None:
    # Rule: a sixteenth of the image, rounded down; what was given stands.
    data = dataclasses.replace(quarters, image_size=size, flip=True)
    resolved = Recipe().resolve(data)
    assert (resolved.crop_padding, resolved.flip) == (padding, True)
    given = Recipe(crop_padding=1, flip=False)
    assert given.resolve(data) == given
