"""The connection to a Qdrant collection: its address, its layout, and retries."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar
from urllib.parse import urlsplit

from quaver.errors import InputError, StoreError, StoreUnavailableError, needs_extra
from quaver.store.manifest import Manifest
from quaver.store.qdrant_filter import Conditions

with needs_extra("qdrant"):
    from qdrant_client import QdrantClient, models
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

DENSE = "dense"
BM25 = "bm25"
SPARSE = "sparse"
MULTI = "multi"
MANIFEST_KEY = "quaver"
"""Key of the manifest in the collection's metadata."""

API_KEY_VARIABLE = "QDRANT_API_KEY"
"""Environment variable with the server's API key."""

RETRY_WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds between attempts to reach a server that does not answer."""

_NO_ENTRY = (401, 403)
_BUSY = 429
_SERVER_FAULT = 500
_OVERSAMPLING = {"int8": 2.0, "binary": 8.0}
P = ParamSpec("P")
T = TypeVar("T")


class Link:
    """Calls a server, and retries if it does not answer.

    Attributes:
        location: `qdrant://host:port/collection`.
        collection: the collection's name.
        client: Qdrant's client.
    """

    def __init__(self, location: str, client: QdrantClient | None = None) -> None:
        """Parse the address; no request is sent yet.

        Args:
            location: `qdrant://host:port/collection`, or `qdrant+https://...`; port 6333 if
                none is given.
            client: a client to use instead of a new one for the location.

        Raises:
            InputError: the location has another form.
        """
        address = urlsplit(location)
        self.location, self.collection = location, address.path.strip("/")
        try:
            port = address.port or 6333
        except ValueError:
            port = 0
        if not address.hostname or not port or not self.collection or "/" in self.collection:
            raise InputError(f"a server's store is qdrant://host:port/collection: got {location!r}")
        scheme = "https" if address.scheme == "qdrant+https" else "http"
        self.client = client or QdrantClient(
            url=f"{scheme}://{address.hostname}:{port}",
            api_key=os.environ.get(API_KEY_VARIABLE),
            timeout=60,
            check_compatibility=False,
        )

    def __call__(self, method: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Call the server; the request must be idempotent, because it may be retried.

        Args:
            method: a method of `client`.
            *args: its arguments.
            **options: its arguments by name.

        Returns:
            the answer.

        Raises:
            StoreUnavailableError: it did not answer, even after retries.
            StoreError: it refused the request.
        """
        from tenacity import (
            Retrying,
            retry_if_exception,
            stop_after_attempt,
            wait_chain,
            wait_fixed,
        )

        attempts = Retrying(
            stop=stop_after_attempt(len(RETRY_WAITS) + 1),
            wait=wait_chain(*map(wait_fixed, RETRY_WAITS)),
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )
        try:
            return attempts(method, *args, **options)
        except (UnexpectedResponse, ResponseHandlingException, ConnectionError) as error:
            if _may_pass(error):
                raise StoreUnavailableError(
                    f"the server of {self.location} does not answer, asked {len(RETRY_WAITS) + 1} times "
                    f"in {sum(RETRY_WAITS):.0f} s ({error}); what was stored stays: start the server and "
                    "run it again"
                ) from error
            refused = getattr(error, "status_code", None) in _NO_ENTRY
            hint = f"; its key goes into {API_KEY_VARIABLE}" if refused else ""
            raise StoreError(f"the server of {self.location} refused: {error}{hint}") from error

    def close(self) -> None:
        """Close the connection; further calls do nothing."""
        self.client.close()


def _may_pass(error: BaseException) -> bool:
    """Return whether another attempt may succeed."""
    if isinstance(error, UnexpectedResponse):
        status = error.status_code or _SERVER_FAULT
        return status >= _SERVER_FAULT or status == _BUSY
    return isinstance(error, (ResponseHandlingException, ConnectionError))


def _dated(key: str, bounds: dict[str, Any]) -> Any:
    # The client reads the text.
    return models.FieldCondition(key=key, range=models.DatetimeRange(**bounds))


CONDITIONS = Conditions(
    filter=models.Filter,
    any_of=lambda key, values: models.FieldCondition(key=key, match=models.MatchAny(any=values)),
    flag=lambda key, value: models.FieldCondition(key=key, match=models.MatchValue(value=value)),
    numbers=lambda key, bounds: models.FieldCondition(key=key, range=models.Range(**bounds)),
    dates=_dated,
    empty=lambda key: models.IsEmptyCondition(is_empty=models.PayloadField(key=key)),
    null=lambda key: models.IsNullCondition(is_null=models.PayloadField(key=key)),
)


def collection_settings(manifest: Manifest) -> dict[str, Any]:
    """Return the layout of a collection.

    Args:
        manifest: the manifest of the new store.

    Returns:
        arguments of `QdrantClient.create_collection`.

    Raises:
        InputError: the manifest has an unknown kind of vectors.
    """
    small: dict[str, Any] = {
        "float32": None,
        "int8": models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(
                type=models.ScalarType.INT8, quantile=0.99, always_ram=True
            )
        ),
        "binary": models.BinaryQuantization(
            binary=models.BinaryQuantizationConfig(always_ram=True)
        ),
    }
    if manifest.vectors not in small:
        raise InputError(f"vectors must be one of {', '.join(small)}: got {manifest.vectors!r}")
    dense = models.VectorParams(
        size=manifest.dimension,
        distance=models.Distance.COSINE,
        quantization_config=small[manifest.vectors],
        on_disk=manifest.vectors != "float32",  # read only to rescore candidates
    )
    vectors = {DENSE: dense}
    if manifest.multi is not None:
        vectors[MULTI] = models.VectorParams(
            size=manifest.multi.dimension,
            distance=models.Distance.DOT,
            datatype=models.Datatype.FLOAT16,  # int8 / 127 comes back exactly
            multivector_config=models.MultiVectorConfig(
                comparator=models.MultiVectorComparator.MAX_SIM
            ),
            hnsw_config=models.HnswConfigDiff(m=0),  # only candidates are compared
            on_disk=True,
        )
    weights = {BM25: models.SparseVectorParams(modifier=models.Modifier.IDF)}
    if manifest.sparse is not None:
        weights[SPARSE] = models.SparseVectorParams()
    return {
        "vectors_config": vectors,
        "sparse_vectors_config": weights,
        "metadata": {MANIFEST_KEY: manifest.to_json()},
    }


def search_params(vectors: str) -> models.SearchParams | None:
    """Return search parameters for small vectors: more candidates, rescored in float32."""
    if vectors not in _OVERSAMPLING:
        return None
    again = models.QuantizationSearchParams(rescore=True, oversampling=_OVERSAMPLING[vectors])
    return models.SearchParams(quantization=again)
