"""Draw hostile inputs, try them in child processes, and say what came out.

    python tests/fuzz/run.py --target folders --seconds 60 --seed 1
    python tests/fuzz/run.py --reproduce build/fuzz/folders-1.4711.json

Only errors of Quaver's own tree may come out. Everything else is a failure: another exception (pyo3's PanicException is
no Exception), a result that breaks a promise, a process that dies, a case that takes more processor time or memory than
the target allows, or that does nothing for half a minute. Each is written as a reproducer; equal ones are counted once.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from target import Case, Target  # noqa: E402

MODULES = ("target_folders", "target_documents", "target_stores", "target_rehearsal")
BATCH = 400
KNOWN = "known: "
"""How the names of the corpus' cases begin; others are SEED.NUMBER."""
BLOCKED_SECONDS = 10
"""By the clock, in which a child has neither answered nor used the processor: it waits for something."""


@dataclass(frozen=True)
class Verdict:
    """What came of one case.

    Attributes:
        name: the case: "SEED.NUMBER", or a known one's name.
        outcome: a word or two, or what failed.
        failed: whether it is a failure.
        detail: where it failed.
    """

    name: str
    outcome: str
    failed: bool = False
    detail: str = ""


@dataclass
class Report:
    """What came of many cases."""

    target: str
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, list[Verdict]] = field(default_factory=dict)
    seconds: float = 0

    def add(self, verdict: Verdict) -> None:
        """Count a verdict."""
        if verdict.failed:
            self.failures.setdefault(verdict.outcome, []).append(verdict)
        else:
            self.outcomes[verdict.outcome] += 1

    @property
    def cases(self) -> int:
        """How many cases were tried."""
        return self.outcomes.total() + sum(map(len, self.failures.values()))


def targets() -> dict[str, type[Target]]:
    """Return every target by its name."""
    from importlib import import_module

    found = [kind for module in MODULES for kind in import_module(module).TARGETS]
    return {kind.name: kind for kind in found}


def drawn(target: Target, name: str) -> Case:
    """Return a case by its name: the same one every time."""
    if name.startswith(KNOWN):
        from known_cases import KNOWN_CASES

        return KNOWN_CASES[target.name][name.removeprefix(KNOWN)]()
    case = target.draw(Random(f"{target.name} {name}"))
    if target.name == "rehearsal":
        case.files["deed"] = name.partition(" ")[0].encode()
    return case


# --- In the child ---
def child(
    target: Target, cases: Iterator[tuple[str, Case]], cpu_seconds: int | None = None
) -> None:
    """Try cases one after the other; each gets a line when it starts and one when it ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    faulthandler.enable(all_threads=True)
    faulthandler.register(signal.SIGXCPU, all_threads=True, chain=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    seconds = cpu_seconds or target.cpu_seconds
    place = Path(tempfile.mkdtemp(prefix="case-", dir=os.environ["FUZZ_SCRATCH"]))
    bounded = False
    for number, (name, case) in enumerate(cases):
        folder = place / str(number)
        folder.mkdir()
        print(json.dumps(["start", name]), file=answers)
        used = resource.getrusage(resource.RUSAGE_SELF)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        spent = int(used.ru_utime + used.ru_stime)
        resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds + 1, hard))
        if not bounded:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            memory = pages * resource.getpagesize() + target.memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (memory, resource.RLIM_INFINITY))
            bounded = number >= 3  # by then libraries have been loaded and threads have begun
            if not bounded:
                resource.setrlimit(resource.RLIMIT_AS, (memory + (1 << 30), resource.RLIM_INFINITY))
        verdict = judged(target, name, case, folder)
        resource.setrlimit(
            resource.RLIMIT_CPU, (hard, hard)
        )  # drawing the next one is not its time
        print(json.dumps(["end", verdict.outcome, verdict.failed, verdict.detail]), file=answers)
        shutil.rmtree(folder, ignore_errors=True)
    target.close()
    shutil.rmtree(place, ignore_errors=True)


def judged(target: Target, name: str, case: Case, folder: Path) -> Verdict:
    """Try a case and judge what came out."""
    from quaver.errors import QuaverError

    try:
        return Verdict(name, target.run(case, folder))
    except QuaverError as error:
        return Verdict(name, type(error).__name__)
    except BaseException as error:  # noqa: BLE001 - a PanicException is no Exception, and is what is looked for
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "/quaver/" in frame.filename] or [*frames]
        place = f"{Path(own[-1].filename).name}:{own[-1].name}" if own else "?"
        said = re.sub(r"0x[0-9a-f]+|\d+|'[^']*'", "#", " ".join(str(error).split()))[:80]
        detail = "".join(traceback.format_exception(error))[-3000:]
        return Verdict(name, f"{type(error).__name__} in {place}: {said}", True, detail)


# --- In the parent ---
def verdicts(
    target: Target,
    names: Sequence[str],
    *,
    scratch: Path,
    deadline: float | None = None,
    file: Path | None = None,
) -> Iterator[Verdict]:
    """Try cases in child processes; one that kills its process costs that process.

    Args:
        target: the target.
        names: the cases.
        scratch: where children write.
        deadline: `time.monotonic()` after which no further case begins.
        file: a reproducer, which is then the only case.
    """
    todo = list(names)
    while todo and (deadline is None or time.monotonic() < deadline):
        batch, todo = todo[:BATCH], todo[BATCH:]
        ended = 0
        for verdict in _batch(target, batch, scratch, deadline, file):
            ended += 1
            yield verdict
        todo = batch[ended:] + todo if ended else todo


def _batch(
    target: Target, names: Sequence[str], scratch: Path, deadline: float | None, file: Path | None
) -> Iterator[Verdict]:
    environment = {
        **os.environ,
        "FUZZ_SCRATCH": str(scratch),
        "PYTHONHASHSEED": "0",
        "RAYON_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OPENBLAS_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "RUST_BACKTRACE": "0",
    }
    command = [sys.executable, __file__, "--child", target.name]
    command += ["--reproduce", str(file)] if file else []
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=environment
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n".join(names).encode())
        process.stdin.close()
        current, late, ended, stopped = None, False, False, False
        buffer, heard, used = b"", time.monotonic(), -1
        try:
            while True:
                if not select.select([process.stdout], [], [], 1)[0]:
                    if used != (used := _ticks(process.pid)):
                        heard = time.monotonic()
                    elif time.monotonic() > heard + BLOCKED_SECONDS:
                        late = True
                        process.send_signal(signal.SIGABRT)  # faulthandler prints its stack
                        break
                    continue
                heard = time.monotonic()
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    ended = True
                    break
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    kind, *values = json.loads(line)
                    if kind == "start":
                        current = values[0]
                    else:
                        assert current is not None
                        yield Verdict(current, *values)
                        current = None
                if deadline is not None and current is None and time.monotonic() > deadline:
                    stopped = True
                    break
        finally:
            # Killed at once where time is over, or the caller wants no more.
            _end(process, 10 if late or ended else 0)
            code = process.wait()
            process.stdout.close()
        if current is None:
            if code and not stopped:
                said.seek(0)
                raise RuntimeError(
                    f"the child of {target.name} ended with {code}:\n{said.read()[-3000:]}"
                )
            return
        said.seek(0)
        trace = said.read()[-6000:]
    frames = re.findall(r'File "[^"]*/quaver/([^"]+)", line \d+ in (\w+)', trace)
    where = ":".join(frames[0]) if frames else "no frame of Quaver"
    what = {-signal.SIGXCPU: f"more than {target.cpu_seconds} s of processor time"}.get(code)
    what = (
        "blocked"
        if late
        else what or (f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}")
    )
    yield Verdict(current, f"{what} in {where}", True, trace)


def _ticks(pid: int) -> int:
    """Return the processor time of a process and its descendants, in ticks."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = [
            child
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return 0
    return sum(map(int, fields[11:15])) + sum(_ticks(int(child)) for child in children)


def _end(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()


def fuzz(
    target: Target,
    *,
    seed: int,
    first: int,
    count: int | None,
    seconds: float | None,
    scratch: Path,
    out: Path,
) -> Report:
    """Try cases until there are enough or time is over, and write reproducers."""
    report, begun = Report(target.name), time.monotonic()
    deadline = None if seconds is None else begun + seconds
    number = first
    while (count is None or number < first + count) and (
        deadline is None or time.monotonic() < deadline
    ):
        size = BATCH if count is None else min(BATCH, first + count - number)
        names = [f"{seed}.{n}" for n in range(number, number + size)]
        for verdict in verdicts(target, names, scratch=scratch, deadline=deadline):
            report.add(verdict)
            if verdict.failed and len(report.failures[verdict.outcome]) == 1:
                print(
                    f"  {target.name} {verdict.name}: {verdict.outcome}",
                    file=sys.stderr,
                    flush=True,
                )
            if verdict.failed and len(report.failures[verdict.outcome]) <= 3:
                write_reproducer(out, target, verdict, drawn(target, verdict.name))
        number += size
    report.seconds = time.monotonic() - begun
    return report


def write_reproducer(out: Path, target: Target, verdict: Verdict, case: Case) -> None:
    """Write a failed case whole, so that it can be tried when other seeds name other cases."""
    out.mkdir(parents=True, exist_ok=True)
    head = {"target": target.name, "case": verdict.name, "failure": verdict.outcome}
    content = {**head, "detail": verdict.detail.splitlines()[-40:], **json.loads(case.to_json())}
    path = out / f"{target.name}-{verdict.name}.json"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def show(report: Report, out: Path) -> None:
    """Print a report."""
    failed = sum(map(len, report.failures.values()))
    rate = report.cases / report.seconds if report.seconds else 0
    print(
        f"{report.target}: {report.cases} cases, {rate:.0f} a second, {failed} failed", flush=True
    )
    for outcome, count in report.outcomes.most_common():
        print(f"  {count:7} {outcome}")
    for outcome, found in sorted(report.failures.items(), key=lambda item: -len(item[1])):
        print(f"  {len(found):7} FAILED {outcome}")
        for verdict in found[:3]:
            print(f"          --reproduce {out / f'{report.target}-{verdict.name}.json'}")
    sys.stdout.flush()


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", help="only these, joined by commas; all if left out")
    parser.add_argument("--seconds", type=float, help="time for all targets together")
    parser.add_argument("--cases", type=int, help="cases of each target, instead of a time")
    parser.add_argument(
        "--quick", action="store_true", help="the fixed cases of CI: about a minute"
    )
    parser.add_argument("--known", action="store_true", help="the corpus of cases that once failed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument(
        "--out", type=Path, default=Path("build/fuzz"), help="where reproducers are written"
    )
    parser.add_argument(
        "--reproduce", type=Path, help="a reproducer, or a case such as folders:1.4711"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        target = targets()[arguments.child]()
        if arguments.reproduce:
            child(
                target,
                iter([("1", Case.from_json(arguments.reproduce.read_text(encoding="utf-8")))]),
            )
        else:
            names = sys.stdin.read().split("\n")
            child(target, ((name, drawn(target, name)) for name in names))
        return 0
    kinds = targets()
    with tempfile.TemporaryDirectory(prefix="quaver-fuzz-") as scratch:
        if arguments.reproduce:
            return reproduce(arguments.reproduce, Path(scratch))
        names = (
            arguments.target.split(",")
            if arguments.target
            else [k for k in kinds if kinds[k].share]
        )
        shares = sum(kinds[name].share for name in names)
        failed = False
        for name in names:
            target = kinds[name]()
            if arguments.known:
                failed |= known(target, Path(scratch))
                continue
            seconds = arguments.seconds * target.share / shares if arguments.seconds else None
            count = target.quick if arguments.quick else arguments.cases
            if seconds is None and count is None:
                parser.error("say --seconds, --cases or --quick")
            report = fuzz(
                target,
                seed=arguments.seed,
                first=arguments.first,
                count=count,
                seconds=seconds,
                scratch=Path(scratch),
                out=arguments.out,
            )
            show(report, arguments.out)
            failed |= bool(report.failures)
    return int(failed)


def known(target: Target, scratch: Path) -> bool:
    """Try the corpus of a target and print what came of each case; return whether one failed."""
    from known_cases import KNOWN_CASES

    failed = False
    names = [KNOWN + name for name in KNOWN_CASES.get(target.name, ())]
    for verdict in verdicts(target, names, scratch=scratch):
        failed |= verdict.failed
        mark = "FAILED" if verdict.failed else "held:"
        print(f"{target.name}, {verdict.name}: {mark} {verdict.outcome}", flush=True)
    return failed


def reproduce(file: Path, scratch: Path) -> int:
    """Try one case again, a reproducer or TARGET:CASE, and print what came of it."""
    if not file.exists() and ":" in str(file):
        name, _, case = str(file).partition(":")
        target = targets()[name]()
        found, story = verdicts(target, [case], scratch=scratch), drawn(target, case).story
    else:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        target = targets()[content["target"]]()
        found, story = verdicts(target, ["1"], scratch=scratch, file=file), content["story"]
    verdict = next(iter(found))
    print(*story, sep="\n")
    print("FAILED" if verdict.failed else "held:", verdict.outcome)
    print(verdict.detail, end="")
    return int(verdict.failed)


if __name__ == "__main__":
    sys.exit(main())
