"""The page: search, ask, read and look after stores in a browser.

Documents are hostile. Every value is escaped by the templates; Markdown is rendered without HTML, images and
other links than http, https and mailto; and the Content-Security-Policy lets no script run but those of
`assets`.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from quaver.answers import DEFAULT_PASSAGES, render
from quaver.documents import Passage
from quaver.errors import InputError
from quaver.index import Library, QueryWords, Reading, best_start, flattened
from quaver.serve.http import Call, Route
from quaver.serve.refusal import STATUSES, Reason, Refusal
from quaver.serve.stores import LONGEST_QUERY, ModeName, Query
from quaver.serve.updates import Updates, can_update
from quaver.store import And, Filter, Hit, StoreStatus, read_conditions, unknown_fields

Pieces = list[tuple[str, bool]]

_ASSETS = {
    "htmx.min.js": "text/javascript",
    "page.js": "text/javascript",
    "page.css": "text/css",
    "icon.svg": "image/svg+xml",
}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "vary": "HX-Request",
}
_CANDIDATES = 50
"""Passages that are reranked for the page, where someone waits."""

_AROUND = 2
"""Neighbors shown on each side of a passage."""

_MORE = 10
"""Further neighbors that a link shows."""

_PAGE = 200
"""Documents on a page."""

_EXCERPT = 320
"""Characters of an excerpt."""

_LONGEST_MARKDOWN = 20_000
"""Characters of a passage that is rendered; a longer one is shown as text, for rendering may take quadratic time."""

_CODE = re.compile(r"\.(?:py|js|ts|c|h|cc|cpp|java|go|rs|sh|sql|json|ya?ml|toml|xml|css|rb|php)$")
_LINK = re.compile(r"(?:https?|mailto):", re.I)


_MODES = {"hybrid": "words and meaning", "words": "words", "vectors": "meaning"}
"""How hits are ranked, with the words of the page."""
_SPARSE_MODES = {"sparse": "related words", "dense+bm25+sparse": "all of these"}
"""The same in a store with the vectors of a sparse encoder."""


# --- What was asked -------------------------------------------------------------------------------
@dataclass(frozen=True)
class Asked:
    """A search as the address of the page says it.

    Attributes:
        store: the store's name.
        q: the question.
        mode: how to rank.
        k: maximum number of hits.
        rerank: whether to rerank.
        filter: conditions, separated by semicolons.
        chosen: chosen values by facet.
    """

    store: str
    q: str = ""
    mode: ModeName = "hybrid"
    k: int = 10
    rerank: bool = False
    filter: str = ""
    chosen: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, request: Request, stores: Sequence[Library]) -> Asked:
        """Read a request's query string.

        Raises:
            Refusal: a value is outside its rule.
        """
        chosen: dict[str, list[str]] = {}
        for name, value in request.query_params.multi_items():
            if name.startswith("f."):
                chosen.setdefault(name[2:], []).append(value)
        given = request.query_params
        mode = given.get("mode", "hybrid")
        if mode not in _MODES and mode not in _SPARSE_MODES:
            listed = ", ".join((*_MODES, *_SPARSE_MODES))
            raise Refusal(Reason.INVALID, f"mode must be one of {listed}: got {mode[:40]!r}")
        k = given.get("k", "10")
        if not k.isascii() or not k.isdigit() or not 1 <= len(k) <= 3 or not 1 <= int(k) <= 100:
            raise Refusal(Reason.INVALID, f"k must be from 1 to 100: got {k[:40]!r}")
        return cls(
            store=given.get("store") or stores[0].name,
            q=given.get("q", ""),
            mode=cast(ModeName, mode),
            k=int(k),
            rerank=given.get("rerank") == "1",
            filter=given.get("filter", ""),
            chosen=chosen,
        )

    def values(self) -> list[tuple[str, str]]:
        """Return the query string's values that are not the defaults."""
        values = [("store", self.store)]
        values += [("q", self.q)] * bool(self.q)
        values += [("mode", self.mode)] * (self.mode != "hybrid")
        values += [("k", str(self.k))] * (self.k != 10)
        values += [("rerank", "1")] * self.rerank
        values += [("filter", self.filter)] * bool(self.filter)
        return values + [(f"f.{name}", each) for name, all in self.chosen.items() for each in all]


class _FilterError(Exception):
    """The filter under the box is wrong."""


def link(path: str, **values: object) -> str:
    """Return an address of the page; empty values are left out."""
    given = [(name, str(value)) for name, value in values.items() if value not in ("", None)]
    return f"{path}?{urlencode(given)}" if given else path


# --- Text -----------------------------------------------------------------------------------------
def pieces_of(text: str, words: QueryWords) -> Pieces:
    """Return a text in pieces, each with whether it is a word of the question."""
    pieces: Pieces = []
    at = 0
    for begin, end, _ in words.find(text):
        if begin < at:  # pairs of characters overlap
            begin = at
        if end <= begin:
            continue
        if begin > at:
            pieces.append((text[at:begin], False))
        pieces.append((text[begin:end], True))
        at = end
    if at < len(text):
        pieces.append((text[at:], False))
    return pieces


def _shown_hit(hit: Hit, words: QueryWords, asked: Asked, several: bool) -> dict[str, Any]:
    flat = flattened(hit.text)
    start = best_start(flat, words.find(flat), room=100, lines=3)
    text = flat[start:]
    if len(text) > _EXCERPT:
        text = text[:_EXCERPT].rpartition(" ")[0] or text[:_EXCERPT]
    return {
        "id": hit.id,
        "url": f"/passage?{urlencode([*asked.values(), ('id', hit.id)])}#here",
        "name": hit.source or "Passage",
        "place": _place(hit.metadata),
        "heading": hit.heading,
        "pieces": pieces_of(text, words),
        "cut": start > 0,
        "more": start + len(text) < len(flat),
        "score": f"{hit.score:.3f}",
        "root": hit.root if several else "",
    }


def _place(metadata: Mapping[str, Any]) -> str:
    if "page" in metadata:
        return f"p. {metadata['page']}"
    return str(metadata["time"]) if {"time", "seconds"} <= set(metadata) else ""


def _markdown() -> MarkdownIt:
    """Return a renderer that no document can use against the reader."""
    made = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")

    def text(renderer: Any, tokens: Any, at: int, options: Any, env: Any) -> str:
        return "".join(
            f"<mark>{escapeHtml(piece)}</mark>" if found else escapeHtml(piece)
            for piece, found in pieces_of(tokens[at].content, env["words"])
        )

    def opened(renderer: Any, tokens: Any, at: int, options: Any, env: Any) -> str:
        tokens[at].attrSet("rel", "noopener noreferrer nofollow")
        return str(renderer.renderToken(tokens, at, options, env))

    def heading(renderer: Any, tokens: Any, at: int, options: Any, env: Any) -> str:
        # The page has an outline of its own.
        return "<p><strong>" if tokens[at].nesting == 1 else "</strong></p>\n"

    made.add_render_rule("text", text)
    made.add_render_rule("link_open", opened)
    for name in ("heading_open", "heading_close"):
        made.add_render_rule(name, heading)
    made.validateLink = lambda url: _LINK.match(url) is not None  # type: ignore[method-assign]
    return made


def _shown_passage(
    passage: Passage, number: int, words: QueryWords, markdown: MarkdownIt, current: bool
) -> dict[str, Any]:
    rendered: Markup | None = None
    if (
        passage.source.lower().endswith((".md", ".markdown"))
        and len(passage.text) < _LONGEST_MARKDOWN
    ):
        rendered = Markup(markdown.render(passage.text, {"words": words}))
    place = _place(passage.metadata)
    return {
        "number": number,
        "current": current,
        "heading": f"{place}: {passage.heading}"
        if place and passage.heading
        else place or passage.heading,
        "markdown": rendered,
        "pieces": [] if rendered is not None else pieces_of(passage.text, words),
        "code": _CODE.search(passage.source.lower()) is not None,
    }


# --- The pages ------------------------------------------------------------------------------------
class Page:
    """Answers the routes of the page."""

    def __init__(self, *, allow_update: bool) -> None:
        """Read the templates and assets.

        Args:
            allow_update: whether stores may be updated.
        """
        folder = resources.files("quaver.serve") / "assets"
        self._assets = {name: (folder / name).read_bytes() for name in _ASSETS}
        self._tags = {
            name: hashlib.sha256(content).hexdigest()[:16] for name, content in self._assets.items()
        }
        self._templates = Environment(
            loader=PackageLoader("quaver.serve", "assets/templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        self._templates.globals |= {
            "asset": lambda name: f"/assets/{name}?{self._tags[name]}",
            "link": link,
        }
        self._markdown = _markdown()
        self._allow_update = allow_update
        self._updates = Updates()

    def routes(self) -> Iterator[Route]:
        """Yield the routes."""
        for path, answer, summary in (
            ("/", self.search, "The page: search."),
            ("/passage", self.passage, "The page: a passage in its document."),
            ("/document", self.document, "The page: a document."),
            ("/documents", self.documents, "The page: documents of a store."),
            ("/ask", self.ask, "The page: an answer with citations."),
            ("/status", self.status, "The page: what a store holds."),
            ("/original", self.original, "The page: a PDF as it was indexed."),
        ):
            yield self._route("GET", path, answer, summary)
        yield Route(
            "GET",
            "/assets/{name}",
            "page",
            self.asset,
            self._refused,
            "Scripts and styles of the page.",
            open=True,
            statuses=(404,),
        )
        if self._allow_update:
            yield self._route("POST", "/update", self.update, "The page: begin to update a folder.")

    def _route(
        self,
        method: Literal["GET", "POST"],
        path: str,
        answer: Callable[[Call[None]], Awaitable[Response]],
        summary: str,
    ) -> Route:
        async def shown(call: Call[None]) -> Response:
            try:
                return await answer(call)
            except Refusal as refusal:
                return self._message(refusal, call)

        statuses = (400, 401, 404, 429, 500, 503, 504)
        return Route(method, path, "page", shown, self._refused, summary, statuses=statuses)

    # --- Rendering ---
    def _html(self, template: str, *, code: int = 200, **values: Any) -> Response:
        text = self._templates.get_template(template).render(**values)
        return HTMLResponse(text, code, _HEADERS)

    def _page(
        self, template: str, call: Call[None], here: str, store: str, **values: Any
    ) -> Response:
        return self._html(
            template,
            here=here,
            store=store,
            stores=[library.name for library in call.stores.all],
            **{"q": "", **values},
        )

    def _message(self, refusal: Refusal, call: Call[None]) -> Response:
        stores = [library.name for library in call.stores.all]
        return self._error(refusal, stores)

    def _refused(self, refusal: Refusal) -> Response:
        """Answer a request without a key, or while the server stops."""
        response = self._error(refusal, [])
        if refusal.reason is Reason.UNAUTHORIZED:
            # The browser asks for a password, which is a key.
            response.headers["www-authenticate"] = 'Basic realm="Quaver", charset="UTF-8"'
        return response

    def _error(self, refusal: Refusal, stores: Sequence[str]) -> Response:
        status = STATUSES[refusal.reason]
        titles = {404: "Not found", 401: "A key is needed", 503: "Not ready"}
        response = self._html(
            "message.html",
            code=status,
            here="",
            store="",
            stores=stores,
            q="",
            title=titles.get(status, "This did not work"),
            error=refusal.message,
        )
        if refusal.retry_after is not None:
            response.headers["retry-after"] = str(refusal.retry_after)
        return response

    # --- Searching ---
    async def search(self, call: Call[None]) -> Response:
        """Show the search page; for htmx only the results."""
        asked = Asked.read(call.request, call.stores.all)
        library = call.stores.named(asked.store)
        fragment = call.request.headers.get("hx-request") == "true"
        hits, error, filter_error = None, "", ""
        unknown: list[str] = []
        begin = time.perf_counter()
        status_code = 200
        if asked.q.strip():
            try:
                hits, unknown = await self._hits(call, library, asked, k=asked.k)
            except _FilterError as wrong:
                filter_error, status_code, hits = str(wrong), 400, []
            except Refusal as refusal:
                error, status_code = refusal.message, STATUSES[refusal.reason]
        values: dict[str, Any] = {
            "hits": hits,
            "error": error,
            "filter_error": filter_error,
            "unknown": unknown,
            "milliseconds": round((time.perf_counter() - begin) * 1000),
            "fragment": fragment,
            "status": None,
        }
        if hits is None and not error:
            values["status"] = await call.stores.run(call.waiter, library.status)
        if fragment:
            response = self._html("results.html", code=status_code, **values)
            response.headers["hx-replace-url"] = f"/?{urlencode(asked.values())}"
            return response
        catalog = await call.stores.run(call.waiter, library.catalog)
        response = self._page(
            "search.html",
            call,
            "/",
            library.name,
            asked=asked,
            facets=catalog.facets,
            modes=_MODES if library.manifest.sparse is None else {**_MODES, **_SPARSE_MODES},
            reranks=any(model.reranks for model in call.service.models.all),
            **{**values, "q": asked.q},
        )
        response.status_code = status_code
        return response

    async def _hits(
        self, call: Call[None], library: Library, asked: Asked, *, k: int
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Find hits and prepare them for a template, with the filter's fields that no passage has."""
        wanted = await call.stores.run(call.waiter, partial(_filter_of, library, asked))
        query = Query(
            asked.q,
            k=k,
            mode=asked.mode,
            filter=wanted,
            rerank="" if asked.rerank else None,
            candidates=_CANDIDATES,
        )
        hits = await call.stores.search(call.service, call.waiter, library, query)

        def prepare() -> tuple[list[dict[str, Any]], list[str]]:
            words = QueryWords(asked.q, library.manifest.language)
            several = len({hit.root for hit in hits}) > 1
            unknown = [] if hits else unknown_fields(wanted, library.index.store)
            return [_shown_hit(hit, words, asked, several) for hit in hits], unknown

        return await call.stores.run(call.waiter, prepare)

    # --- Asking ---
    async def ask(self, call: Call[None]) -> Response:
        """Show a question's passages; the page's script asks for the answer."""
        asked = Asked.read(call.request, call.stores.all)
        library = call.stores.named(asked.store)
        values: dict[str, Any] = {
            "hits": None,
            "error": "",
            "prompt": [],
            "answers": call.stores.answers,
        }
        if asked.q.strip():
            query = Query(asked.q, k=DEFAULT_PASSAGES)
            try:
                hits = await call.stores.search(call.service, call.waiter, library, query)
            except Refusal as refusal:
                values["error"] = refusal.message
            else:
                words = QueryWords(asked.q, library.manifest.language)
                values["hits"] = [_shown_hit(hit, words, asked, several=False) for hit in hits]
                values["prompt"] = render(asked.q, hits) if hits else []
        return self._page(
            "ask.html",
            call,
            "/ask",
            library.name,
            **values,
            q=asked.q,
            ask_url=f"/v1/stores/{quote(library.name, safe='')}/ask",
            ask_body=json.dumps({"question": asked.q, "k": DEFAULT_PASSAGES}),
        )

    # --- Reading ---
    async def passage(self, call: Call[None]) -> Response:
        """Show a passage with its neighbors."""
        given = call.request.query_params
        asked = Asked.read(call.request, call.stores.all)
        library = call.stores.named(asked.store)
        identity = given.get("id", "")
        before = _number(given.get("before"), _AROUND, 1000)
        after = _number(given.get("after"), _AROUND, 1000)
        read = partial(library.read, identity, before=before, after=after)
        found = await call.stores.run(call.waiter, read)
        if found is None:
            raise Refusal(Reason.NOT_FOUND, f"no passage has the id {identity[:128]!r} any more")
        here = [*asked.values(), ("id", identity)]
        last = found.first + len(found.passages)
        return await self._reading(
            call,
            library,
            found,
            question=asked.q,
            current=identity,
            # The fragment gives the hit the focus, which the box would take otherwise.
            back=f"/?{urlencode(asked.values())}#hit-{quote(identity)}" if asked.q else "",
            here_url=f"/passage?{urlencode(here)}#here",
            earlier=f"/passage?{urlencode([*here, ('before', before + _MORE), ('after', after)])}"
            if found.first
            else "",
            later=f"/passage?{urlencode([*here, ('before', before), ('after', after + _MORE)])}"
            if last < found.total
            else "",
        )

    async def document(self, call: Call[None]) -> Response:
        """Show a part of a document."""
        given = call.request.query_params
        library = call.stores.named(given.get("store") or call.stores.all[0].name)
        source, root = given.get("source", ""), given.get("root")
        first = _number(given.get("first"), 0, 2**31 - 1)
        read = partial(library.read_document, source, root=root, first=first, count=2 * _MORE)
        found = await call.stores.run(call.waiter, read)
        if found is None or not found.passages:
            raise Refusal(
                Reason.NOT_FOUND, f"no document is named {source[:200]!r}, or it ends before"
            )
        last = found.first + len(found.passages)

        def at(position: int) -> str:
            return link("/document", store=library.name, source=source, root=root, first=position)

        return await self._reading(
            call,
            library,
            found,
            question="",
            current=None,
            back="",
            here_url=at(first),
            earlier=at(max(0, first - 2 * _MORE)) if first else "",
            later=at(last) if last < found.total else "",
        )

    async def _reading(
        self,
        call: Call[None],
        library: Library,
        found: Reading,
        *,
        question: str,
        current: str | None,
        **values: Any,
    ) -> Response:
        one = found.passages[0]
        named = {"store": library.name, "source": one.source, "root": one.root}

        def prepare() -> tuple[list[dict[str, Any]], bool]:
            words = QueryWords(question[:LONGEST_QUERY], library.manifest.language)
            shown = [
                _shown_passage(each, found.first + i, words, self._markdown, each.id == current)
                for i, each in enumerate(found.passages, start=1)
            ]
            return shown, _original(library, one.root, one.source) is not None

        shown, has_original = await call.stores.run(call.waiter, prepare)
        page = next((p.metadata.get("page") for p in found.passages if p.id == current), None)
        fragment = f"#page={page}" if isinstance(page, int) else ""
        return self._page(
            "reading.html",
            call,
            "",
            library.name,
            q=question,
            name=one.source or "Passage",
            root=one.root,
            passages=shown,
            first=found.first,
            total=found.total,
            document=link("/document", **named) if one.source and current else "",
            original=link("/original", **named) + fragment if has_original else "",
            **values,
        )

    async def documents(self, call: Call[None]) -> Response:
        """Show the documents of a store."""
        given = call.request.query_params
        library = call.stores.named(given.get("store") or call.stores.all[0].name)
        prefix, offset = given.get("prefix", ""), _number(given.get("offset"), 0, 2**31 - 1)
        catalog = await call.stores.run(call.waiter, library.catalog)
        matching = [each for each in catalog.documents if each.source.startswith(prefix)]
        listed = [
            {
                "url": link("/document", store=library.name, source=each.source, root=each.root)
                if each.root
                else link("/passage", store=library.name, id=each.source),
                "name": each.source,
                "title": each.title,
                "passages": each.passages,
            }
            for each in matching[offset : offset + _PAGE]
        ]

        def at(position: int) -> str:
            return link("/documents", store=library.name, prefix=prefix, offset=position)

        return self._page(
            "documents.html",
            call,
            "/documents",
            library.name,
            prefix=prefix,
            documents=listed,
            offset=offset,
            total=len(matching),
            earlier=at(max(0, offset - _PAGE)) if offset else "",
            later=at(offset + _PAGE) if offset + _PAGE < len(matching) else "",
        )

    async def original(self, call: Call[None]) -> Response:
        """Send a PDF of an indexed folder."""
        given = call.request.query_params
        library = call.stores.named(given.get("store", ""))
        find = partial(_original, library, given.get("root", ""), given.get("source", ""))
        path = await call.stores.run(call.waiter, find)
        if path is None:
            raise Refusal(Reason.NOT_FOUND, "the store has no such PDF, or its file is gone")
        # Only PDFs: a browser shows them in a viewer that cannot reach this page.
        headers = {
            "x-content-type-options": "nosniff",
            "cache-control": "no-store",
            "referrer-policy": "no-referrer",
        }
        return FileResponse(path, media_type="application/pdf", headers=headers)

    # --- Status ---
    async def status(self, call: Call[None]) -> Response:
        """Show what a store holds; for htmx only what changes."""
        given = call.request.query_params
        library = call.stores.named(given.get("store") or call.stores.all[0].name)
        return await self._status(call, library)

    async def update(self, call: Call[None]) -> Response:
        """Begin to update a folder."""
        # A form of another page can neither set this header nor name this page as its origin.
        if call.request.headers.get("hx-request") != "true":
            raise Refusal(Reason.INVALID, "an update begins with the button of the page")
        given = call.request.query_params
        library = call.stores.named(given.get("store", ""))
        root = given.get("root", "")
        if not await call.stores.run(call.waiter, partial(can_update, library, root)):
            raise Refusal(Reason.NOT_FOUND, f"the store cannot update {root[:200]!r}", field="root")
        with ExitStack() as held:
            models = []
            async for model in call.stores.models_of(call.service, call.waiter, library):
                held.enter_context(model.held())
                models.append(model)
            self._updates.begin(library, root, models)
        return await self._status(call, library)

    async def _status(self, call: Call[None], library: Library) -> Response:
        updates = self._updates.of(library)
        running = self._updates.running(library)

        def look() -> tuple[StoreStatus, list[dict[str, Any]]]:
            status = library.status()
            folders = [
                {
                    "root": folder.root,
                    "files": folder.files,
                    "passages": folder.passages,
                    "updated": folder.updated,
                    "failed": folder.failed,
                    "failures": folder.failures,
                    "progress": updates.get(folder.root),
                    "can_update": self._allow_update
                    and not running
                    and can_update(library, folder.root),
                }
                for folder in status.folders
            ]
            return status, folders

        status, error = None, ""
        folders: list[dict[str, Any]] = []
        try:
            status, folders = await call.stores.run(call.waiter, look)
        except Refusal as refusal:
            error = refusal.message
        values: dict[str, Any] = {
            "status": status,
            "folders": folders,
            "error": error,
            "running": running,
            "model_state": "",
        }
        if call.request.headers.get("hx-request") == "true":
            return self._html("folders.html", store=library.name, **values)
        return self._page("status.html", call, "/status", library.name, **values)

    # --- Assets ---
    async def asset(self, call: Call[None]) -> Response:
        """Send a script, a style or the icon."""
        name = call.request.path_params["name"]
        if name not in self._assets:
            raise Refusal(Reason.NOT_FOUND, "there is no such file")
        headers = {
            "cache-control": "public, max-age=31536000, immutable",
            "x-content-type-options": "nosniff",
            "content-security-policy": "default-src 'none'",
        }
        return Response(self._assets[name], 200, headers, media_type=_ASSETS[name])


def _filter_of(library: Library, asked: Asked) -> Filter | None:
    conditions = [part for part in asked.filter.split(";") if part.strip()]
    try:
        parts = [read_conditions(conditions, name="a filter"), library.narrowed(asked.chosen)]
    except InputError as error:
        raise _FilterError(str(error)) from error
    given = [part for part in parts if part is not None]
    return And(*given) if given else None


def _original(library: Library, root: str, source: str) -> Path | None:
    """Return the file of an indexed PDF, if it is still in its folder."""
    if not source.lower().endswith(".pdf") or PurePosixPath(source).is_absolute():
        return None
    note = library.index.store.notes().get(root)
    folder = (
        Path(note.source.folder) if note is not None and note.source is not None else Path(root)
    )
    if not folder.is_absolute() or library.read_document(source, root=root, count=1) is None:
        return None
    try:
        path = (folder / source).resolve()
        inside = path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, ValueError):
        return None
    return path if inside else None


def _number(given: str | None, default: int, most: int) -> int:
    if not given:
        return default
    if not given.isascii() or not given.isdigit() or len(given) > 10:
        raise Refusal(Reason.INVALID, f"a number was expected: got {given[:40]!r}")
    return min(int(given), most)
