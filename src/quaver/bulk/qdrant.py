"""Load rows into a Qdrant collection: deterministic ids, and no index while rows arrive."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from quaver.bulk.load import FILE, OUTPUT, Layout, plain, refused
from quaver.bulk.target import to_json
from quaver.errors import BulkError, InputError, needs_extra

with needs_extra("qdrant"):
    from qdrant_client import QdrantClient, models
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

_ABOUT = "quaver_bulk"
"""The key of the collection's metadata that says whose vectors it has."""
_SPACE = uuid.UUID("d6c9b7a2-5b0e-5c43-9a44-0f6a5f3f8f10")
SPARSE = "sparse"
"""The name of the vector of weights of words."""
_THRESHOLD = 20_000
"""Qdrant's default: kilobytes of vectors in a segment after which it gets an index."""
_BATCH = 128
_MOST = 1_000_000
"""Values of a key in an answer."""
_NO_ENTRY = (401, 403)


def connect(url: str) -> QdrantClient:
    """Return a client; it sends nothing yet."""
    return QdrantClient(
        url=url, api_key=os.environ.get("QDRANT_API_KEY"), timeout=60, check_compatibility=False
    )


class QdrantSink:
    """A collection of points."""

    def __init__(self, destination: str, layout: Layout, *, index: bool) -> None:
        """Connect, and make the collection if it does not exist.

        Args:
            destination: `qdrant://host:port/collection`, or `qdrant+https://...`.
            layout: of the rows.
            index: let Qdrant index the points after the load.

        Raises:
            InputError: the destination has another form, or Qdrant has no such vectors.
            BulkError: the collection has other vectors.
            BulkWriteError: the server cannot be reached, or refuses.
        """
        address = urlsplit(destination)
        self._where, self._layout, self._index = destination, layout, index
        self._name = address.path.strip("/")
        if not address.hostname or not self._name or "/" in self._name:
            raise InputError(f"a collection is qdrant://host:port/collection: got {destination!r}")
        if layout.settings.output == "binary" or layout.settings.kind == "scores":
            raise InputError(
                "Qdrant has no vectors of packed bits and no plain scores: embed as float32, which Qdrant "
                "itself can quantize"
            )
        scheme = "https" if address.scheme == "qdrant+https" else "http"
        self._client = connect(f"{scheme}://{address.hostname}:{address.port or 6333}")
        with self._talking():
            self._open()

    def _open(self) -> None:
        client, settings = self._client, self._layout.settings
        if not client.collection_exists(self._name):
            vectors: Any = None
            sparse = None
            if settings.kind == "sparse":
                vectors, sparse = {}, {SPARSE: models.SparseVectorParams()}
            else:
                several = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
                vectors = models.VectorParams(
                    size=settings.dimension,
                    distance=models.Distance.COSINE,
                    datatype=models.Datatype.FLOAT16 if settings.output == "float16" else None,
                    multivector_config=several if settings.kind == "multi-vector" else None,
                )
            client.create_collection(
                self._name,
                vectors_config=vectors,
                sparse_vectors_config=sparse,
                optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0),
                metadata={_ABOUT: to_json(settings)},
            )
            for key in (FILE, OUTPUT):
                client.create_payload_index(self._name, key, models.PayloadSchemaType.KEYWORD)
        config = client.get_collection(self._name).config
        said = (config.metadata or {}).get(_ABOUT)
        if said is None:
            raise BulkError(
                f"a collection is filled by one kind of program: {self._where} was not made by `quaver load`; "
                "give another name"
            )
        self._layout.check(self._where, str(json.loads(said)["fingerprint"]))
        before = getattr(config.optimizer_config, "indexing_threshold", None)
        self._threshold = before or _THRESHOLD  # 0 is left by a load that was killed
        self._set_threshold(0)

    def loaded(self) -> dict[tuple[str, str], int]:
        """Return the rows of each output that is there."""
        found = {}
        with self._talking():
            for file in self._client.facet(self._name, FILE, limit=_MOST, exact=True).hits:
                name = str(file.value)
                of_file = models.Filter(must=[_is(FILE, name)])
                answer = self._client.facet(
                    self._name, OUTPUT, facet_filter=of_file, limit=_MOST, exact=True
                )
                found.update({(name, str(hit.value)): hit.count for hit in answer.hits})
        return found

    def drop(self, file: str, outputs: list[str]) -> None:
        """Delete the rows of a file that are of one of these outputs."""
        listed = models.FieldCondition(key=OUTPUT, match=models.MatchAny(any=outputs))
        old = models.Filter(must=[_is(FILE, file), listed])
        with self._talking():
            self._client.delete(self._name, models.FilterSelector(filter=old), wait=True)

    def add(self, batches: Iterator[Any]) -> None:
        """Add the rows of one output; a point with the same id is replaced."""
        with self._talking():
            self._client.upload_points(
                self._name,
                (point for batch in batches for point in self._points(batch)),
                batch_size=_BATCH,
                max_retries=5,
                wait=True,
            )

    def _points(self, batch: Any) -> Iterator[Any]:
        layout = self._layout
        names = [layout.id, *(field.name for field in layout.kept), FILE, OUTPUT]
        payloads = batch.select(names).to_pylist()
        results = [batch.column(name) for name in layout.results]
        for row, payload in enumerate(payloads):
            if layout.settings.kind == "sparse":
                words, weights = (column[row].values.to_numpy() for column in results)
                vector: Any = {
                    SPARSE: models.SparseVector(indices=words.tolist(), values=weights.tolist())
                }
            elif layout.settings.kind == "multi-vector":
                vector = np.asarray(results[0][row].as_py(), np.float32).tolist()
            else:
                vector = results[0][row].values.to_numpy().astype(np.float32).tolist()
            yield models.PointStruct(
                id=point_id(payload[layout.id]),
                vector=vector,
                payload={name: plain(value) for name, value in payload.items()},
            )

    def finish(self) -> None:
        """Switch indexing on again."""
        if self._index:
            with self._talking():
                self._set_threshold(self._threshold)

    def _set_threshold(self, kilobytes: int) -> None:
        self._client.update_collection(
            self._name,
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=kilobytes),
        )

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Turn the client's errors into those of our tree."""
        try:
            yield
        except UnexpectedResponse as error:
            denied = error.status_code in _NO_ENTRY
            hint = "; its key goes into QDRANT_API_KEY" if denied else ""
            raise refused(self._where, error, hint) from error
        except (ResponseHandlingException, ConnectionError) as error:
            raise refused(self._where, error) from error


def _is(key: str, value: str) -> Any:
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))


def point_id(identity: str | int) -> int | str:
    """Return the id of a point: a whole number as it is, a UUID too, and a UUID made from another text.

    Args:
        identity: the row's id.
    """
    if isinstance(identity, int) and identity >= 0:
        return identity
    try:
        return str(uuid.UUID(str(identity)))
    except ValueError:
        return str(uuid.uuid5(_SPACE, str(identity)))
