"""Distillation: the loss as the paper has it, a student that follows its teacher, and teachers that cannot teach."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from igcsearch.errors import UsageError
from igcsearch.nn import build
from igcsearch.spec import Architecture
from igcsearch.training import ImageData, Recipe, train
from igcsearch.training.augment import Normalise
from igcsearch.training.distillation import Distillation

MakeArchitecture = Callable[..., Architecture]


def _teacher(data: ImageData, make: MakeArchitecture, **kwargs: float) -> Distillation:
    architecture = make(data)
    state = dict(build(architecture, seed=7).state_dict())
    return Distillation(architecture, state, data.mean, data.std, **kwargs)


def test_the_loss_is_hintons(quarters: ImageData, make_architecture: MakeArchitecture) -> None:
    architecture = make_architecture(quarters)
    distillation = _teacher(quarters, make_architecture, temperature=3.0, weight=0.25)
    student, teacher = build(architecture, seed=1).double(), build(architecture, seed=7).double().eval()
    distillation.start(student, None, 1)
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    logits, labels = torch.randn(5, quarters.num_classes, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    hard = F.cross_entropy(logits, labels)
    normalise = Normalise(quarters.mean, quarters.std, torch.device("cpu"), True, torch.float64)
    with torch.no_grad():
        taught = F.softmax(teacher(normalise(images)) / 3.0, dim=1)
    soft = (taught * (taught.log() - F.log_softmax(logits / 3.0, dim=1))).sum(1).mean()
    found = distillation.loss(hard, images, logits)
    assert float(found) == pytest.approx(float(0.75 * hard + 0.25 * 9.0 * soft), rel=1e-6)


def test_a_student_taught_by_logits_alone_follows_its_teacher(
    quarters: ImageData, make_architecture: MakeArchitecture
) -> None:
    architecture = make_architecture(quarters)
    recipe = Recipe(epochs=20, batch_size=18, lr=0.2, ema_decay=0.0, crop_padding=0, flip=False)
    taught = train(architecture, quarters, recipe, device="cpu")
    wrong = replace(quarters, train=replace(quarters.train, labels=(quarters.train.labels + 1) % 4))
    teacher = Distillation(architecture, taught.state_dict, quarters.mean, quarters.std, weight=1.0)
    recipe = replace(recipe, seed=5)
    student = train(architecture, wrong, recipe, device="cpu", callbacks=[teacher])
    untaught = train(architecture, wrong, recipe, device="cpu")
    assert taught.validation_accuracy > 0.7
    assert student.validation_accuracy > 0.7  # the labels say otherwise
    assert untaught.validation_accuracy < 0.3


def test_the_same_loss_in_micro_batches(quarters: ImageData, make_architecture: MakeArchitecture) -> None:
    whole, parts = (
        train(
            make_architecture(quarters),
            quarters,
            Recipe(epochs=1, batch_size=54, lr=1e-6, seed=2, accumulate=accumulate),
            device="cpu",
            callbacks=[_teacher(quarters, make_architecture)],
        )
        for accumulate in (1, 2)
    )
    # batch norm sees other batches, so close is what can be asked for
    assert parts.curve[0]["train_loss"] == pytest.approx(whole.curve[0]["train_loss"], rel=0.2)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("num_classes", 7, "the teacher is for 7 classes, the network for 4"), ("image_size", 16, "16 pixels a side")],
)
def test_teachers_of_other_images_or_classes(
    field: str, value: int, message: str, quarters: ImageData, make_architecture: MakeArchitecture
) -> None:
    problem = replace(quarters.problem(), **{field: value})
    other = make_architecture(problem)
    teacher = Distillation(other, dict(build(other).state_dict()), quarters.mean, quarters.std)
    with pytest.raises(UsageError, match=message):
        train(make_architecture(quarters), quarters, Recipe(epochs=1), device="cpu", callbacks=[teacher])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0.0}, "temperature 0 of"),
        ({"weight": 0.0}, "weight 0 of"),
        ({"weight": 1.5}, "weight 1.5 of"),
    ],
)
def test_numbers_outside_their_range(
    given: dict[str, float], message: str, quarters: ImageData, make_architecture: MakeArchitecture
) -> None:
    with pytest.raises(UsageError, match=message):
        _teacher(quarters, make_architecture, **given)
