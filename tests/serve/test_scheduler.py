"""The scheduler with real models: the library's bits under concurrency, turns, bounds, hang-ups."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from golden_folders import unpacked
from quaver import CrossEncoder, Embedder, InputError
from quaver.embedder import finish_vectors
from quaver.models import TokenBatch
from quaver.serve.loaded import LoadedCrossEncoder, LoadedEmbedder, _apart
from quaver.serve.refusal import HungUp, Reason, Refusal
from quaver.serve.scheduler import Item, Lane, Limits, Pair, Scheduler, Unit, _joined
from quaver.serve.service import Waiter
from tiny_model import tiny_vocabulary, write_json, write_tiny_cross_encoder, write_tiny_model


@contextmanager
def scheduling(**limits: Any) -> Iterator[Scheduler]:
    # However slow the machine is, only a test that says so refuses what would wait long.
    scheduler = Scheduler(Limits(**{"seconds": 3600.0} | limits))
    try:
        yield scheduler
    finally:
        scheduler.close()


class Gate:
    """A lane of a real model whose engine waits for permission, and tells what it was given."""

    def __init__(self, embedder: Embedder) -> None:
        """Close the gate."""
        self.inner = LoadedEmbedder(embedder).lane
        self.batches: list[TokenBatch] = []
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()
        self.lane = Lane(
            self.inner.key,
            self.inner.tokenize,
            self.compute,
            width=self.inner.width,
            longest=self.inner.longest,
        )

    def compute(self, batch: TokenBatch) -> NDArray[np.float32]:
        self.batches.append(batch)
        self.entered.release()
        assert self.open.wait(60)
        return self.inner.compute(batch)

    async def wait_entered(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.entered.acquire)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


async def rows(scheduler: Scheduler, lane: Lane, items: Sequence[Item]) -> NDArray[np.float32]:
    job = scheduler.submit(lane, items)
    await job.future
    return job.rows


async def tokenized(scheduler: Scheduler) -> None:
    """Wait until the tokenizer thread has done what it was given."""
    while any(unit.tokens is None for unit in list(scheduler._in_flight.values())):
        await asyncio.sleep(0.001)


async def nothing_in_flight(scheduler: Scheduler) -> None:
    """Wait until no unit is kept; a job may be answered before units that nobody waits for any more are dropped."""

    async def emptied() -> None:
        while scheduler._in_flight:
            await asyncio.sleep(0.001)

    await asyncio.wait_for(emptied(), 30)


def random_texts(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    words = [word for word in tiny_vocabulary() if word.isalpha()]
    return [" ".join(rng.choice(words, rng.integers(1, 90))) for _ in range(count)]


@pytest.mark.parametrize("cache", [0, 1_000_000])
def test_answers_have_the_librarys_bits_under_concurrency(embedder: Embedder, cache: int) -> None:
    """200 requests of 1 to 40 texts, drawn from 300 so that many are in flight twice."""
    texts = random_texts(300, 1)
    expected = embedder.encode(texts, normalize=False)
    draw = np.random.default_rng(2)
    picks = [draw.integers(0, len(texts), draw.integers(1, 40)) for _ in range(200)]
    with scheduling(batch_tokens=700, cache_bytes=cache, inputs=10**6) as scheduler:
        lane = LoadedEmbedder(embedder).lane

        async def main() -> None:
            found = await asyncio.gather(
                *(rows(scheduler, lane, [texts[i] for i in pick]) for pick in picks)
            )
            for pick, vectors in zip(picks, found, strict=True):
                assert np.array_equal(vectors, expected[pick])

        run(main)
        total = sum(map(len, picks))
        counts = scheduler.counts
        assert counts.inputs + counts.shared + counts.cached == total
        assert counts.shared + counts.cached > 0
        assert (scheduler.waiting.requests, scheduler.waiting.inputs) == (0, 0)
        assert scheduler.waiting.tokens == 0
        assert not scheduler._in_flight
        assert lane.jobs == 0


def test_a_reranker_puts_its_prompt_before_queries(tmp_path: Path) -> None:
    folder = write_tiny_cross_encoder(tmp_path / "prompted")
    prompts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    write_json(folder / "config_sentence_transformers.json", prompts)
    model = CrossEncoder.from_pretrained(folder)
    pairs = [("where is it", text) for text in random_texts(5, 3)]
    expected = model.predict(pairs, activation="identity")
    assert (expected != model.predict(pairs, activation="identity", prompt="")).all()
    with scheduling() as scheduler:

        async def main() -> None:
            lane = LoadedCrossEncoder(model).lane
            logits = await rows(scheduler, lane, [Pair(*pair) for pair in pairs])
            assert np.array_equal(logits[:, 0], expected)

        run(main)


def test_a_static_model_is_served_too(tmp_path: Path) -> None:
    model = Embedder.from_pretrained(unpacked("model2vec-float32", tmp_path))
    texts = ["the file", "", "\u2603", "a list of words " * 20]
    with scheduling() as scheduler:

        async def main() -> None:
            lane = LoadedEmbedder(model).lane
            vectors = await rows(scheduler, lane, texts)
            assert np.array_equal(finish_vectors(model, vectors), model.encode(texts))
            assert not (await rows(scheduler, lane, [""])).any()

        run(main)


def test_pairs_texts_and_ids_share_a_lane(cross_encoder: CrossEncoder, embedder: Embedder) -> None:
    pairs = [("where is it", text) for text in random_texts(20, 3)]
    with scheduling() as scheduler:
        loaded = LoadedCrossEncoder(cross_encoder)

        async def main() -> None:
            logits = await rows(scheduler, loaded.lane, [Pair(*pair) for pair in pairs])
            expected = cross_encoder.predict(pairs, activation="identity")
            assert np.array_equal(logits[:, 0], expected)
            lane = LoadedEmbedder(embedder).lane
            ids = embedder.tokenizer.encode(["some text"]).ids
            both = await rows(scheduler, lane, ["some text", ids.tobytes()])
            assert np.array_equal(both[0], both[1])
            assert np.array_equal(finish_vectors(embedder, both)[0], embedder.encode("some text"))

        run(main)


def test_a_small_request_overtakes_a_large_one_and_does_not_starve_it(embedder: Embedder) -> None:
    gate = Gate(embedder)
    with scheduling(batch_tokens=256) as scheduler:

        async def main() -> None:
            bulk = scheduler.submit(gate.lane, random_texts(200, 4))
            assert not bulk.interactive
            await gate.wait_entered()
            await tokenized(scheduler)
            query = scheduler.submit(gate.lane, ["a short query"])
            assert query.interactive
            await tokenized(scheduler)
            gate.open.set()
            await query.future
            assert not bulk.future.done()
            # The query was in the very next batch, alone.
            assert [len(batch) for batch in gate.batches][1] == 1

            # Queries without end: the bulk request still gets its share.
            async def ask(i: int) -> None:
                while not bulk.future.done():
                    await rows(scheduler, gate.lane, [f"query {i} {len(gate.batches)}"])

            await asyncio.gather(bulk.future, *(ask(i) for i in range(8)))

        run(main)


def test_a_smaller_bulk_request_overtakes_a_larger_one(embedder: Embedder) -> None:
    gate = Gate(embedder)
    with scheduling(batch_tokens=512) as scheduler:

        async def main() -> None:
            first = scheduler.submit(gate.lane, random_texts(400, 5))
            await gate.wait_entered()
            second = scheduler.submit(gate.lane, random_texts(40, 6), interactive=False)
            await tokenized(scheduler)
            gate.open.set()
            await second.future
            assert not first.future.done()
            await first.future

        run(main)


def test_equal_bulk_requests_are_computed_one_after_another(embedder: Embedder) -> None:
    """Side by side, all would end with the last; in order, the first ends after a third of the time."""
    gate = Gate(embedder)
    texts = [[f"{'code ' * 30} {word} {i}" for i in range(40)] for word in ("a", "b", "c")]
    with scheduling(batch_tokens=256) as scheduler:

        async def main() -> None:
            waiting = scheduler.submit(gate.lane, ["query"], interactive=False)
            await gate.wait_entered()
            jobs = [scheduler.submit(gate.lane, each, interactive=False) for each in texts]
            await tokenized(scheduler)
            gate.open.set()
            await asyncio.gather(waiting.future, *(job.future for job in jobs))

        run(main)
    computed = [
        tuple(ids) for batch in gate.batches[1:] for ids in np.split(batch.ids, batch.offsets[1:-1])
    ]
    expected = [tuple(embedder.tokenizer.encode([text]).ids) for each in texts for text in each]
    assert computed == expected


def test_no_bulk_request_waits_forever_for_smaller_ones(embedder: Embedder) -> None:
    gate = Gate(embedder)
    with scheduling(batch_tokens=256, seconds=1e9) as scheduler:  # the gate makes it look slow

        async def main() -> None:
            waiting = scheduler.submit(gate.lane, ["query"], interactive=False)
            await gate.wait_entered()
            large = scheduler.submit(gate.lane, random_texts(100, 8), interactive=False)
            gate.open.set()
            await waiting.future
            for i in range(1000):
                small = scheduler.submit(gate.lane, random_texts(20, 100 + i), interactive=False)
                await small.future
                if large.future.done():
                    break
            else:
                pytest.fail("the large request was never computed")

        run(main)


def test_a_bulk_input_in_flight_is_promoted_by_a_query_for_it(embedder: Embedder) -> None:
    gate = Gate(embedder)
    texts = random_texts(200, 7)
    with scheduling(batch_tokens=256) as scheduler:

        async def main() -> None:
            bulk = scheduler.submit(gate.lane, texts)
            await gate.wait_entered()
            await tokenized(scheduler)
            query = scheduler.submit(gate.lane, [texts[-1]])
            await tokenized(scheduler)
            gate.open.set()
            await query.future
            assert not bulk.future.done()
            await bulk.future
            assert np.array_equal(query.rows[0], bulk.rows[-1])
            assert query.lengths[0] == bulk.lengths[-1] > 0
            assert scheduler.counts.shared == 1
            assert scheduler.counts.inputs == len(set(texts))

        run(main)


def test_a_full_queue_refuses_at_once(embedder: Embedder) -> None:
    gate = Gate(embedder)
    with scheduling(requests=3, inputs=10, tokens=90) as scheduler:

        async def main() -> None:
            jobs = [scheduler.submit(gate.lane, ["a"]), scheduler.submit(gate.lane, ["b"] * 8)]
            for texts, met in (
                (["c"] * 2, "10 inputs may wait; 9 do, and this request has 2"),
                (
                    ["c " * 20000],
                    "90 tokens may wait, 79 of them of bulk requests; 27 do, and this request has 64",
                ),
            ):
                with pytest.raises(Refusal, match=met) as caught:
                    scheduler.submit(gate.lane, texts)
                assert caught.value.reason is Reason.OVERLOADED
                assert caught.value.retry_after is not None
                assert caught.value.retry_after >= 1
            jobs.append(scheduler.submit(gate.lane, ["d"]))
            with pytest.raises(Refusal, match="3 requests may wait; 3 do, and this request has 1;"):
                scheduler.submit(gate.lane, ["e"])
            assert scheduler.counts.refused == 3
            gate.open.set()
            await asyncio.gather(*(job.future for job in jobs))
            assert (await rows(scheduler, gate.lane, ["f"])).shape == (1, 64)

        run(main)


def test_a_request_that_would_wait_too_long_is_refused(embedder: Embedder) -> None:
    gate = Gate(embedder)
    with scheduling(seconds=10) as scheduler:

        async def main() -> None:
            first = scheduler.submit(gate.lane, ["a"])
            gate.lane.rate = 100.0
            second = scheduler.submit(gate.lane, ["b " * 100] * 30)  # 1,590 tokens
            with pytest.raises(Refusal, match=r"may wait about 10 s .* would wait 16 s") as caught:
                scheduler.submit(gate.lane, ["c " * 100] * 30)
            assert caught.value.retry_after == 16
            # A smaller one goes before, and so do queries, of which there may be as many as fit.
            others = [scheduler.submit(gate.lane, ["d " * 100] * 15, interactive=False)]
            others += [scheduler.submit(gate.lane, [f"e {i} " * 100] * 4) for i in range(4)]
            with pytest.raises(Refusal, match=r"may wait about 10 s .* would wait 13 s"):
                scheduler.submit(gate.lane, ["f"])
            gate.open.set()
            await asyncio.gather(*(job.future for job in (first, second, *others)))

        run(main)


def test_what_waits_is_counted_by_the_model_it_waits_for(embedder: Embedder) -> None:
    gate, other = Gate(embedder), Gate(embedder)
    gate.lane.key, other.lane.key = "slow", "fast"
    with scheduling(seconds=10, batch_seconds=0.1) as scheduler:

        async def main() -> None:
            first = scheduler.submit(gate.lane, ["a"])
            gate.lane.rate, other.lane.rate = 10.0, 1e6
            waiting = [scheduler.submit(gate.lane, ["b " * 100] * 20)]
            with pytest.raises(Refusal, match="would wait 106 s"):
                scheduler.submit(gate.lane, ["c " * 100] * 20)
            # The fast model's requests take turns with the slow one's, so they do not wait for all of it.
            waiting.append(scheduler.submit(other.lane, ["c " * 100] * 40))
            waiting.append(scheduler.submit(other.lane, ["d"]))
            # Its queries do wait for the slow one's.
            waiting.append(scheduler.submit(gate.lane, ["e " * 100] * 2))
            with pytest.raises(Refusal, match="would wait 14 s"):
                scheduler.submit(other.lane, ["f"])
            gate.open.set()
            other.open.set()
            await asyncio.gather(*(job.future for job in (first, *waiting)))

        run(main)


def test_bulk_requests_leave_places_for_queries(embedder: Embedder) -> None:
    gate = Gate(embedder)
    with scheduling(requests=16, inputs=160, tokens=10**6) as scheduler:

        async def main() -> None:
            # Alone, a request may have more than there is room for.
            jobs = [scheduler.submit(gate.lane, random_texts(200, 20), interactive=False)]
            with pytest.raises(Refusal, match="160 inputs may wait, 140 of them of bulk requests"):
                scheduler.submit(gate.lane, ["a"], interactive=False)
            jobs += [scheduler.submit(gate.lane, [f"query {i}"]) for i in range(15)]
            with pytest.raises(Refusal, match="16 requests may wait; 16 do"):
                scheduler.submit(gate.lane, ["one more"])
            gate.open.set()
            await asyncio.gather(*(job.future for job in jobs))

        run(main)


@pytest.mark.parametrize("cache", [0, 10**6])
def test_tokens_that_wait_fall_with_each_batch(embedder: Embedder, cache: int) -> None:
    """Also where inputs are shared, cached, given up, or fail."""
    inner = LoadedEmbedder(embedder).lane
    broken = embedder.tokenizer.encode(["query"]).ids[1]
    steps, done = threading.Semaphore(0), threading.Semaphore(0)

    def compute(batch: TokenBatch) -> NDArray[np.float32]:
        done.release()
        assert steps.acquire(timeout=60)
        if broken in batch.ids:
            raise RuntimeError
        return inner.compute(batch)

    lane = Lane(inner.key, inner.tokenize, compute, width=inner.width, longest=inner.longest)
    texts = [f"text {i} " + "word " * 40 for i in range(60)]
    with scheduling(batch_tokens=256, cache_bytes=cache) as scheduler:
        waiting = scheduler.waiting

        async def entered() -> None:
            await asyncio.get_running_loop().run_in_executor(None, done.acquire)

        async def main() -> None:
            job = scheduler.submit(lane, texts)
            total = waiting.tokens
            assert total == job.left > 0
            for _ in range(4):
                await entered()
                steps.release()
            await entered()  # the fifth begins, so four were counted
            assert 0 < waiting.tokens == job.left < total
            assert job.progressed > 0
            both = scheduler.submit(lane, texts[:2] * 2 + texts[-2:], interactive=False)
            gone = scheduler.submit(lane, texts[:50], interactive=False)
            bad = scheduler.submit(lane, ["query", *texts[:3]])
            assert waiting.tokens == sum(each.left for each in (job, both, gone, bad))
            scheduler.cancel(gone)
            with pytest.raises(HungUp):
                await gone.future
            assert waiting.tokens == sum(each.left for each in (job, both, bad))
            steps.release(1000)
            with pytest.raises(Refusal):
                await bad.future
            await asyncio.gather(job.future, both.future)
            await nothing_in_flight(scheduler)

        run(main)
        assert (waiting.requests, waiting.inputs, waiting.tokens) == (0, 0, 0)
        assert not any(vars(scheduler._waiting_bulk).values())
        assert not scheduler._bulk
        assert not scheduler._backlogs


def test_the_time_of_a_request_counts_from_its_last_result(embedder: Embedder) -> None:
    gate = Gate(embedder)
    with scheduling() as scheduler:

        async def main() -> None:
            waiter = Waiter(timeout=0.05)
            job = scheduler.submit(gate.lane, random_texts(50, 21))
            await gate.wait_entered()
            job.progressed = time.monotonic() + 3600  # as if it had just got on
            waiting = asyncio.ensure_future(waiter.wait(scheduler, job))
            await asyncio.sleep(0.2)  # the time is over
            assert not job.over
            gate.open.set()
            await waiting
            assert waiter.inputs == 50
            assert waiter.seconds_left > 60  # what follows in the same request gets as long
            gate.open.clear()
            stuck = scheduler.submit(gate.lane, ["a text"])
            stuck.progressed = time.monotonic() - 1
            with pytest.raises(Refusal, match="none of the request's inputs") as caught:
                await Waiter(timeout=0.05).wait(scheduler, stuck)
            assert caught.value.reason is Reason.TIMEOUT
            gate.open.set()

        run(main)


def test_an_empty_queue_takes_any_single_request(embedder: Embedder) -> None:
    with scheduling(inputs=10, tokens=10) as scheduler:
        lane = LoadedEmbedder(embedder).lane

        async def main() -> None:
            assert (await rows(scheduler, lane, random_texts(30, 8))).shape == (30, 64)

        run(main)


def test_a_request_that_is_given_up_frees_its_place_and_its_work(embedder: Embedder) -> None:
    gate = Gate(embedder)
    texts = random_texts(100, 9)
    with scheduling(batch_tokens=128) as scheduler:

        async def main() -> None:
            first = scheduler.submit(gate.lane, ["a"])
            await gate.wait_entered()
            gone = scheduler.submit(gate.lane, texts)
            kept = scheduler.submit(gate.lane, texts[40:43])
            scheduler.cancel(gone)
            with pytest.raises(HungUp):
                await gone.future
            assert scheduler.waiting.inputs == 4
            gate.open.set()
            await asyncio.gather(first.future, kept.future)
            expected = embedder.encode(texts[40:43], normalize=False)
            assert np.array_equal(kept.rows, expected)
            await rows(scheduler, gate.lane, ["the last one"])
            assert scheduler.counts.inputs == 5  # nothing that only the first wanted
            await nothing_in_flight(scheduler)

        run(main)


def test_one_bad_input_fails_its_request_alone(cross_encoder: CrossEncoder) -> None:
    with scheduling() as scheduler:
        lane = LoadedCrossEncoder(cross_encoder).lane

        async def main() -> None:
            good = [scheduler.submit(lane, [Pair("query", f"text {i}")]) for i in range(5)]
            bad = scheduler.submit(lane, [Pair("word " * 100, "text"), Pair("query", "text 9")])
            await asyncio.gather(*(job.future for job in good))
            with pytest.raises(Refusal, match="must leave room") as caught:
                await bad.future
            assert caught.value.reason is Reason.INVALID
            await rows(scheduler, lane, [Pair("query", "text 9")])
            await nothing_in_flight(scheduler)

        run(main)


def test_inputs_of_a_failed_request_are_not_tokenized_one_by_one(embedder: Embedder) -> None:
    inner = LoadedEmbedder(embedder).lane
    alone: list[Item] = []

    def tokenize(items: Sequence[Item]) -> Any:
        if len(items) == 1:
            alone.extend(items)
        raise InputError("no")

    lane = Lane("broken", tokenize, inner.compute, width=64, longest=64)
    with scheduling() as scheduler:

        async def main() -> None:
            job = scheduler.submit(lane, ["a", "b", "c", "d"])
            with pytest.raises(Refusal, match="no"):
                await job.future
            with pytest.raises(Refusal):
                await scheduler.submit(lane, ["last"]).future
            await nothing_in_flight(scheduler)

        run(main)
    assert alone == ["a", "last"]


def test_long_inputs_are_tokenized_in_small_groups(embedder: Embedder) -> None:
    inner = LoadedEmbedder(embedder).lane
    sizes: list[int] = []

    def tokenize(items: Sequence[Item]) -> Any:
        sizes.append(len(items))
        return inner.tokenize(items)

    lane = Lane("noted", tokenize, inner.compute, width=64, longest=64)
    texts = [f"{i} " + "word " * 20_000 for i in range(6)]
    with scheduling() as scheduler:

        async def main() -> None:
            await rows(scheduler, lane, texts)

        run(main)
    assert sizes == [2, 2, 2]


def test_a_failing_engine_fails_only_what_it_fails_on(embedder: Embedder) -> None:
    inner = LoadedEmbedder(embedder).lane
    broken = embedder.tokenizer.encode(["query"]).ids[1]

    def compute(batch: TokenBatch) -> NDArray[np.float32]:
        if broken in batch.ids:
            raise RuntimeError("a secret text")
        return inner.compute(batch)

    lane = Lane("broken", inner.tokenize, compute, width=64, longest=64)
    with scheduling() as scheduler:

        async def main() -> None:
            jobs = [scheduler.submit(lane, [text]) for text in ("text", "query", "code")]
            ended = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
            assert ended[0] is ended[2] is None
            assert isinstance(ended[1], Refusal)
            assert ended[1].reason is Reason.FAILED
            assert "secret" not in ended[1].message

        run(main)


def test_models_share_the_engine_thread(embedder: Embedder, tmp_path: Path) -> None:
    other = Embedder.from_pretrained(write_tiny_model(tmp_path / "other", seed=7))
    texts = random_texts(60, 10)
    with scheduling(batch_tokens=256) as scheduler:
        lanes = [LoadedEmbedder(model).lane for model in (embedder, other)]

        async def main() -> None:
            found = await asyncio.gather(
                *(rows(scheduler, lane, texts) for lane in lanes for _ in range(3))
            )
            for i, vectors in enumerate(found):
                expected = (embedder, other)[i // 3].encode(texts, normalize=False)
                assert np.array_equal(vectors, expected)

        run(main)


def test_the_cache_is_bounded_and_right(embedder: Embedder) -> None:
    texts = random_texts(100, 11)
    with scheduling(cache_bytes=20_000) as scheduler:
        lane = LoadedEmbedder(embedder).lane

        async def main() -> None:
            for _ in range(2):
                await rows(scheduler, lane, texts)
            assert scheduler._cache is not None
            assert 0 < scheduler._cache.currsize <= 20_000
            before = scheduler.counts.cached
            job = scheduler.submit(lane, ["a new text"] * 2)
            await job.future
            assert job.lengths.tolist() == [embedder.tokenizer.encode(["a new text"]).tokens] * 2
            first = await rows(scheduler, lane, ["a new text"])
            again = await rows(scheduler, lane, ["a new text"])
            assert scheduler.counts.cached == before + 2
            assert np.array_equal(first, again)
            assert np.array_equal(first, embedder.encode(["a new text"], normalize=False))

        run(main)


@pytest.mark.parametrize("alone", [True, False])
def test_short_request_on_an_idle_engine_is_computed_on_the_loop(
    embedder: Embedder, alone: bool
) -> None:
    """Its bits are those of the engine thread; a request that is not alone goes to that thread."""
    inner = LoadedEmbedder(embedder).lane
    threads: list[int] = []

    def compute(batch: TokenBatch) -> NDArray[np.float32]:
        threads.append(threading.get_ident())
        return inner.compute(batch)

    texts = random_texts(3, 4)
    with scheduling() as scheduler:
        lane = Lane("lane", inner.tokenize, compute, width=inner.width, longest=inner.longest)

        async def main() -> None:
            first = await rows(scheduler, lane, texts[:1])  # tells how fast the model is
            lane.rate = 1e6
            await asyncio.to_thread(wait_until_idle, scheduler)
            job = scheduler.submit(lane, texts, alone=alone)
            await job.future
            expected = embedder.encode(texts, normalize=False)
            assert np.array_equal(first, expected[:1])
            assert np.array_equal(job.rows, expected)

        run(main)
    assert (threads[-1] == threading.get_ident()) is alone


def wait_until_idle(scheduler: Scheduler) -> None:
    while not scheduler._engine_idle:
        time.sleep(0.001)


def test_what_texts_share_is_kept_when_they_are_batched() -> None:
    ids, offsets = np.arange(9, dtype=np.int32), np.array([0, 4, 9], np.int32)
    batch = TokenBatch(ids, offsets, None, 0, splits=np.array([2, 3], np.int32))
    units = [Unit.__new__(Unit) for _ in range(2)]
    for unit, tokens in zip(units, _apart(batch), strict=True):
        unit.tokens = tokens
    for chosen, splits in ((units, [2, 3]), (units[1:], [3])):
        joined = _joined(chosen)
        assert joined.splits is not None
        assert joined.splits.tolist() == splits
