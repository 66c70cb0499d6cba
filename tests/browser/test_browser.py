"""The page in Chromium: type, filter, open, keys, a narrow screen, answers, updates, hostile documents, and axe.

`make test-page` runs these; without Playwright or Chromium they are skipped.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chat_server import ChatServer, chat_server
from hostile_documents import write_hostile_documents
from quaver import Embedder, Index
from quaver.serve import ModelSettings, Settings
from quaver.serve.settings import StoreSettings
from running_server import Running, running
from tiny_model import write_tiny_cross_encoder

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("QUAVER_CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium: make test-page installs it"
)

Page = Any


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    (folder / "guide").mkdir()
    sections = "\n\n".join(f"# Part {i}\n\nNumber {i} is a list of texts." for i in range(30))
    (folder / "guide" / "long.md").write_text(sections)
    (folder / "a.txt").write_text("The dict of files.")
    write_hostile_documents(folder / "hostile")
    return folder


@pytest.fixture(scope="module")
def settings(folder: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    path = tmp_path_factory.mktemp("stores") / "kb"
    with Index.create(path, Embedder.from_pretrained(tiny_folder)) as index:
        index.update(folder)
    ranker = write_tiny_cross_encoder(tmp_path_factory.mktemp("models") / "ranker")
    return Settings(
        model=(ModelSettings(source=str(ranker), name="ranker", task="rerank"),),
        store=(StoreSettings(location=str(path)),),
        port=0,
        allow_update=True,
    )


@pytest.fixture(scope="module")
def chat() -> Iterator[ChatServer]:
    with chat_server() as server:
        yield server


@pytest.fixture(scope="module")
def run(settings: Settings, chat: ChatServer) -> Iterator[Running]:
    with running(msgspec.structs.replace(settings, llm=chat.url)) as run:
        yield run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # As root, Chromium has no sandbox.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, run: Running) -> Iterator[Callable[..., Page]]:
    """Open pages of the server; nothing may go elsewhere, fail, or be blocked by the policy."""
    contexts = []
    wrong: list[str] = []

    def opened(path: str = "/", **options: Any) -> Page:
        context = browser.new_context(base_url=run.url, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda said: (
                wrong.append(said.text)
                if "Content Security Policy" in said.text or "hacked" in said.text
                else None
            ),
        )
        page.on(
            "request",
            lambda asked: (
                None if asked.url.startswith((run.url, "data:")) else wrong.append(asked.url)
            ),
        )
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.goto(path)
        return page

    yield opened
    for context in contexts:
        assert context.cookies() == []
        context.close()
    assert wrong == []


def names(page: Page) -> list[str]:
    return [text.strip() for text in page.locator("ol.hits h2 a").all_inner_texts()]


def expect_hits(page: Page, wanted: Callable[[list[str]], bool]) -> None:
    pattern = page.locator("ol.hits h2 a")
    pattern.first.wait_for()
    for _ in range(100):
        if wanted(names(page)):
            return
        page.wait_for_timeout(50)
    raise AssertionError(names(page))


def test_hits_come_as_one_types(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.locator("#q").press_sequentially("dict of files", delay=5)
    expect_hits(page, lambda found: found[:1] == ["a.txt"])
    page.wait_for_url(re.compile(r"q=dict\+of\+files"))
    assert page.locator("mark").first.inner_text() in ("dict", "files")
    before = names(page)
    page.reload()  # the address is a permalink
    expect_hits(page, lambda found: found == before)
    assert page.locator("#q").input_value() == "dict of files"


def test_the_last_question_wins(open_page: Callable[..., Page]) -> None:
    page = open_page()
    for text in ("Number 3", "Number 4", "dict", "Number 5", "dict of files"):
        page.locator("#q").fill(text)
    expect_hits(page, lambda found: found[:1] == ["a.txt"])
    page.wait_for_timeout(500)
    assert names(page)[0] == "a.txt"


def test_mode_number_reranking_and_facets(open_page: Callable[..., Page]) -> None:
    page = open_page("/?q=list")
    page.locator("select[name=k]").select_option("50")
    expect_hits(page, lambda found: len(found) > 10)
    page.get_by_role("checkbox", name="rerank").check()
    page.wait_for_url(re.compile("rerank=1"))
    page.get_by_role("checkbox", name="eml").check()
    expect_hits(page, lambda found: set(found) == {"hostile/mail.eml"})
    page.locator("select[name=mode]").select_option("words")
    page.wait_for_url(re.compile("mode=words"))


def test_a_wrong_filter_is_said_under_the_box(open_page: Callable[..., Page]) -> None:
    page = open_page("/?q=list")
    page.locator("#filter").press_sequentially("nonsense", delay=5)
    page.locator("#filter-error", has_text="must be a field").wait_for()
    page.locator("#filter").fill("source=a.txt")
    expect_hits(page, lambda found: found == ["a.txt"])
    assert page.locator("#filter-error").inner_text() == ""


def test_the_keyboard_is_enough(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.keyboard.type("Number 7")  # the box has the focus
    page.wait_for_url(re.compile(r"q=Number\+7"))
    expect_hits(page, lambda found: len(found) == 10)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    focused = page.evaluate("document.activeElement.href")
    assert focused == page.locator("ol.hits h2 a").nth(1).evaluate("link => link.href")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.id") == "q"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/passage"))
    assert page.locator("article[aria-current]").count() == 1
    page.keyboard.press("Escape")
    page.wait_for_url(re.compile(r"/\?"))
    expect_hits(page, lambda found: len(found) == 10)
    # The hit that was open has the focus again, so that the arrows go on from there.
    first, second = page.locator("ol.hits h2 a").all()[:2]
    assert page.evaluate("document.activeElement.id") == first.get_attribute("id")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.id") == second.get_attribute("id")
    page.locator("body").click(position={"x": 2, "y": 2})
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"


def test_a_hit_opens_at_its_place(open_page: Callable[..., Page]) -> None:
    page = open_page("/?q=Number+17&mode=words&filter=heading%3DPart+17")
    page.locator("ol.hits h2 a").first.click()
    current = page.locator("#here")
    assert "Number 17" in current.inner_text()
    assert page.locator("article").count() == 5
    page.get_by_role("link", name="Later passages").click()
    assert page.locator("article").count() == 15


def test_a_narrow_screen(open_page: Callable[..., Page]) -> None:
    page = open_page("/?q=list", viewport={"width": 360, "height": 640})
    for path in ("/?q=list", "/ask?q=list", "/documents", "/status"):
        page.goto(path)
        page.wait_for_timeout(100)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 360, (path, wide)
    page.goto("/?q=list")
    assert not page.locator("details.facets").evaluate("details => details.open")


def test_hostile_documents_run_nothing(open_page: Callable[..., Page]) -> None:
    page = open_page("/?q=list&k=100&mode=words")
    addresses = page.locator("ol.hits h2 a").evaluate_all("links => links.map(link => link.href)")
    assert len(addresses) >= 9
    others = [
        "/ask?q=list",
        "/documents",
        "/status",
        "/?q=%3Cimg+src%3Dx+onerror%3Dwindow.hacked%3D1%3E",
    ]
    for address in ["/?q=list&k=100&mode=words", *addresses, *others]:
        page.goto(address)
        for link in page.locator("article a").all():
            assert (link.get_attribute("href") or "").startswith("https://example.org/")
        page.wait_for_timeout(30)
        assert page.evaluate("window.hacked") is None, address


def test_an_answer_is_streamed_with_links_to_its_passages(
    open_page: Callable[..., Page], chat: ChatServer
) -> None:
    chat.script = ["ok"]
    page = open_page("/ask")
    page.keyboard.type("a list of texts")
    page.keyboard.press("Enter")
    page.locator("#answer", has_text="twice [2].").wait_for()
    assert page.locator("#answer").inner_text() == "Boil it [1], twice [2]."
    page.locator("#answer a", has_text="[2]").click()
    assert page.url.endswith("#p2")
    assert page.locator("#p2").is_visible()


@pytest.mark.parametrize(
    ("step", "says"),
    [("cut", "broke off"), ("garbage", "JSON"), (500, "500"), ("ok", "no passage has that number")],
)
def test_an_endpoint_that_fails_is_said(
    open_page: Callable[..., Page], chat: ChatServer, step: Any, says: str
) -> None:
    before, chat.script = chat.answer, [step]
    chat.answer = ["<img src=x onerror=window.hacked=1>", " see [99]"]
    try:
        page = open_page("/ask?q=a+list")
        page.locator("#answer-state", has_text=says).wait_for()
        assert page.evaluate("window.hacked") is None
        assert page.locator("#answer img").count() == 0
    finally:
        chat.answer, chat.script = before, ["ok"]


def test_a_folder_is_updated_with_a_button(open_page: Callable[..., Page], folder: Path) -> None:
    page = open_page("/status")
    (folder / "new.txt").write_text("A new list of strings.")
    page.get_by_role("button", name="Update").click()
    page.get_by_text("1 passage added").wait_for()
    page.goto("/?q=new+list+of+strings")
    expect_hits(page, lambda found: "new.txt" in found)


def test_a_server_that_restarts_under_the_page(
    browser: Any, settings: Settings, chat: ChatServer
) -> None:
    with running(settings) as run:
        page = browser.new_page(base_url=run.url)
        page.goto("/?q=list")
        expect_hits(page, lambda found: len(found) == 10)
        port = run.server.addresses[0][1]
    page.locator("#q").fill("dict")
    page.locator("[role=alert]", has_text="The server does not answer").wait_for()
    with running(msgspec.structs.replace(settings, port=port)):
        page.locator("#q").fill("dict of files")
        expect_hits(page, lambda found: found[:1] == ["a.txt"])
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page: Callable[..., Page], scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page("/?q=list", color_scheme=scheme)
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
    for path in (
        "/",
        "/?q=list&filter=x",
        "/?q=list",
        "/ask?q=list",
        "/documents",
        "/status",
        "/document?store=kb&source=guide/long.md",
        "/passage?id=nothing",
    ):
        page.goto(path)
        page.wait_for_timeout(100)
        # axe is a script of the test, which the page's policy would refuse.
        found = axe.run(page, options=options).response["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in found] == [], path
