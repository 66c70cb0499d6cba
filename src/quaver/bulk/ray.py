"""The engine on a Ray cluster: a pool of actors, each with a model, that take shards.

Why not Ray Data: what is done again after a failure, and left out by the next run, is a shard with its
output and its record. Ray Data moves rows between blocks of its own, and continues by a column of ids, which
it holds in memory (ray.data.checkpoint).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quaver.bulk.shard import Shard
from quaver.bulk.shipping import Shipment, pack, unpack
from quaver.bulk.worker import TRIES, Failed, Job, Result, Worker, is_missing
from quaver.errors import BulkError, ModelNotFoundError, QuaverError, needs_extra

with needs_extra("ray"):
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

THREADS = 8
"""CPUs of an actor, unless a node has fewer."""


class _Actor:
    """A model in a process of the cluster."""

    def load(self, job: Job, threads: int, shipment: Shipment | None) -> None:
        """Load the model; not in `__init__`, whose exceptions Ray tells as text alone."""
        if shipment is not None and is_missing(job.source):
            job = replace(job, source=str(unpack(shipment, ray.get)))
        self._worker = Worker(job, job.load(threads))

    def embed(self, shard: Shard) -> Result:
        return self._worker(shard)


def run_on_ray(
    job: Job, shards: Sequence[Shard], *, workers: int | None, threads: int | None
) -> Generator[Result, None, None]:
    """Embed shards on the cluster that this process is connected to, or that RAY_ADDRESS names.

    Ray places the actors. One that it cannot place yet waits, which is what an autoscaler acts on, and
    takes shards as soon as it runs. An actor that dies, with its node or alone, is replaced, and its
    shard goes to another.

    A model in a folder that a node does not have goes there through Ray's object store, in pieces, and is
    unpacked once into the cache of that node.

    Args:
        job: the run.
        shards: in the order of the work.
        workers: actors at most; None for as many as the CPUs of the cluster allow now.
        threads: CPUs of each actor.

    Yields:
        the result of each shard, in the order in which they are finished.

    Raises:
        ModelFolderError: a node has another model under the same path, or cannot write it into its cache.
        BulkError: actors die before they have loaded the model, or no node has enough CPUs.
        QuaverError: an actor failed with it.
    """
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    shipment = ship(job) if nodes_without(job, nodes) else None
    cpus = [int(node["Resources"]["CPU"]) for node in nodes]
    threads = threads or min([THREADS, *cpus])
    room = sum(count // threads for count in cpus)
    if not room and workers is None:
        raise BulkError(
            f"a worker of {threads} threads needs a node with as many CPUs: the largest has "
            f"{max(cpus, default=0)}; give fewer threads, or the number of workers that an autoscaler may start"
        )
    wanted = min(workers or room, len(shards))
    kind = ray.remote(num_cpus=threads, max_restarts=0, max_task_retries=0)(_Actor)
    waiting = deque(shards)
    tries: dict[Shard, int] = {}
    idle_deaths = 0
    # What each answer is awaited from: an actor, and the shard it embeds, None while it starts.
    awaited: dict[Any, tuple[Any, Shard | None]] = {}
    sent: set[Any] = set()  # actors that were told where the model's files are

    def start() -> None:
        actor = kind.remote()
        if shipment is not None:
            sent.add(actor)
        awaited[actor.load.remote(job, threads, shipment)] = actor, None

    try:
        for _ in range(wanted):
            start()
        while waiting or any(shard for _, shard in awaited.values()):
            (answer,), _ = ray.wait(list(awaited), num_returns=1)
            actor, shard = awaited.pop(answer)
            try:
                result = ray.get(answer)
            except ray.exceptions.RayActorError as error:
                if shard is None:
                    idle_deaths += 1
                    if idle_deaths >= TRIES + wanted:
                        raise BulkError(
                            f"{idle_deaths} actors ended before they had loaded the model: {error}"
                        ) from error
                else:
                    tries[shard] = tries.get(shard, 0) + 1
                    if tries[shard] < TRIES:
                        waiting.appendleft(shard)
                    else:
                        yield Failed(shard, f"{TRIES} actors died on it: {error}")
                start()
                continue
            except ray.exceptions.RayTaskError as error:
                lacks = (
                    isinstance(error.cause, ModelNotFoundError) and Path(job.source).is_absolute()
                )
                if lacks and actor not in sent:  # its node came later
                    shipment = shipment or ship(job)
                    ray.kill(actor)
                    start()
                    continue
                if isinstance(error.cause, QuaverError):
                    raise error.cause from error
                raise
            if shard is not None:
                yield result
            if waiting:
                following = waiting.popleft()
                awaited[actor.embed.remote(following)] = actor, following
            else:
                ray.kill(actor)  # its CPUs may be what a waiting actor needs
    finally:
        for actor, _ in awaited.values():
            ray.kill(actor)


def nodes_without(job: Job, nodes: Sequence[Any]) -> list[str]:
    """Return the addresses of nodes that do not have the model's folder.

    Args:
        job: the run.
        nodes: as Ray lists them.

    Raises:
        BulkError: a node does not have Quaver.
    """
    look = ray.remote(num_cpus=0)(is_missing)
    missing = []
    answers = [
        look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(job.source)
        for node in nodes
    ]
    for node, answer in zip(nodes, answers, strict=True):
        try:
            if ray.get(answer):
                missing.append(node["NodeManagerAddress"])
        except ray.exceptions.RayTaskError as error:
            raise BulkError(
                f"every node needs Quaver: {node['NodeManagerAddress']} cannot run it: {error.cause}"
            ) from error
        except ray.exceptions.RayError:
            continue  # the node is gone: Ray lists it for a while
    return missing


def ship(job: Job) -> Shipment:
    """Put the model's folder into Ray's object store.

    Args:
        job: the run; its model is a folder here.

    Raises:
        ModelNotFoundError: the folder is gone.
        BulkError: the object store has no room for it.
    """
    if is_missing(job.source):
        raise ModelNotFoundError(
            f"some nodes do not have the model, and it is not here any more: there is no folder {job.source}"
        )
    try:
        return pack(Path(job.source), ray.put)
    except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as error:
        raise BulkError(
            f"Ray's object store has no room for the model in {job.source}: put it into a folder that every node "
            "sees under the same path, or give a hub id"
        ) from error
