"""The bound of what loaded models hold: who is unloaded for whom, who is not, and what is refused."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

import quaver.serve.models as models_of_the_server
from quaver import Embedder, EngineError, InputError
from quaver.embedder import pool_tokenized
from quaver.models import TokenBatch
from quaver.serve import ModelSettings, Settings, check, read_settings, serve
from quaver.serve.models import DoesNotFit, Memory, Models, ServedModel
from running_server import Running, running
from tiny_model import write_tiny_model

NAMES = "abc"


@pytest.fixture(scope="module")
def size(tiny_folder: Path) -> int:
    """The bytes of a tiny model."""
    return Embedder.from_pretrained(tiny_folder).nbytes


def late(folder: Path, name: str) -> ModelSettings:
    return ModelSettings(source=str(folder), name=name, on_demand=True)


def of(folder: Path, memory: int, **changes: Any) -> Settings:
    """A server of three models on demand."""
    settings = Settings(model=tuple(late(folder, name) for name in NAMES), port=0, memory=memory)
    return msgspec.structs.replace(settings, **changes)


def ask(run: Running, name: str, text: str = "Paris") -> Any:
    return run.post("/v1/embeddings", {"input": text, "model": name})


def loaded(run: Running) -> list[str]:
    statuses = run.client.get("/readyz").json()["models"]
    return [name for name, status in statuses.items() if status == "ready"]


def wait_until(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not holds():
        pause.wait(0.01)


# --- Who is unloaded --------------------------------------------------------------------------------
def test_the_least_recently_used_models_make_room(
    tiny_folder: Path, size: int, tmp_path: Path
) -> None:
    large = write_tiny_model(tmp_path / "large", layers=5)
    needed = Embedder.from_pretrained(large).nbytes
    assert size < needed < 2 * size
    with running(
        of(tiny_folder, 3 * size, model=(*of(tiny_folder, 0).model, late(large, "d")))
    ) as run:
        for name in "abca":
            assert ask(run, name).is_success
        assert loaded(run) == ["a", "b", "c"]
        assert ask(run, "d").is_success  # needs two of them: b, then c
        assert loaded(run) == ["a", "d"]
        assert ask(run, "b").is_success
        assert loaded(run) == ["b", "d"]
        log = run.log.getvalue()
    changes = re.findall(r'"model":"(\w)","status":"(unloaded|ready)"', log)
    assert changes == [
        *((name, "ready") for name in "abc"),
        ("b", "unloaded"),
        ("c", "unloaded"),
        ("d", "ready"),
        ("a", "unloaded"),
        ("b", "ready"),
    ]


def test_models_that_fit_stay(tiny_folder: Path, size: int) -> None:
    with running(of(tiny_folder, 3 * size)) as run:
        for name in "abcabc":
            assert ask(run, name).is_success
        assert loaded(run) == ["a", "b", "c"]
        metrics = run.client.get("/metrics").text
    assert f'quaver_model_bytes{{model="a"}} {float(size)}' in metrics
    assert f"quaver_memory_limit_bytes {float(3 * size)}" in metrics


def test_ollama_lists_models_in_memory_and_when_they_go(tiny_folder: Path, size: int) -> None:
    with running(of(tiny_folder, size, idle_unload=3600.0)) as run:
        assert ask(run, "b").is_success
        (entry,) = run.client.get("/api/ps").json()["models"]
        assert (entry["name"], entry["size"]) == ("b", size)
        left = datetime.fromisoformat(entry["expires_at"].replace("Z", "+00:00")) - datetime.now(
            timezone.utc
        )
        assert timedelta(minutes=50) < left <= timedelta(minutes=60)


def test_without_a_bound_nothing_is_unloaded(tiny_folder: Path, size: int) -> None:
    with running(of(tiny_folder, 0)) as run:
        for name in NAMES:
            assert ask(run, name).is_success
        assert loaded(run) == ["a", "b", "c"]
        assert f'quaver_model_bytes{{model="b"}} {float(size)}' in run.client.get("/metrics").text


def test_an_unloaded_model_leaves_memory(tiny_folder: Path, size: int) -> None:
    with running(of(tiny_folder, size)) as run:
        assert ask(run, "a").is_success
        models = {model.name: model for model in run.server.state.service.models.all}
        kept = models["a"].loaded
        assert kept is not None
        engine = weakref.ref(kept.model)
        del kept
        assert ask(run, "b").is_success
        gc.collect()
        assert engine() is None
        assert (models["a"].nbytes, models["b"].nbytes) == (0, size)


# --- Who is not -------------------------------------------------------------------------------------
class SlowEngine:
    """An engine that computes only when it may."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Hold up every batch of an embedding model."""
        self.begun, self.may = threading.Event(), threading.Event()
        inner = pool_tokenized

        def slow(embedder: Embedder, batch: TokenBatch) -> Any:
            self.begun.set()
            assert self.may.wait(60)
            return inner(embedder, batch)

        monkeypatch.setattr("quaver.serve.loaded.pool_tokenized", slow)


def test_a_model_with_requests_in_flight_is_not_unloaded(
    tiny_folder: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowEngine(monkeypatch)
    with running(of(tiny_folder, 2 * size - 1)) as run, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, run, "a")
        assert slow.begun.wait(60)
        refused = ask(run, "b")
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        message = refused.json()["error"]["message"]
        assert message == (
            f"the model b needs {size / 1e6:.1f} MB, and all models together may hold {(2 * size - 1) / 1e6:.1f} MB, "
            f"of which models that are in use hold {size / 1e6:.1f} MB: try again in 5 s, or start the server with "
            "a larger --memory"
        )
        assert loaded(run) == ["a"]
        slow.may.set()
        assert asked.result().is_success
        assert ask(run, "b").is_success  # at once: being refused is no failure
        assert loaded(run) == ["b"]


def test_a_model_that_was_just_loaded_is_not_unloaded_before_its_request_runs(
    tiny_folder: Path, size: int
) -> None:
    """Requests for three models take turns in the room of one; each is answered or refused, never mixed up."""
    with running(of(tiny_folder, size)) as run, ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda i: ask(run, NAMES[i % 3], f"text {i}"), range(60)))
        held = [model.holds for model in run.server.state.service.models.all]
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert any(answer.is_success for answer in answers)
    assert held == [0, 0, 0]


def test_what_is_tokenized_aside_holds_its_model(
    tiny_folder: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may = threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert may.wait(60)
        raise InputError("enough")

    monkeypatch.setattr("quaver.serve.service.windows_of_texts", slow)
    with running(of(tiny_folder, size)) as run, ThreadPoolExecutor(1) as pool:
        body = {"input": ["a", "b"], "model": "a", "late_chunking": True}
        asked = pool.submit(run.post, "/v1/embeddings", body)
        assert begun.wait(60)
        assert ask(run, "b").status_code == 503
        may.set()
        assert asked.result().status_code == 400
        assert ask(run, "b").is_success


# --- What is refused --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("path", "body", "read"),
    [
        ("/v1/embeddings", {"input": "x", "model": "d"}, lambda a: a["error"]["message"]),
        ("/v2/embed", {"texts": ["x"], "model": "d"}, lambda a: a["message"]),
        ("/api/embed", {"input": "x", "model": "d"}, lambda a: a["error"]),
    ],
)
def test_a_model_that_never_fits_is_refused_in_the_dialects_words(
    path: str, body: Any, read: Any, tiny_folder: Path, size: int, tmp_path: Path
) -> None:
    large = write_tiny_model(tmp_path / "large", layers=5)
    needed = Embedder.from_pretrained(large).nbytes
    models = (*of(tiny_folder, 0).model, late(large, "d"))
    with running(of(tiny_folder, size, model=models)) as run:
        assert ask(run, "a").is_success
        for _ in range(2):
            refused = run.post(path, body)
            assert refused.status_code == 503
            assert "retry-after" not in refused.headers
            assert read(refused.json()) == (
                f"the model d needs {needed / 1e6:.1f} MB, and all models together may hold {size / 1e6:.1f} MB: "
                "start the server with a larger --memory, or serve a smaller model"
            )
        assert loaded(run) == ["a"]
        assert ask(run, "a").is_success
        assert run.client.get("/readyz").json()["models"]["d"] == "failed"
        metrics = run.client.get("/metrics").text
    assert 'quaver_model_bytes{model="d"} 0.0' in metrics


def test_teis_words_for_a_model_that_does_not_fit(tiny_folder: Path, size: int) -> None:
    with running(of(tiny_folder, size - 1)) as run:
        refused = run.post("/embed", {"inputs": "x"})
    assert refused.status_code == 503
    assert refused.json()["error_type"] == "Unhealthy"
    assert "larger --memory" in refused.json()["error"]


def test_a_model_that_holds_more_than_it_was_said_to_need_is_dropped(
    tiny_folder: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models_of_the_server, "needed_bytes", lambda settings: 1)
    with running(of(tiny_folder, size - 1)) as run:
        assert ask(run, "a").status_code == 503
        assert loaded(run) == []
        assert run.server.state.service.models.memory.held == 0


def test_a_model_that_fails_to_load_holds_nothing(
    tiny_folder: Path, size: int, tmp_path: Path
) -> None:
    broken = write_tiny_model(tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    models = (late(tiny_folder, "a"), late(broken, "b"))
    with running(of(tiny_folder, 2 * size, model=models)) as run:
        assert ask(run, "a").is_success
        assert ask(run, "b").status_code == 503
        assert loaded(run) == ["a"]
        assert run.server.state.service.models.memory.held == size


# --- The start --------------------------------------------------------------------------------------
def at_start(folder: Path, memory: int) -> Settings:
    models = tuple(ModelSettings(source=str(folder), name=name) for name in NAMES)
    return Settings(model=models, port=0, memory=memory)


def test_models_of_the_start_that_do_not_fit_stop_it(tiny_folder: Path, size: int) -> None:
    settings = at_start(tiny_folder, 3 * size - 1)
    each = f"{size / 1e6:.1f} MB"
    words = re.escape(
        f"the models of the start need {3 * size / 1e6:.1f} MB together (a {each}, b {each}, c {each}), and memory "
        f"allows {(3 * size - 1) / 1e6:.1f} MB: allow more"
    )
    with pytest.raises(InputError, match=words):
        check(settings)
    with pytest.raises(EngineError, match=words):
        serve(settings)
    check(at_start(tiny_folder, 3 * size))
    with running(at_start(tiny_folder, 3 * size)) as run:
        assert loaded(run) == ["a", "b", "c"]


def test_models_on_demand_do_not_count_at_the_start(tiny_folder: Path, size: int) -> None:
    settings = of(tiny_folder, size)
    check(settings)
    with running(settings) as run:
        assert loaded(run) == []


def test_a_model_of_the_start_makes_room_later(tiny_folder: Path, size: int) -> None:
    first = ModelSettings(source=str(tiny_folder), name="first")
    with running(of(tiny_folder, size, model=(first, late(tiny_folder, "a")))) as run:
        assert loaded(run) == ["first"]
        assert ask(run, "a").is_success
        assert loaded(run) == ["a"]


def test_the_bound_is_a_size_in_flag_and_environment() -> None:
    assert read_settings({"memory": "2GB"}, models=["m"], environ={}).memory == 2_000_000_000
    found = read_settings({}, models=["m"], environ={"QUAVER_MEMORY": "300MiB"})
    assert found.memory == 300 * 2**20
    assert "memory = 314572800" in found.shown()
    assert read_settings({}, models=["m"], environ={}).memory == 0


# --- The account ------------------------------------------------------------------------------------
class Pretended(ServedModel):
    """A model that is loaded without a folder."""

    def __init__(self, name: str, nbytes: int, *, used: float, idle: bool = True) -> None:
        """Pretend to hold bytes."""
        super().__init__(ModelSettings(source=name))
        self.nbytes, self.used, self.could = nbytes, used, idle
        self.status = "ready"

    @property
    def idle(self) -> bool:
        return self.could and self.nbytes > 0

    def unload(self) -> None:
        self.nbytes, self.status = 0, "unloaded"


def test_only_as_many_are_unloaded_as_needed() -> None:
    models = [
        Pretended("new", 10, used=9),
        Pretended("busy", 10, used=1, idle=False),
        Pretended("old", 10, used=2),
        Pretended("older", 5, used=1),
    ]
    wanted = Pretended("wanted", 0, used=0)
    memory = Memory(40, [*models, wanted])
    memory.reserve(wanted, 12)  # 47 of 40: older and old
    assert [each.nbytes for each in models] == [10, 10, 0, 0]
    assert wanted.nbytes == 12
    memory.reserve(wanted, 0)
    memory.reserve(wanted, 20)
    assert [each.nbytes for each in models] == [10, 10, 0, 0]
    memory.reserve(wanted, 30)
    assert [each.nbytes for each in models] == [0, 10, 0, 0]


def test_nothing_is_unloaded_for_a_model_that_is_refused() -> None:
    idle, busy = Pretended("idle", 10, used=1), Pretended("busy", 10, used=2, idle=False)
    wanted = Pretended("wanted", 0, used=0)
    memory = Memory(20, [idle, busy, wanted])
    with pytest.raises(DoesNotFit, match=r"in use hold 0\.0 MB") as caught:
        memory.reserve(wanted, 11)
    assert not caught.value.ever
    assert (idle.nbytes, wanted.nbytes) == (10, 0)
    with pytest.raises(DoesNotFit) as caught:
        memory.reserve(wanted, 21)
    assert caught.value.ever
    memory.starting = True
    with pytest.raises(DoesNotFit):
        memory.reserve(wanted, 10)
    memory.starting = False
    memory.reserve(wanted, 10)
    assert idle.nbytes == 0


def test_a_load_that_is_given_up_reserves_nothing(
    tiny_folder: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    may = threading.Event()

    def slow(settings: ModelSettings, threads: int | None) -> Any:
        assert may.wait(60)
        raise InputError("enough")

    monkeypatch.setattr(models_of_the_server, "_open", slow)

    async def give_up() -> None:
        models = Models([late(tiny_folder, "a")], memory=size)
        (model,) = models.all
        models.begin_to_load(model)
        while not model.nbytes:
            await asyncio.sleep(0.01)
        assert model.nbytes == size
        model.stop_loading()
        await asyncio.sleep(0.05)
        assert model.nbytes == 0
        may.set()
        models.close()

    asyncio.run(give_up())
