"""One retraining: what it is (Job), running it (in a worker, workers.py), and its result on disk, so that none is repeated.

Under STUDY/publish/HASH/seedK/ lie, for each way of training (key), a checkpoint while it runs, then the weights and, last
and by atomic rename, result-KEY.json: a retraining is finished exactly when that file is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import atomic_write
from ..search.retrained import FOLDER, read_json, write_json
from ..search.start import Loaded, StartRef
from ..spec import Architecture, Budget
from ..training import DataSpec, Recipe

if TYPE_CHECKING:
    import torch

    from ..search import Candidate
    from ..training import Epoch, ImageData


@dataclass(frozen=True, eq=False)
class Job:
    """One architecture, one seed: plain data, as it travels to a worker. Each job equals itself alone."""

    id: int  # of the candidate
    hash: str
    architecture: str  # JSON
    data: dict[str, Any]
    recipe: dict[str, Any]  # the seed included
    key: str  # 8 hex digits: equal for equal recipes on equal images, wherever they lie
    folder: Path
    device: str
    threads: int
    start: StartRef | None = None  # whose weights it begins with

    @property
    def seed(self) -> int:
        """The recipe's."""
        return int(self.recipe["seed"])

    def file(self, what: str, suffix: str) -> Path:
        """A file of this job."""
        return self.folder / f"{what}-{self.key}{suffix}"


def make_job(
    study_folder: Path,
    candidate: Candidate,
    spec: DataSpec,
    data: ImageData,
    recipe: Recipe,
    device: str,
    threads: int,
    *,
    relearn: Budget | None = None,
    start: StartRef | None = None,
) -> Job:
    """The job of a candidate with the recipe's seed; `data` are the images of `spec`.

    `relearn`: of the network as it was proposed, whose shuffles and group counts this training learns anew, within the budget.
    """
    architecture = candidate.architecture if relearn is None else Architecture.from_dict(dict(candidate.proposed or {}))
    recipe = recipe.resolve(data) if relearn is None else recipe.resolve(data).within(relearn, architecture)
    identity = json.dumps({"images": data.fingerprint, "recipe": recipe.to_dict()}, sort_keys=True)
    return Job(
        id=candidate.id,
        hash=architecture.hash,
        architecture=architecture.to_json(),
        data=spec.to_dict(),
        recipe=recipe.to_dict(),
        key=hashlib.sha256(identity.encode()).hexdigest()[:8],
        folder=(study_folder / FOLDER / architecture.hash / f"seed{recipe.seed}").absolute(),
        device=device,
        threads=threads,
        start=start,
    )


def run_job(
    job: Job, on_epoch: Callable[[Epoch], None], on_note: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Train, store and return the result; goes on from the job's checkpoint where there is one.

    A checkpoint that is damaged is removed, which `on_note` is told, and the training begins anew: the file is ours.
    Raises igcsearch.training.TrainingDiverged, and whatever the data or the device raise.
    """
    from safetensors.torch import save

    from ..search.training import train_in_study

    job.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = job.file("checkpoint", ".safetensors")
    architecture, data = Architecture.from_json(job.architecture), _data(json.dumps(job.data, sort_keys=True))
    initial = None
    if job.start is not None:
        start = _loaded(job.start)
        data, initial = start.images(data), start.state(architecture)
    result = train_in_study(
        architecture,
        data,
        Recipe.from_dict(job.recipe),
        device=job.device,
        threads=job.threads,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
        on_note=on_note,
        initial_state=initial,
    )
    weights = save({key: value.detach().cpu().contiguous().clone() for key, value in result.state_dict.items()})
    record = {
        "id": job.id,
        "architecture": job.hash,
        "seed": job.seed,
        "validation_accuracy": result.validation_accuracy,
        "epochs": result.epochs,
        "seconds": result.seconds,
        "device": str(result.device),
        "threads": result.threads,
        "curve": result.curve,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "recipe": result.recipe.to_dict(),
        "data": job.data,
    }
    if result.learned is not None:
        record |= {"learned": result.learned, "hardened": result.architecture.to_dict()}
    atomic_write(job.file("weights", ".safetensors"), weights)
    write_json(job.file("result", ".json"), record)
    checkpoint.unlink(missing_ok=True)
    return record


def finished(job: Job) -> dict[str, Any] | None:
    """The stored result of a job, or None where there is none that is whole (then it is trained again)."""
    record = read_json(job.file("result", ".json"))
    try:
        content = job.file("weights", ".safetensors").read_bytes()
    except OSError:
        return None
    if record is None or record.get("weights_sha256") != hashlib.sha256(content).hexdigest():
        return None
    return record


def architecture_of(job: Job, record: Mapping[str, Any]) -> Architecture:
    """The network of a finished job: with the shuffles that it learned, where it learned any."""
    hardened = record.get("hardened")
    return Architecture.from_json(job.architecture) if hardened is None else Architecture.from_dict(hardened)


def weights_of(job: Job) -> dict[str, torch.Tensor]:
    """The trained tensors of a finished job."""
    from safetensors.torch import load

    tensors: dict[str, torch.Tensor] = load(job.file("weights", ".safetensors").read_bytes())
    return tensors


@lru_cache(maxsize=1)
def _data(text: str) -> ImageData:
    """A worker's images, kept from job to job."""
    from ..training import load_data

    return load_data(DataSpec.from_dict(json.loads(text)))


@lru_cache(maxsize=1)
def _loaded(start: StartRef) -> Loaded:
    """The network that a worker's jobs begin from, kept from job to job."""
    return start.read()
