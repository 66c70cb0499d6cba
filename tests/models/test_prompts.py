"""Prompts of well-known models, and the one rule of putting them before a text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quaver import Embedder, quantize
from quaver.engine.postprocessing import shortened
from quaver.models.prompts import known_prompts, with_prompt
from tiny_model import write_tiny_model

BGE = "Represent this sentence for searching relevant passages: "
SEARCH = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)


@pytest.mark.parametrize(
    ("name", "query", "document"),
    [
        ("BAAI/bge-small-en-v1.5", BGE, None),
        ("bge-large-en", BGE, None),
        ("intfloat/e5-base-v2", "query: ", "passage: "),
        ("intfloat/multilingual-e5-large", "query: ", "passage: "),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query: ", "search_document: "),
        ("intfloat/multilingual-e5-large-instruct", None, None),
        ("BAAI/bge-m3", None, None),
        ("BAAI/bge-reranker-base", None, None),
        ("thenlper/gte-small", None, None),
        ("my-e5-base-v2-tuned", None, None),
        ("Qwen/Qwen3-Embedding-0.6B", SEARCH, None),
        ("Qwen/Qwen3-Embedding-8B", SEARCH, None),
        ("Qwen/Qwen3-Reranker-0.6B", None, None),
        ("microsoft/harrier-oss-v1-270m", SEARCH, None),
        ("intfloat/e5-mistral-7b-instruct", f"{SEARCH} ", None),
        ("Salesforce/SFR-Embedding-Mistral", f"{SEARCH} ", None),
        ("Linq-AI-Research/Linq-Embed-Mistral", f"{SEARCH} ", None),
        ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", f"{SEARCH} ", None),
        ("codefuse-ai/F2LLM-v2-80M", f"{SEARCH} ", None),
        ("google/embeddinggemma-300m", "task: search result | query: ", "title: none | text: "),
        ("google/embeddinggemma-2", "task: search result | query: ", "title: none | text: "),
        ("jinaai/jina-embeddings-v5-text-nano-retrieval", "Query: ", "Document: "),
        ("jinaai/jina-embeddings-v5-text-nano-clustering", None, None),
        ("perplexity-ai/pplx-embed-v1-0.6b", None, None),
    ],
)
def test_known_prompts(name: str, query: str | None, document: str | None) -> None:
    prompts = known_prompts(name)
    assert (prompts.get("query"), prompts.get("document")) == (query, document)


def test_a_prompt_is_never_there_twice() -> None:
    assert with_prompt("query: ", "who") == with_prompt("query: ", "query: who") == "query: who"
    assert with_prompt("", "who") == "who"


def test_a_folder_of_a_known_name_without_prompts(tmp_path: Path) -> None:
    model = Embedder.from_pretrained(write_tiny_model(tmp_path / "e5-small-v2", prompts={}))
    assert model.prompts == {"query": "query: ", "document": "passage: "}
    asked = model.encode("query: which file")
    assert np.array_equal(model.encode_query("which file"), asked)
    assert np.array_equal(model.encode_query("query: which file"), asked)
    assert not np.array_equal(model.encode("which file"), asked)


def test_empty_prompts_are_none(tmp_path: Path) -> None:
    # What sentence-transformers saves for a model that has no prompts.
    empty = {"query": "", "document": ""}
    folder = write_tiny_model(tmp_path / "e5-small-v2", prompts=empty)
    known = {"query": "query: ", "document": "passage: "}
    assert Embedder.from_pretrained(folder).prompts == known
    folder = write_tiny_model(tmp_path / "unknown", prompts=empty)
    assert Embedder.from_pretrained(folder).prompts == empty


def test_the_folders_own_prompts_win(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "e5-small-v2", prompts={"query": "ask: "})
    assert Embedder.from_pretrained(folder).prompts == {"query": "ask: "}


def test_prompts_under_other_names_do_not_hide_those_of_the_table(tmp_path: Path) -> None:
    # The folder of e5-mistral has one for each task, and none named query.
    own = {"query": "", "sts_query": "Instruct: Retrieve semantically similar text.\nQuery: "}
    folder = write_tiny_model(tmp_path / "e5-mistral-7b-instruct", prompts=own)
    model = Embedder.from_pretrained(folder)
    assert model.prompts == {"sts_query": own["sts_query"], "query": f"{SEARCH} "}
    asked = model.encode(f"{SEARCH} which file")
    assert np.array_equal(model.encode_query("which file"), asked)
    assert np.array_equal(model.encode_query(f"{SEARCH} which file"), asked)
    assert np.array_equal(model.encode_document("which file"), model.encode("which file"))


def test_quantizing_keeps_prompts_that_the_name_told(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "e5-small-v2", prompts={})
    quantize(folder, tmp_path / "another-name")
    prompts = Embedder.from_pretrained(tmp_path / "another-name").prompts
    assert prompts == {"query": "query: ", "document": "passage: "}


def test_nomic_is_normalised_before_it_is_cut() -> None:
    rows = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    centred = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5)
    # Rounding of means of eight values in float32.
    np.testing.assert_allclose(shortened(rows, 3, "nomic_bert"), centred[:, :3], atol=1e-6)
    assert np.array_equal(shortened(rows, 3, "bert"), rows[:, :3])
    assert shortened(rows, None, "nomic_bert") is rows
