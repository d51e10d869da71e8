"""The Ray engine: Ray Tune places candidates in a cluster and runs them, the coordinator asks and tells Optuna as always.

The way of a run: start or join a cluster (ray_cluster.py), look at every node (ray_checks.py), load the images once into the
object store (ray_data.py), let one worker say what it finds, then Tune, with its processes used again (ray_worker.py) and its
decisions made by the coordinator (ray_bridge.py). Tune's own records are not kept: the study is the record, and a resumed search
is a new Tuner.
"""

from __future__ import annotations

import secrets
import warnings
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from igcsearch.errors import UsageError
from igcsearch.search.config import SearchConfig
from igcsearch.search.coordinator import Coordinator
from igcsearch.search.jobs import DataFacts
from igcsearch.search.start import start_ref
from igcsearch.training import DataSpec

from .ray_bridge import Bridge, Stop, Suggest, Turn
from .ray_checks import check_files, check_nodes
from .ray_cluster import RayCluster, Share, check_share, environment, handlers_kept
from .ray_group import Answers, Devices, train_candidate_in_group
from .ray_worker import Task, load_images, look, software, train_candidate
from .worker import WorkerSpec

_CANDIDATES = "candidates"  # of the study's folder: the default place of checkpoints
_SETTINGS = {  # of Tune, in the driver: no files a trial, no handlers, no states
    "RAY_AIR_NEW_OUTPUT": "0",  # the other one prints even where it is to be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",
}


class RayEngine:
    """Runs candidates on a Ray cluster, each in a process with its share of CPUs and GPUs.

    Args:
        config: of the search.
        folder: of the study.
        trainer: `module:class` that does the work in each process.
    """

    def __init__(self, config: SearchConfig, folder: Path, trainer: str = WorkerSpec.trainer) -> None:
        self._config, self._trainer = config, trainer
        self._place = Path(config.checkpoints or folder / _CANDIDATES).expanduser().absolute()
        several = config.devices_per_candidate > 1  # Ray Train clears up through the dashboard
        cpus = config.workers * config.devices_per_candidate * self._cpus_here()
        self._cluster = RayCluster(config.address, cpus, dashboard=several)
        self._share = Share(1)
        self._task: Task | None = None
        self._facts: DataFacts | None = None
        self.workers = config.workers
        self.stop = False  # set from outside (a signal handler) to end soon

    def start(self) -> DataFacts:
        """Start or join the cluster, look at its nodes, load the data; returns what a worker found.

        Raises:
            UsageError: an address that is not there, more asked for than the cluster has, a node that does not fit, data or a
                device that cannot be used.
        """
        config, cluster = self._config, self._cluster
        cluster.connect()
        self._share = self._shared_out()
        check_share(cluster, self._share)
        self.workers = self._room()
        nodes = [node for node in cluster.nodes() if self._share.fits(node["Resources"])]
        check_nodes([] if cluster.started_here else nodes, self._place, self._stopping)
        threads = config.threads_per_worker or self._share.cpus
        device = "cuda" if self._share.gpus else "cpu"
        data = DataSpec.from_dict(config.to_dict()["data"])  # with absolute paths
        spec = WorkerSpec(data, config.recipe, config.given, device, threads, self._trainer, start_ref(config))
        images = self._load(spec, nodes)
        self._task = Task(secrets.token_hex(6), spec, images, software())
        found = self._ask(look, (self._task,), num_cpus=self._share.cpus, num_gpus=self._share.gpus)
        if isinstance(found, str):
            raise UsageError(found)
        self._facts = found
        return found

    def run(self, coordinator: Coordinator) -> None:
        """Run candidates until the coordinator has ended; the first job is timed before it is trained."""
        assert self._task is not None
        assert self._facts is not None
        task, share, answers = self._task, self._share, None
        if share.devices > 1:
            options: Any = ray.remote
            answers = options(num_cpus=0)(Answers).remote()
        bridge = Bridge(
            coordinator,
            room=self._room,
            workers=self.workers,
            stopped=self._stopping,
            place={"device": self._facts.device, "threads": self._facts.threads},
            answer=None if answers is None else answers.put.remote,
        )
        devices = Devices(share.devices, share.cpus, share.gpus, answers)

        def candidate(config: dict[str, Any]) -> None:
            if devices.count > 1:
                train_candidate_in_group(config, task, devices)
            else:
                train_candidate(config, task)

        with (
            environment(**_SETTINGS, TUNE_MAX_PENDING_TRIALS_PG=str(max(1, self.workers))),
            handlers_kept(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            tuner = tune.Tuner(
                tune.with_resources(candidate, self._bundle()),
                tune_config=tune.TuneConfig(
                    search_alg=Suggest(bridge),
                    num_samples=-1,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: str(trial.trial_id),
                    trial_name_creator=lambda trial: str(trial.trial_id),
                ),
                run_config=tune.RunConfig(
                    name="search",
                    storage_path=str(self._cluster.folder / "tune"),
                    stop=Stop(bridge),
                    callbacks=[Turn(bridge)],
                    failure_config=tune.FailureConfig(max_failures=0),
                    verbose=0,
                ),
            )
            try:
                tuner.fit()
            except Exception as error:
                if bridge.error is None:
                    raise UsageError(f"Ray Tune ended the search ({_last_line(error)}); resume to go on") from error
        if bridge.error is not None:
            raise bridge.error
        if self.stop or (coordinator.expired and coordinator.ended is None):
            coordinator.interrupt("interrupted" if self.stop else "timeout")

    def close(self) -> None:
        """Leave the cluster; one that was started here is stopped."""
        self._task = None
        self._cluster.close()

    # ------------------------------------------------------------------ private

    def _stopping(self) -> bool:
        return self.stop

    def _shared_out(self) -> Share:
        """What each candidate gets, with what was left open decided by the cluster."""
        config, cluster = self._config, self._cluster
        gpus = config.gpus_per_candidate
        if gpus is None:
            wants = config.device != "cpu" and (config.device != "auto" or cluster.total("GPU") > 0)
            gpus = 1.0 if wants else 0.0
        elif config.device.startswith("cuda") and not gpus:
            raise UsageError(f"device {config.device!r} needs --gpus-per-candidate above 0, not {gpus:g}")
        cpus = (
            self._cpus_here() if cluster.started_here else config.cpus_per_candidate or config.threads_per_worker or 1
        )
        return Share(cpus, float(gpus), config.devices_per_candidate)

    def _cpus_here(self) -> int:
        """CPUs of each process in a cluster of this machine alone: the cores shared out, unless they were given."""
        config = self._config
        shared = config.threads_per_worker or max(1, config.threads // config.devices_per_candidate)
        return config.cpus_per_candidate or shared

    def _bundle(self) -> Any:
        """What Tune asks Ray for. The function of a group only waits: it takes no CPU, and lies beside the driver."""
        share = self._share
        if share.devices > 1:
            return tune.PlacementGroupFactory([{f"node:{ray.util.get_node_ip_address()}": 0.001}])
        return {"cpu": share.cpus} | ({"gpu": share.gpus} if share.gpus else {})

    def _room(self) -> int:
        """How many candidates may run at once, now."""
        workers = self._config.workers
        most = self._config.max_concurrent or (workers if self._cluster.started_here or workers > 1 else None)
        room = self._cluster.room(self._share)
        return room if most is None else min(room, most)

    def _load(self, spec: WorkerSpec, nodes: list[dict[str, Any]]) -> Any:
        """Reference to the packed images, loaded by a process on this node; None where each worker loads its own."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        remote: Any = ray.remote
        said, images = remote(num_cpus=0, num_returns=2, scheduling_strategy=here)(load_images).remote(spec)
        found = self._wait(said)
        if "refused" in found:
            raise UsageError(found["refused"])
        check_files(nodes if len(self._cluster.nodes()) > 1 else [], found["files"], self._stopping)
        return images if found["shared"] else None

    def _ask(self, function: Any, arguments: tuple[Any, ...], **resources: Any) -> Any:
        remote: Any = ray.remote
        return self._wait(remote(**resources)(function).remote(*arguments))

    def _wait(self, ref: Any) -> Any:
        """The value, looking at `stop` meanwhile."""
        while not ray.wait([ref], timeout=0.3)[0]:
            if self.stop:
                raise KeyboardInterrupt
        try:
            return ray.get(ref)
        except ray.exceptions.RayError as error:
            raise UsageError(
                f"a Ray worker ended at its start ({_last_line(error)}); see its messages in Ray's logs"
            ) from None


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
