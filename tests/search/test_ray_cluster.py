"""The Ray engine on a cluster of several nodes, simulated by several raylets on this machine; nodes die and do not fit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from igcsearch.errors import UsageError
from igcsearch.search import open_study

PROCESS = Path(__file__).with_name("ray_process.py")
TRAINER = """
import os, sys
from importlib.util import module_from_spec, spec_from_file_location
os.environ.update({settings!r})
spec = spec_from_file_location("igcsearch_test_fakes", {fakes!r})
fakes = module_from_spec(spec)
sys.modules[spec.name] = fakes
spec.loader.exec_module(fakes)
class Trainer(fakes.FakeTrainer):
    pass
"""

pytestmark = pytest.mark.timeout(280)


@pytest.fixture
def cluster():
    """A head without CPUs; nodes are added by the tests."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    made.shutdown()


@pytest.fixture
def start(cluster, tmp_path, fakes):
    """A search on the cluster in a process of its own."""
    log = tmp_path / "log"
    log.touch()
    started = []

    def run(epoch=0.0, **options):
        trainer = tmp_path / "trainer.py"
        settings = {"FAKE_LOG": str(log), "FAKE_EPOCH": str(epoch)}
        trainer.write_text(TRAINER.format(settings=settings, fakes=fakes.__file__))
        options = {"address": cluster.address, "resume": True, **options}
        command = [sys.executable, str(PROCESS), str(tmp_path / "out"), f"{trainer}:Trainer", json.dumps(options)]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,  # Ray gives it to workers as a place of modules
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def node_of(pid):
    """The raylet above a worker."""
    while pid > 1:
        stat = Path(f"/proc/{pid}/stat").read_text()
        if "raylet" in stat.partition("(")[2].partition(")")[0]:
            return pid
        pid = int(stat.rpartition(")")[2].split()[1])
    raise AssertionError("a worker without a raylet")


def kill_node(raylet):
    """As a machine that loses its power: everything there at once."""
    from igcsearch.search.engines.ray_guard import below

    for pid in (raylet, *below(raylet)):
        os.kill(pid, signal.SIGKILL)


def until(process, word):
    while word not in (line := process.stdout.readline()):
        assert line, process.stderr.read()


@pytest.mark.slow
def test_kill_9_of_a_node(cluster, start, tmp_path):
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    process = start(epoch=0.5, trials=6)
    until(process, "EpochDone")
    until(process, "EpochDone")
    lines = (tmp_path / "log").read_text().splitlines()
    kill_node(node_of(int(lines[0].split()[2])))
    cluster.add_node(num_cpus=1, wait=False)  # another one takes its place
    out, err = process.communicate(timeout=200)
    assert (process.returncode, err) == (0, "")
    assert "Retried" in out
    study = open_study(tmp_path / "out")
    status = study.status()
    assert (status["complete"], status["failed"], status["running"], status["waiting"]) == (6, 0, 0, 0)
    trained = [tuple(line.split()[:2]) for line in (tmp_path / "log").read_text().splitlines()]
    assert len(trained) - len(set(trained)) <= 1  # at most the epoch that was under way on the node
    for candidate in study.candidates(("complete",)):
        assert [record["epoch"] for record in candidate.curve] == [1, 2, 3]


@pytest.mark.slow
def test_two_candidates_share_a_gpu(cluster, start, tmp_path):  # a logical one: the fake does not compute on it
    cluster.add_node(num_cpus=8, num_gpus=1)
    process = start(epoch=0.3, trials=5, gpus_per_candidate=0.5)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    running, most = 0, 0
    for line in out.splitlines():
        running += (line == "CandidateStarted") - (line == "Finished")
        most = max(most, running)
    assert most == 2
    assert open_study(tmp_path / "out").status()["complete"] == 5


@pytest.mark.slow
def test_kill_9_of_a_driver_leaves_the_cluster_and_resume_goes_on(cluster, start, tmp_path):
    cluster.add_node(num_cpus=2)
    process = start(epoch=0.5, trials=4)
    until(process, "EpochDone")
    process.kill()
    process.communicate()
    final = start(trials=4)
    _, err = final.communicate(timeout=120)
    assert (final.returncode, err) == (0, "")
    assert open_study(tmp_path / "out").status()["complete"] == 4


@pytest.mark.slow
def test_nodes_that_do_not_fit_are_named_before_anything_is_made(cluster, start, tmp_path, monkeypatch):
    other = tmp_path / "other" / "igcsearch"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("__version__ = '0.0.1'\n")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(other.parent))
        cluster.add_node(num_cpus=1)
    process = start(trials=2)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "has igcsearch 0.0.1, this machine has" in err.splitlines()[-1]
    assert "install the same on every node" in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- rules, without a cluster


def answer(**changes):
    from igcsearch.search.engines import ray_checks

    fits = {"python": ".".join(map(str, sys.version_info[:2])), "igcsearch": ray_checks.__version__}
    return fits | {"torch": ray_checks._version("torch"), "node": "n", "other": False, "error": ""} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"igcsearch": None}, "node n1 has no igcsearch, this machine has .*; install the same on every node"),
        ({"igcsearch": "9.9"}, "node n1 has igcsearch 9.9, this machine has"),
        ({"torch": "1.0"}, "node n1 has torch 1.0, this machine has"),
        ({"torch": None}, "node n1 has no torch, this machine has"),
        ({"python": "3.8"}, r"node n1 has python 3\.8, this machine has 3"),
        ({"other": True}, "checkpoints /x: node n1 does not see this machine's folder there; give --checkpoints"),
        ({"error": "Permission denied"}, r"checkpoints /x: node n1 cannot write there \(Permission denied\)"),
    ],
)
def test_what_a_node_answers_is_judged(changes, message):
    from igcsearch.search.engines.ray_checks import _judge

    _judge("n1", answer(), Path("/x"))
    with pytest.raises(UsageError, match=message):
        _judge("n1", answer(**changes), Path("/x"))


def test_a_node_looks_at_the_place_of_checkpoints(tmp_path, monkeypatch):
    import ray

    from igcsearch.search.engines.ray_checks import _probe

    class Context:
        def get_node_id(self):
            return "n"

    monkeypatch.setattr(ray, "get_runtime_context", Context)
    assert _probe()(str(tmp_path), "t")["other"]  # the driver's mark is not there: another folder of the same name
    (tmp_path / ".probe-t").write_text("t")
    assert _probe()(str(tmp_path), "t") == answer()
    assert (tmp_path / ".probe-t-n").read_text() == "t"


@pytest.mark.parametrize(
    ("cpus", "gpus", "node", "fits"),
    [
        (1, 0.0, {"CPU": 4.0}, 4),
        (3, 0.0, {"CPU": 4.0}, 1),
        (1, 1.0, {"CPU": 4.0}, 0),
        (1, 0.25, {"CPU": 16.0, "GPU": 2.0}, 8),
        (1, 0.3, {"CPU": 16.0, "GPU": 2.0}, 6),  # a fraction does not lie across two GPUs
        (2, 0.25, {"CPU": 4.0, "GPU": 2.0}, 2),
        (1, 0.1, {"CPU": 99.0, "GPU": 1.0}, 10),
    ],
)
def test_how_many_candidates_a_node_has_room_for(cpus, gpus, node, fits):
    from igcsearch.search.engines.ray_cluster import Share

    assert Share(cpus, gpus).fits(node) == fits


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nowhere", "must be HOST:PORT"),
        ("10.0.0.1:0", "must be HOST:PORT"),
        ("ray://10.0.0.1:10001", "give HOST:PORT of the cluster's head, or auto"),
        ("127.0.0.1:1", r"no Ray at '127.0.0.1:1' \(tried 3 times in \d+ s: Connection refused\)"),
    ],
)
def test_an_address_that_cannot_be_reached_is_said(address, message):
    from igcsearch.search.engines.ray_cluster import RayCluster

    cluster = RayCluster(address, 1)
    try:
        with pytest.raises(UsageError, match=message):
            cluster.connect()
    finally:
        cluster.close()


# Rule: workers read the images where Ray keeps them; the numbers are those of images that were loaded.
def test_packed_images_are_the_same_images():
    import pickle

    import torch

    from igcsearch.search.engines.ray_data import files_of, pack, unpack
    from igcsearch.training import DataSpec, load_data

    data = load_data(DataSpec("digits", train_images=100))
    again = unpack(pickle.loads(pickle.dumps(pack(data), protocol=5)))
    for name in ("train", "validation", "test"):
        before, after = getattr(data, name), getattr(again, name)
        assert all(torch.equal(getattr(before, part), getattr(after, part)) for part in ("images", "labels", "indices"))
    assert again.fingerprint == data.fingerprint
    assert files_of(data) == []
