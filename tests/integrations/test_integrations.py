"""What the integrations share: extras, models loaded once, micro-batches."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from quaver import Embedder, InputError
from quaver.errors import needs_extra
from quaver.integrations.micro_batches import MOST_ITEMS, MicroBatcher
from quaver.integrations.shared_models import shared_embedder

TEXTS = ["the file", "a list of keys", "", "her own way"]


# --- Extras ---------------------------------------------------------------------------------------
def test_a_missing_library_names_its_extra() -> None:
    with (
        pytest.raises(ImportError, match=r"no_such_library .* pip install 'quaver\[haystack\]'"),
        needs_extra("haystack"),
    ):
        import no_such_library  # noqa: F401


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("quaver.integrations.langchain", "langchain"),
        ("quaver.integrations.llamaindex", "llamaindex"),
        ("quaver.integrations.chroma", "chroma"),
        ("quaver.integrations.lancedb", "lancedb"),
        ("haystack_integrations.components.embedders.quaver", "haystack"),
    ],
)
def test_an_integration_without_its_framework_names_the_extra(module: str, extra: str) -> None:
    libraries = ["haystack", "langchain_core", "llama_index", "chromadb", "lancedb"]
    hidden = f"import sys; sys.modules.update(dict.fromkeys({libraries}))"
    code = f"{hidden}\nimport {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith(f"pip install 'quaver[{extra}]'")


# --- Shared models --------------------------------------------------------------------------------
def test_the_same_model_and_settings_give_one_engine(tiny_folder: Path) -> None:
    first = shared_embedder(tiny_folder)
    assert shared_embedder(str(tiny_folder)) is first
    assert shared_embedder(os.path.relpath(tiny_folder)) is first
    assert shared_embedder(tiny_folder, precision="float32") is not first


def test_an_engine_that_nothing_holds_is_let_go(tiny_folder: Path) -> None:
    shared = shared_embedder(tiny_folder, threads=1)
    held = weakref.ref(shared.embedder)
    del shared
    gc.collect()
    assert held() is None


def test_threads_that_want_one_model_load_it_once(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    real = Embedder.from_pretrained

    def counted(*args: object, **settings: object) -> Embedder:
        loads.append(1)
        return real(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(Embedder, "from_pretrained", counted)
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(shared_embedder(tiny_folder, threads=3)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert len(set(map(id, found))) == 1


def test_copies_share_the_engine_and_another_process_loads_its_own(tiny_folder: Path) -> None:
    shared = shared_embedder(tiny_folder, truncate_dim=8)
    assert copy.deepcopy(shared) is shared is pickle.loads(pickle.dumps(shared))
    code = (
        "import pickle, sys\n"
        "shared = pickle.loads(bytes.fromhex(sys.stdin.read()))\n"
        "print(shared.encode(['my file'], 'query').tobytes().hex())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(shared).hex(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == shared.encode(["my file"], "query").tobytes().hex()


@pytest.mark.parametrize("role", ["query", "document"])
def test_async_gives_the_bits_of_the_embedder(tiny_folder: Path, role: str) -> None:
    shared = shared_embedder(tiny_folder)
    plain = getattr(shared.embedder, f"encode_{role}")(TEXTS)
    np.testing.assert_array_equal(shared.encode(TEXTS, role), plain)  # type: ignore[arg-type]

    async def each() -> list[np.ndarray]:
        return await asyncio.gather(*(shared.aencode([text], role) for text in TEXTS))  # type: ignore[arg-type]

    np.testing.assert_array_equal(np.concatenate(asyncio.run(each())), plain)


def test_a_prompt_replaces_the_models_own(tiny_folder: Path) -> None:
    shared = shared_embedder(tiny_folder)
    wanted = shared.embedder.encode(["my file"], prompt="")
    np.testing.assert_array_equal(shared.encode(["my file"], "query", prompt=""), wanted)
    assert not np.array_equal(shared.encode(["my file"], "query"), wanted)


def test_no_texts_give_no_rows_and_a_str_is_no_list(tiny_folder: Path) -> None:
    shared = shared_embedder(tiny_folder)
    assert shared.encode([], "query").shape == (0, 64)
    assert asyncio.run(shared.aencode([], "query")).shape == (0, 64)
    with pytest.raises(InputError, match=r"must be a list of str: got the str 'my file'"):
        shared.encode("my file", "query")
    with pytest.raises(InputError, match=r"must be a list of str"):
        asyncio.run(shared.aencode("my file", "query"))


# --- Micro-batches --------------------------------------------------------------------------------
class Recorder:
    """Doubles numbers and keeps every batch it was given; the first call waits to be let go."""

    def __init__(self) -> None:
        """Starts without batches."""
        self.batches: list[tuple[str, list[int]]] = []
        self.go = threading.Event()

    def __call__(self, key: str, items: list[int]) -> Sequence[int]:
        self.batches.append((key, items))
        assert self.go.wait(20)
        if -1 in items:
            raise ValueError("minus one")
        return [2 * item for item in items]


async def start(batcher: MicroBatcher[str, int, int], recorder: Recorder) -> asyncio.Task[object]:
    """Starts a first request, which keeps the engine busy until the recorder is let go."""
    task = asyncio.create_task(batcher.submit("a", [0]))
    while not recorder.batches:
        await asyncio.sleep(0.001)
    return task  # type: ignore[return-value]


def run_together(requests: list[tuple[str, list[int]]]) -> tuple[list[object], Recorder]:
    recorder = Recorder()

    async def main() -> list[object]:
        batcher = MicroBatcher(recorder)
        first = await start(batcher, recorder)
        others = [asyncio.create_task(batcher.submit(*request)) for request in requests]
        await asyncio.sleep(0)
        recorder.go.set()
        results = await asyncio.gather(*others, return_exceptions=True)
        await first
        return list(results)

    return asyncio.run(main()), recorder


def test_a_hundred_requests_at_once_are_two_batches() -> None:
    results, recorder = run_together([("a", [i]) for i in range(1, 101)])
    assert results == [[2 * i] for i in range(1, 101)]
    assert recorder.batches == [("a", [0]), ("a", list(range(1, 101)))]


def test_only_equal_keys_share_a_batch_and_nobody_starves() -> None:
    results, recorder = run_together([("b", [1]), ("a", [2, 3]), ("b", [4])])
    assert results == [[2], [4, 6], [8]]
    assert recorder.batches[1:] == [("b", [1, 4]), ("a", [2, 3])]


def test_a_batch_is_bounded() -> None:
    many = [("a", [i] * (MOST_ITEMS // 2)) for i in (1, 2, 3)]
    _, recorder = run_together([*many, ("a", [4] * (2 * MOST_ITEMS))])
    assert [len(items) for _, items in recorder.batches] == [
        1,
        MOST_ITEMS,
        MOST_ITEMS // 2,
        2 * MOST_ITEMS,
    ]


def test_only_the_request_at_fault_fails() -> None:
    results, _ = run_together([("a", [1]), ("a", [-1]), ("a", [2])])
    assert results[0] == [2]
    assert isinstance(results[1], ValueError)
    assert results[2] == [4]


def test_a_cancelled_request_is_not_computed() -> None:
    recorder = Recorder()

    async def main() -> None:
        batcher = MicroBatcher(recorder)
        first = await start(batcher, recorder)
        cancelled = asyncio.create_task(batcher.submit("a", [1]))
        kept = asyncio.create_task(batcher.submit("a", [2]))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        recorder.go.set()
        assert await kept == [4]
        await first

    asyncio.run(main())
    assert recorder.batches[1:] == [("a", [2])]


def test_event_loops_in_several_threads_share_a_batcher() -> None:
    recorder = Recorder()
    recorder.go.set()
    batcher = MicroBatcher(recorder)
    sums: list[int] = []

    def loop(start: int) -> None:
        async def main() -> None:
            for i in range(start, start + 50):
                sums.extend(await batcher.submit("a", [i]))

        asyncio.run(main())

    threads = [threading.Thread(target=loop, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sums) == sorted(2 * (1000 * n + i) for n in range(4) for i in range(50))


def test_a_child_of_a_fork_serves_its_own_requests(tiny_folder: Path) -> None:
    code = (
        "import asyncio, os, sys\n"
        "from quaver.integrations.shared_models import shared_embedder\n"
        "shared = shared_embedder(sys.argv[1])\n"
        "first = asyncio.run(shared.aencode(['my file'], 'query'))\n"
        "if (child := os.fork()) == 0:\n"
        "    again = asyncio.run(shared.aencode(['my file'], 'query'))\n"
        "    os._exit(0 if (again == first).all() else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_folder)], check=True, timeout=60)
