"""The dialect of Hugging Face's text-embeddings-inference: its own routes, bodies, headers and errors.

Prompts: a text gets the model's default prompt, or the one that `prompt_name` names. /rerank with a
cross-encoder uses none; with an embedding model the query gets the query prompt and each text the
document prompt. A multi-vector model takes the names "query" and "document", and a sparse encoder
whose queries are weighed by a table the name "query", for what these are to it. Unlike TEI, lists of
token ids are taken as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.responses import PlainTextResponse, Response

from quaver.serve import cohere
from quaver.serve.http import Call, Route, json_response, list_of, misfit, rows_of, written_response
from quaver.serve.loaded import LoadedCrossEncoder, LoadedEmbedder, LoadedSparse
from quaver.serve.refusal import STATUSES, Reason, Refusal
from quaver.serve.scheduler import Truncate
from quaver.serve.service import Input

TokenId = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Direction = Literal["Left", "Right", "left", "right"]

# TEI's own statuses, and text instead of JSON where its HTTP library refuses a body.
_STATUSES = {
    **STATUSES,
    Reason.INVALID: 422,
    Reason.WRONG_MODEL: 424,
    Reason.FAILED: 424,
}
_PLAIN = {
    Reason.MALFORMED,
    Reason.TOO_LARGE,
    Reason.ENCODED,
    Reason.SLOW,
    Reason.NOT_FOUND,
    Reason.NOT_ALLOWED,
}
_TYPES = {
    Reason.EMPTY: "Empty",
    Reason.WRONG_MODEL: "Backend",
    Reason.OVERLOADED: "Overloaded",
    Reason.UNAVAILABLE: "Unhealthy",
    Reason.TIMEOUT: "Unhealthy",
    Reason.FAILED: "Backend",
}


_NUMBERS_OF_WORD = 8
"""A word of a sparse vector, written as an object, takes as long as this many numbers of a vector."""


class EmbedRequest(msgspec.Struct):
    """The body of /embed.

    Attributes:
        inputs: a text, the token ids of one, or a list of either.
        truncate: false refuses a text that is too long.
        truncation_direction: which end of a long text is cut off.
        prompt_name: name of one of the model's prompts.
        normalize: whether vectors get length 1.
        dimensions: leading components to keep.
    """

    inputs: str | list[str | TokenId | list[TokenId]]
    truncate: bool | None = None
    truncation_direction: Direction = "Right"
    prompt_name: str | None = None
    normalize: bool = True
    dimensions: int | None = None


class EmbedAllRequest(msgspec.Struct):
    """The body of /embed_all and /embed_sparse.

    Attributes:
        inputs: a text, the token ids of one, or a list of either.
        truncate: false refuses a text that is too long.
        truncation_direction: which end of a long text is cut off.
        prompt_name: name of one of the model's prompts.
    """

    inputs: str | list[str | TokenId | list[TokenId]]
    truncate: bool | None = None
    truncation_direction: Direction = "Right"
    prompt_name: str | None = None


class SparseValue(msgspec.Struct):
    """One number of a sparse vector.

    Attributes:
        index: its place, a token id.
        value: the number.
    """

    index: int
    value: float


class SimilarityParameters(msgspec.Struct):
    """Options of /similarity.

    Attributes:
        truncate: false refuses a text that is too long.
        truncation_direction: which end of a long text is cut off.
        prompt_name: name of one of the model's prompts.
    """

    truncate: bool | None = None
    truncation_direction: Direction = "Right"
    prompt_name: str | None = None


class SimilarityInputs(msgspec.Struct):
    """A text, and the texts to compare it with.

    Attributes:
        source_sentence: the text.
        sentences: the others.
    """

    source_sentence: str
    sentences: list[str]


class SimilarityRequest(msgspec.Struct):
    """The body of /similarity.

    Attributes:
        inputs: what to compare.
        parameters: options.
    """

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


class RerankRequest(msgspec.Struct):
    """The body of /rerank; with `documents` instead of `texts` it is that of vLLM.

    Attributes:
        query: the query.
        texts: the documents.
        truncate: false refuses a text that is too long.
        truncation_direction: which end of a long document is cut off; the query is never cut.
        raw_scores: leave out the sigmoid that is applied to the scores of a cross-encoder.
        return_text: put the documents into the answer.
        documents: the documents, for an answer as of /v1/rerank.
        model: with `documents`, as of /v1/rerank; so are `top_n` and `return_documents`.
        top_n: see `model`.
        return_documents: see `model`.
    """

    query: str
    texts: list[str] | None = None
    truncate: bool | None = None
    truncation_direction: Direction = "Right"
    raw_scores: bool = False
    return_text: bool = False
    documents: list[str | dict[str, Any]] | None = None
    model: str | None = None
    top_n: int | None = None
    return_documents: bool | None = None


class PredictRequest(msgspec.Struct):
    """The body of /predict.

    Attributes:
        inputs: a text, a pair of texts, or a list of texts and pairs, each in a list of its own.
        truncate: false refuses a text that is too long.
        truncation_direction: which end of a long text is cut off, of a pair the second one's.
        raw_scores: leave out softmax and sigmoid.
    """

    inputs: str | list[str | list[str]]
    truncate: bool | None = None
    truncation_direction: Direction = "Right"
    raw_scores: bool = False


class TokenizeRequest(msgspec.Struct):
    """The body of /tokenize.

    Attributes:
        inputs: a text or texts.
        add_special_tokens: whether to add the special tokens.
        prompt_name: name of one of the model's prompts.
    """

    inputs: str | list[str]
    add_special_tokens: bool = True
    prompt_name: str | None = None


class DecodeRequest(msgspec.Struct):
    """The body of /decode.

    Attributes:
        ids: token ids of a text, or of several.
        skip_special_tokens: leave the special tokens out of the text.
    """

    ids: list[TokenId | list[TokenId]]
    skip_special_tokens: bool = True


class Rank(msgspec.Struct, omit_defaults=True):
    """One ranked document.

    Attributes:
        index: its position in the request.
        score: higher means more relevant.
        text: the document, if it was asked for.
    """

    index: int
    score: float
    text: str | None = None


class Prediction(msgspec.Struct):
    """The score of one label.

    Attributes:
        score: the score.
        label: the label's name.
    """

    score: float
    label: str


class Token(msgspec.Struct):
    """One token.

    Attributes:
        id: its id.
        text: its text in the vocabulary.
        special: whether it was added around the text.
        start: characters of the text before it.
        stop: characters of the text up to its end.
    """

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


def refuse(refusal: Refusal) -> Response:
    """Return TEI's error body."""
    status = _STATUSES[refusal.reason]
    if refusal.reason is Reason.UNAUTHORIZED:
        return Response(status_code=status)
    if refusal.reason in _PLAIN:
        return PlainTextResponse(refusal.message, status)
    message = "Model is overloaded" if refusal.reason is Reason.OVERLOADED else refusal.message
    kind = _TYPES.get(refusal.reason, "Validation")
    return json_response({"error": message, "error_type": kind}, status)


def _inputs(given: str | list[str | int | list[int]]) -> list[Input]:
    """Return the texts and lists of token ids of a request."""
    if isinstance(given, str):
        inputs: list[Input] = [given]
    elif given and all(isinstance(each, int) for each in given):
        inputs = [[each for each in given if isinstance(each, int)]]
    else:
        inputs = []
        for i, each in enumerate(given):
            if isinstance(each, int):
                raise Refusal(
                    Reason.INVALID,
                    f"`inputs` must not mix token ids and texts: inputs[{i}] is a number",
                )
            inputs.append(each)
    if any(not each for each in inputs):
        raise Refusal(Reason.INVALID, "`inputs` cannot be empty")
    return inputs


def _truncate(truncate: bool | None, direction: Direction) -> Truncate:
    if truncate is False:
        return "never"
    return "start" if direction.lower() == "left" else "end"


def _headers(call: Call[Any], characters: int) -> dict[str, str]:
    """Return TEI's headers about the work."""
    waiter = call.waiter
    spent = waiter.tokenize_seconds + waiter.queue_seconds + waiter.compute_seconds
    return {
        "x-compute-type": "cpu",
        "x-compute-time": _milliseconds(spent),
        "x-compute-characters": str(characters),
        "x-compute-tokens": str(waiter.tokens),
        "x-total-time": _milliseconds(spent),
        "x-tokenization-time": _milliseconds(waiter.tokenize_seconds),
        "x-queue-time": _milliseconds(waiter.queue_seconds),
        "x-inference-time": _milliseconds(waiter.compute_seconds),
    }


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))


def _characters(inputs: list[Input]) -> int:
    return sum(len(each) for each in inputs if isinstance(each, str))


async def embed(call: Call[EmbedRequest]) -> Response:
    """Embed; the first model answers."""
    body = call.body
    inputs = _inputs(body.inputs)
    found = await call.service.embed(
        call.waiter,
        inputs,
        prompt_name=body.prompt_name,
        normalize=body.normalize,
        dimensions=body.dimensions,
        truncate=_truncate(body.truncate, body.truncation_direction),
        field="inputs",
    )
    written = await rows_of(found, found.shape[1])
    return written_response(written, _headers(call, _characters(inputs)))


async def embed_all(call: Call[EmbedAllRequest]) -> Response:
    """Return the vectors of all tokens, as they are before pooling; the first model answers."""
    body = call.body
    inputs = _inputs(body.inputs)
    try:
        found = await call.service.embed_tokens(
            call.waiter,
            inputs,
            prompt_name=body.prompt_name,
            truncate=_truncate(body.truncate, body.truncation_direction),
        )
    except Refusal as refusal:
        if refusal.reason is Reason.WRONG_MODEL:
            raise Refusal(
                Reason.WRONG_MODEL, f"model does not give embeddings of tokens: {refusal.message}"
            ) from refusal
        raise
    rows = [await rows_of(each, each.shape[1]) for each in found]
    return written_response(list_of(rows), _headers(call, _characters(inputs)))


async def embed_sparse(call: Call[EmbedAllRequest]) -> Response:
    """Return the words of sparse vectors with their weights; the first sparse encoder answers."""
    body = call.body
    inputs = _inputs(body.inputs)
    try:
        found = await call.service.embed_sparse(
            call.waiter,
            inputs,
            prompt_name=body.prompt_name,
            truncate=_truncate(body.truncate, body.truncation_direction),
        )
    except Refusal as refusal:
        if refusal.reason is Reason.WRONG_MODEL:
            raise Refusal(
                Reason.WRONG_MODEL, "model is not an embedding model with SPLADE pooling"
            ) from refusal
        raise
    written = await rows_of(found, max(map(len, found)) * _NUMBERS_OF_WORD, form=_words)
    return written_response(written, _headers(call, _characters(inputs)))


def _words(row: NDArray[Any]) -> list[dict[str, Any]]:
    # The weights stay float32: as Python's floats they would be written with twice the digits.
    return [
        {"index": index, "value": value}
        for index, value in zip(row["index"].tolist(), row["value"], strict=True)
    ]


async def similarity(call: Call[SimilarityRequest]) -> Response:
    """Compare a text with others."""
    given, parameters = call.body.inputs, call.body.parameters or SimilarityParameters()
    scores = await call.service.similarities(
        call.waiter,
        given.source_sentence,
        given.sentences,
        prompt_name=parameters.prompt_name,
        truncate=_truncate(parameters.truncate, parameters.truncation_direction),
    )
    characters = len(given.source_sentence) + sum(map(len, given.sentences))
    return json_response(scores, headers=_headers(call, characters))


async def rerank(call: Call[RerankRequest]) -> Response:
    """Rank texts for a query; the first reranker answers."""
    body = call.body
    if body.texts is None:
        if body.documents is None:
            raise Refusal(Reason.INVALID, "the body must have texts or documents: got neither")
        documents = cohere.RerankRequest(
            body.query,
            body.documents,
            body.model,
            body.top_n,
            return_documents=body.return_documents,
        )
        other: Call[Any] = call
        return await cohere.rerank(replace(other, body=documents))
    try:
        scores = await call.service.score(
            call.waiter,
            body.query,
            body.texts,
            activation="identity" if body.raw_scores else "sigmoid",
            truncate=_truncate(body.truncate, body.truncation_direction),
            field="texts",
        )
    except Refusal as refusal:
        if refusal.reason is Reason.WRONG_MODEL:
            raise Refusal(Reason.WRONG_MODEL, "model is not a re-ranker model") from refusal
        raise
    ranked = [
        Rank(i, float(scores.values[i]), body.texts[i] if body.return_text else None)
        for i in scores.order.tolist()
    ]
    characters = len(body.query) * len(body.texts) + sum(map(len, body.texts))
    return Response(
        msgspec.json.encode(ranked),
        headers=_headers(call, characters),
        media_type="application/json",
    )


async def predict(call: Call[PredictRequest]) -> Response:
    """Classify texts or pairs of texts; the first reranker or classifier answers."""
    body = call.body
    truncate = _truncate(body.truncate, body.truncation_direction)
    inputs, single = _classified(body.inputs)
    loaded, logits = await call.service.classify(call.waiter, inputs, truncate=truncate)
    scores = logits if body.raw_scores else _probabilities(logits)
    names = loaded.model.label_names
    found = [
        sorted(
            (Prediction(float(score), name) for score, name in zip(row, names, strict=True)),
            key=lambda each: -each.score,
        )
        for row in scores
    ]
    return Response(
        msgspec.json.encode(found[0] if single else found),
        headers=_headers(call, 0),
        media_type="application/json",
    )


def _classified(given: str | list[str | list[str]]) -> tuple[list[str | tuple[str, str]], bool]:
    """Return texts and pairs, and whether the request had only one: "a", ["a", "b"] or [["a"], ["a", "b"]]."""
    if isinstance(given, str):
        given = [given]
    if all(isinstance(each, str) for each in given):
        return [_text_or_pair(given)], True
    return [_text_or_pair(each) for each in given], False


def _text_or_pair(given: Any) -> str | tuple[str, str]:
    texts = [each for each in given if isinstance(each, str)] if isinstance(given, list) else []
    if len(texts) == 1:
        return texts[0]
    if len(texts) == 2:
        return texts[0], texts[1]
    raise Refusal(
        Reason.INVALID,
        "`inputs` must be a text, a pair of texts, or a list of lists of one or two texts",
    )


def _probabilities(logits: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    """Apply a sigmoid to one label, a softmax to several."""
    if logits.shape[1] == 1:
        return 1 / (1 + np.exp(-logits.astype(np.float64)))
    power = np.exp(logits - logits.max(axis=1, keepdims=True))
    return power / power.sum(axis=1, keepdims=True)


async def tokenize(call: Call[TokenizeRequest]) -> Response:
    """Show the tokens of texts."""
    body = call.body
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    found = await call.service.pieces(
        call.waiter,
        texts,
        prompt_name=body.prompt_name,
        special_tokens=body.add_special_tokens,
        form=msgspec.json.encode,
    )
    return Response(b"[" + b",".join(found) + b"]", media_type="application/json")


async def decode(call: Call[DecodeRequest]) -> Response:
    """Turn token ids into text."""
    inputs = _inputs(list(call.body.ids))
    ids = [list(each) for each in inputs if not isinstance(each, str)]
    found = await call.service.decode(
        call.waiter,
        ids,
        skip_special_tokens=call.body.skip_special_tokens,
        form=msgspec.json.encode,
    )
    return Response(b"[" + b",".join(found) + b"]", media_type="application/json")


async def info(call: Call[None]) -> Response:
    """Describe the first model and the limits."""
    from importlib import metadata

    service = call.service
    model = service.models.all[0]
    loaded = await service.loaded(call.waiter, model)
    kind: dict[str, Any]
    if isinstance(loaded, LoadedCrossEncoder):
        names = loaded.model.label_names
        labels = {
            "id2label": {str(i): name for i, name in enumerate(names)},
            "label2id": {name: i for i, name in enumerate(names)},
        }
        kind = {"reranker" if loaded.model.labels == 1 else "classifier": labels}
        length, precision = loaded.model.max_seq_length, loaded.model.precision
    elif isinstance(loaded, LoadedEmbedder):
        pooling = loaded.model.spec.pooling
        kind = {"embedding": {"pooling": "last_token" if pooling == "lasttoken" else pooling}}
        length, precision = loaded.model.max_seq_length, loaded.model.precision
    else:
        pooling = "splade" if isinstance(loaded, LoadedSparse) else "multi_vector"
        kind = {"embedding": {"pooling": pooling}}
        length, precision = loaded.model.max_seq_length, loaded.model.precision
    settings = service.settings
    return json_response(
        {
            "model_id": model.settings.hub_id or model.name,
            "model_sha": model.settings.revision,
            "model_dtype": precision,
            "served_model_name": model.name,
            "model_type": kind,
            "max_concurrent_requests": settings.queue_requests,
            "max_input_length": length,
            "max_batch_tokens": settings.batch_tokens,
            "max_batch_requests": None,
            "max_client_batch_size": settings.max_inputs,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "version": metadata.version("quaver"),
            "sha": None,
            "docker_label": None,
        }
    )


async def root(call: Call[Any]) -> Response:
    """Answer with the default route of the first model, as TEI does: /embed, /embed_sparse, /rerank or /predict.

    Of a multi-vector model it is /embed_all.
    """
    model = call.service.models.all[0]
    loaded = await call.service.loaded(call.waiter, model)
    if isinstance(loaded, LoadedCrossEncoder) and loaded.model.labels > 1:
        return await predict(replace(call, body=_as(PredictRequest, call.body)))
    if model.reranks:
        body = _as(RerankRequest, call.body)
        return await rerank(replace(call, body=body))
    if model.task in ("sparse", "multi-vector"):
        body = _as(EmbedAllRequest, call.body)
        answer = embed_sparse if model.task == "sparse" else embed_all
        return await answer(replace(call, body=body))
    given = call.body.get("inputs") if isinstance(call.body, dict) else None
    if isinstance(given, dict):
        body = _as(SimilarityRequest, call.body)
        return await similarity(replace(call, body=body))
    return await embed(replace(call, body=_as(EmbedRequest, call.body)))


def _as(kind: Any, body: Any) -> Any:
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as error:
        raise misfit("the body", error, body, kind) from error


_ERRORS = (400, 401, 408, 413, 415, 422, 424, 429, 503, 504)


def _post(path: str, answer: Any, summary: str, body: Any, returns: Any) -> Route:
    return Route("POST", path, "tei", answer, refuse, summary, body, returns, _ERRORS)


ROUTES = (
    _post("/embed", embed, "Turn texts into vectors.", EmbedRequest, list[list[float]]),
    _post(
        "/embed_all",
        embed_all,
        "Turn texts into a vector for each token.",
        EmbedAllRequest,
        list[list[list[float]]],
    ),
    _post(
        "/embed_sparse",
        embed_sparse,
        "Turn texts into sparse vectors.",
        EmbedAllRequest,
        list[list[SparseValue]],
    ),
    _post("/rerank", rerank, "Rank texts for a query.", RerankRequest, list[Rank]),
    _post("/predict", predict, "Classify texts or pairs.", PredictRequest, Any),
    _post("/similarity", similarity, "Compare a text with others.", SimilarityRequest, list[float]),
    _post("/tokenize", tokenize, "Show the tokens of texts.", TokenizeRequest, list[list[Token]]),
    _post("/decode", decode, "Turn token ids into text.", DecodeRequest, list[str]),
    _post("/", root, "The default route of the first model.", dict[str, Any], Any),
    Route(
        "GET",
        "/info",
        "tei",
        info,
        refuse,
        "Describe the first model.",
        None,
        dict[str, Any],
        (401, 503),
    ),
)
