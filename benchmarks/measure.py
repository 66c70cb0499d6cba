"""Time engines against each other in one process, block by block in turns."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Call = Callable[[], object]
DISTURBED = 0.05
"""Share of the CPUs' time that other programs may take before a round is dropped."""


@dataclass(frozen=True)
class Timing:
    """What a case gave.

    Attributes:
        seconds: engine to its median seconds for a request, one for each round that counts.
        dropped: rounds dropped because other programs took more than DISTURBED of the CPUs.
        disturbed: whether too few undisturbed rounds were left, so that all of them count.
    """

    seconds: Mapping[str, tuple[float, ...]]
    dropped: int
    disturbed: bool

    def median(self, engine: str) -> float:
        """Return an engine's median seconds for a request."""
        return statistics.median(self.seconds[engine])

    def ratio(self, engine: str, peer: str) -> tuple[float, float, float]:
        """Return how many times faster an engine is than a peer.

        Args:
            engine: the engine.
            peer: the one it is compared with.

        Returns:
            Median, lower and upper quartile of the ratios of the rounds.
        """
        pairs = zip(self.seconds[peer], self.seconds[engine], strict=True)
        ratios = [theirs / ours for theirs, ours in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return middle, low, high


class ForeignLoad:
    """Share of this process's CPUs that other programs took since the start, 0 to 1."""

    def __init__(self) -> None:
        """Start."""
        self._wall, self._own, self._busy = time.monotonic(), time.process_time(), _busy_seconds()

    def share(self) -> float:
        """Return the share since the start."""
        wall = time.monotonic() - self._wall
        foreign = _busy_seconds() - self._busy - (time.process_time() - self._own)
        return max(0.0, foreign) / (wall * len(os.sched_getaffinity(0)))


def _busy_seconds() -> float:
    cpus = {f"cpu{index}" for index in os.sched_getaffinity(0)}
    ticks = 0
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        name, *fields = line.split()
        if name in cpus:
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def alternate(
    engines: Mapping[str, Sequence[Call]],
    *,
    seconds: float,
    block: float = 0.3,
    least: int = 5,
    most: int = 25,
) -> Timing:
    """Time every engine's requests, one block each in turns (A B C A B C ...).

    A block runs one request untimed, so that the caches and the workers are the engine's own again,
    then requests until its time is over; its result is their median. Requests of half a second and
    more warm themselves and are run once in a block.

    Args:
        engines: engine to its requests, all with the same work.
        seconds: time for all blocks together; `least` rounds are run in any case.
        block: least seconds of a block.
        least: least rounds.
        most: most rounds.

    Returns:
        The times.
    """
    slow = {}
    for name, calls in engines.items():
        calls[0]()
        start = time.perf_counter()
        calls[0]()
        slow[name] = time.perf_counter() - start > 0.5
    rounds: list[tuple[dict[str, float], bool]] = []
    begin = time.monotonic()
    while len(rounds) < most:
        clean = sum(1 for _, undisturbed in rounds if undisturbed)
        over = time.monotonic() - begin > seconds
        if (over and clean >= least) or (over and len(rounds) >= 2 * least):
            break
        load = ForeignLoad()
        times = {name: _block(calls, slow[name], block) for name, calls in engines.items()}
        rounds.append((times, load.share() <= DISTURBED))
    kept = [times for times, undisturbed in rounds if undisturbed]
    disturbed = len(kept) < least
    if disturbed:
        kept = [times for times, _ in rounds]
    by_engine = {name: tuple(times[name] for times in kept) for name in engines}
    return Timing(by_engine, len(rounds) - len(kept), disturbed)


def _block(calls: Sequence[Call], slow: bool, seconds: float) -> float:
    if not slow:
        calls[-1]()
    times: list[float] = []
    while not times or (sum(times) < seconds and not slow):
        call = calls[len(times) % len(calls)]
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
