"""The clients that people have, unchanged, against a real server: `make test-serve` installs them."""

from __future__ import annotations

import asyncio
import base64
import gc
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from golden_folders import unpacked
from quaver import CrossEncoder, Embedder, Index
from quaver.serve import ModelSettings, Settings
from quaver.serve.settings import StoreSettings
from running_server import Running, running
from tiny_model import write_tiny_cross_encoder

TEXTS = ["Paris is in France.", "Rome is in Italy.", "A quaver is an eighth note."]
QUERY = "Where is Paris?"

# Some clients warn about their own dependencies when they are imported.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect what a client left open while its warnings are ignored, not in a later test."""
    yield
    asyncio.set_event_loop(None)  # some make one and never close it
    gc.collect()


def client(name: str) -> Any:
    """Import a client; skip the test where it is not installed."""
    return pytest.importorskip(name)


# --- OpenAI ---------------------------------------------------------------------------------------
def test_openai(server: Running, embedder: Embedder) -> None:
    openai = client("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as api:
        # The client asks for base64 unless it is told otherwise.
        found = api.embeddings.create(model="tiny", input=TEXTS)
        vectors = np.float32([entry.embedding for entry in found.data])
        assert np.array_equal(vectors, embedder.encode(TEXTS))
        assert found.usage.total_tokens == embedder.tokenizer.encode(TEXTS).tokens
        floats = api.embeddings.create(
            model="text-embedding-3-small", input=TEXTS[0], encoding_format="float", dimensions=8
        )
        assert np.array_equal(
            np.float32(floats.data[0].embedding), embedder.encode(TEXTS[0], truncate_dim=8)
        )
        query = api.embeddings.create(model="tiny", input=QUERY, extra_body={"input_type": "query"})
        assert np.array_equal(np.float32(query.data[0].embedding), embedder.encode_query(QUERY))
        assert "tiny" in [model.id for model in api.models.list()]
        with pytest.raises(openai.NotFoundError, match="no model is named 'none'"):
            api.embeddings.create(model="none", input="x")
        with pytest.raises(openai.BadRequestError, match="dimensions must be from 1 to 64"):
            api.embeddings.create(model="tiny", input="x", dimensions=65)


def test_langchain_openai(server: Running, embedder: Embedder) -> None:
    langchain = client("langchain_openai")
    # Without check_embedding_ctx_length=False it sends the token ids of OpenAI's own tokenizer.
    model = langchain.OpenAIEmbeddings(
        base_url=f"{server.url}/v1",
        api_key="none",
        model="tiny",
        check_embedding_ctx_length=False,
    )
    assert np.array_equal(np.float32(model.embed_documents(TEXTS)), embedder.encode(TEXTS))
    assert np.array_equal(np.float32(model.embed_query(QUERY)), embedder.encode(QUERY))


def test_litellm(server: Running, embedder: Embedder, cross_encoder: CrossEncoder) -> None:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    litellm = client("litellm")
    found = litellm.embedding(
        model="openai/tiny", input=TEXTS, api_base=f"{server.url}/v1", api_key="none"
    )
    vectors = np.stack([decoded(entry["embedding"]) for entry in found.data])
    assert np.array_equal(vectors, embedder.encode(TEXTS))
    for provider in ("cohere", "jina_ai", "hosted_vllm"):
        ranked = litellm.rerank(
            model=f"{provider}/ranker",
            query=QUERY,
            documents=TEXTS,
            top_n=2,
            api_base=server.url,
            api_key="none",
        )
        assert [entry["index"] for entry in ranked.results] == [
            each.index for each in cross_encoder.rank(QUERY, TEXTS, top_k=2)
        ]


def decoded(embedding: Any) -> Any:
    """Return a vector that a client may hand on as it came."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), "<f4")
    return np.float32(embedding)


def test_llama_index_openai(server: Running, embedder: Embedder) -> None:
    module = client("llama_index.embeddings.openai_like")
    model = module.OpenAILikeEmbedding(
        model_name="tiny", api_base=f"{server.url}/v1", api_key="none", max_retries=0
    )
    assert np.array_equal(np.float32(model.get_text_embedding_batch(TEXTS)), embedder.encode(TEXTS))
    assert np.array_equal(np.float32(model.get_query_embedding(QUERY)), embedder.encode(QUERY))


def test_haystack_openai(server: Running, embedder: Embedder) -> None:
    client("haystack")
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
    from haystack.utils import Secret

    options = {
        "api_key": Secret.from_token("none"),
        "api_base_url": f"{server.url}/v1",
        "model": "tiny",
    }
    found = OpenAITextEmbedder(**options).run(QUERY)["embedding"]
    assert np.array_equal(np.float32(found), embedder.encode(QUERY))
    documents = [Document(content=text) for text in TEXTS]
    embedded = OpenAIDocumentEmbedder(progress_bar=False, **options).run(documents)["documents"]
    vectors = np.float32([document.embedding for document in embedded])
    assert np.array_equal(vectors, embedder.encode(TEXTS))


# --- TEI ------------------------------------------------------------------------------------------
def test_huggingface_hub(
    server: Running, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = client("huggingface_hub")
    # The tests keep away from the hub; this client would then not call the server either.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    api = hub.InferenceClient(model=server.url, provider="hf-inference", token="none")
    found = api.feature_extraction(TEXTS)
    assert np.array_equal(np.float32(found), embedder.encode(TEXTS))
    query = api.feature_extraction(QUERY, prompt_name="query", dimensions=8, normalize=False)
    expected = embedder.encode_query([QUERY], truncate_dim=8, normalize=False)
    assert np.array_equal(np.float32(query), expected)
    scores = api.sentence_similarity(QUERY, other_sentences=TEXTS)
    vectors = embedder.encode([QUERY, *TEXTS])
    assert np.array_equal(np.float32(scores), embedder.similarity(vectors[0], vectors[1:]))
    assert api.get_endpoint_info()["model_type"] == {"embedding": {"pooling": "mean"}}
    assert api.health_check()


def test_a_classifier_answers_huggingface_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = client("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    folder = write_tiny_cross_encoder(tmp_path / "labels", labels=3)
    model = ModelSettings(source=str(folder), task="rerank")
    with running(Settings(model=(model,), port=0)) as run:
        api = hub.InferenceClient(model=run.url, provider="hf-inference", token="none")
        best = api.text_classification(QUERY)
        expected = run.post("/predict", {"inputs": QUERY}).json()[0]
    # The client takes the first entry of what it expects to be a list for each text.
    assert (best.label, best.score) == (expected["label"], expected["score"])


def test_llama_index_tei(server: Running, embedder: Embedder) -> None:
    module = client("llama_index.embeddings.text_embeddings_inference")
    model = module.TextEmbeddingsInference(
        model_name="sentence-transformers/all-MiniLM-L6-v2",
        base_url=server.url,
        query_instruction="",
        text_instruction="",
    )
    assert np.array_equal(np.float32(model.get_text_embedding_batch(TEXTS)), embedder.encode(TEXTS))
    assert np.array_equal(np.float32(model.get_query_embedding(QUERY)), embedder.encode(QUERY))


def test_llama_index_tei_rerank(server: Running, cross_encoder: CrossEncoder) -> None:
    module = client("llama_index.postprocessor.tei_rerank")
    from llama_index.core.schema import NodeWithScore, TextNode

    ranker = module.TextEmbeddingInference(base_url=server.url, top_n=2)
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.0) for text in TEXTS]
    found = ranker.postprocess_nodes(nodes, query_str=QUERY)
    assert [node.node.text for node in found] == [
        each.text for each in cross_encoder.rank(QUERY, TEXTS, top_k=2)
    ]


def test_haystack_tei(
    server: Running,
    embedder: Embedder,
    cross_encoder: CrossEncoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embedders = client("haystack_integrations.components.embedders.huggingface_api")
    rankers = client("haystack_integrations.components.rankers.huggingface_api")
    from haystack import Document

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    options = {"api_type": "text_embeddings_inference", "api_params": {"url": server.url}}
    text = embedders.HuggingFaceAPITextEmbedder(**options, token=None)
    found = text.run(QUERY)["embedding"]
    assert np.array_equal(np.float32(found), embedder.encode(QUERY, normalize=False))
    documents = [Document(content=each) for each in TEXTS]
    several = embedders.HuggingFaceAPIDocumentEmbedder(
        **options, token=None, normalize=True, batch_size=2, progress_bar=False
    )
    embedded = several.run(documents)["documents"]
    vectors = np.float32([document.embedding for document in embedded])
    assert np.array_equal(vectors, embedder.encode(TEXTS))
    expected = cross_encoder.rank(QUERY, TEXTS, top_k=2)
    ranker = rankers.HuggingFaceTEIRanker(url=server.url, top_k=2, token=None)
    directions = client("haystack_integrations.components.rankers.huggingface_api.ranker")
    for direction in (None, *directions.TruncationDirection):
        ranked = ranker.run(QUERY, documents, truncation_direction=direction)["documents"]
        assert [(each.content, np.float32(each.score)) for each in ranked] == [
            (each.text, np.float32(each.score)) for each in expected
        ]


def test_langchain_huggingface(
    server: Running, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    langchain = client("langchain_huggingface")
    hub = client("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    model = langchain.HuggingFaceEndpointEmbeddings(
        model="any/name", huggingfacehub_api_token="none"
    )
    # It refuses an address as its model, but takes a client that has one.
    model.client = hub.InferenceClient(model=server.url)
    assert np.array_equal(np.float32(model.embed_documents(TEXTS)), embedder.encode(TEXTS))
    assert np.array_equal(np.float32(model.embed_query(QUERY)), embedder.encode(QUERY))


def test_tei_client(server: Running, embedder: Embedder) -> None:
    api = client("tei_client").HttpClient(server.url, timeout=60)
    assert api.health()
    assert api.info().max_input_length == 64
    assert api.prompt_names() == list(embedder.prompts)
    assert np.array_equal(np.float32(api.embed(TEXTS)), embedder.encode(TEXTS))
    query = api.embed(QUERY, normalize=False, prompt_name="query")
    assert np.array_equal(np.float32(query), embedder.encode_query([QUERY], normalize=False))
    (tokens,) = api.tokenize(QUERY)
    assert api.decode(tokens.get_ids()) == [embedder.tokenizer.decode(tokens.get_ids())]
    (every,) = api.embed_all(QUERY)
    assert np.float32(every).shape == (len(tokens.tokens), 64)


def test_tei_client_with_rerankers_and_classifiers(
    reranker_folder: Path, cross_encoder: CrossEncoder, tmp_path: Path
) -> None:
    tei = client("tei_client")
    classifier_folder = write_tiny_cross_encoder(tmp_path / "labels", labels=3)
    for folder in (reranker_folder, classifier_folder):
        model = ModelSettings(source=str(folder), task="rerank")
        with running(Settings(model=(model,), port=0)) as run:
            api = tei.HttpClient(run.url, timeout=60)
            if folder == reranker_folder:
                ranks = api.rerank(QUERY, TEXTS, return_text=True).ranks
                assert [(each.text, np.float32(each.score)) for each in ranks] == [
                    (each.text, np.float32(each.score)) for each in cross_encoder.rank(QUERY, TEXTS)
                ]
            else:
                found = api.classify([(QUERY, text) for text in TEXTS])
                assert [len(each.scores) for each in found] == [3] * len(TEXTS)


# --- Cohere ---------------------------------------------------------------------------------------
def test_cohere(server: Running, embedder: Embedder, cross_encoder: CrossEncoder) -> None:
    cohere = client("cohere")
    api = cohere.ClientV2(api_key="none", base_url=server.url)
    found = api.embed(
        model="tiny",
        texts=TEXTS,
        input_type="search_document",
        embedding_types=["float", "int8", "ubinary"],
    )
    assert np.array_equal(np.float32(found.embeddings.float_), embedder.encode_document(TEXTS))
    assert np.array_equal(found.embeddings.int8, embedder.encode_document(TEXTS, output="int8"))
    assert np.array_equal(
        found.embeddings.ubinary, embedder.encode_document(TEXTS, output="binary")
    )
    expected = cross_encoder.rank(QUERY, TEXTS, top_k=2)
    ranked = api.rerank(model="ranker", query=QUERY, documents=TEXTS, top_n=2, priority=0)
    assert [(each.index, np.float32(each.relevance_score)) for each in ranked.results] == [
        (each.index, np.float32(each.score)) for each in expected
    ]
    with pytest.raises(cohere.errors.NotFoundError):
        api.rerank(model="none", query=QUERY, documents=TEXTS)
    with pytest.raises(cohere.errors.BadRequestError):
        api.embed(model="tiny", texts=[], input_type="search_query", embedding_types=["float"])


def test_the_first_version_of_cohere(server: Running, cross_encoder: CrossEncoder) -> None:
    cohere = client("cohere")
    api = cohere.Client(api_key="none", base_url=server.url)
    ranked = api.rerank(model="ranker", query=QUERY, documents=TEXTS, return_documents=True).results
    assert [(each.index, each.document.text) for each in ranked] == [
        (each.index, each.text) for each in cross_encoder.rank(QUERY, TEXTS)
    ]


# --- Ollama ---------------------------------------------------------------------------------------
def test_ollama(server: Running, embedder: Embedder) -> None:
    ollama = client("ollama")
    api = ollama.Client(host=server.url)
    found = api.embed(model="tiny", input=TEXTS)
    assert np.array_equal(np.float32(found.embeddings), embedder.encode(TEXTS))
    older = api.embeddings(model="tiny", prompt=QUERY)
    assert np.array_equal(np.float32(older.embedding), embedder.encode(QUERY, normalize=False))
    assert [model.model for model in api.list().models] == ["tiny", "ranker"]
    assert api.show("tiny").capabilities == ["embedding"]
    loaded = api.ps().models
    assert [model.model for model in loaded] == ["tiny", "ranker"]
    assert loaded[0].size == embedder.nbytes
    with pytest.raises(ollama.ResponseError) as caught:
        api.embed(model="none", input="x")
    assert caught.value.status_code == 404


# --- The description ------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def with_a_store(
    settings: Settings, embedder: Embedder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A server with every route there is."""
    tmp_path = tmp_path_factory.mktemp("every-route")
    with Index.create(tmp_path / "kb", embedder) as index:
        index.add_texts(TEXTS)
    stores = (StoreSettings(location=str(tmp_path / "kb")),)
    others = []
    for name in ("splade-bert", "colbert"):
        others.append(ModelSettings(source=str(unpacked(name, tmp_path)), name=name))
    changes = {"store": stores, "model": (*settings.model, *others)}
    with running(msgspec.structs.replace(settings, **changes)) as run:
        yield run


GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guide"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (GUIDE / page).read_text(encoding="utf-8"), re.DOTALL)


def run_block(code: str, run: Running) -> dict[str, Any]:
    """Run a page's code as it is, but for the address and the models' names."""
    for library in re.findall(r"^(?:from|import) ([\w.]+)", code, re.MULTILINE):
        client(library)
    for old, new in (
        ("http://127.0.0.1:8080", run.url),
        ("BAAI/bge-small-en-v1.5", "tiny"),
        ("cross-encoder/ms-marco-MiniLM-L6-v2", "ranker"),
    ):
        code = code.replace(old, new)
    names: dict[str, Any] = {"__name__": "page", "texts": TEXTS, "query": QUERY}
    exec(code, names)
    return names


@pytest.mark.parametrize(
    "code",
    blocks("serve-clients.md"),
    ids=lambda code: re.findall(r"^(?:from|import) ([\w.]+)", code, re.MULTILINE)[-1],
)
def test_the_clients_of_the_guide(
    with_a_store: Running,
    embedder: Embedder,
    cross_encoder: CrossEncoder,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
) -> None:
    # The tests keep away from the hub; its client would then not call the server either.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    names = run_block(code, with_a_store)
    assert {"vectors", "order", "words"} & set(names)
    if "vectors" in names:
        assert np.array_equal(np.float32(names["vectors"]), embedder.encode(TEXTS))
    if "order" in names:
        ranked = cross_encoder.rank(QUERY, TEXTS)
        assert names["order"] == [each.index for each in ranked]
    if "words" in names:
        assert len(names["words"]) == len(names["tokens"]) == len(TEXTS)
        assert all({"index", "value"} == set(words[0]) for words in names["words"])


@pytest.mark.parametrize("library", ["langchain_core", "haystack"])
def test_the_retrievers_of_the_guide(with_a_store: Running, library: str) -> None:
    (code,) = [block for block in blocks("serve-stores.md") if f"from {library}" in block]
    retriever = run_block(code, with_a_store)["RemoteRetriever"]()
    if library == "haystack":
        found = [each.content for each in retriever.run(query=QUERY)["documents"]]
    else:
        found = [each.page_content for each in retriever.invoke(QUERY)]
    hits = with_a_store.post("/v1/stores/kb/search", {"query": QUERY}).json()["hits"]
    assert found == [hit["text"] for hit in hits]
    assert found


@pytest.mark.parametrize("kind", ["positive", "negative"])
def test_schemathesis_finds_no_failure_of_the_server(with_a_store: Running, kind: str) -> None:
    """With requests that fit the description, and with others: each has the dialect's answer."""
    schemathesis = client("schemathesis")
    mode = schemathesis.GenerationMode(kind)
    from hypothesis import HealthCheck, settings

    server = with_a_store
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    statuses: set[int] = set()
    for operation in schema.get_all_operations():
        found = operation.ok()

        @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
        @schemathesis_given(found, mode)
        def check(case: Any) -> None:
            answer = case.call(base_url=server.url)
            statuses.add(answer.status_code)
            assert answer.status_code != 500, (case.path, case.body)
            described = case.operation.definition.raw["responses"]
            assert str(answer.status_code) in {*described, "404", "405"}, (case.path, case.body)

        if mode is schemathesis.GenerationMode.POSITIVE or found.body or found.query:
            check()
    assert (200 if kind == "positive" else 400) in statuses
    # TEI's 424 does not tell an unexpected failure from a model that cannot do something.
    lines = [msgspec.json.decode(line) for line in server.log.getvalue().splitlines()]
    assert [line for line in lines if line["event"] == "exception"] == []
    assert server.server.state.service.scheduler.alive


def schemathesis_given(operation: Any, mode: Any) -> Any:
    from hypothesis import given

    return given(case=operation.as_strategy(generation_mode=mode))
