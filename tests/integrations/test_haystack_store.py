"""QuaverDocumentStore through Haystack's own suites, in memory and in a folder, and beyond them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter
from haystack.document_stores.errors import DocumentStoreError, DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError
from haystack.testing.document_store import (
    CountDocumentsByFilterTest,
    CountUniqueMetadataByFilterTest,
    DocumentStoreBaseExtendedTests,
    GetMetadataFieldMinMaxTest,
    GetMetadataFieldsInfoTest,
    GetMetadataFieldUniqueValuesTest,
)
from haystack.testing.document_store_async import (
    CountDocumentsAsyncTest,
    CountDocumentsByFilterAsyncTest,
    CountUniqueMetadataByFilterAsyncTest,
    DeleteAllAsyncTest,
    DeleteByFilterAsyncTest,
    DeleteDocumentsAsyncTest,
    FilterDocumentsAsyncTest,
    GetMetadataFieldMinMaxAsyncTest,
    GetMetadataFieldsInfoAsyncTest,
    GetMetadataFieldUniqueValuesAsyncTest,
    UpdateByFilterAsyncTest,
    WriteDocumentsAsyncTest,
)

from haystack_integrations.components.embedders.quaver import QuaverDocumentEmbedder
from haystack_integrations.document_stores.quaver import QuaverDocumentStore
from quaver import Embedder, StoreLockedError
from quaver.store.folder import FolderStore


class EqualDocuments:
    """A store has no order of its own, and keeps vectors as unit vectors and lengths in float32."""

    @pytest.fixture(params=["memory", "folder"])
    def document_store(self, request: pytest.FixtureRequest, folder: Path) -> Any:
        path = str(folder / "store") if request.param == "folder" else None
        store = QuaverDocumentStore(path=path)
        yield store
        store.close()

    @staticmethod
    def assert_documents_are_equal(received: list[Document], expected: list[Document]) -> None:
        def plain(document: Document) -> dict[str, Any]:
            return {**document.to_dict(flatten=False), "embedding": None}

        found = sorted(received, key=lambda document: document.id)
        wanted = sorted(expected, key=lambda document: document.id)
        assert list(map(plain, found)) == list(map(plain, wanted))
        for one, other in zip(found, wanted, strict=True):
            assert (one.embedding is None) == (other.embedding is None)
            if one.embedding is not None:
                assert one.embedding == pytest.approx(other.embedding, abs=1e-6)


class TestSync(
    EqualDocuments,
    DocumentStoreBaseExtendedTests,
    CountDocumentsByFilterTest,
    CountUniqueMetadataByFilterTest,
    GetMetadataFieldsInfoTest,
    GetMetadataFieldMinMaxTest,
    GetMetadataFieldUniqueValuesTest,
):
    def test_write_documents(self, document_store: QuaverDocumentStore) -> None:
        documents = [Document(content="one"), Document(content=None, meta={"a": [1, {"b": None}]})]
        assert document_store.write_documents(documents) == 2
        self.assert_documents_are_equal(document_store.filter_documents(), documents)
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents(documents[:1])


class TestAsync(
    EqualDocuments,
    CountDocumentsAsyncTest,
    CountDocumentsByFilterAsyncTest,
    CountUniqueMetadataByFilterAsyncTest,
    DeleteAllAsyncTest,
    DeleteByFilterAsyncTest,
    DeleteDocumentsAsyncTest,
    FilterDocumentsAsyncTest,
    GetMetadataFieldMinMaxAsyncTest,
    GetMetadataFieldsInfoAsyncTest,
    GetMetadataFieldUniqueValuesAsyncTest,
    UpdateByFilterAsyncTest,
    WriteDocumentsAsyncTest,
):
    async def test_write_documents_async(self, document_store: QuaverDocumentStore) -> None:
        document = Document(content="one")
        assert await document_store.write_documents_async([document]) == 1
        found = await document_store.filter_documents_async()
        self.assert_documents_are_equal(found, [document])
        with pytest.raises(DuplicateDocumentError):
            await document_store.write_documents_async([document])


# --- Beyond the suites ----------------------------------------------------------------------------
TEXTS = ["the file of her own", "a list of keys", "they return an error", "my own way"]


def written(path: Path | None, tiny: str) -> QuaverDocumentStore:
    store = QuaverDocumentStore(path=None if path is None else str(path), embedding_dim=64)
    documents = [Document(content=text, id=str(i), meta={"n": i}) for i, text in enumerate(TEXTS)]
    store.write_documents(QuaverDocumentEmbedder(model=tiny).run(documents)["documents"])
    return store


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_vectors_words_and_both(tiny: str, folder: Path, where: str) -> None:
    store = written(folder / "store" if where == "folder" else None, tiny)
    query = store.filter_documents({"field": "id", "operator": "==", "value": "2"})[0].embedding
    best = store.embedding_retrieval(query, top_k=2)
    assert best[0].id == "2"
    assert best[0].score == pytest.approx(1, abs=1e-5)
    assert best[0].embedding is None
    assert store.embedding_retrieval(query, top_k=1, return_embedding=True)[0].embedding
    assert [d.id for d in store.bm25_retrieval("keys")] == ["1"]
    assert {d.id for d in store.hybrid_retrieval("keys", query, top_k=2)} == {"1", "2"}
    only = {"field": "meta.n", "operator": "<", "value": 2}
    assert {d.id for d in store.embedding_retrieval(query, filters=only)} == {"0", "1"}
    store.close()


def test_a_folder_keeps_documents_and_is_shared_in_a_process(tiny: str, folder: Path) -> None:
    store = written(folder / "store", tiny)
    before = {d.id: d.to_dict() for d in store.filter_documents()}
    again = QuaverDocumentStore.from_dict(store.to_dict())
    assert again.count_documents() == 4
    store.close()
    again.delete_documents(["3"])
    with pytest.raises(StoreLockedError):  # as another process would find it
        FolderStore.open(folder / "store")
    again.close()
    FolderStore.open(folder / "store").close()
    before.pop("3")
    assert {d.id: d.to_dict() for d in store.filter_documents()} == before  # it opens again
    store.close()


def test_threads_open_and_close_one_folder(folder: Path) -> None:
    def use(i: int) -> int:
        store = QuaverDocumentStore(path=str(folder / "store"), embedding_dim=2)
        store.write_documents([Document(id=str(i), content="text", embedding=[1.0, float(i)])])
        store.close()
        return i

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(use, range(24))) == list(range(24))
    store = QuaverDocumentStore(path=str(folder / "store"), embedding_dim=2)
    assert {d.id for d in store.filter_documents()} == {str(i) for i in range(24)}
    store.close()


def test_wrong_input(tiny: str, folder: Path) -> None:
    store = written(folder / "store", tiny)
    with pytest.raises(DocumentStoreError, match="vectors of dimension 64: got one of 2;"):
        store.write_documents([Document(content="x", embedding=[1.0, 2.0])])
    with pytest.raises(DocumentStoreError, match="dimension 64: got one of 2;"):
        store.embedding_retrieval([1.0, 2.0])
    with pytest.raises(DocumentStoreError, match="finite"):
        store.write_documents([Document(content="x", embedding=[float("nan")] * 64)])
    with pytest.raises(DocumentStoreError, match="JSON"):
        store.write_documents([Document(content="x", meta={"when": object()})])
    with pytest.raises(DocumentStoreError, match="dimension 64: got one of 384"):
        QuaverDocumentStore(path=str(folder / "store"), embedding_dim=384).count_documents()
    with pytest.raises(FilterError, match="a filter can name id, content and meta fields"):
        store.filter_documents({"field": "embedding", "operator": "==", "value": 1})
    with pytest.raises(FilterError, match="joined by AND, OR or NOT"):
        store.filter_documents({"operator": "XOR", "conditions": []})
    assert store.count_documents() == 4
    store.close()


def test_of_doubles_in_one_call_the_policy_decides(folder: Path) -> None:
    store = QuaverDocumentStore()
    first, second = Document(id="1", content="first"), Document(id="1", content="second")
    with pytest.raises(DuplicateDocumentError, match="an id is given twice"):
        store.write_documents([first, second])
    assert store.count_documents() == 0
    assert store.write_documents([first, second], DuplicatePolicy.SKIP) == 1
    assert store.filter_documents()[0].content == "first"
    assert store.write_documents([first, second], DuplicatePolicy.OVERWRITE) == 2
    assert store.filter_documents()[0].content == "second"


def test_a_string_is_no_list_of_ids() -> None:
    store = QuaverDocumentStore(embedding_dim=3)
    store.write_documents([Document(content="text", id="1"), Document(content="more", id="2")])
    with pytest.raises(DocumentStoreError, match="ids must be a list of str: got the str '12'"):
        store.delete_documents("12")  # type: ignore[arg-type]
    assert store.count_documents() == 2


def test_a_document_without_content_or_embedding_is_stored_and_found_by_what_it_has(
    tiny: str,
) -> None:
    store = QuaverDocumentStore(embedding_dim=64)
    index = Pipeline()
    index.add_component("embedder", QuaverDocumentEmbedder(model=tiny))
    index.add_component("writer", DocumentWriter(store))
    index.connect("embedder.documents", "writer.documents")
    empty = Document(content=None, id="empty", meta={"a": 1})
    assert index.run({"embedder": {"documents": [empty]}})["writer"]["documents_written"] == 1
    store.write_documents([Document(content="a list of keys", id="plain")])
    query = Embedder.from_pretrained(tiny).encode_query("my file").tolist()
    (found,) = store.embedding_retrieval(query)
    assert (found.id, found.content, found.meta["a"]) == ("empty", None, 1)
    assert [d.id for d in store.bm25_retrieval("keys")] == ["plain"]
    assert (
        store.filter_documents({"field": "id", "operator": "==", "value": "plain"})[0].embedding
        is None
    )
