"""The page without a browser: what it shows, what it escapes, its addresses, keys and updates."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import httpx
import msgspec
import pytest
from bs4 import BeautifulSoup, Tag

from golden_folders import unpacked
from hostile_documents import NAME, write_hostile_documents
from quaver import (
    DocumentError,
    Embedder,
    Index,
    MultiVectorEncoder,
    SparseEncoder,
    StoreWriteError,
)
from quaver.index import QueryWords
from quaver.serve import Settings
from quaver.serve.page import _markdown, pieces_of
from quaver.serve.settings import StoreSettings
from running_server import Running, running

EVENT = re.compile(r"^on|^hx-|^style$|^srcdoc$")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    sections = "\n\n".join(f"# Part {i}\n\nNumber {i} is a list of texts." for i in range(30))
    (folder / "guide").mkdir()
    (folder / "guide" / "long.md").write_text(sections)
    (folder / "a.txt").write_text("The list of files.\n   indented")
    write_hostile_documents(folder / "hostile")
    return folder


@pytest.fixture(scope="module")
def store(folder: Path, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "kb"
    with Index.create(path, embedder) as index:
        index.update(folder)
        index.add_texts(["A loose list."], ids=["<b>loose</b>"], metadata=[{"<i>": "<i>"}])
    return path


@pytest.fixture(scope="module")
def stored(settings: Settings, store: Path) -> Settings:
    return msgspec.structs.replace(settings, store=(StoreSettings(location=str(store)),))


@pytest.fixture(scope="module")
def run(stored: Settings) -> Iterator[Running]:
    with running(stored) as run:
        yield run


def page(run: Running, path: str, status: int = 200, **headers: str) -> BeautifulSoup:
    answer = run.client.get(path, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    check_headers(answer)
    found = BeautifulSoup(answer.text, "html.parser")
    check_harmless(found)
    return found


def check_headers(answer: httpx.Response) -> None:
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "set-cookie" not in answer.headers


def check_harmless(found: BeautifulSoup) -> None:
    """Check that no element or attribute came from a document."""
    for tag in found.find_all(True):
        assert isinstance(tag, Tag)
        own = tag.name in ("form", "section", "p", "button") and not tag.find_parent("article")
        for name, value in tag.attrs.items():
            assert not EVENT.match(name) or (own and name.startswith("hx-")), (tag.name, name)
            if name in ("href", "src", "action"):
                assert re.match(r"/|#|https://example\.org/", value), value
        assert tag.name not in ("svg", "iframe", "object", "embed", "base", "style", "b", "i")
        if tag.name == "script":
            assert tag["src"].startswith("/assets/")
            assert not tag.text
        if tag.name == "img":
            assert tag["src"].startswith("/assets/icon.svg")


def links(found: BeautifulSoup) -> list[str]:
    return [str(tag["href"]) for tag in found.select("ol.hits h2 a")]


# --- Search ---------------------------------------------------------------------------------------
def test_the_first_page_says_what_there_is(run: Running, store: Path) -> None:
    found = page(run, "/")
    with Index.open(store, read_only=True) as index:
        assert f"{index.status().passages} passages of 7 files" in found.text
    assert [tag.text for tag in found.select("legend")] == ["folder", "kind"]
    assert not found.select("ol.hits")
    assert found.select_one("input[name=rerank]") is not None


@pytest.mark.parametrize("mode", ["hybrid", "words", "vectors"])
def test_hits_are_those_of_the_api(run: Running, mode: str) -> None:
    found = page(run, f"/?q=a+list+of+files&mode={mode}&k=20")
    body = {"query": "a list of files", "mode": mode, "k": 20}
    hits = run.post("/v1/stores/kb/search", body).json()["hits"]
    assert [tag["data-id"] for tag in found.select("ol.hits > li")] == [hit["id"] for hit in hits]
    assert "list" in {tag.text.lower() for tag in found.select("mark")}
    chosen = found.select_one("select[name=mode] option[selected]")
    assert chosen is not None
    assert chosen["value"] == mode


def test_a_store_with_sparse_vectors_has_more_modes(
    settings: Settings, embedder: Embedder, run: Running, tmp_path: Path
) -> None:
    sparse = SparseEncoder.from_pretrained(unpacked("splade-bert", tmp_path))
    with Index.create(tmp_path / "kb", embedder, sparse=sparse) as index:
        index.add_texts(["a list of text", "the file", "a class of data"])
    stores = (StoreSettings(location=str(tmp_path / "kb")),)
    with running(msgspec.structs.replace(settings, store=stores)) as other:
        for mode in ("sparse", "dense+bm25+sparse"):
            found = page(other, f"/?q=a+list&mode={quote(mode)}")
            (chosen,) = found.select("select[name=mode] option[selected]")
            assert chosen["value"] == mode
            assert len(found.select("ol.hits > li")) >= 2
    assert len(page(run, "/?q=a+list").select("select[name=mode] option")) == 3
    assert "no sparse vectors" in page(run, "/?q=a+list&mode=sparse", 400).text


def test_reranked_hits_are_those_of_the_api(run: Running) -> None:
    found = page(run, "/?q=a+list&rerank=1")
    body = {"query": "a list", "rerank": True, "candidates": 50}
    hits = run.post("/v1/stores/kb/search", body).json()["hits"]
    assert [tag["data-id"] for tag in found.select("ol.hits > li")] == [hit["id"] for hit in hits]


def test_htmx_gets_only_the_results_and_the_address(run: Running) -> None:
    path = "/?store=kb&q=a+list&mode=hybrid&k=10&filter=&f.kind=txt"
    whole = page(run, path)
    answer = run.client.get(path, headers={"hx-request": "true"})
    part = BeautifulSoup(answer.text, "html.parser")
    check_harmless(part)
    assert answer.headers["hx-replace-url"] == "/?store=kb&q=a+list&f.kind=txt"
    assert answer.headers["vary"] == "HX-Request"
    assert part.find("html") is None
    assert links(part) == links(whole)
    assert links(part)
    assert all("f.kind=txt" in each for each in links(part))


def test_facets_narrow_down(run: Running) -> None:
    found = page(run, "/?q=list&k=100&mode=words")
    values = {str(tag["value"]) for tag in found.select("input[name='f.kind']")}
    assert {"md", "txt", "html", "eml", ""} == values
    narrowed = page(run, "/?q=list&k=100&mode=words&f.kind=txt&f.kind=eml")
    assert {tag.text for tag in narrowed.select("ol.hits h2 a")} == {
        "a.txt",
        "hostile/text.txt",
        "hostile/mail.eml",
        "hostile/picture.svg.txt",
    }
    checked = {str(tag["value"]) for tag in narrowed.select("input[checked]")}
    assert checked == {"txt", "eml"}


def test_a_filter_that_does_not_parse_is_said_under_the_box(run: Running) -> None:
    for path in ("/?q=list&filter=nonsense", "/?q=list&filter=page>x", "/?q=list&f.kind=exe"):
        for headers in ({}, {"hx-request": "true"}):
            found = page(run, path, 400, **headers)
            said = found.select_one("#filter-error")
            assert said is not None
            messages = ("a filter must be", "compares with a number", "no passage has kind")
            assert any(message in said.text for message in messages)
    found = page(run, "/?q=list&filter=source%3Da.txt", **{"hx-request": "true"})
    assert [tag.text for tag in found.select("ol.hits h2 a")] == ["a.txt"]
    said = found.select_one("#filter-error")
    assert said is not None
    assert not said.text
    nothing = page(run, "/?q=list&filter=sauce%3Da")
    assert "No passage has a field “sauce”." in nothing.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/?store=other", 404),
        ("/?q=x&mode=magic", 400),
        ("/?q=x&k=0", 400),
        ("/?q=x&k=٣", 400),
        ("/?q=x&k=1000", 400),
        ("/?q=" + "x" * 10_001, 400),
        ("/passage?id=nothing", 404),
        ("/passage?id=%3Cscript%3E", 404),
        ("/passage?id=x&before=-1", 400),
        ("/document?source=../../etc/passwd", 404),
        ("/documents?store=%3Cscript%3E", 404),
        ("/documents?offset=x", 400),
        ("/status?store=x", 404),
        ("/original?store=kb&source=a.txt", 404),
        ("/assets/page.py", 404),
    ],
)
def test_what_is_wrong_is_said(run: Running, path: str, status: int) -> None:
    assert page(run, path, status).select_one("[role=alert]") is not None


# --- Reading --------------------------------------------------------------------------------------
def test_a_passage_is_shown_with_its_neighbors(run: Running) -> None:
    found = page(run, "/?q=Number+7&mode=words&filter=heading%3DPart+7")
    (address,) = links(found)
    read = page(run, address.partition("#")[0])
    texts = [" ".join(tag.get_text(" ").split()) for tag in read.select("article")]
    assert texts == [f"Part {i} Number {i} is a list of texts." for i in range(5, 10)]
    (current,) = read.select("article[aria-current]")
    assert current["id"] == "here"
    assert [tag.text for tag in current.select("mark")] == ["Number", "7"]
    back = read.select_one("a.back")
    assert back is not None
    assert links(page(run, str(back["href"]))) == [address]
    later = next(str(tag["href"]) for tag in read.select("a") if tag.text == "Later passages")
    assert len(page(run, later).select("article")) == 15


def test_a_document_is_read_from_the_beginning(run: Running) -> None:
    listed = page(run, "/documents?prefix=guide/")
    (address,) = [str(tag["href"]) for tag in listed.select("td a")]
    numbers: list[str] = []
    while address:
        read = page(run, address)
        numbers += re.findall(r"Number (\d+)", read.text)
        later = [str(tag["href"]) for tag in read.select("a") if tag.text == "Later passages"]
        address = later[0] if later else ""
    assert numbers == [str(i) for i in range(30)]


def test_text_keeps_its_lines(run: Running) -> None:
    (address,) = links(page(run, "/?q=indented&mode=words"))
    text = page(run, address.partition("#")[0]).select_one("article pre")
    assert text is not None
    assert text.text == "The list of files.\n   indented"


def test_hostile_documents_are_shown_as_text(run: Running) -> None:
    seen = set()
    found = page(run, "/?q=list&k=100&mode=words")
    for address in links(found):
        read = page(run, address.partition("#")[0])
        seen.add(read.select("h1")[0].text)
    assert {f"hostile/{NAME}", "hostile/text.txt", "hostile/page.html", "hostile/mail.eml"} <= seen
    for path in (
        "/documents",
        "/status",
        "/ask?q=list",
        "/ask?q=%3Cscript%3E",
        "/?q=%22%3E%3Cscript%3E",
    ):
        page(run, path)


def test_markdown_is_rendered_without_anything_that_acts() -> None:
    words = QueryWords("list", "english")

    def rendered(text: str) -> str:
        return str(_markdown().render(text, {"words": words}))

    assert rendered("a *list*") == "<p>a <em><mark>list</mark></em></p>\n"
    for link in (
        "javascript:x",
        "JAVASCRIPT:x",
        " javascript:x",
        "data:text/html,x",
        "/update",
        "a.md",
        "//x",
        "vbscript:x",
    ):
        assert "<a" not in rendered(f"[text]({link})"), link
    assert 'href="https://example.org/"' in rendered("[text](https://example.org/)")
    assert 'rel="noopener noreferrer nofollow"' in rendered("<https://example.org/>")
    for text in (
        "<script>x</script>",
        "<svg onload=x>",
        "![x](https://example.org/x.png)",
        "a <b onclick=x>b</b>",
    ):
        found = BeautifulSoup(rendered(text), "html.parser")
        assert {tag.name for tag in found.find_all(True)} <= {"p", "a"}, text
    assert "<h1" not in rendered("# Title")
    rendered("[[[[" * 5_000)  # slow, but not for minutes


def test_words_are_found_where_pairs_overlap() -> None:
    text = "東京都の天気"
    pieces = pieces_of(text, QueryWords("東京都", "english"))
    assert "".join(piece for piece, _ in pieces) == text
    assert [piece for piece, marked in pieces if marked]


# --- Asking ---------------------------------------------------------------------------------------
def test_without_a_language_model_the_context_is_shown(run: Running) -> None:
    found = page(run, "/ask?q=a+list+of+files")
    assert "has no language model" in found.text
    assert len(found.select("ol.hits > li")) == 6
    assert "Question: a list of files" in found.select("pre")[-1].text
    assert found.select_one("#answer") is None
    assert page(run, "/ask").select_one("ol.hits") is None


def test_with_a_language_model_the_page_asks_for_the_answer(stored: Settings) -> None:
    with running(msgspec.structs.replace(stored, llm="http://127.0.0.1:9/v1")) as run:
        box = page(run, "/ask?q=a+list").select_one("#answer")
        assert box is not None
        assert box["data-url"] == "/v1/stores/kb/ask"
        assert '"question": "a list"' in str(box["data-body"])


# --- Many people ---
def test_twenty_people_type_at_once(run: Running) -> None:
    def type_and_read(person: int) -> None:
        words = f"Number {person} is a list"
        with httpx.Client(base_url=run.url, timeout=60) as client:
            for end in range(8, len(words) + 1, 4):
                given = {"q": words[:end], "k": "20"}
                answer = client.get("/", params=given, headers={"hx-request": "true"})
                assert answer.status_code == 200
                address = httpx.URL(answer.headers["hx-replace-url"])
                assert address.params["q"] == words[:end]
                assert links(BeautifulSoup(answer.text, "html.parser"))

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(type_and_read, range(20))) == [None] * 20


# --- Assets, keys ---------------------------------------------------------------------------------
def test_assets_come_from_the_server_alone(run: Running) -> None:
    found = page(run, "/")
    total = len(run.client.get("/").content)
    for tag in found.select("script[src], link[href]"):
        answer = run.client.get(str(tag.get("src") or tag.get("href")))
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        total += len(answer.content)
    assert total < 100_000


def test_htmx_is_the_published_file() -> None:
    """The file dist/htmx.min.js of the npm package htmx.org 2.0.11, with its license beside it."""
    folder = resources.files("quaver.serve") / "assets"
    digest = hashlib.sha256((folder / "htmx.min.js").read_bytes()).hexdigest()
    assert digest == "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"
    assert "Zero-Clause BSD" in (folder / "htmx.LICENSE").read_text(encoding="utf-8")


def test_a_browser_gives_the_key_as_a_password(stored: Settings) -> None:
    def basic(password: str) -> dict[str, str]:
        return {"authorization": "Basic " + base64.b64encode(f"me:{password}".encode()).decode()}

    with running(msgspec.structs.replace(stored, api_keys=("secret",))) as run:
        for headers in ({}, basic("wrong"), basic(""), {"authorization": "Basic ?"}):
            answer = run.client.get("/", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith("Basic ")
        assert run.client.get("/?q=list", headers=basic("secret")).status_code == 200
        body = {"query": "x"}
        assert run.post("/v1/stores/kb/search", body, headers=basic("secret")).status_code == 200
        asset = next(iter(re.findall(r'src="(/assets/[^"]+)"', run.client.get("/").text)), None)
        assert asset is not None
        assert run.client.get(asset).status_code == 200


def test_a_site_whose_name_leads_here_reads_nothing(stored: Settings) -> None:
    def statuses(run: Running, host: str) -> set[int]:
        paths = ("/?q=list", "/v1/stores", "/documents", "/original?store=kb")
        return {run.client.get(path, headers={"host": host}).status_code for path in paths}

    with running(stored) as run:
        port = run.server.addresses[0][1]
        for name in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example"):
            assert statuses(run, name) == {400}, name
        for name in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", "[::1]:1"):
            assert 400 not in statuses(run, name), name
    for changes in (
        {"allow_host": ("docs.example",)},
        {"allow_host": ("*",)},
        {"api_keys": ("k",)},
    ):
        with running(msgspec.structs.replace(stored, **changes)) as run:
            assert 400 not in statuses(run, "docs.example"), changes


def test_without_stores_there_is_no_page(settings: Settings) -> None:
    with running(settings) as run:
        assert run.client.get("/").text == "Quaver is running"
        assert run.client.get("/status").status_code == 404


# --- Status and updates ---------------------------------------------------------------------------
def test_the_status_shows_what_failed(
    settings: Settings, embedder: Embedder, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("A list.")
    (docs / "bad.txt").write_bytes(b"\xff\xfe\x00<script>")
    with Index.create(tmp_path / "kb", embedder) as index:
        report = index.update(docs)
        assert report.failed
    served = msgspec.structs.replace(
        settings, store=(StoreSettings(location=str(tmp_path / "kb")),)
    )
    with running(served) as run:
        found = page(run, "/status")
        assert "1 file could not be read" in found.text
        assert "1 file, 1 passage, updated" in " ".join(found.text.split())
        assert "bad.txt" in found.text
        assert report.failed[0].reason in found.text
        assert not found.select("button[hx-post]")
        assert (
            run.client.post("/update?store=kb", headers={"hx-request": "true"}).status_code == 404
        )


def test_an_update_with_its_progress(
    settings: Settings, embedder: Embedder, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("A list.")
    with Index.create(tmp_path / "kb", embedder) as index:
        index.update(docs, name="handbook", exclude=["private/"])
        index.add_texts(["loose"])
    stores = (StoreSettings(location=str(tmp_path / "kb")),)
    with running(msgspec.structs.replace(settings, store=stores, allow_update=True)) as run:
        (button,) = page(run, "/status").select("button[hx-post]")
        address = str(button["hx-post"])
        (docs / "private").mkdir()
        (docs / "private" / "secret.txt").write_text("A secret list.")
        for number in range(3):
            (docs / f"new{number}.txt").write_text(f"A new list, number {number}.")
        assert run.client.post(address).status_code == 400  # another site's form has no such header
        wrong = address.replace("handbook", "other")
        assert run.client.post(wrong, headers={"hx-request": "true"}).status_code == 404
        begun = run.client.post(address, headers={"hx-request": "true"})
        assert begun.status_code == 200

        def shown() -> BeautifulSoup:
            return page(run, "/status?store=kb", **{"hx-request": "true"})

        pause = threading.Event()
        while shown().select("[hx-trigger]"):
            pause.wait(0.05)
        assert "3 passages added, 0 reused, 1 unchanged" in shown().text
        found = page(run, "/?q=list&mode=words&k=100")
        assert {tag.text for tag in found.select("ol.hits h2 a")} == {
            "a.txt",
            *(f"new{number}.txt" for number in range(3)),
        }
        # The folder is gone: the update fails, and what was stored stays.
        docs.rename(tmp_path / "moved")
        run.client.post(address, headers={"hx-request": "true"})
        while shown().select("[hx-trigger]"):
            pause.wait(0.05)
        assert "The update failed:" in shown().text
        assert "4 passages, updated" in " ".join(shown().text.split())


def test_an_update_takes_the_models_of_the_server(
    settings: Settings, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("A list.")
    sparse = SparseEncoder.from_pretrained(unpacked("splade-bert", tmp_path), threads=1)
    multi = MultiVectorEncoder.from_pretrained(unpacked("colbert", tmp_path), threads=1)
    with Index.create(tmp_path / "kb", embedder, sparse=sparse, multi=multi) as index:
        index.update(docs)
    for name in ("b.txt", "c.txt"):
        (docs / name).write_text("A new list.")
    opens, given = Index.open, []

    def spy(*place: object, **options: object) -> Index:
        given.append(options)
        return opens(*place, **options)  # type: ignore[arg-type]

    stores = (StoreSettings(location=str(tmp_path / "kb")),)
    with running(msgspec.structs.replace(settings, store=stores, allow_update=True)) as run:
        monkeypatch.setattr("quaver.serve.updates.Index.open", spy)
        (button,) = page(run, "/status").select("button[hx-post]")
        begun = run.client.post(str(button["hx-post"]), headers={"hx-request": "true"})
        assert begun.status_code == 200
        pause = threading.Event()
        while (shown := page(run, "/status", **{"hx-request": "true"})).select("[hx-trigger]"):
            pause.wait(0.05)
        assert "2 passages added, 0 reused, 1 unchanged" in shown.text
        models = {each.task: each for each in run.server.state.service.models.all}
        (options,) = given
        assert options["embedder"] is models["embed"].loaded.model
        assert options["sparse"] is models["sparse"].loaded.model
        assert options["multi"] is models["multi-vector"].loaded.model
        assert [each.holds for each in models.values()] == [0] * 4


def test_an_update_waits_for_the_writers_lock(
    settings: Settings, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaver.serve.updates._LOCK_SECONDS", 0.2)
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("A list.")
    index = Index.create(tmp_path / "kb", embedder)
    index.update(docs)
    stores = (StoreSettings(location=str(tmp_path / "kb")),)
    with index, running(msgspec.structs.replace(settings, store=stores, allow_update=True)) as run:
        (button,) = page(run, "/status").select("button[hx-post]")
        run.client.post(str(button["hx-post"]), headers={"hx-request": "true"})
        pause = threading.Event()
        while (found := page(run, "/status", **{"hx-request": "true"})).select("[hx-trigger]"):
            pause.wait(0.05)
        assert "one process at a time can write to a store" in found.text
        assert str(tmp_path / "kb") not in found.select_one("[role=alert]").text


def test_a_store_knows_how_a_folder_was_updated(embedder: Embedder, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("A list.")
    (docs / "b.md").write_text("Another list.")
    with Index.create(tmp_path / "kb", embedder) as index:
        index.update(docs, include=["*.txt"])
        assert index.update_again(str(docs)).unchanged == 1
        assert index.store.count() == 1
        with pytest.raises(DocumentError, match="does not know how 'other' was updated"):
            index.update_again("other")
    with (
        Index.open(tmp_path / "kb", embedder, read_only=True) as index,
        pytest.raises(StoreWriteError),
    ):
        index.update_again(str(docs))


# --- Originals ------------------------------------------------------------------------------------
def test_only_indexed_pdfs_of_the_folder_are_sent(
    settings: Settings, embedder: Embedder, tmp_path: Path
) -> None:
    from quaver.documents import Passage

    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("A list.")
    (docs / "a.pdf").write_bytes(b"%PDF-1.4 x")
    (docs / "other.pdf").write_bytes(b"%PDF-1.4 y")
    (tmp_path / "outside.pdf").write_bytes(b"%PDF-1.4 secret")
    (docs / "link.pdf").symlink_to(tmp_path / "outside.pdf")
    root = str(docs)
    sources = ["a.pdf", "../outside.pdf", "link.pdf", "a.txt", str(tmp_path / "outside.pdf")]
    with Index.create(tmp_path / "kb", embedder) as index:
        index.add(
            [
                Passage(f"id{i}", "A list.", source, "", 0, 7, root, metadata={"page": 3})
                for i, source in enumerate(sources)
            ]
        )
    stores = (StoreSettings(location=str(tmp_path / "kb")),)
    with running(msgspec.structs.replace(settings, store=stores)) as run:
        for source in [*sources, "other.pdf"]:
            given = {"store": "kb", "root": root, "source": source}
            answer = run.client.get("/original", params=given)
            assert answer.status_code == (200 if source == "a.pdf" else 404), source
        answer = run.client.get(
            "/original", params={"store": "kb", "root": root, "source": "a.pdf"}
        )
        assert answer.content == b"%PDF-1.4 x"
        assert answer.headers["content-type"] == "application/pdf"
        read = page(run, "/passage?id=id0")
        assert any(str(tag["href"]).endswith("#page=3") for tag in read.select("a"))
