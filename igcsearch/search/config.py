"""What one search is asked to do, as frozen data: stored in the study when it is created, compared when it is resumed.

A study belongs to one question: space, data, budget, recipe, objectives, where latency is meant, and the sampler with its seed and
stopping rule. How long it runs and on what (trials, time limit, workers, device, engine and its cluster, place of checkpoints) may
differ from run to run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from igcsearch.errors import UsageError, near
from igcsearch.machine import available_cores
from igcsearch.search_spaces import REGROUP, SPACES, get_space
from igcsearch.spec import Budget
from igcsearch.spec.learning import LearningRule
from igcsearch.training import DATA_NAMES, DataSpec, Recipe

from .latency import LatencySetting

SAMPLERS = ("tpe", "nsga2", "random", "evolution", "grid")
STOPPING = ("auto", "none", "halving", "hyperband")
COSTS = ("params", "macs", "latency")
ENGINES = ("local", "ray")
LATENCY_DEVICES = ("cpu", "cuda")
#: What a search may leave open of shuffles, and what spaces then offer. "fixed" is what studies had before they could say it.
SHUFFLES = {
    "interleave": ("interleave",),
    "fixed": ("interleave", "random"),
    "learned": ("learned",),
    "any": ("interleave", "random", "learned"),
}
#: The same of group counts.
GROUPS = {"searched": ("searched",), "learned": ("learned",), "any": ("searched", "learned")}

# What a study cannot change: the field, and the option that a user gives for it.
_FIXED = {
    "space": "SPACE",
    "data": "--data",
    "recipe": "--epochs or the recipe",
    "budget": "--max-params, --max-macs, --max-latency",
    "objectives": "--objective",
    "latency": "--latency-device, --latency-batch, --latency-threads",
    "sampler": "--sampler",
    "seed": "--seed",
    "stopping": "--stopping",
    "shuffle": "--shuffle",
    "groups": "--groups",
    "families": "--families",
}

_RAY_ONLY = ("address", "gpus_per_candidate", "cpus_per_candidate", "max_concurrent", "devices_per_candidate")
_LATENCY_ONLY = ("latency_device", "latency_batch", "latency_threads")
_COUNTS = ("cpus_per_candidate", "max_concurrent", "devices_per_candidate", "latency_batch", "latency_threads")
_OPTIONAL = ("threads_per_worker", "epochs", "cpus_per_candidate", "max_concurrent")


@dataclass(frozen=True)
class SearchConfig:
    """One search.

    Args:
        space: name of a search space, or `file.py:function`.
        data: the images; `train_images` and `image_size` are part of it.
        budget: hard upper limits of every candidate.
        recipe: how candidates are trained; None takes the data's default recipe, with `epochs` and its other
            entries in `overrides` where they are given. With a recipe those two are not read.
        trials: candidates trained (complete and stopped) in the whole study.
        timeout_s: wall-clock limit of one run in seconds; what then trains is kept for `resume`.
        sampler: tpe, nsga2, random or evolution; or grid: every point of a space without floats, each once.
        objectives: ("accuracy",), or ("accuracy", one of params, macs, latency) for a Pareto search.
        stopping: auto, none, halving (by non-dominated rank against a cost) or hyperband (for the single objective only).
        workers: training processes on this machine.
        seed: of the sampler, and with the architecture of each candidate's training.
        device: auto, cpu or cuda.
        threads_per_worker: None shares the cores out.
        engine: what places and runs candidates: local or ray.
        address: of a Ray cluster to join (HOST:PORT, or auto for the one on this machine); None starts one here, with
            room for `workers`.
        gpus_per_candidate: GPUs that each candidate gets on ray, also a fraction: 0.25 puts four on one GPU. None is 1
            where the cluster has GPUs, else 0.
        cpus_per_candidate: CPUs that each candidate gets on ray, and its threads. None: as `threads` on this machine, 1 on
            a joined cluster.
        max_concurrent: candidates at once on ray. None: `workers` on this machine, and on a joined cluster where that is more
            than 1; else what it has room for.
        devices_per_candidate: processes that train one candidate together, each on its own device (ray only).
        checkpoints: folder of the checkpoints of candidates under way, on storage that every node sees; None: in the
            study's folder.
        shuffle: interleave, learned (in the training of each candidate), fixed (interleave or random) or any of these, where a
            space leaves it open. None: interleave, or what the study has that is resumed.
        groups: searched (parameters of the space), learned (in the training of each candidate, under the budget) or any of these.
            None: searched, or what the study has that is resumed.
        families: block families that the space chooses from, names of `igcsearch.blocks.FAMILIES` or "all"; kept in the order of
            FAMILIES. None: the space's own, or what the study has that is resumed.
        init_from: with the space regroup, and with no other: the published entry (name or folder) whose group counts are
            searched; candidates begin with its weights.
        latency_device: where the networks will run, cpu or cuda, for the budget and the objective of latency; of the
            coordinator's machine, whatever device trains.
        latency_batch: images in a pass there.
        latency_threads: of torch there.
        latency_measure_s: seconds at most that parts of networks are measured for, before the search.

    Raises:
        UsageError: a value outside its rule, or a combination that does not go together.
    """

    space: str
    data: DataSpec
    budget: Budget = Budget()
    recipe: Recipe | None = None
    trials: int = 30
    timeout_s: float | None = None
    sampler: str = "tpe"
    objectives: tuple[str, ...] = ("accuracy",)
    stopping: str = "auto"
    workers: int = 1
    seed: int = 0
    device: str = "auto"
    threads_per_worker: int | None = None
    engine: str = "local"
    address: str | None = None
    gpus_per_candidate: float | None = None
    cpus_per_candidate: int | None = None
    max_concurrent: int | None = None
    devices_per_candidate: int = 1
    checkpoints: str | None = None
    shuffle: str | None = None
    groups: str | None = None
    families: tuple[str, ...] | None = None
    init_from: str | None = None
    latency_device: str = "cpu"
    latency_batch: int = 1
    latency_threads: int = 1
    latency_measure_s: float = 60.0
    epochs: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", tuple(self.objectives))
        if self.families is not None and self.space != REGROUP:
            object.__setattr__(self, "families", get_space(self.space).with_families(self.families).families)
        for name in ("trials", "workers", "threads_per_worker", "epochs", "seed", *_COUNTS):
            value, low = getattr(self, name), 0 if name == "seed" else 1
            if not (name in _OPTIONAL and value is None) and (
                isinstance(value, bool) or not isinstance(value, int) or value < low
            ):
                raise UsageError(f"{name} = {value!r} must be a whole number of at least {low}")
        Recipe.from_dict(self.overrides)  # a wrong entry is said now
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise UsageError(f"timeout {self.timeout_s!r} must be more than 0 seconds; leave it out for no limit")
        if not self.latency_measure_s > 0:
            raise UsageError(f"latency_measure_s = {self.latency_measure_s!r} must be more than 0 seconds, such as 60")
        named = (
            ("sampler", SAMPLERS),
            ("stopping", STOPPING),
            ("engine", ENGINES),
            ("shuffle", tuple(SHUFFLES)),
            ("groups", tuple(GROUPS)),
            ("latency_device", LATENCY_DEVICES),
        )
        for name, options in named:
            if not (name in ("shuffle", "groups") and getattr(self, name) is None):
                _one_of(name.replace("_", " "), getattr(self, name), options)
        self._check_cluster()
        epochs = self.recipe.epochs if self.recipe is not None else self.epochs
        if self.learns and epochs is not None:
            LearningRule().soft_epochs(epochs)  # raises where there is no room for learning
        self._check_groups()
        if len(self.objectives) not in (1, 2) or self.objectives[0] != "accuracy":
            raise UsageError(
                f"objectives {', '.join(self.objectives) or '(none)'}: the first is accuracy, "
                f"and at most one cost follows: {', '.join(COSTS)}"
            )
        for cost in self.objectives[1:]:
            _one_of("objective", cost, COSTS)
        if len(self.objectives) > 1 and self.stopping == "hyperband":
            raise UsageError(
                f"stopping {self.stopping!r} needs the single objective accuracy, not {' and '.join(self.objectives)}; "
                "use stopping 'halving' or 'none', or drop the second objective"
            )
        self._check_start()
        if self.latency is None:
            self._refuse_given(
                _LATENCY_ONLY, "needs a latency to look at; give --max-latency or --objective accuracy,latency"
            )

    def _refuse_given(self, names: tuple[str, ...], why: str) -> None:
        """Raise UsageError for the first of the fields that is not as it is by default."""
        for name in names:
            value = getattr(self, name)
            if value != type(self).__dataclass_fields__[name].default:
                raise UsageError(f"{name} = {value!r} {why}")

    def _check_start(self) -> None:
        """The space regroup has a network to begin from, whose group counts alone are open; no other space has one."""
        if self.init_from is None:
            if self.space == REGROUP:
                get_space(self.space)  # says what it needs
            return
        given = f"init_from {self.init_from!r} (--init-from)"
        if self.space != REGROUP:
            raise UsageError(
                f"{given} goes with the space {REGROUP!r}, not {self.space!r}; leave it out, or search {REGROUP}"
            )
        more = self.families is not None or self.shuffle not in (None, "interleave")
        if more or self.groups not in (None, "searched"):
            raise UsageError(
                f"{given}: nothing but the network's group counts is searched; leave --families, --shuffle and --groups out"
            )
        if self.latency is not None:
            raise UsageError(
                f"{given} does not go with a latency, which is predicted for blocks and not for graphs; limit --max-params and "
                "--max-macs"
            )

    def _check_groups(self) -> None:
        """Group counts are learned under a budget of parameters or MACs; what they will be is not known before."""
        if "learned" not in self.group_counts:
            return
        if self.budget.params is None and self.budget.macs is None:
            raise UsageError(
                f"groups {self.groups!r}: group counts are learned under a budget, or all branches would end as one; give "
                "--max-params or --max-macs"
            )
        if self.latency is not None:
            raise UsageError(
                f"groups {self.groups!r} does not go with a latency, which is predicted before group counts are learned; "
                "use --groups searched, or limit --max-params and --max-macs"
            )

    def _check_cluster(self) -> None:
        """What only the ray engine knows, the share of a GPU, and the place of checkpoints (file:// is taken off)."""
        if self.checkpoints is not None and "://" in self.checkpoints:
            scheme, _, rest = self.checkpoints.partition("://")
            if scheme != "file":
                raise UsageError(
                    f"checkpoints {self.checkpoints!r}: {scheme}:// is not supported; give a folder (or file://FOLDER) on "
                    "storage that every node mounts"
                )
            object.__setattr__(self, "checkpoints", rest)
        if self.checkpoints is not None:
            object.__setattr__(self, "checkpoints", str(Path(self.checkpoints).expanduser().absolute()))
        if self.engine != "ray":
            self._refuse_given(_RAY_ONLY, f"needs engine 'ray', not {self.engine!r}; give --engine ray")
        share = self.gpus_per_candidate
        if share is None:
            return
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < float("inf"):
            raise UsageError(f"gpus_per_candidate = {share!r} must be a number of at least 0, such as 1 or 0.5")
        if share > 1:
            raise UsageError(
                f"gpus_per_candidate = {share:g} is more than one GPU, but a training process uses one; "
                "give devices_per_candidate (--devices-per-candidate) for more"
            )
        if share and self.device == "cpu":
            raise UsageError(f"gpus_per_candidate = {share:g} does not go with device 'cpu'; leave one of them out")

    @property
    def latency(self) -> LatencySetting | None:
        """How networks will run, where their latency is predicted: for a budget of it, or as an objective; else None."""
        if self.budget.latency_ms is None and "latency" not in self.objectives:
            return None
        return LatencySetting(self.latency_device, self.latency_batch, self.latency_threads)

    @property
    def learns(self) -> bool:
        """True if candidates may have something to learn: shuffles, group counts."""
        return "learned" in (*self.shuffles, *self.group_counts)

    @property
    def shuffles(self) -> tuple[str, ...]:
        """What spaces may choose from."""
        return SHUFFLES[self.shuffle or "interleave"]

    @property
    def group_counts(self) -> tuple[str, ...]:
        """What spaces may choose from, of group counts."""
        return GROUPS[self.groups or "searched"]

    @property
    def chosen_families(self) -> tuple[str, ...] | None:
        """What the space chooses from, of block families; None where that is all its own."""
        return self.families or (get_space(self.space).families if self.space in SPACES else None)

    @property
    def given(self) -> dict[str, Any]:
        """The entries of the recipe that were given while the rest is left to the data."""
        given = {**self.overrides, **({} if self.epochs is None else {"epochs": self.epochs})}
        return {name: value for name, value in Recipe.from_dict(given).to_dict().items() if name in given}

    @property
    def threads(self) -> int:
        """Threads of each worker, so that all of them together do not exceed the cores."""
        return self.threads_per_worker or max(1, available_cores() // self.workers)

    def to_dict(self) -> dict[str, Any]:
        """JSON data. Paths of data are absolute, so that a study says where its images are from any folder."""
        recipe = None if self.recipe is None else self.recipe.to_dict()
        data = self.data.to_dict() | {"name": _data_name(self.data.name)}
        if self.data.root is not None:
            data["root"] = str(Path(self.data.root).expanduser().resolve())
        start = self.init_from
        if start is not None and Path(start).expanduser().is_dir():
            start = str(Path(start).expanduser().resolve())
        plain = {
            name: value for name, value in asdict(replace(self, recipe=None)).items() if name not in ("data", "budget")
        }
        return plain | {
            "objectives": list(self.objectives),
            "data": data,
            "budget": self.budget.to_dict(),
            "recipe": recipe,
            "init_from": start,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchConfig:
        """The inverse of `to_dict`; unknown entries are refused."""
        names = [each.name for each in fields(cls)]
        for name in values:
            if name not in names:
                raise UsageError(f"search: unknown entry {name!r}{near(str(name), names)}; known: {', '.join(names)}")
        recipe = values.get("recipe")
        parts = {
            "data": DataSpec.from_dict(values["data"]),
            "budget": Budget.from_dict(values.get("budget", {})),
            "recipe": None if recipe is None else Recipe.from_dict(recipe),
            "objectives": tuple(values.get("objectives", ("accuracy",))),
        }
        return cls(**{"shuffle": "fixed", "groups": "searched", **values, **parts})


def check_same_question(stored: SearchConfig, asked: SearchConfig, where: str) -> None:
    """Refuse to resume a study of another question.

    Raises:
        UsageError: naming the first difference, both values and the cure.
    """
    before: Any
    now: Any
    for name, option in _FIXED.items():
        if name == "data":
            before, now = _data_key(stored), _data_key(asked)
        elif name == "recipe":
            before, now = _recipe_keys(stored, asked)
        elif name == "families":
            before, now = (",".join(config.chosen_families or ()) for config in (stored, asked))
        else:
            before, now = (getattr(config, name) for config in (stored, asked))
        if before != now:
            was, given = _difference(before, now)
            cure = f"resume it with its own {option}, or give another output folder (on a server: another --study)"
            raise UsageError(f"{where} holds a study with {name} {was}, not {given}; {cure}")


def question_name(config: SearchConfig) -> str:
    """A study's name on a server by default: its space, and a hash of all that a study cannot change."""
    values = {name: getattr(config, name) for name in _FIXED if name not in ("data", "recipe", "budget", "latency")}
    values |= {"data": _data_key(config), "budget": config.budget.to_dict()}
    if config.shuffle in (None, "fixed"):  # studies had names before they could say this
        del values["shuffle"]
    if config.groups in (None, "searched"):
        del values["groups"]
    if config.chosen_families == replace(config, families=None).chosen_families:
        del values["families"]
    if config.latency not in (None, LatencySetting()):  # studies had names before they could say this
        values["latency"] = asdict(config.latency)
    if config.init_from is not None:
        from .start import read_start

        values["init_from"] = read_start(config.init_from).digest
    values["recipe"] = config.given if config.recipe is None else config.recipe.to_dict()
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    return f"{Path(config.space.rpartition(':')[0] or config.space).stem}-{digest}"


def space_sha256(space: str) -> str | None:
    """The content of a space's file, as a hash; None for a space that comes with igcsearch."""
    file = space if space.endswith(".py") else space.rpartition(":")[0]
    try:
        return hashlib.sha256(Path(file).expanduser().read_bytes()).hexdigest() if file else None
    except OSError:
        return None


def _one_of(what: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise UsageError(f"unknown {what} {value!r}{near(str(value), options)}; known: {', '.join(options)}")


def _data_name(name: str) -> str:
    """A known data set's name, or a path made absolute."""
    return name if name in DATA_NAMES else str(Path(name).expanduser().resolve())


def _data_key(config: SearchConfig) -> dict[str, Any]:
    """What identifies the images; where they are stored and whether they may be fetched does not."""
    values = config.data.to_dict()
    kept = {name: value for name, value in values.items() if name not in ("root", "download", "name")}
    return {"name": _data_name(config.data.name), **kept}


def _recipe_keys(stored: SearchConfig, asked: SearchConfig) -> tuple[Any, Any]:
    """Both recipes as data; one that was left open agrees with any in what was given of it."""
    if asked.recipe is None:
        entries = stored.given if stored.recipe is None else stored.recipe.to_dict()
        return entries, entries | asked.given
    if stored.recipe is None:
        return asked.recipe.to_dict() | stored.given, asked.recipe.to_dict()
    # Entries left to the data (None) are resolved in the stored recipe; the seed is the study's, candidate by candidate.
    before, now = stored.recipe.to_dict(), asked.recipe.to_dict()
    now = {name: before.get(name) if value is None or name == "seed" else value for name, value in now.items()}
    return before, now


def _difference(before: Any, now: Any) -> tuple[str, str]:
    """Both values in words, dictionaries by their first differing entry."""
    if isinstance(before, Budget | LatencySetting) and isinstance(now, Budget | LatencySetting):
        before, now = asdict(before), asdict(now)
    if isinstance(before, dict) and isinstance(now, dict):
        name = next(name for name in {**before, **now} if before.get(name) != now.get(name))
        return f"{name} = {before.get(name)!r}", repr(now.get(name))
    return repr(before), repr(now)
