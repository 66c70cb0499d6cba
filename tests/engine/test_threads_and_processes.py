"""Threads, processes, forks, Ctrl-C, memory, and what an import does.

What concerns a whole process runs in one of its own. No test is decided by how fast the machine is.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quaver.system.switch import POSIX

TESTS = Path(__file__).parents[1]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc or limits a process")
forks = pytest.mark.skipif(not POSIX, reason="the portable form does not follow a fork")

# What every script below starts with; `exact(x, y)` compares bits.
PRELUDE = """
import os, signal, sys, threading, time
sys.path.insert(0, {tests!r})
import numpy as np
from quaver.models import encoder_spec, encoder_weights
from quaver.engine import Engine
from quaver.models.tokenizer import TokenBatch
from tiny_model import tiny_config, tiny_tensors

def make(hidden=64, layers=2, positions=64, threads=2):
    config = tiny_config(hidden=hidden, layers=layers, max_positions=positions)
    spec = encoder_spec(config, pooling="mean", normalize=True)
    return Engine(spec, encoder_weights(spec, tiny_tensors(config)), threads=threads)

def texts(count, length=64):
    ids = np.arange(count * length, dtype=np.int32) * 7919 % 200
    return TokenBatch(ids, np.arange(0, count * length + 1, length, dtype=np.int32), None, 0)

exact = np.array_equal
"""


def script(body: str) -> list[str]:
    return [sys.executable, "-c", PRELUDE.format(tests=str(TESTS)) + body]


def run(body: str, *, timeout: float = 60) -> str:
    """Run a script to its end and return what it printed; a hang or an error fails the test."""
    done = subprocess.run(script(body), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- Import ---------------------------------------------------------------------------------------
def test_import_is_light() -> None:
    code = """
import os, sys
before = dict(os.environ)
import quaver
assert dict(os.environ) == before
import threading
assert threading.active_count() == 1
if os.path.isdir("/proc/self/task"):
    assert len(os.listdir("/proc/self/task")) == 1
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    heavy = {"torch", "transformers", "tokenizers", "huggingface_hub", "regex", "numpy"}
    assert not loaded & (heavy | {"safetensors", "typer", "rich", "tqdm", "bs4", "docutils"})
    assert "quaver._native" not in done.stdout.split()


@linux_only
def test_workers_start_with_the_first_call_that_needs_them() -> None:
    body = """
count = lambda: len(os.listdir("/proc/self/task"))
before = count()
alone, both = make(threads=1), make(threads=3)
alone.encode(texts(64))
assert count() == before
both.encode(texts(64))
again = make(threads=3)
again.encode(texts(64))
print(count() - before)
"""
    assert run(body) == "2"  # one pool for all engines of the process


@linux_only
def test_an_idle_pool_does_not_run() -> None:
    body = """
def workers():
    # State and context switches of every other thread.
    found = {}
    for task in os.listdir("/proc/self/task"):
        if int(task) != os.getpid():
            lines = open(f"/proc/self/task/{task}/status").read().splitlines()
            found[task] = [line for line in lines if line.startswith(("State", "volun", "nonvol"))]
    return found

engine = make(threads=3)
engine.encode(texts(64))
while not all(lines[0].startswith("State:\\tS") for lines in workers().values()):
    time.sleep(0.01)  # a worker that spins never gets here, and run() gives up
before = workers()
time.sleep(1)
print(len(before) >= 2, workers() == before)  # who ran in between was switched to
"""
    assert run(body) == "True True"


# --- Threads --------------------------------------------------------------------------------------
@pytest.mark.slow
def test_other_python_threads_run_during_a_call() -> None:
    body = """
engine, many = make(threads=1), texts(1000)
ticks, stop = 0, False

def tick():
    global ticks
    while not stop:
        ticks += 1
        time.sleep(0.001)

thread = threading.Thread(target=tick, daemon=True)
thread.start()
for _ in range(12):  # a slow machine needs one call, a fast one a longer one
    before, start = ticks, time.monotonic()
    engine.encode(many)
    during, seconds = ticks - before, time.monotonic() - start
    if seconds > 0.4:
        break
    many = texts(2 * len(many))
stop = True
thread.join()
print(during)
"""
    assert int(run(body)) >= 20  # with the GIL held: one or two


# --- Processes ------------------------------------------------------------------------------------
@forks
def test_a_forked_child_encodes() -> None:
    body = """
engine, batch = make(), texts(40)
expected = engine.encode(batch)
for _ in range(5):
    child = os.fork()
    if child == 0:
        same = all(exact(engine.encode(batch), expected) for _ in range(3))
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(0 if exact(engine.encode(batch), expected) else 1)
        os._exit(0 if same and os.waitpid(grandchild, 0)[1] == 0 else 1)
    assert exact(engine.encode(batch), expected)
    assert os.waitpid(child, 0)[1] == 0
print("same")
"""
    assert run(body) == "same"


@forks
def test_a_child_forked_during_a_call_of_another_thread_encodes() -> None:
    body = """
engine, batch = make(), texts(40)
expected = engine.encode(batch)
stop = False

def work():
    while not stop:
        assert exact(engine.encode(batch), expected)

threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
for thread in threads:
    thread.start()
failed = 0
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(0 if exact(engine.encode(batch), expected) else 1)
    failed += os.waitpid(child, 0)[1] != 0
stop = True
for thread in threads:
    thread.join()
print(failed)
"""
    assert run(body, timeout=100) == "0"


@pytest.mark.slow
def test_spawned_processes_encode(tiny_folder: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import multiprocessing
import numpy as np
from quaver import Embedder

TEXTS = ["the file of the list", "a function returns a value"] * 20

def encode(_):
    return Embedder.from_pretrained({str(tiny_folder)!r}, threads=2).encode(TEXTS)

if __name__ == "__main__":
    expected = encode(0)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print(all(np.array_equal(got, expected) for got in pool.map(encode, range(2))))
"""
    )
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.strip() == "True"


@pytest.mark.slow
@forks
def test_the_interpreter_ends_while_daemon_threads_encode() -> None:
    body = """
engine, short, longer = make(), texts(1, 4), texts(64)
engine.encode(texts(1, 1))  # one text alone starts no worker that a fork would lose

def work(batch):
    while True:
        engine.encode(batch)

def end():
    for _ in range(20):
        child = os.fork()
        if child == 0:
            for batch in (short, short, longer):
                threading.Thread(target=work, args=(batch,), daemon=True).start()
            time.sleep(0.03)
            return  # the child's interpreter ends
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(codes.count(0), set(codes) - {0})

codes = []
end()
"""
    assert run(body, timeout=100) == "20 set()"


@pytest.mark.slow
def test_the_thread_that_ends_the_interpreter_encodes() -> None:
    body = """
class Last:
    def __init__(self):
        self.engine, self.batch, self.write = make(), texts(3), os.write
        self.expected = self.engine.encode(self.batch).tobytes()

    def __del__(self):
        same = self.engine.encode(self.batch).tobytes() == self.expected
        self.write(1, b"same" if same else b"other")

last = Last()  # dies with its module, when daemon threads cannot run any more
"""
    assert run(body) == "same"


def test_another_thread_writes_to_the_batch_during_a_call() -> None:
    body = """
from quaver.errors import InputError
engine, batch = make(), texts(200)
sound, stop = batch.ids.copy(), False

def spoil():
    while not stop:
        batch.ids[:] = 2**30
        batch.ids[:] = sound

thread = threading.Thread(target=spoil, daemon=True)
thread.start()
encoded = refused = 0
for _ in range(60):
    try:
        engine.encode(batch)
        encoded += 1
    except InputError:
        refused += 1
stop = True
thread.join()
print(encoded + refused)
"""
    assert run(body) == "60"


# --- Ctrl-C ---------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_ends_a_long_call(threads: int) -> None:
    body = f"""
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell may ignore it
engine = make(hidden=256, threads={threads})
few, many = texts(4), texts(200_000)  # minutes of work in one native call
expected = engine.encode(few)
try:
    print("started", flush=True)
    engine.encode(many)
    print("finished", flush=True)
except KeyboardInterrupt:
    print("interrupted", exact(engine.encode(few), expected), flush=True)
"""
    with subprocess.Popen(script(body), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert out == "interrupted True\n"
    assert process.returncode == 0


# --- Memory ---------------------------------------------------------------------------------------
@linux_only
def test_too_little_memory_is_a_memory_error_and_nothing_else() -> None:
    body = """
import resource
from pathlib import Path
engine = make(positions=16384)
few, long = texts(40), texts(1, 16384)
expected = engine.encode(few)
pages = int(Path("/proc/self/statm").read_text().split()[0])
allowed = pages * resource.getpagesize() + (10 << 20)  # the long text wants about 25 MB
resource.setrlimit(resource.RLIMIT_AS, (allowed, resource.RLIM_INFINITY))
for _ in range(2):
    try:
        engine.encode(long)
        print("enough")
    except MemoryError:
        print(exact(engine.encode(few), expected), end=" ")
"""
    assert run(body) == "True True"


@pytest.mark.slow
@linux_only
def test_scratch_memory_does_not_grow_with_the_list() -> None:
    body = """
import resource
engine, one, rest = make(), texts(200), texts(2000)
engine.encode(one)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
engine.encode(rest)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    # KiB; the vectors themselves are 500, activations of all tokens would be 160,000.
    assert int(run(body)) < 20_000


@pytest.mark.slow
@linux_only
def test_a_long_text_does_not_keep_its_memory() -> None:
    body = """
import resource
from pathlib import Path
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20
engine = make(hidden=256, layers=1, positions=8192)
engine.encode(texts(4))
before = resident()
engine.encode(texts(1, 8192))  # its activations are 50 MB
print(resident() - before)
"""
    assert int(run(body)) < 25
