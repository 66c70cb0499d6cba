"""Ollama's dialect: /api/embed, /api/embeddings, /api/tags, /api/ps, /api/show, /api/version, /api/rerank.

Prompts: a text gets the model's default prompt, as of `Embedder.encode`. Names may carry Ollama's tag
":latest". /api/rerank is as in Ollama's open pull request 14172; Ollama itself has no such route.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from starlette.responses import Response

from quaver.serve.http import (
    Call,
    Route,
    json_response,
    object_of,
    rows_of,
    written_response,
)
from quaver.serve.loaded import LoadedEmbedder, LoadedMultiVector, LoadedSparse
from quaver.serve.models import ServedModel
from quaver.serve.refusal import STATUSES, Reason, Refusal


class EmbedRequest(msgspec.Struct):
    """The body of /api/embed.

    Attributes:
        model: a model's name or alias.
        input: a text or texts; left out, the model is only loaded.
        truncate: false refuses a text that is too long.
        dimensions: leading components to keep; 0 keeps all.
        options: ignored.
        keep_alive: ignored; --idle-unload says when a model is unloaded.
    """

    model: str
    input: str | list[str] | None = None
    truncate: bool | None = None
    dimensions: int | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | float | None = None


class EmbeddingsRequest(msgspec.Struct):
    """The body of /api/embeddings, Ollama's older route.

    Attributes:
        model: a model's name or alias.
        prompt: the text.
        options: ignored.
        keep_alive: ignored.
    """

    model: str
    prompt: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | float | None = None


class RerankRequest(msgspec.Struct):
    """The body of /api/rerank.

    Attributes:
        model: a model's name or alias.
        query: the query.
        documents: the documents.
        top_n: how many to return; all if left out.
        options: ignored.
        keep_alive: ignored.
    """

    model: str
    query: str
    documents: list[str]
    top_n: int | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | float | None = None


class ShowRequest(msgspec.Struct):
    """The body of /api/show.

    Attributes:
        model: a model's name or alias.
        name: the same, as older clients send it.
    """

    model: str | None = None
    name: str | None = None


def refuse(refusal: Refusal) -> Response:
    """Return Ollama's error body."""
    return json_response({"error": refusal.message}, STATUSES[refusal.reason])


def _name(call: Call[Any], name: str | None) -> str:
    """Return a model's name without the tag that Ollama's clients append to it."""
    if not name:
        raise Refusal(Reason.INVALID, "model is required", field="model")
    plain = name.removesuffix(":latest")
    return name if call.service.models.has(name) else plain


async def embed(call: Call[EmbedRequest]) -> Response:
    """Embed."""
    begin = time.perf_counter()
    body = call.body
    name = _name(call, body.model)
    served, _ = await call.service.embedder(call.waiter, name)
    loaded = time.perf_counter()
    texts = [body.input] if isinstance(body.input, str) else body.input or []
    written = [b"[]"]
    # Ollama's way to load a model is to ask for nothing.
    if texts and body.input != "":
        vectors = await call.service.embed(
            call.waiter,
            texts,
            model=served.name,
            dimensions=body.dimensions or None,
            truncate="never" if body.truncate is False else "end",
        )
        written = await rows_of(vectors, vectors.shape[1])
    fields = {
        "model": body.model,
        "total_duration": _nanoseconds(begin),
        "load_duration": round((loaded - begin) * 1e9),
        "prompt_eval_count": call.waiter.tokens,
    }
    return written_response(object_of({"embeddings": written}, fields))


async def embeddings(call: Call[EmbeddingsRequest]) -> Response:
    """Embed one text; Ollama's older route does not normalize."""
    body = call.body
    name = _name(call, body.model)
    await call.service.embedder(call.waiter, name)
    vector: Any = []
    if body.prompt:
        vectors = await call.service.embed(
            call.waiter, [body.prompt], model=name, normalize=False, field="prompt"
        )
        vector = vectors[0]
    return json_response({"embedding": vector})


async def rerank(call: Call[RerankRequest]) -> Response:
    """Rank documents."""
    body = call.body
    if body.top_n is not None and body.top_n < 0:
        raise Refusal(
            Reason.INVALID, f"top_n must not be negative: got {body.top_n}", field="top_n"
        )
    found = await call.service.score(
        call.waiter, body.query, body.documents, model=_name(call, body.model)
    )
    return json_response(
        {
            "model": body.model,
            "results": [
                {
                    "index": i,
                    "document": body.documents[i],
                    "relevance_score": float(found.values[i]),
                }
                for i in found.order[: body.top_n or None].tolist()
            ],
            "prompt_eval_count": call.waiter.tokens,
        }
    )


async def tags(call: Call[None]) -> Response:
    """List the models."""
    return json_response({"models": [_listed(model) for model in call.service.models.all]})


async def running(call: Call[None]) -> Response:
    """List the models that are in memory."""
    idle = call.service.settings.idle_unload
    found = []
    for model in call.service.models.all:
        if model.loaded is None:
            continue
        entry = _listed(model)
        del entry["modified_at"]
        entry |= {"size_vram": 0, "context_length": model.loaded.tokenizer.max_length}
        if idle:
            left = max(0.0, model.used + idle - time.monotonic())
            entry["expires_at"] = _time(time.time() + left)
        found.append(entry)
    return json_response({"models": found})


async def show(call: Call[ShowRequest]) -> Response:
    """Describe a model."""
    model = call.service.models.named(_name(call, call.body.model or call.body.name))
    loaded = await call.service.loaded(call.waiter, model)
    length = loaded.tokenizer.max_length
    facts: dict[str, Any] = {"general.architecture": "quaver", "quaver.context_length": length}
    if isinstance(loaded, (LoadedEmbedder, LoadedSparse, LoadedMultiVector)):
        facts["quaver.embedding_length"] = loaded.model.dimension
    return json_response(
        {
            "modelfile": "",
            "parameters": "",
            "template": "",
            "details": _listed(model)["details"],
            "model_info": facts,
            "capabilities": ["rerank" if model.reranks else "embedding"],
            "modified_at": _listed(model)["modified_at"],
        }
    )


async def version(call: Call[None]) -> Response:
    """Say which version this is."""
    from importlib import metadata

    return json_response({"version": metadata.version("quaver")})


def _listed(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": _time(model.created),
        "size": model.nbytes,
        "digest": "",
        "details": {
            "parent_model": "",
            "format": "safetensors",
            "family": "quaver",
            "families": ["quaver"],
            "parameter_size": "",
            "quantization_level": model.settings.precision,
        },
    }


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _nanoseconds(begin: float) -> int:
    return round((time.perf_counter() - begin) * 1e9)


_ERRORS = (400, 401, 404, 408, 413, 415, 429, 500, 503, 504)


def _post(path: str, answer: Any, summary: str, body: Any) -> Route:
    return Route("POST", path, "ollama", answer, refuse, summary, body, dict[str, Any], _ERRORS)


ROUTES = (
    _post("/api/embed", embed, "Turn texts into vectors.", EmbedRequest),
    _post("/api/embeddings", embeddings, "Turn one text into a vector.", EmbeddingsRequest),
    _post("/api/rerank", rerank, "Rank documents for a query.", RerankRequest),
    _post("/api/show", show, "Describe a model.", ShowRequest),
    Route(
        "GET", "/api/tags", "ollama", tags, refuse, "List the models.", None, dict[str, Any], (401,)
    ),
    Route(
        "GET",
        "/api/ps",
        "ollama",
        running,
        refuse,
        "List the models that are in memory.",
        None,
        dict[str, Any],
        (401,),
    ),
    Route(
        "GET",
        "/api/version",
        "ollama",
        version,
        refuse,
        "The version.",
        None,
        dict[str, Any],
        (401,),
    ),
)
