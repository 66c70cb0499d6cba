"""The Ray engine on a cluster of three nodes in processes; `make test-bulk` installs Ray."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet
from test_bulk import TEXTS, digests, write_corpus

from quaver import BulkError, ModelFolderError, ModelNotFoundError
from quaver.bulk import embed
from quaver.bulk.kinds import Dense
from tiny_model import write_tiny_cross_encoder, write_tiny_model

CACHE = Path(tempfile.mkdtemp(prefix="quaver-test-"))
"""The cache of all nodes."""

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes, of which each has room for one worker."""
    os.environ["XDG_CACHE_HOME"] = str(CACHE)
    memory = {"object_store_memory": 80_000_000}
    started = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
    for _ in range(2):
        started.add_node(num_cpus=1, **memory)
    ray.init(address=started.address, log_to_driver=False, include_dashboard=False)
    yield started
    ray.shutdown()
    started.shutdown()
    del os.environ["XDG_CACHE_HOME"]
    shutil.rmtree(CACHE)


def test_ray_gives_the_same_files_although_a_node_is_killed(
    cluster: Any, tmp_path: Path, tiny_folder: Path
) -> None:
    source = write_corpus(tmp_path / "a.parquet", TEXTS)
    options: dict[str, Any] = {"model": tiny_folder, "shard_bytes": 1_500, "keep": ["id"]}
    want = embed(source, tmp_path / "want", **options)
    done = tmp_path / "out/_quaver/done"
    killed = []

    def kill_a_node() -> None:
        victim = cluster.worker_nodes.copy().pop()
        while not (done.is_dir() and len(list(done.glob("*.json"))) >= 3):
            time.sleep(0.01)
        cluster.remove_node(victim, allow_graceful=False)
        killed.append(victim)

    killer = threading.Thread(target=kill_a_node, daemon=True)
    killer.start()
    report = embed(source, tmp_path / "out", engine="ray", **options)
    killer.join(60)
    assert killed
    assert report.failed == ()
    assert digests(report) == digests(want)
    again = embed(source, tmp_path / "out", engine="ray", **options)
    assert again.before == len(want.records)


def test_a_corrupt_file_fails_alone_on_ray(cluster: Any, tmp_path: Path, tiny_folder: Path) -> None:
    write_corpus(tmp_path / "a.txt", TEXTS[:20])
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    report = embed(
        tmp_path, tmp_path / "out", model=tiny_folder, engine="ray", workers=1, threads=1
    )
    assert report.total_rows == 20
    assert [Path(name).name for name, _ in report.failed] == ["b.parquet"]


def test_a_target_that_workers_cannot_write_stops_the_run(
    cluster: Any, tmp_path: Path, tiny_folder: Path
) -> None:
    source = write_corpus(tmp_path / "a.txt", TEXTS[:20])
    embed(source, tmp_path / "out", model=tiny_folder)
    (output,) = (tmp_path / "out").glob("*.parquet")
    output.unlink()
    output.mkdir()
    (output / "file").write_text("in the way")
    with pytest.raises(BulkError, match="cannot write"):
        embed(source, tmp_path / "out", model=tiny_folder, engine="ray")


@pytest.mark.parametrize("known", ["before", "from an actor"])
def test_a_model_that_nodes_do_not_have_is_sent_there(
    known: str, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quaver.bulk import ray as engine

    source = write_corpus(tmp_path / "a.parquet", TEXTS[:200])
    model = write_tiny_model(tmp_path / "model", seed=len(known))
    options: dict[str, Any] = {"model": model, "shard_bytes": 1_500}
    want = embed(source, tmp_path / "want", **options)
    (tmp_path / "away").mkdir()
    # The nodes share a file system, so the driver's folder goes where they do not look for it.
    ship, look = engine.ship, engine.nodes_without

    def ship_and_move(job: Any) -> Any:
        if known != "before":
            (tmp_path / "away/model").rename(model)
        shipment = ship(job)
        model.rename(tmp_path / "away/model")
        return shipment

    def told(job: Any, nodes: Any) -> list[str]:
        assert look(job, nodes) == []
        if known == "before":
            return [nodes[0]["NodeManagerAddress"]]
        model.rename(tmp_path / "away/model")  # a node without it comes later
        return []

    monkeypatch.setattr(engine, "ship", ship_and_move)
    monkeypatch.setattr(engine, "nodes_without", told)
    report = embed(source, tmp_path / "out", engine="ray", **options)
    assert report.failed == ()
    assert digests(report) == digests(want)
    arrived = list((CACHE / "quaver/models").glob("*/model/config.json"))
    assert len(arrived) == {"before": 1, "from an actor": 2}[known]  # another model each time


def test_nodes_that_have_another_model(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_corpus(tmp_path / "a.txt", TEXTS[:20])
    model = write_tiny_model(tmp_path / "model")
    load = Dense.load

    def load_and_change(name: str, loading: Any) -> Any:
        loaded = load(name, loading)
        shutil.rmtree(model)
        write_tiny_model(model, seed=1)
        return loaded

    monkeypatch.setattr(Dense, "load", load_and_change)
    with pytest.raises(ModelFolderError, match="has other files on one of them than on the driver"):
        embed(source, tmp_path / "out", model=model, engine="ray")


def test_workers_that_do_not_find_the_model_or_room(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_corpus(tmp_path / "a.txt", TEXTS[:20])
    model = write_tiny_model(tmp_path / "model")
    load = Dense.load

    def load_and_move(name: str, loading: Any) -> Any:
        loaded = load(name, loading)
        model.rename(tmp_path / "elsewhere")
        return loaded

    monkeypatch.setattr(Dense, "load", load_and_move)
    with pytest.raises(ModelNotFoundError, match="it is not here any more: there is no folder"):
        embed(source, tmp_path / "out", model=model, engine="ray")
    monkeypatch.undo()
    (tmp_path / "elsewhere").rename(model)
    with pytest.raises(BulkError, match="a worker of 64 threads needs a node with as many CPUs"):
        embed(source, tmp_path / "out", model=model, engine="ray", threads=64)
    monkeypatch.setattr(ray, "nodes", list)  # an autoscaler has not started any
    with pytest.raises(BulkError, match=r"the largest has 0; .* that an autoscaler may start"):
        embed(source, tmp_path / "out", model=model, engine="ray")


def test_scores_on_ray(cluster: Any, tmp_path: Path) -> None:
    model = write_tiny_cross_encoder(tmp_path / "model")
    pairs = pa.table({"query": TEXTS[:40], "body": TEXTS[40:80]}).slice(1)
    pairs = pairs.filter(pc.less(pc.utf8_length(pairs["query"]), 100))
    parquet.write_table(pairs, tmp_path / "a.parquet", row_group_size=5)
    options: dict[str, Any] = {"pair_columns": ("query", "body"), "shard_bytes": 500}
    want = embed(tmp_path / "a.parquet", tmp_path / "want", model=model, **options)
    report = embed(tmp_path / "a.parquet", tmp_path / "out", model=model, engine="ray", **options)
    assert report.failed == ()
    assert digests(report) == digests(want)


def test_the_example_with_ray_data_runs(cluster: Any, tiny_folder: Path) -> None:
    script = Path(__file__).parents[2] / "examples" / "bulk" / "cluster" / "ray_data.py"
    done = subprocess.run(
        [sys.executable, script, tiny_folder],
        env={**os.environ, "RAY_ADDRESS": cluster.address},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) >= 3
