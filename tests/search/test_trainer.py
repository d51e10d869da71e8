"""The worker's real trainer on scikit-learn's digits: what it finds in the data, and that it goes on from a checkpoint."""

import json
from pathlib import Path

import pytest

from igcsearch.search.engines.worker import WorkerSpec
from igcsearch.search.jobs import Job
from igcsearch.search_spaces import get_space
from igcsearch.spec import Budget
from igcsearch.training import DataSpec, Recipe


@pytest.fixture(scope="module")
def trainer():
    from igcsearch.search.engines.trainer import Trainer

    spec = WorkerSpec(DataSpec("digits", train_images=200), Recipe(epochs=2, batch_size=50), {}, "cpu", 1)
    return Trainer(spec)


@pytest.fixture
def job(trainer, tmp_path):
    architecture = get_space("digits").smallest(trainer.facts.problem(Budget()))
    return Job(0, architecture.to_json(), trainer.facts.recipe, str(tmp_path / "candidate" / "checkpoint.safetensors"))


def test_facts_are_those_of_the_data(trainer):
    facts = trainer.facts
    assert (facts.image_size, facts.in_channels, facts.num_classes, facts.train) == (8, 1, 10, 200)
    assert facts.recipe["epochs"] == 2
    assert facts.recipe["crop_padding"] is not None
    assert facts.versions["torch"]


def test_a_candidate_goes_on_from_its_checkpoint_with_the_same_numbers(trainer, job, tmp_path):
    whole = trainer.train(
        Job(**{**job.__dict__, "checkpoint": str(tmp_path / "other" / "c.safetensors")}), lambda record: True, print
    )

    class KilledError(Exception):
        pass

    def die(record):
        raise KilledError

    with pytest.raises(KilledError):
        trainer.train(job, die, print)
    epochs = []
    result = trainer.train(job, lambda record: not epochs.append(record["epoch"]), print)
    assert epochs == [1, 2]
    assert result["accuracy"] == whole["accuracy"]
    assert [r["validation_accuracy"] for r in result["curve"]] == [r["validation_accuracy"] for r in whole["curve"]]
    assert not result["stopped"]
    assert json.dumps(result)


# The file is the study's own: it costs the epochs in it, not the candidate.
def test_a_damaged_checkpoint_is_discarded_with_a_note(trainer, job):
    class KilledError(Exception):
        pass

    def die(record):
        raise KilledError

    with pytest.raises(KilledError):
        trainer.train(job, die, print)
    checkpoint, notes, epochs = Path(job.checkpoint), [], []
    checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    result = trainer.train(job, lambda record: not epochs.append(record["epoch"]), notes.append)
    assert (epochs, result["epochs"]) == ([1, 2], 2)
    [note] = notes
    assert note.startswith(f"training begins anew: checkpoint {checkpoint} cannot be read")


def test_a_candidate_is_stopped_when_it_is_told_so(trainer, job):
    result = trainer.train(job, lambda record: False, print)
    assert result["stopped"]
    assert result["epochs"] == 1


def test_steps_are_timed(trainer, job):
    assert trainer.time_step(job) > 0
