"""The RayJob of the examples is one that KubeRay takes and that this version of Quaver runs."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from quaver.cli.app import load

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples" / "bulk" / "cluster" / "kuberay.yaml"
SCHEMA = os.environ.get("QUAVER_RAYJOB_CRD", "")
"""KubeRay's ray-operator/config/crd/bases/ray.io_rayjobs.yaml, which is too large for this repository."""


@pytest.fixture(scope="module")
def job() -> Any:
    return yaml.safe_load(FILE.read_text())


def options(job: Any) -> dict[str, Any]:
    """Return the arguments of the entry point, as the command reads them."""
    program, name, *words = shlex.split(job["spec"]["entrypoint"])
    assert program == "quaver"
    return dict(load(name).make_context(name, words).params)


def test_the_command_exists_and_fills_the_largest_cluster(job: Any) -> None:
    given = options(job)
    assert given["engine"].value == "ray"
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = cluster["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    cpus = int(container["resources"]["limits"]["cpu"])
    assert cpus % given["threads"] == 0
    assert given["workers"] * given["threads"] == group["maxReplicas"] * cpus


def test_the_version_of_ray_is_the_tested_one(job: Any) -> None:
    (tested,) = re.findall(r'"ray==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == tested
    assert f"rayproject/ray:{tested}-py" in FILE.read_text()


@pytest.mark.skipif(not SCHEMA, reason="needs QUAVER_RAYJOB_CRD, a file of KubeRay")
def test_the_job_has_the_schema_of_kuberay(job: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    definition = yaml.load(Path(SCHEMA).read_text(), Loader=yaml.CSafeLoader)
    (schema,) = (
        version["schema"]["openAPIV3Schema"]
        for version in definition["spec"]["versions"]
        if version["name"] == "v1"
    )
    check = jsonschema.Draft202012Validator(strict(schema))
    assert not [f"{list(error.path)}: {error.message}" for error in check.iter_errors(job)]
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["specs"] = {}
    assert not check.is_valid(job), "the schema does not refuse unknown names"


def strict(schema: Any) -> Any:
    """Refuse names that a schema of Kubernetes does not have, which the server drops."""
    if isinstance(schema, list):
        return [strict(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(value) for name, value in schema.items()}
    if found.get("x-kubernetes-int-or-string"):
        found.pop("type", None)
    if "properties" in found and not found.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found
