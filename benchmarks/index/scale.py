"""Index a million passages in one process, search them, and say what ten million would take.

    python benchmarks/index/scale.py MODEL CORPUS.jsonl ... --place FOLDER --out RECORD.json

The texts of the corpora, one JSON object with "text" per line, are written as files and indexed as by
``quaver index``. If there are too few, the same words are cut into other passages. A transformer needs hours
for a million passages; ``--table`` indexes with its word embeddings alone, as a static model, so that what is
measured is reading, splitting, tokenizing and storing. The record says how much of the time was the model.

The record is rewritten every few seconds. Whatever ends the command (``--minutes``, Ctrl-C, kill -9), the same
command continues: indexing from what the store has, and each later step from its beginning. Each step runs in
a process of its own, so that its memory is its own:

    texts      write the files
    index      one process, from the first passage to the last; at some sizes it waits for a process that searches
    again      index the same folder again: nothing is embedded
    search     open the store, and search by vector, by words and by both; compare with the exact order
    parts      time what a search by vector does, at the full size and at ten times that

Seconds are by the clock and of the CPU; only the latter mean something on a machine with other work, whose load
average is in each row. To limit the memory instead of only measuring it:

    systemd-run --scope -p MemoryMax=1500M python benchmarks/index/scale.py ...
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
from corpus import memory, questions, texts_of, write_folder
from search_speed import K, latencies, recall

from quaver import Embedder, Index, QuaverError
from quaver.evaluate import write_between
from quaver.index import UpdateProgress
from quaver.store.nearest import RESCORED_SHARE, differences, nearest, words_of
from quaver_bench.models import short_name
from quaver_bench.record import describe_run

REPOSITORY = Path(__file__).resolve().parents[2]
START, END = "<!-- scale:start -->", "<!-- scale:end -->"
ROOT = "texts"
LIMIT_MB = 1500
"""Memory that indexing must not exceed."""
TIMES = 10
"""How many times as many passages are simulated."""
SEARCHED_AT = (16, 8, 4, 2)
"""Fractions of the passages at which indexing waits for searches."""
COMPARED = 200
"""Questions that are compared with the exact order."""
TRIAL = 500
"""Texts that are split to know how many passages a text has."""
ROUNDS = 5
BUSY = 0.5
"""CPUs of other programs from which a machine is called busy."""
PARTS = {
    "model": "the model",
    "reading": "reading, splitting and tokenizing",
    "storing": "storing",
    "merging": "merging words at the end",
    "libraries": "threads of libraries",
    "others": "starting and recording",
}
"""What CPU time was for, by the names in the record."""


class OutOfTimeError(Exception):
    """``--minutes`` are over."""


class Record:
    """The record: read from its file if there is one, and written in one step.

    Attributes:
        content: a JSON object.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        """Read the record, or begin one.

        Args:
            given: from the command line.
        """
        self._path: Path = given.out
        settings = {
            "model": given.name or short_name(str(given.model)),
            "table": given.table,
            "passages": given.passages,
            "passage_tokens": given.passage_tokens,
            "threads": given.threads,
            "corpora": [path.parent.name for path in given.corpora],
        }
        self.content: dict[str, Any] = {
            "kind": "scale",
            "run": describe_run(given.threads, sys.argv),
            "settings": settings,
            "steps": {},
            "runs": [],
            "rows": [],
            "searches": [],
        }
        if self._path.is_file():
            self.content = json.loads(self._path.read_text(encoding="utf-8"))
            if self.content["settings"] != settings:
                sys.exit(f"scale: {self._path} has other settings; give another --out and --place")

    def save(self) -> None:
        """Replace the file."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(f"{self._path.name}.part")
        part.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        part.replace(self._path)


class Recorder:
    """Adds a row to the record at regular intervals, in a thread.

    Attributes:
        passages: how many are stored; set by the caller.
    """

    def __init__(self, record: Record, store: Path, seconds: float, passages: int) -> None:
        """Start the thread; times go on from the last row of the record.

        Args:
            record: gets the rows.
            store: the store's folder.
            seconds: between two rows.
            passages: how many are stored before.
        """
        self.passages = passages
        self._last = passages, 0.0
        rows = record.content["rows"]
        before = rows[-1] if rows else {"seconds": 0.0, "cpu_seconds": {}}
        self._seconds, self._cpu = before["seconds"], before["cpu_seconds"]
        self._record, self._store, self._paused = record, store, 0.0
        self._by_thread: dict[str, float] = {}
        self._cpu_begin = (
            time.process_time()
        )  # a process keeps its time when it becomes the next step
        self._begin, self._started, self._merging = time.perf_counter(), 0.0, 0.0
        self._lock, self._done = threading.Lock(), threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(seconds,), name="recorder", daemon=True
        )
        self._thread.start()

    def _run(self, seconds: float) -> None:
        while not self._done.wait(seconds):
            self.note()

    def started(self) -> None:
        """Note that the caller's thread has loaded the model and listed the folder."""
        self._started = time.thread_time()

    def merging(self, merge: Callable[[], None]) -> None:
        """Merge words in the caller's thread, and note its time."""
        self.note()
        begin = time.thread_time()
        merge()
        self._merging += time.thread_time() - begin

    def pause(self, work: Callable[[], None]) -> None:
        """Do something whose time does not count."""
        with self._lock:
            begin = time.perf_counter()
            work()
            self._paused += time.perf_counter() - begin

    def note(self) -> None:
        """Add a row and save the record."""
        with self._lock:
            elapsed = time.perf_counter() - self._begin - self._paused
            new = self.passages - self._last[0]
            rate = new / max(elapsed - self._last[1], 1e-9)
            self._last = self.passages, elapsed
            row = {
                "passages": self.passages,
                "passages_per_second": round(rate, 1),
                "seconds": round(self._seconds + elapsed, 1),
                "cpu_seconds": {
                    part: round(self._cpu.get(part, 0.0) + value, 1)
                    for part, value in self._shares().items()
                },
                **memory(),
                "disk_mb": round(disk(self._store), 1),
                "load": round(os.getloadavg()[0], 2),
            }
            self._record.content["rows"].append(row)
            self._record.save()
        print(json.dumps(row), flush=True)

    def _shares(self) -> dict[str, float]:
        """Return the CPU seconds of this process by what they were for."""
        for name, value in thread_seconds().items():  # a thread that has ended keeps its last value
            self._by_thread[name] = max(value, self._by_thread.get(name, 0.0))
        main = self._by_thread["MainThread"]
        shares = {
            "model": max(0.0, main - self._started - self._merging) if self._started else 0.0,
            "reading": self._by_thread.get("quaver-read-ahead", 0.0),
            "storing": self._by_thread.get("quaver-store", 0.0),
            "merging": self._merging,
            "libraries": self._by_thread.get("", 0.0),
        }
        used = time.process_time() - self._cpu_begin
        return {**shares, "others": max(0.0, used - sum(shares.values()))}

    def stop(self) -> None:
        """Stop the thread and add a last row."""
        self._done.set()
        self._thread.join()
        self.note()


def thread_seconds() -> dict[str, float]:
    """Return the CPU seconds of this process's threads by their names; "" for those of libraries."""
    names = {
        thread.native_id: thread.name.partition("_")[0]  # a pool's threads are numbered
        for thread in threading.enumerate()
    }
    tick = os.sysconf("SC_CLK_TCK")
    seconds: dict[str, float] = defaultdict(float)
    for task in Path("/proc/self/task").iterdir():
        try:
            fields = (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        seconds[names.get(int(task.name), "")] += (int(fields[11]) + int(fields[12])) / tick
    return dict(seconds)


def disk(folder: Path) -> float:
    """Return the size of a folder on disk in MB."""
    size = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a file of a commit may have been renamed
            size += file.stat().st_blocks * 512
    return size / 1e6


def word_table(model: Path, folder: Path) -> None:
    """Write a static model of a transformer's word embeddings.

    Formula:
        row t = a / (a + p_t) * (embedding of t - mean embedding), a = 1e-4, p_t proportional to 1 / (t + 2):
        vocabularies begin with frequent words

    Source:
        Arora et al., "A Simple but Tough-to-Beat Baseline for Sentence Embeddings", ICLR 2017.
    """
    from safetensors import safe_open
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer

    with safe_open(model / "model.safetensors", "numpy") as file:
        (name,) = (name for name in file.keys() if name.endswith("word_embeddings.weight"))  # noqa: SIM118
        rows = file.get_tensor(name).astype(np.float32)
    shares = 1 / np.arange(2, len(rows) + 2)
    weights = 1e-4 / (1e-4 + shares / shares.sum())
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(folder / "tokenizer.json"))
    tensors = {"embeddings": rows - rows.mean(axis=0), "weights": weights.astype(np.float32)}
    save_file(tensors, folder / "model.safetensors")
    config = {"model_type": "model2vec", "normalize": True, "max_length": 512}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def load(given: argparse.Namespace) -> Embedder:
    """Load the model."""
    model = given.place / "model" if given.table else given.model
    return Embedder.from_pretrained(model, threads=given.threads)


def make_texts(given: argparse.Namespace, record: Record) -> dict[str, Any]:
    """Write files with about as many passages as wanted."""
    if given.table:
        word_table(given.model, given.place / "model")
    embedder = load(given)
    counts, rates = [], []
    for turn in (0, 1):  # all later turns have about as many passages as the first of them
        counts.append(sum(1 for _ in texts_of(turn, given.corpora)))
        apart = max(1, counts[-1] // TRIAL)  # a sample of every part of the corpora
        sample = islice(texts_of(turn, given.corpora), 0, None, apart)
        with tempfile.TemporaryDirectory(dir=given.place) as name:
            for number, text in enumerate(sample):
                (Path(name) / f"{number}.txt").write_text(text, encoding="utf-8")
            with Index.create(":memory:", embedder, passage_tokens=given.passage_tokens) as trial:
                trial.update(name)
                rates.append(trial.store.count() / (number + 1))
    missing = given.passages - counts[0] * rates[0]
    number = round(given.passages / rates[0] if missing < 0 else counts[0] + missing / rates[1])
    write_folder(given.place / "texts", given.corpora, number)
    return {"texts": counts[0], "files": number, "passages_of_a_text": rates}


def index_texts(given: argparse.Namespace, record: Record) -> dict[str, Any]:
    """Index the files, from what the store has; searches run at some sizes."""
    store, embedder = given.place / "kb", load(given)
    if Index.exists(store):
        opened = Index.open(store, embedder)
    else:
        opened = Index.create(store, embedder, passage_tokens=given.passage_tokens)
    end = time.monotonic() + 60 * given.minutes
    with opened as index:
        before = index.store.count()
        recorder = Recorder(record, store, given.every, before)
        record.content["runs"].append({"began": _now(), "passages": before})
        searched = max((row["passages"] for row in record.content["searches"]), default=0)
        sizes = [given.passages // part for part in SEARCHED_AT]
        waiting = [size for size in sizes if size > searched]
        merge = index.store.optimize
        index.store.optimize = lambda: recorder.merging(merge)  # type: ignore[method-assign]

        def show(progress: UpdateProgress) -> None:
            if progress.embedded == 0:
                recorder.started()
            recorder.passages = before + progress.passages
            if waiting and recorder.passages >= waiting[0]:
                while waiting and recorder.passages >= waiting[0]:
                    del waiting[0]
                recorder.note()
                recorder.pause(lambda: record.content["searches"].append(_searched_apart()))
            if time.monotonic() > end:
                raise OutOfTimeError

        try:
            report = index.update(given.place / "texts", name=ROOT, on_progress=show)
            recorder.passages = index.store.count()
        finally:
            recorder.stop()
    return {
        "passages": recorder.passages,
        "reused": report.reused,
        "files": report.files,
        "truncated": report.truncated,
        "peak_mb": max(row["peak_mb"] for row in record.content["rows"]),
        "private_mb": max(row["anonymous_mb"] for row in record.content["rows"]),
    }


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def _searched_apart() -> dict[str, Any]:
    """Search what is stored so far, in a process of its own."""
    command = [sys.executable, *sys.argv, "--search-only"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def index_again(given: argparse.Namespace, record: Record) -> dict[str, Any]:
    """Index the same folder again, which embeds nothing."""
    private = 0.0

    def show(progress: UpdateProgress) -> None:
        nonlocal private
        private = max(private, memory()["anonymous_mb"])

    with Index.open(given.place / "kb", load(given)) as index:
        cpu = time.process_time()
        report = index.update(given.place / "texts", name=ROOT, on_progress=show)
        cpu = time.process_time() - cpu
    return {
        "added": report.added,
        "unchanged": report.unchanged,
        "seconds": round(report.seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "load": round(os.getloadavg()[0], 2),
        "private_mb": private,
        "peak_mb": memory()["peak_mb"],
    }


def search(given: argparse.Namespace, record: Record) -> dict[str, Any]:
    """Search the whole store."""
    found = searches(given)
    record.content["searches"].append(found)
    return {"passages": found["passages"]}


def searches(given: argparse.Namespace) -> dict[str, Any]:
    """Open the store to read, and search it in each mode.

    Returns:
        milliseconds by the clock and of the CPU, from text to hits; the share of the nearest that are
        found; and memory after the searches.
    """
    embedder, asked = load(given), questions(given.corpora, given.questions)
    begin = time.perf_counter()
    with Index.open(given.place / "kb", embedder, read_only=True) as index:
        opened = time.perf_counter() - begin
        begin = time.perf_counter()
        index.search(asked[0], k=K)
        result: dict[str, Any] = {
            "passages": index.store.count(),
            "open_seconds": round(opened, 3),
            "first_seconds": round(time.perf_counter() - begin, 3),
            "questions": len(asked),
            "memory_opened": memory(),
        }
        result |= latencies(index, asked)
        result |= {"memory": memory(), "load": round(os.getloadavg()[0], 2)}
        result["recall_at_10"] = round(recall(index, asked[:COMPARED]), 4)
    return result


def parts(given: argparse.Namespace, record: Record) -> dict[str, Any]:
    """Time both steps of a search by vector on random vectors, at this size and at `TIMES` this size."""
    dimension = load(given).dimension
    stored = record.content["steps"]["index"]["passages"]
    chance = np.random.default_rng(0)
    query = chance.standard_normal(dimension).astype(np.float32)
    signs = chance.integers(0, 1 << 63, words_of(dimension), np.uint64)
    result = {"dimension": dimension}
    for name, rows in (("measured", stored), ("simulated", TIMES * stored)):
        sketched = chance.integers(0, 1 << 63, (words_of(dimension), rows), np.uint64)
        compared = _cpu_ms(differences, signs, sketched)
        del sketched
        count = max(1, rows // RESCORED_SHARE)
        vectors = chance.standard_normal((2 * count, dimension), np.float32)
        among = np.arange(2 * count) % 2 == 0
        rescored = _cpu_ms(nearest, query, vectors, among, None, K)
        result[name] = {"rows": rows, "signs_ms": compared, "vectors_ms": rescored}
    return {**result, "load": round(os.getloadavg()[0], 2)}


def _cpu_ms(call: Callable[..., object], *arguments: object) -> float:
    """Return the median CPU milliseconds of a call."""
    found = []
    for _ in range(ROUNDS):
        begin = time.process_time()
        call(*arguments)
        found.append(1000 * (time.process_time() - begin))
    return round(statistics.median(found), 2)


STEPS: dict[str, Callable[[argparse.Namespace, Record], dict[str, Any]]] = {
    "texts": make_texts,
    "index": index_texts,
    "again": index_again,
    "search": search,
    "parts": parts,
}


def most_private(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Return the most private memory up to each row, in MB."""
    return list(accumulate((row["anonymous_mb"] for row in rows), max))


def line(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Return the start and the slope of the line that fits best."""
    columns = np.stack([np.ones(len(sizes)), np.array(sizes, np.float64)], axis=1)
    start, slope = np.linalg.lstsq(columns, np.array(values, np.float64), rcond=None)[0]
    return float(start), float(slope)


def forecast(content: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Continue lines through what was measured to `TIMES` as many passages.

    Args:
        content: of a record with all steps.

    Returns:
        for each quantity the value at the largest size, that of the line through all sizes at `TIMES` as
        many, and "tested": what the line through the smaller sizes alone says of the largest, divided by what
        was measured there. The smaller sizes are a tenth for indexing and a fourth for searches.
    """
    rows, found = content["rows"], content["searches"]
    largest = content["steps"]["index"]["passages"]
    indexing = {
        "CPU seconds of indexing": [sum(row["cpu_seconds"].values()) for row in rows],
        "private memory of indexing, at most, MB": most_private(rows),
        "disk, MB": [row["disk_mb"] for row in rows],
    }
    searching = {
        "seconds to open": [one["open_seconds"] for one in found],
        "seconds of the first search": [one["first_seconds"] for one in found],
        "private memory of searching, MB": [one["memory"]["anonymous_mb"] for one in found],
        **{
            f"{mode} search, CPU ms": [one[mode]["cpu_p50_ms"] for one in found]
            for mode in ("dense", "bm25", "hybrid")
        },
    }
    made = {}
    for sizes, quantities, share in (
        ([row["passages"] for row in rows], indexing, 10),
        ([one["passages"] for one in found], searching, 4),
    ):
        few = [i for i, size in enumerate(sizes) if size <= 1.01 * largest / share]
        for name, values in quantities.items():
            start, slope = line(sizes, values)
            made[name] = {"measured": values[-1], "forecast": start + slope * TIMES * largest}
            if len(few) > 1 and values[-1]:
                start, slope = line([sizes[i] for i in few], [values[i] for i in few])
                made[name]["tested"] = (start + slope * sizes[-1]) / values[-1]
    return made


def section(content: dict[str, Any], place: str = "") -> str:
    """Return a record as Markdown.

    Args:
        content: of the record.
        place: the record's path in the repository, for a link.
    """
    rows, steps, settings = content["rows"], content["steps"], content["settings"]
    if not rows:
        return "Nothing is indexed yet."
    run, last = content["run"], rows[-1]
    used = sum(last["cpu_seconds"].values())
    load = statistics.fmean(row["load"] for row in rows)
    busy = load - used / max(last["seconds"], 1e-9) > BUSY
    noted = ", busy machine" if busy else ""
    lines = [
        f"| passages | CPU seconds | seconds{noted} | private memory at most | resident at most | disk |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    shown = [
        next((row for row in rows if row["passages"] >= settings["passages"] // part), last)
        for part in SEARCHED_AT
    ]
    for row in [*(row for row in shown if row is not last), last]:
        private = most_private(rows[: rows.index(row) + 1])[-1]
        lines.append(
            f"| {row['passages']:,} | {sum(row['cpu_seconds'].values()):,.0f} | {row['seconds']:,.0f} | "
            f"{private:,.0f} MB | {row['peak_mb']:,.0f} MB | {row['disk_mb'] / 1000:.2f} GB |"
        )
    peak = max(row["peak_mb"] for row in rows)
    words = "the word embeddings of " if settings["table"] else ""
    kind = ", a static model" if settings["table"] else ""
    parts_of_time = ", ".join(
        f"{PARTS[part]} {100 * value / used:.0f} %" for part, value in last["cpu_seconds"].items()
    )
    lines += [
        "",
        f"Passages of at most {settings['passage_tokens']} tokens with {words}{settings['model']}{kind}, "
        f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''}, in {len(content['runs'])} run"
        f"{'s' if len(content['runs']) > 1 else ''} of the command. {run['cpu']}, {run['cpus']} CPUs, load average "
        f"{load:.1f}, {used / max(last['seconds'], 1e-9):.1f} of it this process. Its resident memory, with the "
        f"files that it maps, was at most {peak:,.0f} MB: the limit of {LIMIT_MB:,} MB was "
        f"{'met' if peak < LIMIT_MB else 'missed'}. CPU time: {parts_of_time}.",
    ]
    if "index" not in steps:
        return "\n".join([*lines, "", "Not all is indexed: the same command continues."])
    if "again" in steps:
        again = steps["again"]
        lines += [
            "",
            f"Indexing again, {again['unchanged']:,} passages unchanged: {again['cpu_seconds']:,.0f} CPU seconds, "
            f"at most {again['private_mb']:,.0f} MB private and {again['peak_mb']:,.0f} MB resident.",
        ]
    lines += ["", *_searches_table(content["searches"], busy=busy)]
    if set(steps) == set(STEPS):
        lines += ["", *_forecast_table(content)]
    return "\n".join([*lines, *(["", f"[The record](../../{place})."] if place else [])])


def _searches_table(found: Sequence[dict[str, Any]], *, busy: bool) -> list[str]:
    noted = ", busy machine" if busy else ""
    modes = ("dense", "bm25", "hybrid")
    lines = [
        f"| passages | open, first search{noted} | {' | '.join(f'{mode}, ms' for mode in modes)} | recall@{K} | "
        "private, resident |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in found:
        cells = (
            f"{one[mode]['cpu_p50_ms']:.1f} ({one[mode]['p50_ms']:.1f}, {one[mode]['p99_ms']:.0f})"
            for mode in modes
        )
        after = one["memory"]
        lines.append(
            f"| {one['passages']:,} | {one['open_seconds']:.2f} s, {one['first_seconds']:.2f} s | "
            f"{' | '.join(cells)} | {100 * one['recall_at_10']:.2f} % | {after['anonymous_mb']:,.0f}, "
            f"{after['anonymous_mb'] + after['mapped_mb']:,.0f} MB |"
        )
    return [
        *lines,
        "",
        f"Milliseconds from text to hits over {found[0]['questions']} questions: CPU time, in the median; in "
        f"brackets by the clock{noted}, median and 99th percentile. Recall of the {K} nearest against the exact "
        f"order, {COMPARED} questions at most. Memory after these searches: private, and with mapped files.",
    ]


def _forecast_table(content: dict[str, Any]) -> list[str]:
    largest = content["steps"]["index"]["passages"]
    lines = [
        f"| | {largest:,}, measured | {TIMES * largest:,}, forecast | the same method, tested |",
        "|---|---:|---:|---:|",
    ]
    for name, values in forecast(content).items():
        tested = f"{100 * values['tested'] - 100:+.0f} %" if "tested" in values else ""
        lines.append(
            f"| {name} | {_short(values['measured'])} | {_short(values['forecast'])} | {tested} |"
        )
    timed = content["steps"]["parts"]
    texts = [
        f"{one['signs_ms']:,.1f} ms for signs and {one['vectors_ms']:,.1f} ms for vectors among {one['rows']:,}"
        for one in (timed["measured"], timed["simulated"])
    ]
    whole = content["searches"][-1]["dense"]["cpu_p50_ms"]
    sums = [one["signs_ms"] + one["vectors_ms"] for one in (timed["measured"], timed["simulated"])]
    return [
        *lines,
        "",
        "Forecasts continue the line that fits all rows best. Tested: what the line through the sizes up to a tenth "
        "(indexing) or a fourth (searches) says of the largest, against what was measured there.",
        "",
        f"Both steps of a search by vector, timed on random vectors of {timed['dimension']} components at full size: "
        f"{', '.join(texts)}, which is {sums[1] / sums[0]:.1f} times as long. Of the {whole:.1f} ms of a whole search "
        f"above they are {sums[0]:.1f} ms; the others are the question, its hits, and pages that are read anew.",
    ]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def page_section(place: str) -> str:
    """Return a page's text between the markers.

    Args:
        place: the record, from the root of the repository.
    """
    return section(json.loads((REPOSITORY / place).read_text(encoding="utf-8")), place)


def main() -> None:
    """Run the first step that the record lacks, then the next one in a new process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("model", type=Path, help="model folder")
    add("corpora", type=Path, nargs="+", help=".jsonl files of texts")
    add("--place", type=Path, required=True, help="folder for the files and the store; kept")
    add("--out", type=Path, required=True, help="the record, JSON")
    add("--name", help="the model's name in the record; default: its folder's")
    add("--table", action="store_true", help="only the model's word embeddings, as a static model")
    add("--passages", type=int, default=1_000_000, help="about how many")
    add("--passage-tokens", type=int, default=64)
    add("--questions", type=int, default=300)
    add("--threads", type=int, default=1)
    add("--minutes", type=float, default=float("inf"), help="stop indexing after so many")
    add("--every", type=float, default=10, help="seconds between two rows of the record")
    add("--page", type=Path, help="also write the tables between the markers of this page")
    add("--search-only", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.search_only:
        print(json.dumps(searches(given)))
        return
    for corpus in given.corpora:
        if not corpus.is_file():
            parser.error(f"there is no file {corpus}")
    given.place.mkdir(parents=True, exist_ok=True)
    record = Record(given)
    steps = record.content["steps"]
    step = next((name for name in STEPS if name not in steps), None)
    if step is not None:
        print(f"{step} ...", file=sys.stderr, flush=True)
        try:
            steps[step] = STEPS[step](given, record)
        except OutOfTimeError:
            print(section(record.content))
            return
        except (QuaverError, ValueError) as error:
            sys.exit(f"scale: {error}")
        record.save()
        os.execv(sys.executable, [sys.executable, *sys.argv])
    print(section(record.content))
    if given.page is not None:
        place = given.out.resolve().relative_to(REPOSITORY).as_posix()
        write_between(given.page, page_section(place), start=START, end=END)


if __name__ == "__main__":
    main()
