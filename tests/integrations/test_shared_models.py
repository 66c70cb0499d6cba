"""Models shared by a process: loaded once, copied, pickled and forked."""

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
from pathlib import Path

import numpy as np
import pytest

from quaver import Embedder, InputError
from quaver.integrations.shared_models import shared_embedder

TEXTS = ["the file", "a list of keys", "", "her own way"]


def test_the_same_model_and_settings_give_one_engine(tiny_folder: Path) -> None:
    first = shared_embedder(tiny_folder)
    assert shared_embedder(str(tiny_folder)) is first
    assert shared_embedder(os.path.relpath(tiny_folder)) is first
    assert shared_embedder(tiny_folder, precision="float32") is not first


def test_an_engine_that_nothing_holds_is_let_go(tiny_folder: Path) -> None:
    shared = shared_embedder(tiny_folder, threads=1)
    held = weakref.ref(shared.model)
    del shared
    gc.collect()
    assert held() is None


def test_threads_that_need_one_model_load_it_once(
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
    plain = getattr(shared.model, f"encode_{role}")(TEXTS)
    np.testing.assert_array_equal(shared.encode(TEXTS, role), plain)  # type: ignore[arg-type]

    async def each() -> list[np.ndarray]:
        return await asyncio.gather(*(shared.aencode([text], role) for text in TEXTS))  # type: ignore[arg-type]

    np.testing.assert_array_equal(np.concatenate(asyncio.run(each())), plain)


def test_a_prompt_replaces_the_models_own(tiny_folder: Path) -> None:
    shared = shared_embedder(tiny_folder)
    wanted = shared.model.encode(["my file"], prompt="")
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
