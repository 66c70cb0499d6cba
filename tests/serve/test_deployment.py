"""The files of deploy/: their commands are accepted, their probes answered, the dashboard's numbers exist."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from typer.testing import CliRunner

from quaver.cli.app import app
from quaver.serve import read_settings
from running_server import Running

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def manifests() -> dict[str, Any]:
    found = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    return {document["kind"]: document for document in found}


def container() -> Any:
    (only,) = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    return only


def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"][
        "quaver"
    ]


def unit() -> str:
    return (DEPLOY / "quaver.service").read_text(encoding="utf-8")


def checked(arguments: list[str], config: Path, keys: Path) -> dict[str, Any]:
    """Run `quaver serve --check` with the files of this machine, and return what it prints."""
    files = {"--config": config, "--api-key-file": keys}
    given = [
        str(files.get(before, argument)) for before, argument in pairwise(["serve", *arguments])
    ]
    done = CliRunner().invoke(app, ["serve", *given, "--check"], env={"QUAVER_API_KEYS": ""})
    assert done.exit_code == 0, done.output
    shown: dict[str, Any] = msgspec.toml.decode(done.stdout)
    return shown


def test_the_commands_are_accepted(
    tmp_path: Path, tiny_folder: Path, reranker_folder: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "bge-small-en-v1.5").symlink_to(tiny_folder)
    (volume / "ms-marco-MiniLM-L12-v2").symlink_to(reranker_folder)

    def here(text: str, name: str) -> Path:
        """Write settings whose models are in a folder of this machine, instead of the mounted volume."""
        path = tmp_path / name
        path.write_text(text.replace('"/models/', f'"{volume}/'), encoding="utf-8")
        return path

    pods = here(manifests()["ConfigMap"]["data"]["models.toml"], "pods.toml")
    settings = here((DEPLOY / "models.toml").read_text(encoding="utf-8"), "models.toml")
    keys = tmp_path / "api-keys"
    keys.write_text("a-secret-key\n", encoding="utf-8")
    pod = checked(container()["args"], pods, keys)
    assert [model["task"] for model in pod["model"]] == ["embed", "rerank"]
    assert checked(compose()["command"], settings, keys)["cache"] == 256_000_000
    (line,) = re.findall(r"^ExecStart=\S+/quaver serve (.*)$", unit(), re.MULTILINE)
    service = checked(shlex.split(line), settings, keys)
    assert service["idle_unload"] == 1800.0


def test_what_settings_allow_is_below_the_limit_of_memory(tmp_path: Path) -> None:
    """Else the kernel ends the server before its own bounds refuse anything."""
    units = {"g": 2**30, "G": 2**30, "Gi": 2**30}
    pod = manifests()["ConfigMap"]["data"]["models.toml"]
    file = (DEPLOY / "models.toml").read_text(encoding="utf-8")
    (service,) = re.findall(r"^MemoryMax=(\S+)$", unit(), re.MULTILINE)
    for limit, text in (
        (container()["resources"]["limits"]["memory"], pod),
        (compose()["mem_limit"], file),
        (service, file),
    ):
        (number, letters) = re.findall(r"^(\d+)(\w+)$", str(limit))[0]
        path = tmp_path / "models.toml"
        path.write_text(text, encoding="utf-8")
        settings = read_settings({}, file=path, environ={})
        assert settings.memory
        bounded = settings.memory + settings.cache + settings.queue_bytes + settings.answer_bytes
        # For the process itself, and a batch.
        assert bounded + 500_000_000 <= int(number) * units[letters], limit


def test_a_stop_has_more_time_than_the_grace() -> None:
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    pause = int(
        re.findall(
            r"sleep\((\d+)\)", " ".join(container()["lifecycle"]["preStop"]["exec"]["command"])
        )[0]
    )
    assert pod["terminationGracePeriodSeconds"] > 30 + pause
    assert int(compose()["stop_grace_period"].removesuffix("s")) > 30
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit(), re.MULTILINE)
    assert int(seconds) > 30


def test_a_pod_does_not_get_the_service_as_settings() -> None:
    """A service named quaver sets QUAVER_PORT in every pod, unless its links are off."""
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    assert pod["enableServiceLinks"] is False


def test_probes_are_answered(server: Running) -> None:
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container()[probe]["httpGet"]
        assert asked["port"] in ports
        assert server.client.get(asked["path"]).status_code == 200
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    (path,) = re.findall(r"HEALTHCHECK[^/]*\n.*?\}(/\w+)'", dockerfile)
    assert server.client.get(path).status_code == 200
    check = json.loads(re.findall(r"^HEALTHCHECK.*\n +CMD (.*)$", dockerfile, re.MULTILINE)[0])
    for port, code in ((str(server.server.addresses[0][1]), 0), ("1", 1)):
        ran = subprocess.run(
            [sys.executable, *check[1:]],
            env={"PATH": "", "QUAVER_PORT": port},
            capture_output=True,
            check=False,
        )
        assert ran.returncode == code, ran.stderr
    (port,) = re.findall(r"^EXPOSE (\d+)$", dockerfile, re.MULTILINE)
    assert ports["http"] == int(port)


def test_the_container_has_no_root_and_pods_have_limits() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    (user,) = re.findall(r"^USER (\d+):\d+$", dockerfile, re.MULTILINE)
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    assert int(user) == pod["securityContext"]["runAsUser"] != 0
    resources = container()["resources"]
    assert resources["limits"] == resources["requests"]


def test_the_container_is_installed_as_make_measures_it() -> None:
    """`make server-size` runs the same script; the builder gets it, and what the script needs."""
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = re.findall(r"^COPY (.*) /wheels/$", dockerfile, re.MULTILINE)[0].split()
    assert copied == [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert all((DEPLOY.parent / path).is_file() for path in copied if "*" not in path)
    assert "RUN sh /wheels/install.sh " in dockerfile
    assert "binutils" in dockerfile  # it has strip
    measured = (DEPLOY.parent / "tools" / "try_server.sh").read_text(encoding="utf-8")
    assert "deploy/install.sh" in measured
    script = subprocess.run(["sh", "-n", DEPLOY / "install.sh"], check=False)
    assert script.returncode == 0


def test_the_dashboard_shows_numbers_that_exist(server: Running) -> None:
    server.post("/embed", {"inputs": "a text"}).raise_for_status()
    text = server.client.get("/metrics").text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    there = {re.split(r"[{ ]", line)[0] for line in lines}
    labels = {name: set() for name in there}
    for line in lines:
        labels[re.split(r"[{ ]", line)[0]] |= set(re.findall(r'(\w+)="', line))
    dashboard = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert expressions
    shown = set()
    for expression in expressions:
        names = set(re.findall(r"quaver_\w+", expression))
        assert names <= there, f"no such metric: {names - there}"
        shown |= names
        grouped = re.search(r"by \(([^)]*)\)", expression)
        for label in grouped[1].split(", ") if grouped else ():
            assert any(label in labels[name] for name in names), f"no label {label}: {expression}"
    # What the server counts is on the dashboard; a few are only details of others.
    left_out = {name for name in there - shown if not name.endswith(("_created", "_count", "_sum"))}
    assert left_out == {"quaver_last_batch_tokens", "quaver_last_batch_inputs"}


@pytest.mark.parametrize("path", sorted(DEPLOY.iterdir()), ids=lambda path: path.name)
def test_files_are_named_in_the_guide(path: Path) -> None:
    guide = (DEPLOY.parent / "docs" / "guide" / "serve.md").read_text(encoding="utf-8")
    assert f"deploy/{path.name}" in guide or path.suffix == ".dockerignore"
