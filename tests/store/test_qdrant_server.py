"""A store on a server: addresses, a server that goes away and comes back, and one that refuses."""

from __future__ import annotations

import json
import socket
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from quaver import Embedder, Index, InputError
from quaver.errors import (
    StoreError,
    StoreExistsError,
    StoreMismatchError,
    StoreNotFoundError,
    StoreUnavailableError,
)
from quaver.store import Manifest, qdrant_connection
from quaver.store.location import store_exists
from quaver.store.qdrant_server import QdrantStore

LOCATION = "qdrant://localhost:6333/kb"
MANIFEST = Manifest("model", "f" * 64, 64, 100, "2030-01-01T00:00:00+00:00")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant_connection, "RETRY_WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    with warnings.catch_warnings():
        # The client's in-process mode has no payload indexes, and says so.
        warnings.filterwarnings("ignore", "Payload indexes have no effect")
        yield QdrantClient(":memory:")


def failing(client: QdrantClient, name: str, turns: range, error: Exception) -> list[int]:
    """Makes some calls of a method fail; returns a list that grows with its calls."""
    real: Callable[..., Any] = getattr(client, name)
    calls: list[int] = []

    def call(*args: Any, **options: Any) -> Any:
        calls.append(len(calls))
        if calls[-1] in turns:
            raise error
        return real(*args, **options)

    setattr(client, name, call)
    return calls


def refusal(status: int) -> UnexpectedResponse:
    return UnexpectedResponse(status, "no", b"{}", httpx.Headers())


GONE = ResponseHandlingException(httpx.ConnectError("refused"))


@pytest.mark.parametrize(
    "location",
    ["qdrant://", "qdrant://host", "qdrant://host:6333", "qdrant://host:x/kb", "qdrant://h/a/b"],
)
def test_a_location_has_a_host_and_a_collection(location: str) -> None:
    with pytest.raises(InputError, match=r"is qdrant://host:port/collection: got"):
        store_exists(location)


def test_a_server_that_is_not_there(tiny_folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with pytest.raises(
        StoreUnavailableError, match=r"does not answer, asked 4 times .* run it again"
    ):
        Index.open(f"qdrant://localhost:{port}/kb")


@pytest.mark.parametrize("error", [GONE, refusal(503), refusal(429), ConnectionResetError()])
def test_a_short_silence_is_waited_out(client: QdrantClient, error: Exception) -> None:
    store = QdrantStore.create(LOCATION, MANIFEST, client)
    calls = failing(client, "count", range(3), error)
    assert store.count() == 0
    assert len(calls) == 4


def test_a_refusal_is_no_silence(client: QdrantClient) -> None:
    store = QdrantStore.create(LOCATION, MANIFEST, client)
    calls = failing(client, "count", range(9), refusal(403))
    with pytest.raises(StoreError, match=r"(?s)refused: .*403.*QDRANT_API_KEY"):
        store.count()
    assert len(calls) == 1


def test_an_update_goes_on_when_the_server_is_back(
    client: QdrantClient, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaver.index.embedding.PASSAGES_PER_BATCH", 4)
    embedder = Embedder.from_pretrained(tiny_folder, threads=1)
    (tmp_path / "docs").mkdir()
    for i in range(12):
        (tmp_path / "docs" / f"{i}.txt").write_text(f"Text {i} of the list.")
    manifest = replace(MANIFEST, dimension=embedder.dimension, fingerprint=embedder.fingerprint)
    store = QdrantStore.create(LOCATION, manifest, client)
    index = Index(LOCATION, embedder, store, passage_tokens=50)
    failing(client, "upsert", range(2, 6), GONE)  # the third batch, in all of its attempts
    with pytest.raises(StoreUnavailableError, match="what was stored stays"):
        index.update(tmp_path / "docs")
    assert 8 <= store.count() < 12
    report = index.update(tmp_path / "docs")
    assert (report.added, report.unchanged) == (4, 8)
    assert store.count() == 12
    assert index.update(tmp_path / "docs").unchanged == 12


@pytest.mark.parametrize("other", [{}, {"language": "german"}])
def test_a_collection_whose_answer_was_lost_is_ours(
    client: QdrantClient, other: dict[str, Any]
) -> None:
    real, calls = client.create_collection, []

    def create(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise refusal(409)
        options["metadata"] = {"quaver": replace(MANIFEST, **other).to_json()}
        real(*args, **options)
        raise GONE

    setattr(client, "create_collection", create)  # noqa: B010
    if other:  # somebody else was faster
        with pytest.raises(StoreError, match=r"(?s)refused: .*409"):
            QdrantStore.create(LOCATION, MANIFEST, client)
    else:
        assert QdrantStore.create(LOCATION, MANIFEST, client).count() == 0
    assert len(calls) == 2


def test_opening_makes_the_indexes_that_are_missing(
    client: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(client, "create_payload_index", range(1, 5), GONE)  # the second one
    with pytest.raises(StoreUnavailableError):
        QdrantStore.create(LOCATION, MANIFEST, client)
    real: Any = client.get_collection
    made: list[tuple[str, str]] = []

    def described(name: str) -> Any:
        info = real(name)
        info.payload_schema = {"root": {}}  # which the in-process mode does not keep
        return info

    monkeypatch.setattr(client, "get_collection", described)
    monkeypatch.setattr(
        client, "create_payload_index", lambda collection, field, kind: made.append((field, kind))
    )
    QdrantStore.open(LOCATION, client)
    assert made == [("content", "keyword")]


def test_collections_that_are_none_of_ours(client: QdrantClient) -> None:
    with pytest.raises(StoreNotFoundError, match="there is no collection at"):
        QdrantStore.open(LOCATION, client)
    QdrantStore.create(LOCATION, MANIFEST, client)
    with pytest.raises(StoreExistsError, match="open it"):
        QdrantStore.create(LOCATION, MANIFEST, client)
    assert QdrantStore.open(LOCATION, client).manifest == MANIFEST
    newer = json.dumps(json.loads(MANIFEST.to_json()) | {"format_version": 99})
    for metadata, error, message in (
        ({"quaver": newer}, StoreMismatchError, "format version 99.*upgrade Quaver"),
        ({}, StoreNotFoundError, "was not made by Quaver"),
    ):
        client.delete_collection("kb")
        client.create_collection("kb", vectors_config={}, metadata=metadata)
        with pytest.raises(error, match=message):
            QdrantStore.open(LOCATION, client)
