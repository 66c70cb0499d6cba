"""One engine in several processes that run at the same time, each on its own CPUs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from multiprocessing.managers import BaseManager
from typing import Any, Protocol, TypeVar, cast

import numpy as np

from quaver_bench.engines import Engine, Form, Run, Setup
from quaver_bench.inputs import Request, Text
from quaver_bench.kinds import Output

T = TypeVar("T")


def share_cpus(
    instances: int, cores: Sequence[Sequence[int]], nodes: dict[str, list[int]]
) -> list[list[int]]:
    """Return the CPUs of each instance.

    Args:
        instances: number of instances.
        cores: the CPUs of each core that this process may use, in the order of `quaver.info`.
        nodes: NUMA node to its CPUs among them; each instance gets a node if there are as many nodes as
            instances.

    Returns:
        a list for each instance, of the same number of cores unless the nodes differ. With more
        instances than cores, the CPUs of a core are divided too.
    """
    if len(nodes) == instances:
        return list(nodes.values())
    if instances > len(cores):
        cores = [[cpu] for core in cores for cpu in core]
    size = len(cores) // instances
    return [
        [cpu for core in cores[i * size : (i + 1) * size] for cpu in core] for i in range(instances)
    ]


class _Child:
    """The engine in the process of an instance; its methods are called from the parent."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._runs: dict[int, Run] = {}
        self._numbers = itertools.count()

    def load(self, load: Callable[[Setup], Engine], setup: Setup) -> tuple[int, dict[str, Any]]:
        """Load the engine; return the id of this process and the engine's settings."""
        self._engine = load(setup)
        return os.getpid(), self._engine.settings

    def prepare(self, request: Request) -> tuple[int, dict[str, Any]]:
        """Prepare a call; return its number and the engine's settings."""
        engine = cast(Engine, self._engine)
        number = next(self._numbers)
        self._runs[number] = engine.prepare(request)
        return number, engine.settings

    def run(self, number: int) -> Output:
        """Run a prepared call."""
        return self._runs[number]()

    def encode(self, texts: list[Text]) -> Output:
        """Encode texts."""
        return cast(Engine, self._engine).encode(texts)


class _Manager(BaseManager):
    """Serve a child; every thread of the parent has its own connection and thread."""


class _Server(Protocol):
    def child(self) -> _Child: ...


_Manager.register("child", _Child)


def _begin(cpus: Sequence[int], threads: int) -> None:
    """Pin a new process to its CPUs, before any engine is imported."""
    os.sched_setaffinity(0, cpus)
    for variable in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[variable] = str(threads)


class InstancesEngine:
    """An engine in several processes.

    A prepared call runs in every instance at once and ends when the last one has answered, so it
    encodes the texts of the request once per instance. `encode` distributes its texts over the instances.
    """

    def __init__(self, form: Form, setup: Setup, cpus: Sequence[Sequence[int]]) -> None:
        """Start the processes and load the engine in each.

        Args:
            form: the engine.
            setup: see `Setup`; its threads are those of one instance.
            cpus: CPUs of each instance.

        Raises:
            CannotRunError: the engine cannot run the model.
        """
        self._managers = [_Manager(ctx=get_context("spawn")) for _ in cpus]
        self._children: list[_Child] = []
        self.processes: list[int] = []
        self.settings: dict[str, Any] = {}
        self._turn = itertools.count()
        self._pool = ThreadPoolExecutor(len(cpus))
        for manager, mine in zip(self._managers, cpus, strict=True):
            manager.start(_begin, (mine, setup.threads))
            child = cast(_Server, manager).child()
            process, settings = child.load(form.load, setup)
            self._children.append(child)
            self.processes.append(process)
            self.settings = {**settings, "instances": len(cpus)}

    def prepare(self, request: Request) -> Run:
        """Prepare the call in every instance; see `engines.Engine`."""
        prepared = self._all([partial(child.prepare, request) for child in self._children])
        self.settings = {**prepared[0][1], "instances": len(self._children)}
        runs = [
            partial(child.run, number)
            for child, (number, _) in zip(self._children, prepared, strict=True)
        ]
        return lambda: self._all(runs)[0]

    def encode(self, texts: Sequence[Text]) -> Output:
        """Distribute the texts over the instances; fewer texts go to one instance, in turn; see `engines.Engine`."""
        count = len(self._children)
        if len(texts) < count:
            return self._children[next(self._turn) % count].encode(list(texts))
        parts = self._all(
            [partial(child.encode, list(texts[i::count])) for i, child in enumerate(self._children)]
        )
        vectors = np.empty((len(texts), parts[0].shape[1]), np.float32)
        for i, part in enumerate(parts):
            vectors[i::count] = part
        return vectors

    def _all(self, actions: Sequence[Callable[[], T]]) -> list[T]:
        futures = [self._pool.submit(action) for action in actions]
        return [future.result() for future in futures]
