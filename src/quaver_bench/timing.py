"""Time engines in turns, block by block, in one process."""

from __future__ import annotations

import math
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

Call = Callable[[], object]
T = TypeVar("T")
DISTURBED = 0.05
"""Share of the CPUs' time that other programs may use before a round is dropped."""
SLOW = 0.5
"""Seconds from which a call needs no warm-up and runs once in a block."""
SETTLED = 1.0
"""Seconds from which the first call of a case predicts the time of a warm one."""
BLOCK = 0.3
"""Fewest seconds of an engine's timed calls in a round."""


@dataclass(frozen=True)
class Timing:
    """The times of a case.

    Attributes:
        calls: engine to the seconds of its calls, one tuple for each round that counts.
        dropped: rounds dropped because other programs took more than DISTURBED of the CPUs.
        disturbed: whether too few undisturbed rounds were left, so all rounds count.
        left_out: engine to the reason why it was not timed.
    """

    calls: Mapping[str, tuple[tuple[float, ...], ...]]
    dropped: int
    disturbed: bool
    left_out: Mapping[str, str] = field(default_factory=dict)

    def rounds(self, engine: str) -> list[float]:
        """Return the median seconds of a call in each round."""
        return [statistics.median(block) for block in self.calls[engine]]

    def median(self, engine: str) -> float:
        """Return the median over the rounds, seconds for a call."""
        return statistics.median(self.rounds(engine))

    def quartiles(self, engine: str) -> tuple[float, float]:
        """Return the lower and upper quartile over the rounds, seconds for a call."""
        return _quartiles(self.rounds(engine))

    def percentile(self, engine: str, percent: float) -> float:
        """Return a percentile over all calls of all rounds, seconds."""
        seconds = [second for block in self.calls[engine] for second in block]
        return float(np.percentile(seconds, percent))

    def ratio(self, engine: str, peer: str) -> tuple[float, float, float]:
        """Return how many times as fast an engine is as a peer.

        Formula:
            r_i = seconds of the peer in round i / seconds of the engine in round i

        Args:
            engine: the engine.
            peer: the engine it is compared with.

        Returns:
            median, lower and upper quartile of r over the rounds.
        """
        pairs = zip(self.rounds(peer), self.rounds(engine), strict=True)
        ratios = [theirs / ours for theirs, ours in pairs]
        return (statistics.median(ratios), *_quartiles(ratios))


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


class ForeignLoad:
    """Measure the share of this process's CPUs that other programs used, 0 to 1.

    Processes in `own`, such as this program's workers, and ended child processes do not count.
    """

    def __init__(self, own: Sequence[int] = ()) -> None:
        """Start.

        Args:
            own: ids of processes that belong to this one.
        """
        self._own_ids = own
        self._wall, self._own, self._busy = time.monotonic(), self._used(), _busy_seconds()

    def share(self) -> float:
        """Return the share since the start."""
        wall = time.monotonic() - self._wall
        foreign = _busy_seconds() - self._busy - (self._used() - self._own)
        return max(0.0, foreign) / (wall * len(os.sched_getaffinity(0)))

    def _used(self) -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        mine = time.process_time() + ended.ru_utime + ended.ru_stime
        return mine + sum(map(_process_seconds, self._own_ids))


def _process_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _busy_seconds() -> float:
    cpus = {f"cpu{index}" for index in os.sched_getaffinity(0)}
    ticks = 0
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        name, *fields = line.split()
        if name in cpus:
            user, nice, system, _idle, _wait, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Turns(Generic[T]):
    """The blocks that engines ran in turns.

    Attributes:
        rounds: engine to the outcome of its block, for each round that counts.
        dropped: rounds dropped because other programs took more than DISTURBED of the CPUs.
        disturbed: whether too few undisturbed rounds were left, so all rounds count.
    """

    rounds: list[dict[str, T]]
    dropped: int
    disturbed: bool


def take_turns(
    blocks: Mapping[str, Callable[[], T]],
    *,
    seconds: float,
    least: int = 3,
    most: int = 25,
    own: Sequence[int] = (),
    on_round: Callable[[], object] = lambda: None,
) -> Turns[T]:
    """Run one block of every engine in turns (A B C A B C ...).

    Args:
        blocks: engine to its block.
        seconds: time for all blocks together; at least `least` rounds are run.
        least: fewest undisturbed rounds, at least 1; up to twice as many are tried. It is one less, but at
            least 2, if a single round takes longer than `seconds`: such long calls are averages already.
        most: maximum number of rounds.
        own: processes of the engines, which are not foreign load.
        on_round: called after each round.

    Returns:
        the outcomes of the blocks.
    """
    rounds: list[tuple[dict[str, T], bool]] = []
    begin = time.monotonic()
    while len(rounds) < most:
        clean = sum(1 for _, undisturbed in rounds if undisturbed)
        passed = time.monotonic() - begin
        long = bool(rounds) and passed / len(rounds) > seconds > 0
        enough = min(least, max(2, least - 1)) if long else least
        if passed > seconds and (clean >= enough or len(rounds) >= 2 * enough):
            break
        load = ForeignLoad(own)
        outcomes = {name: block() for name, block in blocks.items()}
        rounds.append((outcomes, load.share() <= DISTURBED))
        on_round()
    kept = [outcomes for outcomes, undisturbed in rounds if undisturbed]
    disturbed = len(kept) < min(least, max(2, least - 1))
    if disturbed:
        kept = [outcomes for outcomes, _ in rounds]
    return Turns(kept, len(rounds) - len(kept), disturbed)


def expected_rounds(round_seconds: float, *, seconds: float, least: int, most: int = 25) -> int:
    """Return how many rounds `take_turns` runs if none is disturbed.

    Args:
        round_seconds: of all blocks.
        seconds: as for `take_turns`.
        least: as for `take_turns`.
        most: as for `take_turns`.
    """
    if round_seconds <= 0:
        return least
    enough = min(least, max(2, least - 1)) if round_seconds > seconds > 0 else least
    return min(most, max(enough, math.ceil(seconds / round_seconds)))


def expected_seconds(
    calls: Sequence[float], *, seconds: float, least: int, block: float = BLOCK
) -> float:
    """Return how long `alternate` takes if no round is disturbed.

    Args:
        calls: seconds of a call of each engine.
        seconds: as for `alternate`.
        least: as for `alternate`.
        block: as for `alternate`.
    """
    warm = sum(2 * call for call in calls if call < SETTLED)
    whole = sum(call if call > SLOW else call + max(block, call) for call in calls)
    return warm + whole * expected_rounds(whole, seconds=seconds, least=least)


def alternate(
    engines: Mapping[str, Sequence[Call]],
    *,
    seconds: float,
    block: float = BLOCK,
    least: int = 3,
    longest: float = 60.0,
    took: Mapping[str, float] | None = None,
    own: Sequence[int] = (),
    on_round: Callable[[], object] = lambda: None,
) -> Timing:
    """Time every engine's calls, one block each in turns.

    A block runs one untimed call, which warms the caches and workers, then timed calls until its time is over.
    Calls of SLOW seconds and more need no warm-up and run once in a block.

    Args:
        engines: engine to its calls, all with the same work.
        seconds: time for all blocks together; at least `least` rounds are run.
        block: fewest seconds of a block.
        least: minimum number of rounds.
        longest: an engine whose warm call takes more seconds is left out and noted.
        took: engine to the seconds of an earlier call that compiled nothing; from SETTLED on it is not
            repeated to estimate the time.
        own: processes of the engines, which are not foreign load.
        on_round: called after each round.

    Returns:
        the times.
    """
    left_out: dict[str, str] = {}
    blocks: dict[str, Callable[[], tuple[float, ...]]] = {}
    for name, calls in engines.items():
        warm = (took or {}).get(name, 0.0)
        if warm < SETTLED:
            warm = _warm_up(calls[0])
        if warm > longest:
            left_out[name] = f"a call takes {warm:.0f} s, longer than the limit of {longest:.0f} s"
        else:
            blocks[name] = partial(_block, calls, warm > SLOW, block)
    turns = take_turns(blocks, seconds=seconds, least=least, own=own, on_round=on_round)
    calls_of = {name: tuple(found[name] for found in turns.rounds) for name in blocks}
    return Timing(calls_of, turns.dropped, turns.disturbed, left_out)


def _warm_up(call: Call) -> float:
    """Return the seconds of a warm call; a very slow first call is not repeated."""
    took = 0.0
    for _ in range(2):
        start = time.perf_counter()
        call()
        took = time.perf_counter() - start
        if took > 10 * SLOW:
            break
    return took


def _block(calls: Sequence[Call], slow: bool, seconds: float) -> tuple[float, ...]:
    if not slow:
        calls[-1]()
    times: list[float] = []
    total = 0.0
    while not times or (total < seconds and not slow):
        call = calls[len(times) % len(calls)]
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
        total += times[-1]
    return tuple(times)
