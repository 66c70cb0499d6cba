"""What sentence-transformers gives for a folder, Quaver gives: every family's reranker, every pooling."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers as st
import torch
from sentence_transformers.sentence_transformer import modules
from tokenizers import processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from quaver import CrossEncoder, Embedder, InputError, quantize
from tiny_model import tiny_tokenizer, tiny_vocabulary, write_tiny_decoder

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
import published_code
from families import CASES, Case, make
from published_forms import FORMS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

QUERY = "which file has the class"
DOCUMENTS = ["the python module has a class", "text and data", "a query that returns an error", ""]
PAIRS = [(QUERY, document) for document in DOCUMENTS]
LENGTH = 48
# Sums of three layers in float32 in another order, with outlier channels.
TOLERANCE = 1e-4
BOTH_TYPES = {"Bert", "Electra", "NomicBert"}
KNOWN = [case for case in CASES if case.name not in FORMS]


def save_tokenizer(folder: Path, *, types: bool = True) -> None:
    """Write the tiny model's tokenizer as transformers reads it."""
    backend = tiny_tokenizer()
    backend.no_truncation()
    backend.no_padding()
    ids = tiny_vocabulary()
    if not types:
        special = [(piece, ids.index(piece)) for piece in ("[CLS]", "[SEP]")]
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=special
        )
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=LENGTH,
        model_input_names=names,
    )
    tokenizer.save_pretrained(folder)


def reranker(case: Case, folder: Path, labels: int) -> str:
    """Write a random cross-encoder of a family."""
    sizes = {"vocab_size": len(tiny_vocabulary()), "max_position_embeddings": 64, "pad_token_id": 0}
    small = replace(case, reduced=case.reduced | sizes)
    make(small, head=True, labels=labels).save_pretrained(folder)
    save_tokenizer(folder, types=case.name in BOTH_TYPES)
    return str(folder)


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: case.name)
def test_a_reranker_scores_and_ranks_as_a_cross_encoder(case: Case, tmp_path: Path) -> None:
    folder = reranker(case, tmp_path / "one", 1)
    theirs = st.CrossEncoder(folder, device="cpu")
    ours = CrossEncoder.from_pretrained(folder, precision="float32")
    assert (ours.labels, ours.activation) == (1, "sigmoid")
    np.testing.assert_allclose(ours.predict(PAIRS), theirs.predict(PAIRS), atol=TOLERANCE)
    raw = theirs.predict(PAIRS, activation_fn=torch.nn.Identity())
    got = ours.predict(PAIRS, activation="identity")
    assert np.abs(got - raw).max() < TOLERANCE * max(1, np.abs(raw).max())
    assert len(set(np.round(raw, 3).tolist())) == len(PAIRS)
    hits = theirs.rank(QUERY, DOCUMENTS)
    ranked = ours.rank(QUERY, DOCUMENTS)
    assert [r.index for r in ranked] == [hit["corpus_id"] for hit in hits]
    for mine, hit in zip(ranked, hits, strict=True):
        assert mine.score == pytest.approx(float(hit["score"]), abs=TOLERANCE)


@pytest.mark.parametrize("case", KNOWN, ids=lambda case: case.name)
def test_several_labels_score_as_a_cross_encoder_and_rank_nothing(
    case: Case, tmp_path: Path
) -> None:
    folder = reranker(case, tmp_path / "three", 3)
    truth = st.CrossEncoder(folder, device="cpu").predict(PAIRS)
    ours = CrossEncoder.from_pretrained(folder, precision="float32")
    assert (ours.labels, ours.activation) == (3, "identity")
    got = ours.predict(PAIRS)
    assert got.shape == truth.shape == (4, 3)
    assert np.abs(got - truth).max() < TOLERANCE * max(1, np.abs(truth).max())
    with pytest.raises(InputError, match=r"one label: three has 3 \(LABEL_0"):
        ours.rank(QUERY, DOCUMENTS)


@pytest.mark.parametrize("activation", [torch.nn.Identity, torch.nn.Sigmoid])
def test_the_activation_that_was_saved(activation: Any, tmp_path: Path) -> None:
    first = reranker(KNOWN[0], tmp_path / "first", 1)
    theirs = st.CrossEncoder(first, device="cpu", activation_fn=activation())
    theirs.save_pretrained(str(tmp_path / "saved"))
    ours = CrossEncoder.from_pretrained(tmp_path / "saved", precision="float32")
    assert ours.activation == activation.__name__.lower()
    np.testing.assert_allclose(ours.predict(PAIRS), theirs.predict(PAIRS), atol=TOLERANCE)


def test_a_long_document_is_cut_as_a_cross_encoder_cuts_it(tmp_path: Path) -> None:
    folder = reranker(KNOWN[0], tmp_path / "one", 1)
    pairs = [(QUERY, "key value list " * 30)]
    theirs = st.CrossEncoder(folder, device="cpu")
    # Longest first: the query is the shorter one, so only the document loses its end.
    truth = theirs.predict(pairs, activation_fn=torch.nn.Identity())
    ours = CrossEncoder.from_pretrained(folder, precision="float32")
    assert ours.max_seq_length == theirs.max_seq_length == LENGTH
    np.testing.assert_allclose(ours.predict(pairs, activation="identity"), truth, atol=TOLERANCE)


def sentence_transformer(folder: Path, pooling: tuple[str, ...], rest: list[Any]) -> Any:
    """Save a tiny BERT with modules behind it, and return it as sentence-transformers has it."""
    torch.manual_seed(0)
    bare = folder.parent / f"{folder.name}-bare"
    config = BertConfig(
        vocab_size=len(tiny_vocabulary()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(bare)
    save_tokenizer(bare)
    transformer = modules.Transformer(str(bare), max_seq_length=LENGTH)
    parts = [transformer, modules.Pooling(32, pooling), *rest]
    model = st.SentenceTransformer(
        modules=parts, device="cpu", prompts={"query": "query: ", "document": "text: "}
    )
    model.save_pretrained(str(folder))
    return model


POOLINGS = [
    ("cls",),
    ("mean",),
    ("max",),
    ("lasttoken",),
    ("mean_sqrt_len_tokens",),
    ("mean", "cls"),
    ("cls", "max", "mean_sqrt_len_tokens"),
]
TEXTS = [*DOCUMENTS, QUERY, "key value list " * 30]


@pytest.mark.parametrize("pooling", POOLINGS, ids="+".join)
def test_a_pooling(pooling: tuple[str, ...], tmp_path: Path) -> None:
    theirs = sentence_transformer(tmp_path / "plain", pooling, [])
    ours = Embedder.from_pretrained(tmp_path / "plain", precision="float32")
    truth = theirs.encode(TEXTS)
    assert ours.dimension == truth.shape[1]
    assert np.abs(ours.encode(TEXTS) - truth).max() < TOLERANCE * np.abs(truth).max()


def test_modules_prompts_and_shorter_vectors(tmp_path: Path) -> None:
    rest = [modules.Dense(64, 24), modules.LayerNorm(24), modules.Normalize()]
    torch.nn.init.normal_(rest[1].norm.weight)
    torch.nn.init.normal_(rest[1].norm.bias)
    theirs = sentence_transformer(tmp_path / "all", ("cls", "mean"), rest)
    ours = Embedder.from_pretrained(tmp_path / "all", precision="float32")
    assert ours.prompts == theirs.prompts
    for name in ("encode", "encode_query", "encode_document"):
        got, truth = getattr(ours, name)(TEXTS), getattr(theirs, name)(TEXTS)
        np.testing.assert_allclose(got, truth, atol=TOLERANCE, err_msg=name)
    # A prompt stands once; sentence-transformers puts it before every text.
    written = [f"query: {text}" for text in TEXTS]
    np.testing.assert_array_equal(ours.encode_query(written), ours.encode_query(TEXTS))
    np.testing.assert_array_equal(ours.encode(written), ours.encode_query(TEXTS))
    truth = theirs.encode(TEXTS, truncate_dim=8, normalize_embeddings=True)
    got = ours.encode(TEXTS, truncate_dim=8)
    np.testing.assert_allclose(got, truth, atol=TOLERANCE)


# --- Folders of `quaver quantize` ------------------------------------------------------------------
SCHEMES: dict[str, dict[str, Any]] = {
    "dynamic": {},
    "gptq": {"rounding": "gptq"},
    "static": {"scheme": "static"},
}
WORDS = [word for word in tiny_vocabulary() if word.isalpha()]
CALIBRATION = [" ".join(np.random.default_rng(i).choice(WORDS, 9)) for i in range(32)]
# sentence-transformers runs the int8 weights turned back into floats, and so does "float32" here.
# Random layers with outliers make more of the last bit than trained ones.
QUANTIZED = 5e-4


def quantized(source: Path, target: Path, scheme: str) -> Path:
    text = None if scheme == "dynamic" else CALIBRATION
    quantize(source, target, calibration=text, samples=32 if text else 128, **SCHEMES[scheme])
    return target


# Every family once, the schemes where tensors are taken apart or share a name.
QUANTIZED_CASES = [
    pytest.param(case, scheme, id=f"{case.name}-{scheme}")
    for case in KNOWN
    for scheme in SCHEMES
    if scheme == "dynamic" or case.name in ("Bert", "Gte", "NomicBert", "DebertaV2")
]


@pytest.mark.parametrize(("case", "scheme"), QUANTIZED_CASES)
def test_a_quantized_reranker_opens(case: Case, scheme: str, tmp_path: Path) -> None:
    reranker(case, tmp_path / "float", 1)
    folder = quantized(tmp_path / "float", tmp_path / "int8", scheme)
    theirs = st.CrossEncoder(str(folder), device="cpu")
    truth = theirs.predict(PAIRS, activation_fn=torch.nn.Identity())
    ours = CrossEncoder.from_pretrained(folder, precision="float32")
    got = ours.predict(PAIRS, activation="identity")
    assert np.abs(got - truth).max() < QUANTIZED * max(1, np.abs(truth).max())
    plain = CrossEncoder.from_pretrained(tmp_path / "float", precision="float32")
    assert np.abs(plain.predict(PAIRS, activation="identity") - truth).max() > QUANTIZED


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_quantized_embedder_opens(scheme: str, tmp_path: Path) -> None:
    dense = [modules.Dense(32, 24), modules.Normalize()]
    sentence_transformer(tmp_path / "float", ("mean",), dense)
    folder = quantized(tmp_path / "float", tmp_path / "int8", scheme)
    theirs = st.SentenceTransformer(str(folder), device="cpu")
    ours = Embedder.from_pretrained(folder, precision="float32")
    for name in ("encode", "encode_query", "encode_document"):
        got, truth = getattr(ours, name)(TEXTS), getattr(theirs, name)(TEXTS)
        np.testing.assert_allclose(got, truth, atol=QUANTIZED, err_msg=name)
    plain = Embedder.from_pretrained(tmp_path / "float", precision="float32")
    assert np.abs(plain.encode(TEXTS) - theirs.encode(TEXTS)).max() > QUANTIZED


@pytest.mark.parametrize(
    ("group", "rounding"), [(32, "nearest"), (64, "nearest"), (128, "nearest"), (32, "gptq")]
)
def test_a_decoder_in_four_bits_opens(group: int, rounding: Any, tmp_path: Path) -> None:
    write_tiny_decoder(tmp_path / "float")
    save_tokenizer(tmp_path / "float")
    folder = tmp_path / "int4"
    text = {"calibration": CALIBRATION, "samples": 32} if rounding == "gptq" else {}
    quantize(tmp_path / "float", folder, scheme="int4", group_size=group, rounding=rounding, **text)
    theirs = st.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    ours = Embedder.from_pretrained(folder, precision="float32").encode(TEXTS)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    plain = Embedder.from_pretrained(tmp_path / "float", precision="float32").encode(TEXTS)
    assert np.abs(plain - theirs).max() > 10 * QUANTIZED


def test_a_folder_of_an_older_version_opens_in_quaver(tmp_path: Path) -> None:
    sentence_transformer(tmp_path / "float", ("mean",), [])
    folder = quantized(tmp_path / "float", tmp_path / "int8", "dynamic")
    wanted = Embedder.from_pretrained(folder).encode(TEXTS)
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization_config"].pop("dequantize") is True
    (folder / "config.json").write_text(json.dumps(config))
    np.testing.assert_array_equal(Embedder.from_pretrained(folder).encode(TEXTS), wanted)


# --- tools/published_code.py: the authors' files, of which these stand in the place ---------------
STAND_IN = """
from published_forms import published

class {model}:
    def __new__(cls, config, add_pooling_layer):
        assert not add_pooling_layer
        made = published("{form}", config.values, labels=None)
        {change}
        return made
"""
SETTINGS = """
class {config}:
    def __init__(self, **values):
        self.values = values
"""


@pytest.mark.parametrize("family", published_code.MODELS)
def test_published_code_is_run_and_judged(family: str, tmp_path: Path) -> None:
    form, configuration, config, model = published_code.MODELS[family]
    (tmp_path / f"{configuration}.py").write_text(SETTINGS.format(config=config))
    for name, change in (
        ("same", "pass"),
        ("other", "made.run_layer = lambda layer, x: 1.001 * x"),
    ):
        path = tmp_path / f"{name}.py"
        path.write_text(STAND_IN.format(model=model, form=form, change=change))
        error = published_code.compare(family, path, real=False)
        assert (error <= published_code.LARGEST_ERROR) == (name == "same")
