"""Folders of sentence-transformers' modules, as that library wrote them and with what it computed from them.

tests/golden/folders holds tiny random models: `tools/module_folders.py --golden`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from golden_folders import needing_an_instruction, unpacked, unpacked_with_outputs
from quaver import (
    CrossEncoder,
    Embedder,
    InputError,
    ModelFolderError,
    PoolingError,
    Ranker,
    TokenizerError,
    UnsupportedArchitectureError,
    WeightsError,
    quantize,
)
from quaver.embedder import encode_tokenized
from quaver.models.weights_file import read_tensors
from quaver.serve.loaded import LoadedCrossEncoder
from tiny_model import edit_json, write_json, write_tiny_cross_encoder, write_tiny_model

QUERY = "which file has the class"
TEXTS = [
    "the python module has a class",
    "text and data",
    "",
    "a query that returns an error " * 4,
    "import the code, return 3.14 or naïve?",
]
PAIRS = [(QUERY, text) for text in TEXTS]
# Sums in float32 in another order.
TOLERANCE = 1e-5
SCORERS = [
    "ettin-reranker",
    "gte-reranker-modernbert",
    "labels-with-prompt",
    "qwen3-reranker",
    "qwen3-reranker-seq-cls",
]
DECODERS = ["qwen3-embedding", "e5-mistral", "embedding-gemma"]


@pytest.mark.parametrize("name", SCORERS)
def test_a_reranker_scores_as_sentence_transformers(name: str, tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs(name, tmp_path)
    model = CrossEncoder.from_pretrained(folder, precision="float32")
    np.testing.assert_allclose(model.predict(PAIRS), expected["scores"], atol=TOLERANCE)
    logits = model.predict(PAIRS, activation="identity")
    np.testing.assert_allclose(logits, expected["logits"], atol=TOLERANCE)
    assert model.labels == (1 if logits.ndim == 1 else logits.shape[1])


@pytest.mark.parametrize("name", SCORERS)
def test_a_score_alone_has_the_same_bits(name: str, tmp_path: Path) -> None:
    model = CrossEncoder.from_pretrained(unpacked(name, tmp_path))
    alone = np.concatenate([model.predict([pair]) for pair in PAIRS])
    assert np.array_equal(alone, model.predict(PAIRS))


def test_a_modular_reranker_ranks_and_keeps_its_activation(tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs("ettin-reranker", tmp_path)
    model = Ranker.from_pretrained(folder, precision="float32")
    assert isinstance(model, CrossEncoder)
    assert (model.labels, model.activation, model.label_names) == (1, "identity", ("LABEL_0",))
    ranked = model.rank(QUERY, TEXTS)
    assert [hit.index for hit in ranked] == np.argsort(-expected["scores"], kind="stable").tolist()


def test_the_prompt_of_a_reranker(tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs("labels-with-prompt", tmp_path)
    model = CrossEncoder.from_pretrained(folder, precision="float32")
    assert model.default_prompt_name == "query"
    default = model.predict(PAIRS)
    assert np.array_equal(default, model.predict(PAIRS, prompt_name="query"))
    assert np.array_equal(default, model.predict(PAIRS, prompt="query: "))
    by_hand = [(f"the text of a query: {query}", text) for query, text in PAIRS]
    assert np.array_equal(
        model.predict(by_hand, prompt=""), model.predict(PAIRS, prompt_name="long")
    )
    assert np.abs(default - model.predict(PAIRS, prompt="")).max() > 1e-3
    np.testing.assert_allclose(default, expected["scores"], atol=TOLERANCE)


def test_a_dense_behind_a_normalize_and_a_dropout(tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs("normalized-early", tmp_path)
    model = Embedder.from_pretrained(folder, precision="float32")
    assert (model.dimension, model.normalize, model.similarity_fn_name) == (12, False, "euclidean")
    vectors = model.encode(TEXTS)
    np.testing.assert_allclose(vectors, expected["vectors"], atol=TOLERANCE)
    np.testing.assert_allclose(model.encode_query(TEXTS), expected["queries"], atol=TOLERANCE)
    got = model.similarity(vectors, vectors)
    np.testing.assert_allclose(got, expected["similarity"], atol=TOLERANCE)
    pairs = model.similarity_pairwise(vectors, vectors[::-1])
    np.testing.assert_allclose(pairs, np.diag(expected["similarity"][:, ::-1]), atol=TOLERANCE)


@pytest.mark.parametrize("name", ["weighted-mean", "gtr", "instructor"])
def test_an_embedder_is_that_of_sentence_transformers(name: str, tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs(name, tmp_path)
    model = Embedder.from_pretrained(folder, precision="float32")
    np.testing.assert_allclose(model.encode(TEXTS), expected["vectors"], atol=TOLERANCE)
    np.testing.assert_allclose(model.encode_query(TEXTS), expected["queries"], atol=TOLERANCE)
    int8 = Embedder.from_pretrained(folder)
    assert (int8.encode(TEXTS) * expected["vectors"]).sum(axis=1).min() > 0.99
    alone = np.concatenate([int8.encode_query([text]) for text in TEXTS])
    assert np.array_equal(alone, int8.encode_query(TEXTS))
    quantize(folder, tmp_path / "int8", words="float16")
    kept = Embedder.from_pretrained(tmp_path / "int8")
    assert np.array_equal(kept.encode_query(TEXTS), int8.encode_query(TEXTS))


def test_an_instruction_is_read_and_not_pooled(tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs("instructor", tmp_path)
    model = Embedder.from_pretrained(folder, precision="float32")
    prompt = model.prompts["query"]
    for own in (
        model.encode(TEXTS, prompt=prompt),
        model.encode([prompt + text for text in TEXTS]),  # a text that begins with its prompt
        encode_tokenized(model, model.tokenizer.encode([prompt + text for text in TEXTS])),
    ):
        np.testing.assert_allclose(own, expected["queries"], atol=TOLERANCE)
    unknown = "an instruction of the caller: "
    batch = model.tokenizer.encode([f"{unknown}text", "text"], prompt=unknown)
    assert batch.unpooled is not None
    assert batch.unpooled.tolist() == [model.tokenizer.count(unknown), 0]
    left = model.tokenizer.encode([f"{prompt} {TEXTS[3]}"], keep="end", longest=8)
    assert left.unpooled is None  # the prompt was cut off
    short = Embedder.from_pretrained(folder, max_seq_length=4)
    with pytest.raises(InputError, match=r"has 4 tokens, and its prompt .*shorten"):
        short.encode(["represent", "text"], prompt="represent the text and the file:")
    edit_json(folder / "1_Pooling/config.json", include_prompt=True)
    pooled = Embedder.from_pretrained(folder, precision="float32")
    assert pooled.fingerprint != model.fingerprint
    assert np.abs(pooled.encode_query(TEXTS) - expected["queries"]).max() > 1e-3
    # As sentence-transformers does, by name: the published folders do not say it.
    named = folder.rename(tmp_path / "instructor-large")
    known = Embedder.from_pretrained(named, precision="float32")
    np.testing.assert_allclose(known.encode_query(TEXTS), expected["queries"], atol=TOLERANCE)


@pytest.mark.parametrize("scheme", ["dynamic", "static"])
def test_a_modular_reranker_in_int8(scheme: Any, tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs("ettin-reranker", tmp_path)
    calibration = [f"{QUERY} {text}" for text in TEXTS] if scheme == "static" else None
    quantize(folder, tmp_path / "int8", scheme=scheme, calibration=calibration, samples=5)
    model = CrossEncoder.from_pretrained(tmp_path / "int8")
    assert (model.precision, model.activation) == ("int8", "identity")
    assert "quaver.CrossEncoder" in (tmp_path / "int8/README.md").read_text()
    ignored = json.loads((tmp_path / "int8/config.json").read_text())["quantization_config"]
    assert not any("modules" in pattern for pattern in ignored["ignore"])
    scores = model.predict(PAIRS)
    # int8 of a random model: the order of magnitude tells a wrong layer from rounding.
    assert np.abs(scores - expected["scores"]).max() < 0.2 * np.abs(expected["scores"]).max()
    assert np.corrcoef(scores, expected["scores"])[0, 1] > 0.99


# --- Decoders -------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_embeds_as_sentence_transformers(name: str, tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs(name, tmp_path)
    model = Embedder.from_pretrained(folder, precision="float32")
    # The state that counts is that of a token which the tokenizer puts behind the text.
    tokens = model.tokenizer.encode(TEXTS)
    ids = [tokens.select(i, i + 1).ids.tolist() for i in range(len(TEXTS))]
    assert ids == expected["ids"]
    assert len({row[-1] for row in ids}) == 1
    np.testing.assert_allclose(model.encode(TEXTS), expected["vectors"], atol=TOLERANCE)
    np.testing.assert_allclose(model.encode_query(TEXTS), expected["queries"], atol=TOLERANCE)
    cosines = (Embedder.from_pretrained(folder).encode(TEXTS) * expected["vectors"]).sum(axis=1)
    assert cosines.min() > 0.99


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_in_an_int8_folder(name: str, tmp_path: Path) -> None:
    folder = unpacked(name, tmp_path)
    quantize(folder, tmp_path / "int8", words="float16")
    model = Embedder.from_pretrained(tmp_path / "int8")
    assert model.precision == "int8"
    assert np.array_equal(model.encode(TEXTS), Embedder.from_pretrained(folder).encode(TEXTS))


def test_a_truncated_text_keeps_the_token_behind_it(tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs("qwen3-embedding", tmp_path)
    model = Embedder.from_pretrained(folder, max_seq_length=8)
    ids = model.tokenizer.encode([TEXTS[3]]).ids
    assert ids.tolist() == [*expected["ids"][3][:7], expected["ids"][3][-1]]


def without_end(folder: Path, **settings: object) -> Path:
    """Make e5-mistral's folder as its authors publish it: tokenizer.json puts only <s> around a text."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    template = tokenizer["post_processor"]
    assert template["single"].pop() == {"SpecialToken": {"id": "</s>", "type_id": 0}}
    del template["special_tokens"]["</s>"]
    write_json(path, tokenizer)
    edit_json(folder / "tokenizer_config.json", **settings)
    return folder


def test_the_end_token_that_only_tokenizer_config_names(tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs("e5-mistral", tmp_path)
    whole = Embedder.from_pretrained(folder, precision="float32")
    without_end(folder, add_eos_token=True, eos_token="</s>")
    model = Embedder.from_pretrained(folder, precision="float32")
    tokens = model.tokenizer.encode(TEXTS)
    assert [tokens.select(i, i + 1).ids.tolist() for i in range(len(TEXTS))] == expected["ids"]
    np.testing.assert_allclose(model.encode(TEXTS), expected["vectors"], atol=TOLERANCE)
    np.testing.assert_array_equal(model.encode(TEXTS), whole.encode(TEXTS))
    longest = max(range(len(TEXTS)), key=lambda i: len(expected["ids"][i]))
    short = Embedder.from_pretrained(folder, max_seq_length=4).tokenizer.encode([TEXTS[longest]])
    assert short.truncated == 1
    assert short.ids.tolist() == [*expected["ids"][longest][:3], expected["ids"][longest][-1]]
    quantize(folder, tmp_path / "int8")
    kept = Embedder.from_pretrained(tmp_path / "int8").tokenizer.encode(TEXTS)
    np.testing.assert_array_equal(kept.ids, tokens.ids)
    # A model without this token has other vectors.
    edit_json(folder / "tokenizer_config.json", add_eos_token=False)
    plain = Embedder.from_pretrained(folder, precision="float32")
    assert plain.tokenizer.encode([TEXTS[0]]).ids.tolist() == expected["ids"][0][:-1]
    assert plain.fingerprint != model.fingerprint
    assert np.abs(plain.encode(TEXTS) - expected["vectors"]).max() > 1e-3


@pytest.mark.parametrize("processor", [None, "ByteLevel", "Sequence"])
def test_the_end_token_behind_any_post_processor(processor: str | None, tmp_path: Path) -> None:
    folder = without_end(unpacked("e5-mistral", tmp_path), add_eos_token=True, eos_token="</s>")
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    start = [] if processor != "Sequence" else ["<s>"]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    template = tokenizer["post_processor"]
    steps = {"type": "Sequence", "processors": [level, template]}
    tokenizer["post_processor"] = {None: None, "ByteLevel": level, "Sequence": steps}[processor]
    write_json(path, tokenizer)
    words = Embedder.from_pretrained(folder).tokenizer
    pieces = [piece.token for piece in words.pieces("text")]
    plain = [piece.token for piece in words.pieces("text", special_tokens=False)]
    assert pieces == [*start, *plain, "</s>"]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"eos_token": "</s>"}, ModelFolderError, "no add_eos_token; set it to true"),
        ({"add_eos_token": True, "eos_token": None}, TokenizerError, "eos_token .* got None"),
        ({"add_eos_token": True, "eos_token": "<end>"}, TokenizerError, "got '<end>'"),
        ({"add_eos_token": "yes"}, ModelFolderError, "add_eos_token must be true or false"),
    ],
)
def test_an_end_token_that_the_folder_does_not_name(
    settings: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    folder = without_end(unpacked("e5-mistral", tmp_path), **settings)
    with pytest.raises(error, match=message):
        Embedder.from_pretrained(folder)


def test_a_reranker_of_words_that_its_folder_does_not_name(tmp_path: Path) -> None:
    """Qwen3-Reranker as published: its name is all that tells how it scores."""
    folder, expected = unpacked_with_outputs("qwen3-reranker", tmp_path)
    known = folder.rename(tmp_path / "Qwen3-Reranker-0.6B")
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (known / name).unlink()
    model = CrossEncoder.from_pretrained(known, precision="float32")
    np.testing.assert_allclose(model.predict(PAIRS), expected["card"], atol=TOLERANCE)
    # Under another name the int8 folder says by itself how it scores.
    (known / "chat_template.jinja").write_text("{{ messages[0].content }}")  # of a chat
    quantize(known, tmp_path / "int8")
    int8 = CrossEncoder.from_pretrained(tmp_path / "int8", precision="float32").predict(PAIRS)
    assert np.abs(int8 - expected["card"]).max() < 0.02
    other = known.rename(tmp_path / "some-model")
    with pytest.raises(UnsupportedArchitectureError, match="has a classification head") as raised:
        CrossEncoder.from_pretrained(other)
    assert "give its folder that name (Qwen3-Reranker-0.6B, -4B or -8B), or a" in str(raised.value)
    for opens in (Embedder, Ranker):
        with pytest.raises(PoolingError, match=r"give its folder that name .* open it with Cross"):
            opens.from_pretrained(other)  # type: ignore[attr-defined]
    # The case of the name does not count.
    again = other.rename(tmp_path / "qwen3-reranker-4b")
    assert isinstance(Ranker.from_pretrained(again), CrossEncoder)


def test_the_document_of_a_chat_template_is_cut_and_nothing_behind_it(tmp_path: Path) -> None:
    folder = unpacked("qwen3-reranker", tmp_path)
    model = CrossEncoder.from_pretrained(folder)
    whole = model.tokenizer.encode_pairs([(QUERY, "text and data")])
    batch = model.tokenizer.encode_pairs([(QUERY, "text and data " * 50), (QUERY, "text")])
    assert (batch.offsets[1], batch.truncated) == (model.max_seq_length, 1)
    assert batch.ids[: batch.offsets[1]][-9:].tolist() == whole.ids[-9:].tolist()
    short = model.tokenizer.encode_pairs([(QUERY, "text and data " * 50)], longest_second=2)
    assert short.truncated == 1
    assert len(short.ids) < len(whole.ids)
    with pytest.raises(InputError, match=r"leave room for the second: .* pair 1 has"):
        model.tokenizer.encode_pairs([("a", "b"), ("which file " * 90, "b")])
    with pytest.raises(InputError, match="second text of pair 0 is int"):
        model.predict([("a", 3)])  # type: ignore[list-item]


@pytest.mark.parametrize("scheme", ["dynamic", "static"])
def test_a_reranker_of_words_in_int8(scheme: Any, tmp_path: Path) -> None:
    folder, expected = unpacked_with_outputs("qwen3-reranker", tmp_path)
    calibration = [f"{QUERY} {text}" for text in TEXTS] if scheme == "static" else None
    quantize(folder, tmp_path / "int8", scheme=scheme, calibration=calibration, samples=5)
    scores = CrossEncoder.from_pretrained(tmp_path / "int8").predict(PAIRS)
    assert np.abs(scores - expected["scores"]).max() < 0.1 * np.abs(expected["scores"]).max()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0].content }}", "the query once and then the document once"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "the query once"),
        ("{{ messages[1].content }}{{ messages[0].content }}", "the query once"),
        ("{% for m in messages %}{{ m.content | replace('two', '') }}{% endfor %}", "as they are"),
        ("{{ raise_exception('only chats') }}", "fails on .*: only chats"),
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "may not use"),
        ("{% for i in range(100000) %}x{% endfor %}", "may count to 1000"),
        ("{{ 'x' * 1000000000 }}", "may not use"),
        ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{% if %}", "fails on"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "fails on .* recursion"),
        ("{{ messages | xmlattr }}", "fails on"),
        ("{% if 1 %}" * 120 + "{% endif %}" * 120, "fails on|the query once"),
        ("{% for a in [1] %}" * 60 + "{% endfor %}" * 60, "fails on"),
    ],
)
def test_a_chat_template_that_is_none_of_a_reranker(
    template: str, message: str, tmp_path: Path
) -> None:
    folder = unpacked("qwen3-reranker", tmp_path)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    with pytest.raises(ModelFolderError, match=message):
        CrossEncoder.from_pretrained(folder)


def test_a_chat_template_that_needs_an_instruction(tmp_path: Path) -> None:
    folder = needing_an_instruction(unpacked("qwen3-reranker", tmp_path))
    model = CrossEncoder.from_pretrained(folder)
    for prompt in (None, ""):
        with pytest.raises(InputError, match=r"needs an instruction: got none; pass prompt=\.\.\."):
            model.predict(PAIRS, prompt=prompt)
    with pytest.raises(InputError, match="needs an instruction"):  # no request could have one
        LoadedCrossEncoder(model)
    scores = model.predict(PAIRS, prompt="which text answers")
    quantize(folder, tmp_path / "int8", scheme="static", calibration=TEXTS, samples=4)
    assert len(CrossEncoder.from_pretrained(tmp_path / "int8").predict(PAIRS, prompt="a")) == 5
    settings = {"prompts": {"q": "which text answers"}, "default_prompt_name": "q"}
    edit_json(folder / "config_sentence_transformers.json", **settings)
    again = CrossEncoder.from_pretrained(folder)
    assert np.array_equal(again.predict(PAIRS), scores)
    LoadedCrossEncoder(again)
    # A default prompt that the template refuses is found when the model is loaded.
    wrong = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(
        wrong + "{% for m in messages %}{{ m.content }}{% endfor %}", encoding="utf-8"
    )
    with pytest.raises(ModelFolderError, match="no system"):
        CrossEncoder.from_pretrained(folder)


def test_the_layout_and_the_variables_of_a_template(tmp_path: Path) -> None:
    folder = unpacked("qwen3-reranker", tmp_path)
    template = "{% for m in messages %}{{ m.content[0].text }}{{ eos_token }}{% endfor %}{{ mark }}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    message = {"method": "forward", "method_output_name": "logits", "format": "structured"}
    edit_json(
        folder / "sentence_bert_config.json",
        modality_config={"message": message},
        processing_kwargs={"chat_template": {"mark": "yes"}},
    )
    edit_json(folder / "tokenizer_config.json", eos_token="<|im_end|>")
    model = CrossEncoder.from_pretrained(folder)
    got = model.tokenizer.encode_pairs([("a", "b")], prompt="q").ids.tolist()
    assert got == model.tokenizer.encode(["q<|im_end|>a<|im_end|>b<|im_end|>yes"]).ids.tolist()
    edit_json(folder / "sentence_bert_config.json", processing_kwargs={"text": {"padding": True}})
    with pytest.raises(UnsupportedArchitectureError, match="simple variables of the chat template"):
        CrossEncoder.from_pretrained(folder)


def test_words_that_a_reranker_does_not_have(tmp_path: Path) -> None:
    folder = unpacked("qwen3-reranker", tmp_path)
    edit_json(folder / "1_LogitScore" / "config.json", true_token_id=10_000)
    with pytest.raises(ModelFolderError, match=r"tokens of the vocabulary: got 10000 of"):
        CrossEncoder.from_pretrained(folder)
    edit_json(folder / "1_LogitScore" / "config.json", true_token_id=None)
    with pytest.raises(ModelFolderError, match="must have true_token_id"):
        CrossEncoder.from_pretrained(folder)
    edit_json(folder / "1_LogitScore" / "config.json", true_token_id=7)
    with pytest.raises(UnsupportedArchitectureError, match="open it with CrossEncoder"):
        Embedder.from_pretrained(folder)


def test_a_reranker_of_words_without_a_head(tmp_path: Path) -> None:
    folder = unpacked("qwen3-reranker", tmp_path)
    tensors = dict(read_tensors(folder))
    assert not any("lm_head" in name for name in tensors)
    scores = CrossEncoder.from_pretrained(folder, precision="float32").predict(PAIRS)
    for stated, message in ((False, r"is false\)"), (None, r"is false, which is the default\)")):
        edit_json(folder / "config.json", tie_word_embeddings=stated)
        with pytest.raises(WeightsError, match=rf"must have lm_head.weight, or .*{message}"):
            CrossEncoder.from_pretrained(folder)
        with pytest.raises(WeightsError, match=r"must have lm_head.weight"):
            quantize(folder, tmp_path / "int8")
    # A head of its own counts, and an int8 folder keeps it.
    table = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    save_file({**tensors, "lm_head.weight": -tensors[table]}, folder / "model.safetensors")
    own = CrossEncoder.from_pretrained(folder, precision="float32").predict(PAIRS)
    np.testing.assert_allclose(own, -scores, atol=TOLERANCE)
    quantize(folder, tmp_path / "int8")
    kept = CrossEncoder.from_pretrained(tmp_path / "int8").predict(PAIRS)
    assert np.abs(kept - own).max() < 0.1 * np.abs(own).max()


# --- Refusals -------------------------------------------------------------------------------------
def test_each_class_names_the_one_that_opens_the_folder(tmp_path: Path) -> None:
    modular = unpacked("ettin-reranker", tmp_path)
    with pytest.raises(UnsupportedArchitectureError, match=r"open it with CrossEncoder\.from_pret"):
        Embedder.from_pretrained(modular)
    with pytest.raises(UnsupportedArchitectureError, match=r"open it with CrossEncoder\.from_pret"):
        Embedder.from_pretrained(write_tiny_cross_encoder(tmp_path / "plain"))
    with pytest.raises(UnsupportedArchitectureError, match=r"with Embedder\.from_pretrained"):
        CrossEncoder.from_pretrained(unpacked("normalized-early", tmp_path))


@pytest.mark.parametrize(
    ("modules", "settings", "kind"),
    [
        (["sentence_transformers.sparse_encoder.modules.MLMTransformer"], {}, "a sparse encoder"),
        (
            [
                "sentence_transformers.models.Transformer",
                "sentence_transformers.sparse_encoder.models.SpladePooling",
            ],
            {},
            "a sparse encoder",
        ),
        (
            ["sentence_transformers.models.Transformer"],
            {"model_type": "SparseEncoder"},
            "a sparse encoder",
        ),
        (
            ["sentence_transformers.models.Transformer", "pylate.models.Dense.Dense"],
            {},
            "a multi-vector model",
        ),
        (
            ["a.Transformer", "a.Dense"],
            {"model_type": "MultiVectorEncoder"},
            "a multi-vector model",
        ),
    ],
)
def test_kinds_that_other_classes_open(
    modules: list[str], settings: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    folder = write_tiny_model(tmp_path / "other")
    entries = [{"path": f"{i}_x" if i else "", "type": kind} for i, kind in enumerate(modules)]
    write_json(folder / "modules.json", entries)
    write_json(folder / "config_sentence_transformers.json", settings)
    by = "SparseEncoder" if "sparse" in kind else "MultiVectorEncoder"
    for opens in (Embedder, CrossEncoder, Ranker):
        with pytest.raises(
            UnsupportedArchitectureError, match=f"other is {kind}; open it with {by}"
        ) as caught:
            opens.from_pretrained(folder)  # type: ignore[attr-defined]
        assert str(caught.value).count("open it with") == 1


@pytest.mark.parametrize(
    ("path", "changes", "error", "message"),
    [
        ("4_Dense", {"use_residual": True}, UnsupportedArchitectureError, "use_residual=true"),
        ("4_Dense", {"out_features": 2**20}, UnsupportedArchitectureError, "up to 65536"),
        (
            "4_Dense",
            {"module_input_name": "token_embeddings"},
            UnsupportedArchitectureError,
            "module_input_name='token_embeddings'; supported is 'sentence_embedding'",
        ),
        (
            "4_Dense",
            {"module_output_name": "sparse"},
            UnsupportedArchitectureError,
            "writes 'sparse'; supported are",
        ),
        (
            "2_Dense",
            {"module_output_name": "scores"},
            UnsupportedArchitectureError,
            "module_input_name='sentence_embedding'; supported is 'scores'",
        ),
        (
            "",
            {"transformer_task": "text-generation"},
            UnsupportedArchitectureError,
            "text-generation",
        ),
        ("", {"transformer_task": "fill-mask"}, UnsupportedArchitectureError, "a sparse encoder"),
        (
            "",
            {"modality_config": {"text": {"method_output_name": ["hidden_states", -2]}}},
            UnsupportedArchitectureError,
            r"reads \['hidden_states', -2\]",
        ),
        (
            "",
            {"modality_config": {"message": {}, "text": {}}},
            ModelFolderError,
            "must have chat_template.jinja",
        ),
        (
            "4_Dense",
            {"use_residual": "yes"},
            ModelFolderError,
            "use_residual must be true or false",
        ),
    ],
)
def test_options_that_would_change_the_scores(
    path: str, changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    folder = unpacked("ettin-reranker", tmp_path)
    name = f"{path}/config.json" if path else "sentence_bert_config.json"
    edit_json(folder / name, **changes)
    with pytest.raises(error, match=message):
        CrossEncoder.from_pretrained(folder)


def test_an_activation_is_never_imported(tmp_path: Path) -> None:
    folder = unpacked("ettin-reranker", tmp_path)
    edit_json(folder / "config_sentence_transformers.json", activation_fn="os.system")
    with pytest.raises(UnsupportedArchitectureError, match="never imported"):
        CrossEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    "name", ["sentence_roberta_config.json", "sentence_distilbert_config.json"]
)
def test_old_names_of_the_text_settings(name: str, tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "old")
    (folder / "sentence_bert_config.json").rename(folder / name)
    write_json(folder / name, {"max_seq_length": 21, "do_lower_case": False})
    assert Embedder.from_pretrained(folder).max_seq_length == 21
