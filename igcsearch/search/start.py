"""The network that a search of the space `regroup` begins from: read, known again, and its weights for every candidate.

The study records which network it was (`START`); what travels to workers is a `StartRef`, never weights. torch is imported when a
network is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any

from igcsearch.entries import Entry, find_model, read_entry
from igcsearch.errors import UsageError
from igcsearch.search_spaces.regroup import Regroup
from igcsearch.spec import Architecture, Budget
from igcsearch.spec.graph import GraphArchitecture

if TYPE_CHECKING:
    from torch import Tensor

    from igcsearch.compress.regroup import Pruner
    from igcsearch.compress.source import Source
    from igcsearch.training import ImageData

    from .config import SearchConfig
    from .study import Study

START = "igcsearch:start"  # the study's attribute: `Start.to_dict`
Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class StartRef:
    """A reference to the network, as it travels to workers.

    Attributes:
        entry: a name in the package's zoo, or an absolute folder.
        digest: what is read there must have it.
        seed: of the search for orders of channels, so that all trainings of a candidate begin alike.
    """

    entry: str
    digest: str
    seed: int = 0

    def read(self) -> Loaded:
        """The network, in this process.

        Raises:
            UsageError: it is gone, or has changed.
        """
        _lock_threads_alone()
        start = read_start(self.entry)
        if start.digest != self.digest:
            raise UsageError(_changed(self.entry))
        return Loaded(start, self.seed)


@dataclass(frozen=True, eq=False)
class Start:
    """A published network to begin from.

    Attributes:
        entry: as in StartRef.
        source: its architecture, as a graph, and its weights.
        data: the name of what it was trained on; "" where it does not say.
    """

    entry: str
    source: Source = field(repr=False)
    data: str = ""

    @cached_property
    def digest(self) -> str:
        """Of architecture and weights."""
        from igcsearch.training.checkpoint import state_digest

        return f"{self.source.graph.hash}-{state_digest(self.source.state)}"

    @cached_property
    def regroup(self) -> Regroup:
        """What its space is made of.

        Raises:
            UsageError: no layer can be given groups.
        """
        from igcsearch.compress.regroup import choices

        found = choices(self.source.graph)
        if not found:
            raise UsageError(
                f"--init-from {self.source.name}: none of its layers can be given groups, for which a dense convolution with "
                "channel counts of a common divisor is needed; begin from another network"
            )
        return Regroup(self.source.graph, found)

    def first(self, budget: Budget) -> list[dict[str, str]]:
        """The parameters of the first candidates: the network itself and, where that is outside the budget, the group counts that
        `igcsearch compress` would choose inside it."""
        from igcsearch.compress.regroup import chosen

        graph, found = self.source.graph, [self.regroup.parameters({})]
        if not budget.admits(*graph.cost):
            found.append(self.regroup.parameters(chosen(graph, self.source.state, budget)))
        return found

    def to_dict(self) -> dict[str, Any]:
        """For the study's record."""
        params, macs = self.source.graph.cost
        return {"entry": self.entry, "digest": self.digest, "params": params, "macs": macs}


class Loaded:
    """A network whose weights candidates begin with.

    Args:
        start: what was read.
        seed: of the search for orders.
    """

    def __init__(self, start: Start, seed: int) -> None:
        self._start, self._seed = start, seed

    @cached_property
    def _pruner(self) -> Pruner:
        from igcsearch.compress.regroup import Pruner

        return Pruner(self._start.source.graph, self._start.source.state, self._seed)

    def images(self, data: ImageData) -> ImageData:
        """The images, normalised as the network wants them; raises UsageError where they do not fit it."""
        from igcsearch.compress.source import normalised

        return normalised(data, self._start.source)

    def state(self, architecture: Architecture) -> dict[str, Tensor]:
        """The weights that the training of a candidate begins with."""
        if not isinstance(architecture, GraphArchitecture):
            raise UsageError(f"architecture {architecture.hash} is no graph; candidates of this search are")
        return self._pruner.pruned(architecture)


def read_start(text: str) -> Start:
    """The published network of that name or folder; read once in a process while its files stay as they are.

    Raises:
        UsageError: there is none, or it has no weights.
    """
    if text.partition(":")[0] in ("torchvision", "timm") or ".py:" in text:
        raise UsageError(
            f"--init-from {text!r} is no published entry; make one of it, as it is: igcsearch compress {text} --max-macs 100% "
            "--epochs 0 --out DIR"
        )
    try:
        found = find_model(text)
    except UsageError as error:
        raise UsageError(f"--init-from: {error}") from None
    if not isinstance(found, Entry):
        raise UsageError(
            f"--init-from {text!r} is a reference network, without weights; train it first (igcsearch train), and publish that, "
            "or name an entry"
        )
    entry = found.name if found.zoo == "package" else str(found.path.absolute())
    stats = [(path.name, path.stat()) for path in sorted(found.path.iterdir())]
    return _read(entry, tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))


@lru_cache(maxsize=2)
def _read(entry: str, stamp: Stamp) -> Start:
    from igcsearch.compress.source import read_source

    return Start(entry, read_source(entry), read_entry(entry).metrics.get("data") or "")


def start_ref(config: SearchConfig) -> StartRef | None:
    """The reference to the network that a search begins from, as it is now; None where it begins from none."""
    if config.init_from is None:
        return None
    start = read_start(config.init_from)
    return StartRef(start.entry, start.digest, config.seed)


def study_start(study: Study) -> StartRef | None:
    """The reference to the network that a study began from, as it was then."""
    now = start_ref(study.config)
    if now is not None:
        check_same_start(study.optuna.user_attrs[START], read_start(now.entry), str(study.path))
    return now


def check_same_start(before: Mapping[str, Any], now: Start, where: str) -> None:
    """Refuse to go on from another network than the study began from.

    Args:
        before: the study's record, START.
        where: what messages call the study.

    Raises:
        UsageError: it changed, or is another one.
    """
    if before["digest"] == now.digest:
        return
    if before["entry"] == now.entry:
        raise UsageError(_changed(now.entry))
    raise UsageError(
        f"{where} holds a study that begins from {before['entry']}, not {now.entry}; resume it with its own --init-from, or give "
        "another output folder (on a server: another --study)"
    )


def _changed(entry: str) -> str:
    return (
        f"{entry} was changed since the study that begins from it began (its architecture or weights are others); restore it as it "
        "was, or begin a new study"
    )


def _lock_threads_alone() -> None:
    """torch.fx makes a progress bar, shown or not, and with the first one tqdm makes a lock among processes, which a worker that is
    killed leaves behind with a warning. A lock among threads does."""
    with suppress(ImportError):
        bar = import_module("tqdm").tqdm
        if not hasattr(bar, "_lock"):
            bar.set_lock(RLock())
