"""OpenAI's dialect: /v1/embeddings and /v1/models, with what Jina's API adds, such as /v1/multi-vector.

Prompts: a text gets the model's default prompt, as of `Embedder.encode`. `input_type` (or Jina's
`task`) "query" and "document" ask for the prompts of `Embedder.encode_query` and
`Embedder.encode_document`; `prompt_name` names any prompt of the model. Lists of token ids are taken
as they are: they get no prompt and no special tokens.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from quaver.embedder import finish_vectors
from quaver.engine import Output
from quaver.serve.http import (
    Call,
    Route,
    json_response,
    list_of,
    object_of,
    rows_of,
    written_response,
)
from quaver.serve.refusal import STATUSES, Reason, Refusal
from quaver.serve.scheduler import Truncate
from quaver.serve.service import Input

TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Role = Literal["query", "document"]

_ROLES: dict[str, Role] = {
    "query": "query",
    "search_query": "query",
    "retrieval.query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
    "retrieval.passage": "document",
}

_SYMMETRIC = frozenset({"text-matching", "classification", "separation", "clustering", "none"})
"""Jina's tasks that compare texts of one kind: they have the model's prompt of that name, or none."""

EmbeddingType = Literal["float", "base64", "int8", "binary", "ubinary"]
"""Jina's formats of vectors."""


class TextInput(msgspec.Struct):
    """An input as Jina's models for texts and images take it.

    Attributes:
        text: the text; images are refused.
    """

    text: str


_CODES = {
    Reason.NOT_FOUND: "model_not_found",
    Reason.UNAUTHORIZED: "invalid_api_key",
    Reason.OVERLOADED: "rate_limit_exceeded",
}


class EmbeddingsRequest(msgspec.Struct):
    """The body of /v1/embeddings.

    Attributes:
        input: a text, texts, the token ids of a text, or of several; Jina's `{"text": ...}` for a text.
        model: a model's name or alias; left out, the first model.
        encoding_format: "float", or "base64" for the bytes of little-endian float32.
        dimensions: leading components to keep.
        user: ignored.
        input_type: "query" or "document", for the model's prompts.
        prompt_name: name of one of the model's prompts.
        task: Jina's word for `input_type`, such as "retrieval.query" or "text-matching".
        normalized: false for vectors as the model gives them.
        embedding_type: Jina's word for `encoding_format`; also "int8", "binary" and "ubinary". With several in
            a list, each embedding is an object of all of them.
        truncate: false refuses a text that is too long.
        late_chunking: Jina's: the inputs are parts of one document, in its order, and their vectors
            know the others.
    """

    input: str | list[str | TokenId | list[TokenId] | TextInput]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None
    input_type: str | None = None
    prompt_name: str | None = None
    task: str | None = None
    normalized: bool | None = None
    embedding_type: EmbeddingType | list[EmbeddingType] | None = None
    truncate: bool | Literal["NONE", "START", "END"] | None = None
    late_chunking: bool | None = None


class MultiVectorRequest(msgspec.Struct):
    """The body of /v1/multi-vector, Jina's route for ColBERT models.

    Attributes:
        input: a text or texts; Jina's `{"text": ...}` for a text.
        model: a model's name or alias; left out, the first multi-vector model.
        input_type: "query" or "document".
        embedding_type: "float", or "base64" for the bytes of little-endian float32, a vector each; with both
            in a list, `embeddings` is an object of both.
        dimensions: the size of the model's vectors; they cannot be shortened.
        truncate: false refuses a text that is too long.
    """

    input: str | list[str | TextInput]
    model: str | None = None
    input_type: Role = "document"
    embedding_type: Literal["float", "base64"] | list[Literal["float", "base64"]] = "float"
    dimensions: int | None = None
    truncate: bool | Literal["NONE", "START", "END"] | None = None


class MultiVector(msgspec.Struct):
    """The vectors of one text.

    Attributes:
        object: "embedding".
        index: the input's position.
        embeddings: a vector for each token: numbers, or base64 of little-endian float32; where several formats
            were asked for, an object of them.
    """

    object: str
    index: int
    embeddings: list[list[float] | str] | dict[str, list[list[float] | str]]


class Embedding(msgspec.Struct):
    """One vector.

    Attributes:
        object: "embedding".
        index: the input's position.
        embedding: numbers, or base64 of little-endian float32; where several formats were asked for, an
            object of them.
    """

    object: str
    index: int
    embedding: list[float] | str | dict[str, list[float] | str]


class Usage(msgspec.Struct):
    """The request's tokens.

    Attributes:
        prompt_tokens: tokens of all inputs, special tokens included, after cutting.
        total_tokens: the same.
    """

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(msgspec.Struct):
    """The answer of /v1/embeddings.

    Attributes:
        object: "list".
        data: the vectors, in the order of the inputs.
        model: the model's name.
        usage: tokens.
    """

    object: str
    data: list[Embedding]
    model: str
    usage: Usage


class MultiVectorAnswer(msgspec.Struct):
    """The answer of /v1/multi-vector.

    Attributes:
        object: "list".
        data: the texts' vectors, in the order of the inputs.
        model: the model's name.
        usage: tokens.
    """

    object: str
    data: list[MultiVector]
    model: str
    usage: Usage


class ModelEntry(msgspec.Struct):
    """One model of the list.

    Attributes:
        id: its name or alias.
        object: "model".
        created: Unix time of the server's start.
        owned_by: "quaver".
    """

    id: str
    object: str
    created: int
    owned_by: str


class ModelList(msgspec.Struct):
    """The answer of /v1/models.

    Attributes:
        object: "list".
        data: the models.
    """

    object: str
    data: list[ModelEntry]


def refuse(refusal: Refusal) -> Response:
    """Return OpenAI's error body."""
    status = STATUSES[refusal.reason]
    kinds = {429: "rate_limit_error", 401: "authentication_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    error = {
        "message": refusal.message,
        "type": kind,
        "param": refusal.field,
        "code": _CODES.get(refusal.reason),
    }
    return json_response({"error": error}, status)


def read_inputs(given: str | Sequence[str | int | list[int] | TextInput]) -> list[Input]:
    """Return the texts and lists of token ids of a request.

    Raises:
        Refusal: numbers and other inputs are mixed.
    """
    if isinstance(given, str):
        return [given]
    plain = [each.text if isinstance(each, TextInput) else each for each in given]
    numbers = [each for each in plain if isinstance(each, int)]
    if not numbers:
        return [each for each in plain if not isinstance(each, int)]
    if len(numbers) < len(plain):
        raise Refusal(
            Reason.INVALID,
            "input must be texts, or the token ids of one text, or lists of token ids: got token ids "
            "mixed with something else",
            field="input",
        )
    return [numbers]


class _Words(NamedTuple):
    """What goes before the texts of a request, as the arguments of `Service.embed`."""

    role: Role | None = None
    prompt_name: str | None = None
    prompt: str | None = None


def _words_of(name: str, prompts: Mapping[str, str], field: str) -> _Words:
    """Return what one of the fields asks for: a prompt of the model, a role, or no words.

    Raises:
        Refusal: it is none of them.
    """
    if name in prompts or field == "prompt_name":
        return _Words(prompt_name=name)
    # Jina's models for code call the prompt of the task "nl2code.passage" so.
    alike = name.replace(".", "_").replace("_passage", "_document")
    if alike in prompts:
        return _Words(prompt_name=alike)
    if name in _ROLES:
        return _Words(_ROLES[name])
    if name in _SYMMETRIC:
        return _Words(prompt="")
    rule = "query or document"
    if field == "task":
        rule = "retrieval.query, retrieval.passage, text-matching, classification, separation, clustering, none"
    raise Refusal(
        Reason.INVALID,
        f"{field} must be {rule}, or name a prompt of the model: got {name[:64]!r}",
        field=field,
    )


def read_words(body: EmbeddingsRequest, prompts: Mapping[str, str]) -> _Words:
    """Return what `input_type`, `task` and `prompt_name` ask for together.

    Args:
        body: the body.
        prompts: the model's.

    Raises:
        Refusal: one of them is unknown, or they contradict each other.
    """
    given = {
        field: name
        for field in ("input_type", "task", "prompt_name")
        if (name := getattr(body, field)) is not None
    }
    words = {field: _words_of(name, prompts, field) for field, name in given.items()}
    if not words:
        return _Words()
    first, *others = words
    for field in others:
        if not _same(words[first], words[field]):
            raise Refusal(
                Reason.INVALID,
                f"{first} and {field} must ask for the same prompt: got {given[first][:64]!r} and "
                f"{given[field][:64]!r}; leave one of them out",
                field=field,
            )
    return words[others[-1] if others else first]


def _same(one: _Words, other: _Words) -> bool:
    """Return whether two fields ask for the same: "query" may be a role, and the prompt of that name."""
    if one == other:
        return True
    kinds = {each.role or _ROLES.get(each.prompt_name or "") for each in (one, other)}
    return len(kinds) == 1 and kinds != {None}


def read_embedding_types(given: str | Sequence[str] | None) -> list[str]:
    """Return Jina's formats of vectors, each once; nothing if the request does not say.

    Raises:
        Refusal: the list is empty.
    """
    if given is None or isinstance(given, str):
        return [] if given is None else [given]
    if not given:
        raise Refusal(
            Reason.INVALID,
            "embedding_type must name a format: got an empty list; leave it out for float",
            field="embedding_type",
        )
    return list(dict.fromkeys(given))


def read_truncate(given: bool | str | None) -> Truncate:
    """Return what to cut off a long text; by default its end."""
    names: dict[bool | str | None, Truncate] = {False: "never", "NONE": "never", "START": "start"}
    return names.get(given, "end")


async def embeddings(call: Call[EmbeddingsRequest]) -> Response:
    """Embed."""
    body = call.body
    inputs = read_inputs(body.input)
    if any(each == "" for each in inputs):
        raise Refusal(Reason.EMPTY, "input must not hold an empty text", field="input")
    call.service.check_count(len(inputs), "input")
    served, loaded = await call.service.embedder(call.waiter, body.model)
    words = read_words(body, loaded.model.prompts)
    kinds = read_embedding_types(body.embedding_type) or [body.encoding_format or "float"]
    options: dict[str, Any] = {
        "model": served.name,
        **words._asdict(),
        "dimensions": body.dimensions,
        "truncate": read_truncate(body.truncate),
    }
    if body.late_chunking:
        texts = [each for each in inputs if isinstance(each, str)]
        if len(texts) < len(inputs):
            raise Refusal(
                Reason.INVALID, "late_chunking needs texts: got token ids", field="late_chunking"
            )
        pooled = await call.service.pool_together(call.waiter, texts, **options)
    else:
        pooled = await call.service.pool(call.waiter, inputs, **options)
    outputs: dict[str, Output] = {"int8": "int8", "binary": "binary", "ubinary": "binary"}
    found: dict[str, Any] = {
        kind: finish_vectors(
            loaded.model,
            pooled,
            normalize=body.normalized,
            truncate_dim=body.dimensions,
            output=outputs.get(kind, "float32"),
        )
        for kind in kinds
    }
    if "binary" in found:
        found["binary"] = (found["binary"].astype(np.int16) - 128).astype(np.int8)

    def form(i: int) -> dict[str, Any]:
        rows = {
            kind: _base64(each[i]) if kind == "base64" else each[i] for kind, each in found.items()
        }
        row = rows if len(rows) > 1 else rows[kinds[0]]
        return {"object": "embedding", "index": i, "embedding": row}

    width = pooled.shape[1] * len(kinds)
    return _listed(call, await rows_of(range(len(pooled)), width, form=form))


def _listed(call: Call[Any], data: list[bytes]) -> Response:
    """Return an answer: the vectors, which model gave them, and its tokens."""
    tokens = call.waiter.tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    fields = {"object": "list", "model": call.waiter.model, "usage": usage}
    return written_response(object_of({"data": data}, fields))


async def multi_vector(call: Call[MultiVectorRequest]) -> Response:
    """Embed each token."""
    body = call.body
    texts = [each for each in read_inputs(body.input) if isinstance(each, str)]
    if any(each == "" for each in texts):
        raise Refusal(Reason.EMPTY, "input must not hold an empty text", field="input")
    kinds = read_embedding_types(body.embedding_type)
    found = await call.service.embed_multi_vectors(
        call.waiter,
        texts,
        body.input_type,
        model=body.model,
        dimensions=body.dimensions,
        truncate=read_truncate(body.truncate),
    )

    rows = []
    for i, vectors in enumerate(found):
        forms = {
            kind: await rows_of(
                vectors, vectors.shape[1], form=_base64 if kind == "base64" else None
            )
            for kind in kinds
        }
        written = object_of(forms, {}) if len(kinds) > 1 else forms[kinds[0]]
        rows.append(object_of({"embeddings": written}, {"object": "embedding", "index": i}))
    return _listed(call, list_of(rows))


def _base64(vector: NDArray[np.float32]) -> str:
    """Return the bytes of little-endian float32."""
    return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")


async def models(call: Call[None]) -> Response:
    """List the models and their aliases."""
    data = [
        {"id": name, "object": "model", "created": model.created, "owned_by": "quaver"}
        for model in call.service.models.all
        for name in (model.name, *model.settings.aliases)
    ]
    return json_response({"object": "list", "data": data})


async def model(call: Call[None]) -> Response:
    """Show one model."""
    name = call.request.path_params["name"]
    found = call.service.models.named(name)
    return json_response(
        {"id": name, "object": "model", "created": found.created, "owned_by": "quaver"}
    )


_ERRORS = (400, 401, 404, 408, 413, 415, 429, 500, 503, 504)
ROUTES = (
    Route(
        "POST",
        "/v1/embeddings",
        "openai",
        embeddings,
        refuse,
        "Turn texts into vectors.",
        EmbeddingsRequest,
        EmbeddingsAnswer,
        _ERRORS,
    ),
    Route(
        "POST",
        "/v1/multi-vector",
        "openai",
        multi_vector,
        refuse,
        "Turn texts into a vector for each token.",
        MultiVectorRequest,
        MultiVectorAnswer,
        _ERRORS,
    ),
    Route(
        "GET", "/v1/models", "openai", models, refuse, "List the models.", None, ModelList, (401,)
    ),
    Route(
        "GET",
        "/v1/models/{name:path}",
        "openai",
        model,
        refuse,
        "Show one model.",
        None,
        ModelEntry,
        (401, 404),
    ),
)
