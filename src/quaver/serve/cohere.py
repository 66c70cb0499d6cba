"""Cohere's dialect: /v2/embed, /v2/rerank and the /v1 forms, as the SDK `cohere` sends them.

Prompts: `input_type` "search_query" and "search_document" ask for the prompts of
`Embedder.encode_query` and `Embedder.encode_document`; "classification" and "clustering" for the
model's prompt of that name, or none. Vectors have length 1 if the model's do.

/v1/rerank is Jina's route, too. The answer has what both APIs promise.
"""

from __future__ import annotations

import base64
import uuid
from typing import Any, Literal

import msgspec
import numpy as np
from starlette.responses import Response

from quaver.embedder import finish_vectors
from quaver.serve.http import (
    Call,
    Route,
    interactive,
    json_response,
    object_of,
    rows_of,
    written_response,
)
from quaver.serve.refusal import STATUSES, Reason, Refusal
from quaver.serve.scheduler import Truncate

InputType = Literal["search_document", "search_query", "classification", "clustering", "image"]
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]


class Content(msgspec.Struct):
    """A part of an input.

    Attributes:
        type: "text"; images are refused.
        text: the text.
    """

    type: str
    text: str | None = None


class EmbedInput(msgspec.Struct):
    """An input in parts, whose texts are joined by spaces.

    Attributes:
        content: the parts.
    """

    content: list[Content]


class EmbedRequest(msgspec.Struct):
    """The body of /v2/embed and /v1/embed.

    Attributes:
        texts: the texts.
        inputs: the texts, in parts.
        model: a model's name or alias; left out, the first model.
        input_type: what the texts are for.
        embedding_types: the requested formats; "float" if left out.
        truncate: what to cut off a long text.
        output_dimension: leading components to keep.
        max_tokens: maximum number of tokens in a text.
        priority: 0 goes before other requests, larger numbers after.
    """

    texts: list[str] | None = None
    inputs: list[EmbedInput] | None = None
    model: str | None = None
    input_type: InputType | None = None
    embedding_types: list[EmbeddingType] | None = None
    truncate: Literal["NONE", "START", "END"] = "END"
    output_dimension: int | None = None
    max_tokens: int | None = None
    priority: int | None = None


class RerankRequest(msgspec.Struct):
    """The body of /v2/rerank and /v1/rerank.

    Attributes:
        query: the query.
        documents: the documents: texts, or objects with a text.
        model: a model's name or alias; left out, the first reranker.
        top_n: how many to return; all if left out.
        max_tokens_per_doc: maximum number of tokens in a document.
        max_chunks_per_doc: ignored; a document is one chunk.
        rank_fields: fields of the objects to read, each a line; "text" if left out.
        return_documents: put the documents into the answer.
        truncation: false refuses a document that is too long.
        priority: 0 goes before other requests, larger numbers after.
    """

    query: str
    documents: list[str | dict[str, Any]]
    model: str | None = None
    top_n: int | None = None
    max_tokens_per_doc: int | None = None
    max_chunks_per_doc: int | None = None
    rank_fields: list[str] | None = None
    return_documents: bool | None = None
    truncation: bool | None = None
    priority: int | None = None


def refuse(refusal: Refusal) -> Response:
    """Return Cohere's error body."""
    body = {"id": str(uuid.uuid4()), "message": refusal.message}
    return json_response(body, STATUSES[refusal.reason])


def _texts(body: EmbedRequest) -> list[str]:
    if body.texts is None and body.inputs is None:
        raise Refusal(
            Reason.INVALID, "the body must have texts or inputs: got neither", field="texts"
        )
    if body.texts is not None and body.inputs is not None:
        raise Refusal(
            Reason.INVALID,
            "the body must have texts or inputs: got both; leave one out",
            field="texts",
        )
    if body.texts is not None:
        return body.texts
    found = []
    for i, each in enumerate(body.inputs or ()):
        texts = [
            part.text for part in each.content if part.type == "text" and part.text is not None
        ]
        if len(texts) < len(each.content) or not texts:
            raise Refusal(
                Reason.INVALID,
                f"inputs[{i}] must have text alone: images are not supported",
                field="inputs",
            )
        found.append(" ".join(texts))
    return found


async def embed(call: Call[EmbedRequest]) -> Response:
    """Embed; one pass through the model serves all formats."""
    body, service = call.body, call.service
    texts = _texts(body)
    _set_priority(call, body.priority)
    by_type = call.request.url.path.startswith("/v2") or body.embedding_types is not None
    if body.input_type == "image":
        raise Refusal(Reason.INVALID, "images are not supported", field="input_type")
    truncates: dict[str, Truncate] = {"NONE": "never", "START": "start", "END": "end"}
    service.check_count(len(texts), "texts" if body.inputs is None else "inputs")
    served, loaded = await service.embedder(call.waiter, body.model)
    role: Literal["query", "document"] | None = None
    prompt, prompt_name = None, None
    if body.input_type == "search_query":
        role = "query"
    elif body.input_type == "search_document":
        role = "document"
    elif body.input_type is not None:
        has = body.input_type in loaded.model.prompts
        prompt, prompt_name = (None, body.input_type) if has else ("", None)
    pooled = await service.pool(
        call.waiter,
        texts,
        model=served.name,
        prompt=prompt,
        prompt_name=prompt_name,
        role=role,
        dimensions=body.output_dimension,
        truncate=truncates[body.truncate],
        longest=body.max_tokens,
        field="texts" if body.inputs is None else "inputs",
        dimensions_field="output_dimension",
    )
    found: dict[str, list[bytes]] = {}
    for kind in dict.fromkeys(body.embedding_types or ["float"]):
        vectors = _format(loaded.model, pooled, kind, body.output_dimension)
        found[kind] = await rows_of(vectors, pooled.shape[1])
    fields = {
        "id": str(uuid.uuid4()),
        "response_type": "embeddings_by_type" if by_type else "embeddings_floats",
        "texts": texts,
        "meta": _meta(call, {"input_tokens": call.waiter.tokens}),
    }
    written = object_of(found, {}) if by_type else found["float"]
    return written_response(object_of({"embeddings": written}, fields))


def _format(embedder: Any, pooled: Any, kind: str, dimension: int | None) -> Any:
    """Return vectors in one of Cohere's formats.

    int8 is the unit vector times 127; uint8 the same plus 128; ubinary has eight signs in a byte,
    binary the same less 128.
    """
    outputs: dict[str, Any] = {
        "int8": "int8",
        "uint8": "int8",
        "binary": "binary",
        "ubinary": "binary",
    }
    vectors = finish_vectors(
        embedder, pooled, truncate_dim=dimension, output=outputs.get(kind, "float32")
    )
    if kind == "uint8":
        return (vectors.astype(np.int16) + 128).astype(np.uint8)
    if kind == "binary":
        return (vectors.astype(np.int16) - 128).astype(np.int8)
    if kind == "base64":
        rows = vectors.astype("<f4", copy=False)
        return [base64.b64encode(row.tobytes()).decode("ascii") for row in rows]
    return vectors


async def rerank(call: Call[RerankRequest]) -> Response:
    """Rank documents."""
    body = call.body
    _set_priority(call, body.priority)
    for name, value in (("top_n", body.top_n), ("max_tokens_per_doc", body.max_tokens_per_doc)):
        if value is not None and value < 1:
            raise Refusal(Reason.INVALID, f"{name} must be at least 1: got {value}", field=name)
    texts = [_text(each, i, body.rank_fields) for i, each in enumerate(body.documents)]
    found = await call.service.score(
        call.waiter,
        body.query,
        texts,
        model=body.model,
        truncate="never" if body.truncation is False else "end",
        longest=body.max_tokens_per_doc,
    )
    results = []
    for i in found.order[: body.top_n].tolist():
        entry: dict[str, Any] = {"index": i, "relevance_score": float(found.values[i])}
        if body.return_documents:
            given = body.documents[i]
            entry["document"] = {"text": given} if isinstance(given, str) else given
        results.append(entry)
    return json_response(
        {
            "id": str(uuid.uuid4()),
            "model": found.model.name,
            "object": "list",
            "results": results,
            "usage": {"prompt_tokens": call.waiter.tokens, "total_tokens": call.waiter.tokens},
            "meta": _meta(call, {"search_units": 1}),
        }
    )


def _text(given: str | dict[str, Any], i: int, fields: list[str] | None) -> str:
    if isinstance(given, str):
        return given
    if fields:
        try:
            return "\n".join(f"{name}: {given[name]}" for name in fields if name in given)
        except RecursionError as error:
            raise Refusal(
                Reason.INVALID,
                f"documents[{i}] is nested too deeply to be read as text",
                field="documents",
            ) from error
    text = given.get("text")
    if not isinstance(text, str):
        raise Refusal(
            Reason.INVALID,
            f"documents[{i}] must be a text, or an object with a text",
            field="documents",
        )
    return text


def _meta(call: Call[Any], units: dict[str, int]) -> dict[str, Any]:
    version = "2" if call.request.url.path.startswith("/v2/") else "1"
    return {"api_version": {"version": version}, "billed_units": units}


def _set_priority(call: Call[Any], priority: int | None) -> None:
    if priority is not None:
        call.waiter.interactive = interactive(priority)


_ERRORS = (400, 401, 404, 408, 413, 415, 429, 500, 503, 504)
_EMBED = "Turn texts into vectors of any of Cohere's formats."
_RERANK = "Rank documents for a query."
ROUTES = (
    *(
        Route("POST", path, "cohere", embed, refuse, _EMBED, EmbedRequest, dict[str, Any], _ERRORS)
        for path in ("/v2/embed", "/v1/embed")
    ),
    *(
        Route(
            "POST", path, "cohere", rerank, refuse, _RERANK, RerankRequest, dict[str, Any], _ERRORS
        )
        for path in ("/v2/rerank", "/v1/rerank")
    ),
)
