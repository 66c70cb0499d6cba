"""How bodies are written: the same JSON as in one piece, with room for other requests in between."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from quaver.serve.http import json_of, object_of, rows_of
from quaver.serve.service import _IDS_AT_ONCE, _items


async def counted(written: Any) -> tuple[Any, int]:
    """Return what a coroutine returns, and how often another task could run meanwhile."""
    turns = 0
    over = False

    async def others() -> None:
        nonlocal turns
        while not over:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    result = await written
    over = True
    await task
    return result, turns


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (7, 5000), (2048, 384), (3, 40_000)])
def test_vectors_are_written_in_pieces(shape: tuple[int, int]) -> None:
    vectors = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    written, turns = asyncio.run(counted(rows_of(vectors, shape[1])))
    assert written == json_of(vectors)
    assert np.array_equal(np.float32(json.loads(written)).reshape(shape), vectors)
    pieces = -(-shape[0] // max(1, 2**14 // shape[1]))
    assert turns >= pieces - 1


def test_vectors_that_are_the_start_of_longer_ones_keep_their_digits() -> None:
    vectors = np.random.default_rng(0).standard_normal((9, 8)).astype(np.float32)[:, :3]
    assert asyncio.run(rows_of(vectors, 3)) == json_of(vectors.copy())


def test_rows_take_their_form_when_it_is_their_turn() -> None:
    taken: list[int] = []

    def form(i: int) -> dict[str, int]:
        taken.append(i)
        return {"index": i}

    async def stop() -> None:
        task = asyncio.create_task(rows_of(range(1000), 2**13, form=form))
        while not taken:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(stop())
    assert 0 < len(taken) < 10


def test_an_object_of_written_parts() -> None:
    parts = {"a": b"[1,2]", 'b"': b"{}"}
    assert json.loads(object_of(parts, {"c": None})) == {"a": [1, 2], 'b"': {}, "c": None}
    assert json.loads(object_of(parts, {})) == {"a": [1, 2], 'b"': {}}


def test_token_ids_are_checked_in_pieces(embedder: Any) -> None:
    ids = [5, 6, 7] * 20
    many = [ids] * (4 * _IDS_AT_ONCE // len(ids))

    async def check() -> tuple[Any, int]:
        return await counted(_items(embedder, many, "", "start", None, "input", "tiny"))

    items, turns = asyncio.run(check())
    assert turns >= 3
    assert items == [np.array(ids, np.int32).tobytes()] * len(many)
