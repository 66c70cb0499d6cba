"""Quaver's own dialect: stores, searched and read, and questions answered from them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import msgspec
from starlette.responses import Response

from quaver.answers import DEFAULT_PASSAGES, Answer
from quaver.documents import Passage
from quaver.errors import InputError
from quaver.index import Library, Reading
from quaver.serve.http import Call, Route, Stream, json_of, json_response
from quaver.serve.refusal import STATUSES, Reason, Refusal
from quaver.serve.stores import MOST_HITS, Event, ModeName, Query
from quaver.store import CANDIDATES, Hit, StoreStatus, read_filter

Count = Annotated[int, msgspec.Meta(ge=1, le=MOST_HITS)]
Few = Annotated[int, msgspec.Meta(ge=0, le=100)]
Position = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


class SearchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of /v1/stores/{name}/search.

    Attributes:
        query: the question.
        k: maximum number of hits.
        mode: rank by vectors, by words, by the weights of a sparse encoder, or by several with their ranks
            fused.
        filter: only passages that match: a condition such as "page>=3", a list of them, an object of
            fields that equal their values, or {"field", "operator", "value"}, {"and": [...]}, {"or": [...]},
            {"not": ...}.
        rerank: rerank what was found: true for the server's first reranking model, or the name of one.
        candidates: number of hits to rerank.
        min_score: leave out hits with a lower score, on the scale of the mode or the ranker.
        maxsim: rerank what was found by stored token vectors.
    """

    query: str
    k: Count = 10
    mode: ModeName = "hybrid"
    filter: str | list[Any] | dict[str, Any] | None = None
    rerank: bool | str = False
    candidates: Count = CANDIDATES
    min_score: float | None = None
    maxsim: bool = False


class AskRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of /v1/stores/{name}/ask.

    Attributes:
        question: the question.
        k: number of passages that the language model gets.
        mode: as of a search.
        filter: as of a search.
        rerank: as of a search.
        candidates: as of a search.
        stream: server-sent events; false for one JSON document.
        maxsim: as of a search.
    """

    question: str
    k: Annotated[int, msgspec.Meta(ge=1, le=100)] = DEFAULT_PASSAGES
    mode: ModeName = "hybrid"
    filter: str | list[Any] | dict[str, Any] | None = None
    rerank: bool | str = False
    candidates: Count = CANDIDATES
    stream: bool = True
    maxsim: bool = False


class PassageEntry(msgspec.Struct):
    """A passage.

    Attributes:
        id: its id.
        text: its text.
        source: path relative to the indexed folder.
        heading: the headings above it, joined by " > ".
        start: its first character in the document's text.
        end: one past the last.
        root: the indexed folder, or its name.
        metadata: what else was stored with it.
    """

    id: str
    text: str
    source: str
    heading: str
    start: int
    end: int
    root: str
    metadata: dict[str, Any]


class HitEntry(PassageEntry, kw_only=True):
    """A passage that was found; the other fields are those of `PassageEntry`.

    Attributes:
        score: higher is better, on the scale of the mode or the ranker.
    """

    score: float


class SearchAnswer(msgspec.Struct):
    """The answer of a search.

    Attributes:
        store: the store's name.
        query: the question.
        hits: the passages, best first.
        milliseconds: time of the search.
    """

    store: str
    query: str
    hits: list[HitEntry]
    milliseconds: float


class FailureEntry(msgspec.Struct):
    """A file that could not be read.

    Attributes:
        source: path relative to its folder.
        reason: why.
    """

    source: str
    reason: str


class FolderEntry(msgspec.Struct):
    """A folder of a store.

    Attributes:
        root: its path, or its name.
        files: files with passages.
        passages: passages.
        updated: when the last update ended: UTC, ISO 8601; null if unknown.
        failed: files that the last update could not read.
        failures: how many there were.
    """

    root: str
    files: int
    passages: int
    updated: str | None
    failed: list[FailureEntry]
    failures: int


class StoreEntry(msgspec.Struct):
    """A store.

    Attributes:
        name: its name.
        location: where it is.
        model: the model that it was made with.
        dimension: length of a vector.
        passages: number of passages.
        files: number of files with passages.
        created: UTC, ISO 8601.
        updated: when the last update ended; null if unknown.
        language: language of its keyword search.
        bytes: size on disk; null if unknown.
        folders: its folders.
    """

    name: str
    location: str
    model: str
    dimension: int
    passages: int
    files: int
    created: str
    updated: str | None
    language: str
    bytes: int | None
    folders: list[FolderEntry]


class StoreList(msgspec.Struct):
    """The answer of /v1/stores.

    Attributes:
        stores: the stores.
        answers: whether the server has a language model to ask.
    """

    stores: list[StoreEntry]
    answers: bool


class DocumentsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """What to list of a store's documents.

    Attributes:
        prefix: beginning of their paths.
        root: their folder.
        kind: ending of their names, without the dot.
        offset: how many to leave out.
        limit: maximum number of them.
    """

    prefix: str = ""
    root: str | None = None
    kind: str | None = None
    offset: Position = 0
    limit: Count = 100


class DocumentEntry(msgspec.Struct):
    """A document.

    Attributes:
        source: path relative to its folder.
        root: the folder, or its name.
        title: its first heading, or "".
        kind: ending of its name without the dot, or "".
        passages: number of its passages.
        characters: length of its text, as far as passages cover it.
    """

    source: str
    root: str
    title: str
    kind: str
    passages: int
    characters: int


class DocumentList(msgspec.Struct):
    """The answer of /v1/stores/{name}/documents.

    Attributes:
        documents: the documents, by folder and path.
        total: how many match, listed or not.
    """

    documents: list[DocumentEntry]
    total: int


class DocumentQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Which part of which document to read.

    Attributes:
        source: path relative to its folder.
        root: the folder; needed where several have the document.
        first: position of the first passage, from 0.
        count: maximum number of passages.
    """

    source: str
    root: str | None = None
    first: Position = 0
    count: Count = 20


class PassageQuery(msgspec.Struct, forbid_unknown_fields=True):
    """How much to read around a passage.

    Attributes:
        before: number of passages before it.
        after: number of passages after it.
    """

    before: Few = 1
    after: Few = 1


class ReadingAnswer(msgspec.Struct):
    """Consecutive passages of a document.

    Attributes:
        passages: the passages.
        first: position of the first of them in the document, from 0.
        total: number of passages of the document.
    """

    passages: list[PassageEntry]
    first: int
    total: int


class MessageEntry(msgspec.Struct):
    """A message of the prompt.

    Attributes:
        role: "system" or "user".
        content: its text.
    """

    role: str
    content: str


class AskAnswer(msgspec.Struct):
    """An answer.

    Attributes:
        question: the question.
        answer: the text, with citations like [1]; empty without a language model, or if nothing was found.
        citations: numbers of the passages that it cites, from 1.
        unknown_citations: numbers that it cites although no passage has them.
        passages: the passages that the language model got.
        prompt: the messages that it got, or would have got.
    """

    question: str
    answer: str
    citations: list[int]
    unknown_citations: list[int]
    passages: list[HitEntry]
    prompt: list[MessageEntry]


def refuse(refusal: Refusal) -> Response:
    """Return the error of this dialect."""
    return json_response(error_body(refusal), STATUSES[refusal.reason])


def error_body(refusal: Refusal) -> dict[str, Any]:
    """Return what is written of a refusal."""
    return {
        "error": {
            "message": refusal.message,
            "reason": refusal.reason.value,
            "field": refusal.field,
        }
    }


def query_of(body: SearchRequest | AskRequest) -> Query:
    """Return what a body asks for.

    Raises:
        Refusal: the filter is invalid.
    """
    try:
        wanted = read_filter(body.filter)
    except InputError as error:
        raise Refusal(Reason.INVALID, str(error), field="filter") from error
    rerank = body.rerank if isinstance(body.rerank, str) else "" if body.rerank else None
    return Query(
        text=body.question if isinstance(body, AskRequest) else body.query,
        k=body.k,
        mode=body.mode,
        filter=wanted,
        rerank=rerank,
        candidates=body.candidates,
        min_score=None if isinstance(body, AskRequest) else body.min_score,
        maxsim=body.maxsim,
    )


def document_of(answer: Answer) -> dict[str, Any]:
    """Return what is written of an answer: the fields of `quaver ask --json`."""
    return {
        "question": answer.question,
        "answer": answer.text,
        "citations": list(answer.cited),
        "unknown_citations": list(answer.unknown),
        "passages": [asdict(hit) for hit in answer.passages],
        "prompt": [asdict(message) for message in answer.messages],
    }


async def stores(call: Call[None]) -> Response:
    """List the stores."""
    found = call.stores
    listed = [
        _store(library, await found.run(call.waiter, library.status)) for library in found.all
    ]
    return json_response({"stores": listed, "answers": found.answers})


async def store(call: Call[None]) -> Response:
    """Show one store."""
    library = _library(call)
    status = await call.stores.run(call.waiter, library.status)
    return json_response(_store(library, status))


async def search(call: Call[SearchRequest]) -> Response:
    """Search."""
    library = _library(call)
    begin = time.perf_counter()
    hits = await call.stores.search(call.service, call.waiter, library, query_of(call.body))
    return json_response(
        {
            "store": library.name,
            "query": call.body.query,
            "hits": [asdict(hit) for hit in hits],
            "milliseconds": round((time.perf_counter() - begin) * 1000, 3),
        }
    )


async def documents(call: Call[DocumentsQuery]) -> Response:
    """List documents."""
    library, wanted = _library(call), call.body
    catalog = await call.stores.run(call.waiter, library.catalog)
    found = [
        document
        for document in catalog.documents
        if document.source.startswith(wanted.prefix)
        and wanted.root in (None, document.root)
        and wanted.kind in (None, document.kind)
    ]
    page = found[wanted.offset : wanted.offset + wanted.limit]
    return json_response({"documents": [asdict(each) for each in page], "total": len(found)})


async def document(call: Call[DocumentQuery]) -> Response:
    """Read a part of a document."""
    wanted = call.body
    read = partial(
        _library(call).read_document,
        wanted.source,
        root=wanted.root,
        first=wanted.first,
        count=wanted.count,
    )
    found = await call.stores.run(call.waiter, read)
    if found is None:
        raise Refusal(
            Reason.NOT_FOUND, f"no document is named {wanted.source[:200]!r}", field="source"
        )
    return json_response(_reading(found))


async def passages(call: Call[PassageQuery]) -> Response:
    """Read a passage with its neighbors."""
    identity = call.request.path_params["id"]
    read = partial(_library(call).read, identity, before=call.body.before, after=call.body.after)
    found = await call.stores.run(call.waiter, read)
    if found is None:
        raise Refusal(Reason.NOT_FOUND, f"no passage has the id {identity[:128]!r}", field="id")
    return json_response(_reading(found))


async def ask(call: Call[AskRequest]) -> Response:
    """Answer a question."""
    library, body = _library(call), call.body
    if not body.question.strip():
        raise Refusal(Reason.EMPTY, "a question must not be empty", field="question")
    events = call.stores.ask(call.service, call.waiter, library, query_of(body))
    first = await anext(events)  # a refusal has its own status
    if body.stream:
        return Stream(
            _lines(first, events),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
    async for event in events:
        if event.name == "error":
            raise event.value
        if event.name == "answer":
            return json_response(document_of(event.value))
    raise AssertionError("an answer ends with the answer or an error")


async def _lines(first: Event, events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    yield _line(first)
    async for event in events:
        yield _line(event)


def _line(event: Event) -> bytes:
    """Return an event as server-sent events have it."""
    value = event.value
    if event.name == "beat":
        return b": goes on\n\n"
    data: Any
    if event.name == "passages":
        data = {"passages": [asdict(hit) for hit in value]}
    elif event.name == "prompt":
        data = {"prompt": [asdict(message) for message in value]}
    elif event.name == "text":
        data = {"text": value}
    elif event.name == "answer":
        data = {
            "answer": value.text,
            "citations": list(value.cited),
            "unknown_citations": list(value.unknown),
        }
    else:
        data = error_body(value)
    return b"event: " + event.name.encode() + b"\ndata: " + json_of(data) + b"\n\n"


def _library(call: Call[Any]) -> Library:
    return call.stores.named(call.request.path_params["name"])


def _store(library: Library, status: StoreStatus) -> dict[str, Any]:
    return {
        "name": library.name,
        "location": status.location,
        "model": status.model,
        "dimension": status.dimension,
        "passages": status.passages,
        "files": status.files,
        "created": status.created,
        "updated": status.updated,
        "language": status.language,
        "bytes": status.bytes,
        "folders": [asdict(folder) for folder in status.folders],
    }


def _reading(found: Reading) -> dict[str, Any]:
    return {
        "passages": [_passage(passage) for passage in found.passages],
        "first": found.first,
        "total": found.total,
    }


def _passage(passage: Passage | Hit) -> dict[str, Any]:
    return asdict(passage)


_ERRORS = (400, 401, 404, 408, 413, 415, 429, 500, 502, 503, 504)
_READ_ERRORS = (400, 401, 404, 429, 500, 503, 504)


def _route(
    method: Any, path: str, answer: Any, summary: str, returns: Any, **options: Any
) -> Route:
    statuses = _READ_ERRORS if method == "GET" else _ERRORS
    return Route(
        method,
        path,
        "search",
        answer,
        refuse,
        summary,
        returns=returns,
        statuses=statuses,
        **options,
    )


ROUTES = (
    _route("GET", "/v1/stores", stores, "List the stores.", StoreList),
    _route("GET", "/v1/stores/{name}", store, "Show one store.", StoreEntry),
    _route(
        "POST",
        "/v1/stores/{name}/search",
        search,
        "Find the passages that answer a question best.",
        SearchAnswer,
        body=SearchRequest,
    ),
    _route(
        "GET",
        "/v1/stores/{name}/documents",
        documents,
        "List the documents of a store.",
        DocumentList,
        query=DocumentsQuery,
    ),
    _route(
        "GET",
        "/v1/stores/{name}/document",
        document,
        "Read a part of a document.",
        ReadingAnswer,
        query=DocumentQuery,
    ),
    _route(
        "GET",
        "/v1/stores/{name}/passages/{id:path}",
        passages,
        "Read a passage with its neighbors.",
        ReadingAnswer,
        query=PassageQuery,
    ),
    _route(
        "POST",
        "/v1/stores/{name}/ask",
        ask,
        "Answer a question from a store, as server-sent events (passages, prompt, text, answer or error) or JSON.",
        AskAnswer,
        body=AskRequest,
    ),
)
