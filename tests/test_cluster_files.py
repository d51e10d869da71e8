"""The cluster files of the docs, as far as they can be checked without a cluster: by Ray's own schema, and by their structure."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "cluster"


@pytest.fixture(scope="module")
def launcher() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / "ray-cluster.yaml").read_text())
    return loaded


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    loaded = yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text())
    return {manifest["kind"]: manifest for manifest in loaded}


def test_ray_accepts_the_cluster_file(launcher: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(launcher))
    validate_config(prepared)
    broken = copy.deepcopy(prepared) | {"max_wrkers": 3}  # the schema refuses what it does not know
    with pytest.raises(Exception, match="max_wrkers"):
        validate_config(broken)
    few = copy.deepcopy(prepared) | {"max_workers": 1}
    with pytest.raises(ValueError, match="max_workers"):
        validate_config(few)


def test_the_cluster_file_is_what_a_search_needs(launcher: dict[str, Any]) -> None:
    types = launcher["available_node_types"]
    assert types[launcher["head_node_type"]]["resources"] == {"CPU": 0}  # it coordinates
    workers = [node for name, node in types.items() if name != launcher["head_node_type"]]
    assert all(node["min_workers"] == node["max_workers"] > 0 for node in workers)  # a search asks for no nodes
    assert sum(node["max_workers"] for node in workers) == launcher["max_workers"]
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert any("RAY_AUTH_MODE=token ray start" in command for command in launcher[commands])
    assert any(target.endswith(".ray/auth_token") for target in launcher["file_mounts"])


def test_the_files_name_the_tested_ray(launcher: dict[str, Any], manifests: dict[str, Any]) -> None:
    pinned = re.search(r"^ray(?:\[\w+\])?==([\d.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert f"ray:{pinned[1]}-py311" in launcher["docker"]["image"]
    cluster = manifests["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == pinned[1]
    for template in templates(cluster):
        for container in template["spec"]["containers"]:
            assert f"ray{pinned[1]}-py311" in container["image"]


def templates(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"] for group in groups]


def test_the_manifest_holds_together(manifests: dict[str, Any]) -> None:
    assert set(manifests) == {"Secret", "PersistentVolumeClaim", "RayJob"}
    assert [manifests[kind]["apiVersion"] for kind in ("Secret", "PersistentVolumeClaim", "RayJob")] == [
        "v1",
        "v1",
        "ray.io/v1",
    ]
    cluster = manifests["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"] == {"mode": "token"}
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == group["maxReplicas"] > 0
        assert "rayStartParams" in group
    claim, secret = (manifests[kind]["metadata"]["name"] for kind in ("PersistentVolumeClaim", "Secret"))
    for template in templates(cluster):
        (container,) = template["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
        assert container["env"][0]["valueFrom"]["secretKeyRef"]["name"] == secret
    worker = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert manifests["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_manifests_command_is_one_that_igcsearch_takes(
    manifests: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read by the command line itself, up to where the search would begin."""
    from igcsearch.cli import search
    from igcsearch.cli.app import app

    asked: list[Any] = []
    monkeypatch.setattr(search, "run", lambda *arguments, **options: asked.append(arguments) or 0)
    program, *arguments = shlex.split(manifests["RayJob"]["spec"]["entrypoint"])
    assert program == "igcsearch"
    app(arguments, standalone_mode=False)
    config = asked[0][0]
    assert (config.engine, config.address, config.gpus_per_candidate) == ("ray", "auto", 0.5)
    assert config.checkpoints.startswith("/shared/")
    assert ":" not in asked[0][3].partition("//")[2].partition("@")[0]  # no password


def test_no_secret_is_in_the_files() -> None:
    text = "".join(path.read_text() for path in FOLDER.iterdir())
    assert not re.search(r"AKIA[0-9A-Z]{16}|-----BEGIN|password: (?!CHANGE-ME)", text)
