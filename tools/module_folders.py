"""Compare Quaver with sentence-transformers and model2vec on folders that they write.

Needs torch, sentence-transformers and model2vec:

    python tools/module_folders.py              the shapes of published models; prints the largest differences
    python tools/module_folders.py --golden     write tests/golden/folders, at reduced shapes
    python tools/module_folders.py splade-bert  one case

Weights are random, so only the arithmetic is compared. A golden file is a zip: the folder as the
library saved it, its weights rounded to half precision, and expected.json with texts and results.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers as st
import torch
from model2vec import StaticModel
from model2vec.quantization import DType, quantize_embeddings
from safetensors.torch import load_file, save_file
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.multi_vector_encoder.modules import (
    HierarchicalTokenPooling,
    MultiVectorMask,
)
from sentence_transformers.sentence_transformer.modules import (
    Dropout,
    LayerNorm,
    Pooling,
    StaticEmbedding,
)
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    Gemma3TextConfig,
    Gemma3TextModel,
    JinaEmbeddingsV3Config,
    JinaEmbeddingsV3Model,
    MistralConfig,
    MistralModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    ModernBertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)
from transformers.utils import logging

from quaver.embedder import Embedder
from quaver.models.chat_template import QWEN3_RERANKER, ChatTemplate
from quaver.multi_vector_encoder import MultiVectorEncoder
from quaver.reranker import CrossEncoder
from quaver.sparse_encoder import SparseEncoder

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from tiny_model import WORDS, tiny_tokenizer, tiny_vocabulary  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "folders"
QUERY = "which file has the class"
TEXTS = [
    "the python module has a class",
    "text and data",
    "",
    "a query that returns an error " * 4,
    "import the code, return 3.14 or naïve?",
]
# Relative to the largest value; rounding adds up over 22 layers of random weights.
COLBERT_TEXTS = [*TEXTS, "who? the file. what, the list!", " ".join(WORDS[:70])]
STATIC_TEXTS = [*TEXTS, "unknown \u4e2d words \u2603 and snow", "\u2603", "a of the and to " * 20]
STATIC_KINDS = ("float32", "float16", "int8", "clusters", "unigram")
LARGEST_FLOAT32_ERROR = 2e-5
LENGTH = 64


@dataclass(frozen=True)
class Shape:
    """Sizes of an encoder."""

    hidden: int
    layers: int
    heads: int
    inner: int


REDUCED = Shape(24, 2, 2, 32)
ETTIN_32M = Shape(384, 10, 6, 576)
GTE_BASE = Shape(768, 22, 12, 1152)
MINILM = Shape(384, 6, 12, 1536)


def tokenizer() -> PreTrainedTokenizerFast:
    """Return the tests' tiny tokenizer as a tokenizer of transformers."""
    backend = tiny_tokenizer()
    backend.no_truncation()
    backend.no_padding()
    ids = tiny_vocabulary()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(piece, ids.index(piece)) for piece in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=LENGTH,
        model_input_names=["input_ids", "attention_mask"],
    )


def modernbert(shape: Shape, **changes: Any) -> ModernBertConfig:
    """Return the config of a ModernBERT."""
    return ModernBertConfig(
        vocab_size=len(tiny_vocabulary()),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        max_position_embeddings=LENGTH,
        local_attention=16,
        pad_token_id=0,
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
        initializer_range=0.1,
        **changes,
    )


def bert(shape: Shape) -> BertModel:
    """Return a random BERT."""
    return BertModel(
        BertConfig(
            vocab_size=len(tiny_vocabulary()),
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.inner,
            max_position_embeddings=LENGTH,
            initializer_range=0.1,
        )
    )


def transformer(model: Any, folder: Path, **options: Any) -> Transformer:
    """Save a model of transformers with the tokenizer, and open it as a module."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return Transformer(str(folder), **options)


def drawn(module: Any) -> Any:
    """Draw the weights of a module, large enough that texts give different results."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0, weight.shape[1] ** -0.5)
            else:
                weight.normal_(1.0 if "norm.weight" in name else 0.0, 0.3)
    return module


def scorer(first: Transformer, width: int, labels: int) -> list[Any]:
    """Return the modules of the ettin rerankers."""
    return [
        first,
        Pooling(width, "cls"),
        drawn(Dense(width, width, bias=False, activation_function=nn.GELU())),
        drawn(LayerNorm(width)),
        drawn(Dense(width, labels, activation_function=nn.Identity(), module_output_name="scores")),
    ]


def ettin(shape: Shape, scratch: Path) -> st.CrossEncoder:
    """Make a reranker like the ettin ones: ModernBERT, pooling, a head of modules, plain scores."""
    first = transformer(ModernBertModel(modernbert(shape)), scratch)
    return st.CrossEncoder(
        modules=scorer(first, shape.hidden, 1), activation_fn=nn.Identity(), device="cpu"
    )


def labels_with_prompt(shape: Shape, scratch: Path) -> st.CrossEncoder:
    """Make a cross-encoder with three labels and a prompt before the first text."""
    return st.CrossEncoder(
        modules=scorer(transformer(bert(shape), scratch), shape.hidden, 3),
        activation_fn=nn.Sigmoid(),
        prompts={"query": "query: ", "long": "the text of a query: "},
        default_prompt_name="query",
        device="cpu",
    )


def gte_reranker(shape: Shape, scratch: Path) -> st.CrossEncoder:
    """Make a reranker like gte-reranker-modernbert-base: the head of its own class."""
    config = modernbert(shape, num_labels=1, classifier_pooling="mean")
    first = transformer(
        ModernBertForSequenceClassification(config),
        scratch,
        transformer_task="sequence-classification",
    )
    return st.CrossEncoder(modules=[first], device="cpu")


def normalized_early(shape: Shape, scratch: Path) -> st.SentenceTransformer:
    """Make an embedder that normalizes before the last Dense, with Dropout around it."""
    width = 2 * shape.hidden
    chain = [
        transformer(bert(shape), scratch),
        Pooling(shape.hidden, ("cls", "mean")),
        Normalize(),
        Dropout(0.5),
        drawn(Dense(width, 20, activation_function=nn.Tanh())),
        drawn(LayerNorm(20)),
        Normalize(),
        drawn(Dense(20, 12, bias=False, activation_function=nn.Identity())),
    ]
    return st.SentenceTransformer(
        modules=chain,
        device="cpu",
        prompts={"query": "query: ", "document": "text: "},
        similarity_fn_name="euclidean",
    )


def weighted(shape: Shape, scratch: Path) -> st.SentenceTransformer:
    """Make an embedder that weighs tokens by their places."""
    chain = [
        transformer(bert(shape), scratch),
        Pooling(shape.hidden, ("weightedmean", "max")),
        Normalize(),
    ]
    return st.SentenceTransformer(modules=chain, device="cpu", prompts={"query": "query: "})


# --- T5 -------------------------------------------------------------------------------------------
def t5(shape: Shape, scratch: Path, **changes: Any) -> Transformer:
    """Return the encoder of a random T5 as a module, with a Unigram tokenizer."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS]
    pieces += [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz.,:"]
    words = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=LENGTH)
    config = T5Config(
        vocab_size=len(words),
        d_model=shape.hidden,
        d_kv=16,
        d_ff=shape.inner,
        num_layers=shape.layers,
        num_heads=shape.heads,
        relative_attention_max_distance=24,
        initializer_factor=1.5,
        **changes,
    )
    T5EncoderModel(config).save_pretrained(scratch)
    words.save_pretrained(scratch)
    return Transformer(str(scratch))


def gtr(shape: Shape, scratch: Path) -> st.SentenceTransformer:
    """Make an embedder like gtr and sentence-t5: the mean, a Dense without bias, Normalize."""
    return st.SentenceTransformer(
        modules=[
            t5(shape, scratch),
            Pooling(shape.hidden, "mean"),
            drawn(Dense(shape.hidden, 20, bias=False, activation_function=nn.Identity())),
            Normalize(),
        ],
        device="cpu",
    )


def instructor(shape: Shape, scratch: Path) -> st.SentenceTransformer:
    """Make an embedder like instructor, which reads an instruction and does not pool it."""
    return st.SentenceTransformer(
        modules=[
            t5(shape, scratch, feed_forward_proj="gated-gelu"),
            Pooling(shape.hidden, ("mean", "cls", "max"), include_prompt=False),
            Normalize(),
        ],
        device="cpu",
        prompts={"query": "represent the query:", "document": "represent the text: "},
    )


# --- Decoders -------------------------------------------------------------------------------------
INSTRUCT = "Given a web search query, retrieve relevant passages that answer the query"
# Roles as sentence-transformers gives them to a chat template; text by text what Qwen3-Reranker reads.
TEMPLATE = """{%- macro of(role) -%}
{{ messages | selectattr("role", "eq", role) | map(attribute="content") | first | default("Find the text") | trim }}
{%- endmacro -%}
<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. {# one line -#}
Note that the answer can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: {{ of("system") }}
<Query>: {{ of("query") }}
<Document>: {{ of("document") }}<|im_end|>
<|im_start|>assistant
<think>

</think>{{ "\\n\\n" }}"""


def byte_pairs(special: tuple[str, ...], around: str, qwen: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer of byte pairs, of Qwen's kind or of SentencePiece's.

    Args:
        special: its special tokens.
        around: the template of its post-processor, "" for none.
        qwen: bytes as letters, split by words; else words that begin with a mark, and bytes as tokens.
    """
    backend = Backend(models.BPE(byte_fallback=not qwen, unk_token=None if qwen else special[0]))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if qwen:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    else:
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        alphabet = list("abcdefghijklmnopqrstuvwxyz.,?'▁")
    words = ["yes\nno\nyes\nno"] * 99
    size = 400
    bytes_ = [] if qwen else [f"<0x{i:02X}>" for i in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=size + len(bytes_),
        initial_alphabet=alphabet,
        special_tokens=[*special, *bytes_],
        show_progress=False,
    )
    backend.train_from_iterator([*TEXTS * 40, *(" ".join(WORDS),) * 40, *words], trainer)
    if not qwen:  # the trainer made them special
        state = json.loads(backend.to_str())
        state["added_tokens"] = state["added_tokens"][: len(special)]
        backend = Backend.from_str(json.dumps(state))
    if around:
        ids = [(token, special.index(token)) for token in special if token in around]
        backend.post_processor = processors.TemplateProcessing(single=around, special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=special[0],
        model_max_length=LENGTH,
        padding_side="left" if qwen else "right",
    )


def decoder_sizes(shape: Shape, words: int) -> dict[str, Any]:
    """Return the sizes of a decoder whose heads are wider than its hidden size asks for."""
    return {
        "vocab_size": words,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": 2 * shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": 16,
        "intermediate_size": shape.inner,
        "max_position_embeddings": 4 * LENGTH,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
    }


QWEN = ("<|endoftext|>", "<|im_end|>", "<|im_start|>", "<think>", "</think>")


def opened(model: Any, words: PreTrainedTokenizerFast, folder: Path, **options: Any) -> Transformer:
    """Save a decoder in bfloat16 with its tokenizer, and open it as a module in float32."""
    model.to(torch.bfloat16).save_pretrained(folder)
    words.save_pretrained(folder)
    return Transformer(str(folder), model_kwargs={"dtype": torch.float32}, **options)


def qwen3_embedding(shape: Shape, scratch: Path) -> st.SentenceTransformer:
    """Make an embedder like Qwen3-Embedding: the state of a token that the tokenizer appends."""
    words = byte_pairs(QWEN, "$A <|endoftext|>", True)
    sizes = decoder_sizes(shape, len(words)) | {"pad_token_id": None}
    first = opened(Qwen3Model(Qwen3Config(**sizes)), words, scratch)
    return st.SentenceTransformer(
        modules=[first, Pooling(shape.hidden, "lasttoken"), Normalize()],
        device="cpu",
        prompts={"query": f"Instruct: {INSTRUCT}\nQuery:", "document": ""},
    )


def e5_mistral(shape: Shape, scratch: Path) -> st.SentenceTransformer:
    """Make an embedder like e5-mistral, whose tokenizer puts </s> behind a text."""
    words = byte_pairs(("<unk>", "<s>", "</s>"), "<s> $A </s>", False)
    sizes = decoder_sizes(shape, len(words)) | {"sliding_window": 8}
    first = opened(MistralModel(MistralConfig(**sizes)), words, scratch)
    return st.SentenceTransformer(
        modules=[first, Pooling(shape.hidden, "lasttoken"), Normalize()],
        device="cpu",
        prompts={"query": f"Instruct: {INSTRUCT}\nQuery: "},
    )


def embedding_gemma(shape: Shape, scratch: Path) -> st.SentenceTransformer:
    """Make an embedder like EmbeddingGemma: windows in both directions, two Dense behind the mean."""
    words = byte_pairs(("<pad>", "<eos>", "<bos>", "<unk>"), "<bos> $A <eos>", False)
    sizes = decoder_sizes(shape, len(words)) | {
        "sliding_window": 8,
        "use_bidirectional_attention": True,
        "query_pre_attn_scalar": 16,
        "sliding_window_pattern": 2,
    }
    first = opened(Gemma3TextModel(Gemma3TextConfig(**sizes)), words, scratch)
    hidden, wide = shape.hidden, 4 * shape.hidden
    return st.SentenceTransformer(
        modules=[
            first,
            Pooling(hidden, "mean"),
            drawn(Dense(hidden, wide, bias=False, activation_function=nn.Identity())),
            drawn(Dense(wide, hidden, bias=False, activation_function=nn.Identity())),
            Normalize(),
        ],
        device="cpu",
        prompts={"query": "task: search result | query: ", "document": "title: none | text: "},
    )


def qwen3_reranker(shape: Shape, scratch: Path) -> st.CrossEncoder:
    """Make a reranker like Qwen3-Reranker: the logits of yes and no behind a chat template."""
    words = byte_pairs(QWEN, "", True)
    words.model_max_length = 3 * LENGTH
    words.chat_template = TEMPLATE
    sizes = decoder_sizes(shape, len(words)) | {"tie_word_embeddings": True}
    model = Qwen3ForCausalLM(Qwen3Config(**sizes))
    first = opened(model, words, scratch, transformer_task="text-generation")
    yes, no = words.convert_tokens_to_ids(["yes", "no"])
    return st.CrossEncoder(
        modules=[first, LogitScore(yes, no)],
        activation_fn=nn.Identity(),
        device="cpu",
        prompts={"web": INSTRUCT, "short": "Find it"},
        default_prompt_name="web",
    )


def scores_by_card(folder: Path) -> list[float]:
    """Return the scores that the card of Qwen3-Reranker computes, without sentence-transformers."""
    words = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    whole = ChatTemplate(QWEN3_RERANKER).around("")
    yes, no = words.convert_tokens_to_ids(["yes", "no"])
    # The card tokenizes what is around a pair by itself.
    before, instruct = whole.before.split("<Instruct>")
    scores = []
    for text in TEXTS:
        pair = f"<Instruct>{instruct}{QUERY}{whole.between}{text}"
        head, middle, tail = (
            words(part, add_special_tokens=False)["input_ids"]
            for part in (before, pair, whole.behind)
        )
        ids = head + middle[: words.model_max_length - len(head) - len(tail)] + tail
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1]
        scores.append(float(torch.log_softmax(logits[[no, yes]], dim=0)[1].exp()))
    return scores


def qwen3_classifier(shape: Shape, scratch: Path) -> st.CrossEncoder:
    """Make a reranker like Qwen3-Reranker's conversion to a classifier: one row instead of two words."""
    words = byte_pairs(QWEN, "", True)
    words.model_max_length = 3 * LENGTH
    words.chat_template = TEMPLATE
    sizes = decoder_sizes(shape, len(words))
    model = Qwen3ForSequenceClassification(Qwen3Config(**sizes, num_labels=1))
    first = opened(model, words, scratch, transformer_task="sequence-classification")
    return st.CrossEncoder(modules=[first], device="cpu")


# --- Sparse encoders ------------------------------------------------------------------------------
def splade(
    model: Any, scratch: Path, pooling: str = "max", activation: str = "relu", **options: Any
) -> st.SparseEncoder:
    """Make a sparse encoder of a masked language model, its biases low enough that most weights are zero."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.shape == (len(tiny_vocabulary()),):
                parameter.normal_(-1.0, 0.3)
            elif name.startswith(("cls.", "lm_head.", "head.", "vocab_")):
                parameter.normal_(1.0 if "orm.weight" in name else 0.0, 0.3)
    first = transformer(model, scratch, transformer_task="fill-mask")
    chain = [first, SpladePooling(pooling, activation)]
    return st.SparseEncoder(modules=chain, device="cpu", **options)


def sizes_of(shape: Shape) -> dict[str, Any]:
    """Return the sizes of a shape as BERT names them."""
    return {
        "vocab_size": len(tiny_vocabulary()),
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.inner,
        "initializer_range": 0.1,
    }


def splade_bert(shape: Shape, scratch: Path) -> st.SparseEncoder:
    """Make a sparse encoder like splade-v3, with a prompt and a limit of words."""
    model = BertForMaskedLM(BertConfig(**sizes_of(shape), max_position_embeddings=LENGTH))
    prompts = {"query": "query: ", "document": ""}
    return splade(model, scratch, prompts=prompts, max_active_dims=40)


def splade_distilbert(shape: Shape, scratch: Path) -> st.SparseEncoder:
    """Make a sparse encoder like OpenSearch's third generation: a table of queries, two logarithms."""
    config = DistilBertConfig(
        vocab_size=len(tiny_vocabulary()),
        dim=shape.hidden,
        n_layers=shape.layers,
        n_heads=shape.heads,
        hidden_dim=shape.inner,
        max_position_embeddings=LENGTH,
        initializer_range=0.1,
    )
    whole = splade(DistilBertForMaskedLM(config), scratch, activation="log1p_relu")
    table = torch.randn(len(tiny_vocabulary())).relu()
    router = Router.for_query_document(
        query_modules=[SparseStaticEmbedding(tokenizer(), table, frozen=True)],
        document_modules=list(whole),
    )
    return st.SparseEncoder(modules=[router], device="cpu", similarity_fn_name="cosine")


def splade_xlm_roberta(shape: Shape, scratch: Path) -> st.SparseEncoder:
    """Make a sparse encoder that adds the values of tokens."""
    config = XLMRobertaConfig(
        **sizes_of(shape), max_position_embeddings=LENGTH + 2, pad_token_id=0, type_vocab_size=1
    )
    return splade(XLMRobertaForMaskedLM(config), scratch, "sum")


def splade_modernbert(shape: Shape, scratch: Path) -> st.SparseEncoder:
    """Make a sparse encoder of a ModernBERT."""
    return splade(ModernBertForMaskedLM(modernbert(shape)), scratch)


# --- Multi-vector models --------------------------------------------------------------------------
def colbert(shape: Shape, scratch: Path) -> st.MultiVectorEncoder:
    """Make a ColBERT of sentence-transformers: prompts, mask tokens that nobody attends to, a skip list."""
    expansion = {"strategy": "fixed", "attend": False, "length": 16}
    first = transformer(bert(shape), scratch, query_expansion=expansion, document_length=24)
    return st.MultiVectorEncoder(
        modules=[
            first,
            token_dense(shape.hidden, 12),
            MultiVectorMask(list(".,!?")),
            Normalize(module_input_name="token_embeddings"),
        ],
        prompts={"query": "query: ", "document": "text: "},
        device="cpu",
    )


def colbert_modernbert(shape: Shape, scratch: Path) -> st.MultiVectorEncoder:
    """Make a ColBERT of a ModernBERT: attended mask tokens, longer queries kept, pooled tokens, a mean."""
    expansion = {"strategy": "min", "attend": True, "length": 12}
    first = transformer(ModernBertModel(modernbert(shape)), scratch, query_expansion=expansion)
    return st.MultiVectorEncoder(
        modules=[
            first,
            token_dense(shape.hidden, 40),
            token_dense(40, 16),
            MultiVectorMask(["the"], skiplist_tasks=["query", "document"]),
            Normalize(module_input_name="token_embeddings"),
            HierarchicalTokenPooling(2.0),
        ],
        similarity_fn_name="meanmaxsim",
        device="cpu",
    )


def token_dense(inputs: int, outputs: int) -> Dense:
    """Return a projection of token vectors."""
    name = "token_embeddings"
    identity = nn.Identity()
    return drawn(
        Dense(inputs, outputs, bias=False, activation_function=identity, module_input_name=name)
    )


def as_pylate(folder: Path) -> None:
    """Turn the folder of a ColBERT into what PyLate saves."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Dense", "type": "pylate.models.Dense.Dense"},
    ]
    settings = {
        "model_type": "ColBERT",
        "query_prefix": "[UNK]",
        "document_prefix": "[Q] ",
        "query_length": 14,
        "document_length": 20,
        "attend_to_expansion_tokens": False,
        "skiplist_words": list("!?."),
        "do_query_expansion": True,
        "prompts": {},
    }
    dense = json.loads((folder / "1_Dense/config.json").read_text())
    dense.pop("module_input_name", None)
    dense.pop("module_output_name", None)
    (folder / "1_Dense/config.json").write_text(json.dumps(dense))
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": LENGTH}))


def as_stanford(folder: Path) -> None:
    """Turn the folder of a ColBERT into what Stanford's library saves."""
    weights = {
        f"bert.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()
    }
    weights["linear.weight"] = load_file(folder / "1_Dense/model.safetensors")["linear.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["HF_ColBERT"]}))
    metadata = {
        "query_token_id": "query",
        "doc_token_id": "text",
        "query_maxlen": 10,
        "doc_maxlen": 30,
        "attend_to_mask_tokens": False,
        "mask_punctuation": True,
    }
    (folder / "artifact.metadata").write_text(json.dumps(metadata))
    for path in (folder / "modules.json", *folder.glob("*sentence*")):
        path.unlink()
    for path in folder.glob("[0-9]_*"):
        shutil.rmtree(path)


MODULES: dict[str, tuple[Callable[[Shape, Path], Any], Shape]] = {
    "ettin-reranker": (ettin, ETTIN_32M),
    "gte-reranker-modernbert": (gte_reranker, GTE_BASE),
    "labels-with-prompt": (labels_with_prompt, MINILM),
    "normalized-early": (normalized_early, MINILM),
    "checkpoints": (normalized_early, MINILM),
    "weighted-mean": (weighted, MINILM),
    "gtr": (gtr, MINILM),
    "instructor": (instructor, MINILM),
    "qwen3-embedding": (qwen3_embedding, ETTIN_32M),
    "e5-mistral": (e5_mistral, ETTIN_32M),
    "embedding-gemma": (embedding_gemma, ETTIN_32M),
    "qwen3-reranker": (qwen3_reranker, ETTIN_32M),
    "qwen3-reranker-seq-cls": (qwen3_classifier, ETTIN_32M),
    "splade-bert": (splade_bert, MINILM),
    "splade-distilbert": (splade_distilbert, MINILM),
    "splade-xlm-roberta": (splade_xlm_roberta, MINILM),
    "splade-modernbert": (splade_modernbert, ETTIN_32M),
    "colbert": (colbert, MINILM),
    "colbert-modernbert": (colbert_modernbert, ETTIN_32M),
    "colbert-pylate": (colbert, MINILM),
    "colbert-stanford": (colbert, MINILM),
}


def static_tokenizer(kind: str) -> Backend:
    """Return a tokenizer for a table: words of WordPiece, or a Unigram's."""
    if kind == "wordpiece":
        backend = tiny_tokenizer()
        backend.no_padding()
        backend.no_truncation()
        return backend
    pieces = [("<unk>", 0.0), *((f"▁{word}", -3.0) for word in WORDS)]
    pieces += [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz"] + [("▁", -4.0)]
    backend = Backend(models.Unigram(pieces, unk_id=0))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return backend


def model2vec_folder(kind: str, target: Path, size: int) -> dict[str, Any]:
    """Save a random model of model2vec, and return what it computes."""
    chance = np.random.default_rng(0)
    backend = static_tokenizer("unigram" if kind == "unigram" else "wordpiece")
    tokens = backend.get_vocab_size()
    rows = chance.standard_normal((tokens, size)).astype(np.float32)
    options: dict[str, Any] = {}
    if kind == "int8":
        rows = quantize_embeddings(rows, DType.Int8)
    elif kind == "clusters":
        options["token_mapping"] = chance.integers(0, 40, tokens)
        options["weights"] = chance.random(tokens) + 0.1
        rows = rows[:40]
    else:
        rows = rows.astype(np.float16)  # both sides read the same rows
        rows = rows if kind == "float16" else rows.astype(np.float32)
    model = StaticModel(
        rows,
        backend,
        normalize=kind != "unigram",
        max_length=None if kind == "unigram" else 12,
        **options,
    )
    model.save_pretrained(target)
    texts = STATIC_TEXTS
    return {"texts": texts, "vectors": model.encode(texts).astype(np.float32).tolist()}


def static_folder(target: Path, size: int) -> dict[str, Any]:
    """Save a random StaticEmbedding of sentence-transformers, and return what it computes."""
    backend = static_tokenizer("wordpiece")
    rows = np.random.default_rng(0).standard_normal((backend.get_vocab_size(), size))
    first = StaticEmbedding(backend, embedding_weights=rows.astype(np.float16).astype(np.float32))
    model = st.SentenceTransformer(modules=[first, Normalize()], prompts={"query": "query: "})
    model.save_pretrained(str(target))
    texts = STATIC_TEXTS
    return {
        "texts": texts,
        "vectors": model.encode(texts).tolist(),
        "queries": model.encode_query(texts).tolist(),
        "similarity": model.similarity(*[model.encode(texts)] * 2).tolist(),
    }


def make_static(name: str, golden: bool, scratch: Path) -> tuple[Path, dict[str, Any]]:
    """Make the folder of a static model and what is expected of it."""
    size, folder = 16 if golden else 256, scratch / name
    if name == "static-embedding":
        expected = static_folder(folder, size)
    else:
        expected = model2vec_folder(name.removeprefix("model2vec-"), folder, size)
    if golden and name in ("static-embedding", "model2vec-float32", "model2vec-unigram"):
        half(folder)
    return folder, expected


# --- Adapters -------------------------------------------------------------------------------------
TASKS = ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching")
INSTRUCTIONS = {"retrieval.query": "find the file that has: ", "retrieval.passage": "the text: "}
RANK, ALPHA = 3, 2.0
# Names of transformers' class, and those of the published file.
PUBLISHED = {
    "embeddings.LayerNorm": "emb_ln",
    "self_attn.o_proj": "mixer.out_proj",
    "post_attention_layernorm": "norm1",
    "post_mlp_layernorm": "norm2",
}


def jina_model(shape: Shape) -> JinaEmbeddingsV3Model:
    """Return a random jina-embeddings-v3 without adapters."""
    return JinaEmbeddingsV3Model(
        JinaEmbeddingsV3Config(
            **sizes_of(shape),
            max_position_embeddings=LENGTH,
            pad_token_id=0,
            type_vocab_size=1,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        ),
        add_pooling_layer=False,
    ).eval()


def published_name(name: str) -> str:
    """Return what a tensor of transformers' class is called in the published file."""
    for here, there in PUBLISHED.items():
        name = name.replace(here, there)
    return f"roberta.{'encoder.' if name.startswith('layers.') else ''}{name}"


def published_tensors(model: JinaEmbeddingsV3Model) -> dict[str, torch.Tensor]:
    """Return the tensors of a model under the published names, query, key and value as one."""
    tensors, state = {}, model.state_dict()
    for name, tensor in state.items():
        if "self_attn.q_proj" in name:
            parts = [state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            fused = published_name(name).replace("self_attn.q_proj", "mixer.Wqkv")
            tensors[fused] = torch.cat(parts)
        elif "self_attn.k_proj" not in name and "self_attn.v_proj" not in name:
            tensors[published_name(name)] = tensor.clone()
    return {name: tensor.half() for name, tensor in tensors.items()}


def with_adapters(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give every matrix an adapter for each task, as the published file has them."""
    adapted = {}
    for name, tensor in tensors.items():
        if tensor.ndim != 2:
            adapted[name] = tensor
            continue
        start = name.removesuffix(".weight") + ".parametrizations.weight"
        rows, columns = tensor.shape
        first, second = (RANK, columns), (rows, RANK)
        if start.removesuffix(".parametrizations.weight").endswith("_embeddings"):
            first, second = (rows, RANK), (RANK, columns)
        adapted[f"{start}.original"] = tensor
        for part, size in (("lora_A", first), ("lora_B", second)):
            drawn_part = torch.randn(len(TASKS), *size) * (0.5 * columns**-0.5)
            adapted[f"{start}.0.{part}"] = drawn_part.half()
    return adapted


def adapted_model(
    shape: Shape, tensors: dict[str, torch.Tensor], task: str
) -> JinaEmbeddingsV3Model:
    """Return transformers' model with the weights of one task, computed matrix by matrix."""
    model, number = jina_model(shape), TASKS.index(task)
    merged = {}
    for name, tensor in tensors.items():
        if name.endswith(".original"):
            start = name.removesuffix(".original")
            a, b = (tensors[f"{start}.0.lora_{part}"][number].float() for part in "AB")
            product = torch.einsum("vr,rh->vh", a, b) if "embeddings" in name else b @ a
            merged[start.replace(".parametrizations", "")] = tensor + ALPHA / RANK * product
        elif ".parametrizations." not in name:
            merged[name] = tensor.float()
    state = {}
    for name in model.state_dict():
        kind = next((kind for kind in "qkv" if f"self_attn.{kind}_proj" in name), None)
        if kind is None:
            state[name] = merged[published_name(name)]
            continue
        fused = published_name(name).replace(f"self_attn.{kind}_proj", "mixer.Wqkv")
        state[name] = merged[fused].chunk(3)["qkv".index(kind)]
    model.load_state_dict(state)
    return model


def make_jina(golden: bool, scratch: Path) -> tuple[Path, dict[str, Any]]:
    """Make a folder like jina-embeddings-v3's, and what transformers computes with each task's weights."""
    shape = REDUCED if golden else MINILM
    torch.manual_seed(0)
    folder, words = scratch / "jina-v3", tokenizer()
    tensors = with_adapters(published_tensors(jina_model(shape)))
    expected: dict[str, Any] = {"texts": TEXTS}
    for task in TASKS:
        bare = scratch / task
        adapted_model(shape, tensors, task).save_pretrained(bare)
        words.save_pretrained(bare)
        chain = [Transformer(str(bare)), Pooling(shape.hidden, "mean"), Normalize()]
        model = st.SentenceTransformer(modules=chain, device="cpu")
        prompt = INSTRUCTIONS.get(task, "")
        expected[task] = model.encode([prompt + text for text in TEXTS]).tolist()
        if task == TASKS[0]:
            model.save_pretrained(str(folder))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {
        **sizes_of(shape),
        "architectures": ["XLMRobertaLoRA"],
        "auto_map": {"AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_lora.X"},
        "model_type": "xlm-roberta",
        "position_embedding_type": "rotary",
        "rotary_emb_base": 500.0,
        "max_position_embeddings": LENGTH,
        "layer_norm_eps": 1e-5,
        "type_vocab_size": 1,
        "hidden_act": "gelu",
        "lora_adaptations": TASKS,
        "lora_rank": RANK,
        "lora_alpha": ALPHA,
        "task_instructions": {task: INSTRUCTIONS.get(task, "") for task in TASKS},
    }
    (folder / "config.json").write_text(json.dumps(config))
    modules = json.loads((folder / "modules.json").read_text())
    modules[0] |= {"type": "custom_st.Transformer", "kwargs": ["task"]}
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").unlink(missing_ok=True)
    return folder, expected


STATIC = ("static-embedding", *(f"model2vec-{kind}" for kind in STATIC_KINDS))


def half(folder: Path) -> None:
    """Store the weights of a folder in half precision."""
    for path in folder.rglob("*.safetensors"):
        tensors = {
            name: tensor.half() if tensor.dtype == torch.float32 else tensor
            for name, tensor in load_file(path).items()
        }
        save_file(tensors, path, {"format": "pt"})


def what_they_compute(model: Any) -> dict[str, Any]:
    """Return texts and the library's results for them, as JSON values."""
    if isinstance(model, st.CrossEncoder):
        pairs = [(QUERY, text) for text in TEXTS]
        results = {
            "scores": model.predict(pairs),
            "logits": model.predict(pairs, activation_fn=nn.Identity()),
        }
    elif isinstance(model, st.SparseEncoder):
        documents, queries = (
            encode(TEXTS, convert_to_sparse_tensor=False)
            for encode in (model.encode_document, model.encode_query)
        )
        results = {
            "documents": documents,
            "query_words": queries,
            "similarity": model.similarity(queries, documents),
        }
    elif isinstance(model, st.MultiVectorEncoder):
        documents, queries = (
            encode(COLBERT_TEXTS, convert_to_numpy=True)
            for encode in (model.encode_document, model.encode_query)
        )
        results = {
            "document_tokens": np.concatenate(documents),
            "document_counts": [len(rows) for rows in documents],
            "query_tokens": np.concatenate(queries),
            "query_counts": [len(rows) for rows in queries],
            "similarity": model.similarity(queries, documents),
        }
    else:
        results = {
            "vectors": model.encode(TEXTS),
            "queries": model.encode_query(TEXTS),
            "similarity": model.similarity(*[model.encode(TEXTS)] * 2).numpy(),
        }
    rounded = {name: np.asarray(values, np.float32) for name, values in results.items()}
    return {name: json.loads(json.dumps(values.tolist())) for name, values in rounded.items()}


def what_quaver_computes(folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Return Quaver's results, in float32."""
    if TASKS[0] in expected:
        return {
            task: Embedder.from_pretrained(folder, precision="float32", task=task).encode(TEXTS)
            for task in TASKS
        }
    if "scores" in expected:
        model = CrossEncoder.from_pretrained(folder, precision="float32")
        pairs = [(QUERY, text) for text in TEXTS]
        return {
            "scores": model.predict(pairs),
            "logits": model.predict(pairs, activation="identity"),
        }
    if "query_words" in expected:
        sparse = SparseEncoder.from_pretrained(folder, precision="float32")
        documents, queries = sparse.encode_document(TEXTS), sparse.encode_query(TEXTS)
        return {
            "documents": documents.to_dense(),
            "query_words": queries.to_dense(),
            "similarity": sparse.similarity(queries, documents),
        }
    if "query_tokens" in expected:
        multi = MultiVectorEncoder.from_pretrained(folder, precision="float32")
        rows, asked = multi.encode_document(COLBERT_TEXTS), multi.encode_query(COLBERT_TEXTS)
        return {
            "document_counts": np.diff(rows.offsets),
            "query_counts": np.diff(asked.offsets),
            "document_tokens": rows.vectors,
            "query_tokens": asked.vectors,
            "similarity": multi.similarity(asked, rows),
        }
    embedder = Embedder.from_pretrained(folder, precision="float32")
    texts = expected.get("texts", TEXTS)
    vectors = embedder.encode(texts)
    results = {
        "vectors": vectors,
        "queries": embedder.encode_query(texts),
        "similarity": embedder.similarity(vectors, vectors),
    }
    return {what: values for what, values in results.items() if what in expected}


def write_zip(folder: Path, target: Path, expected: dict[str, Any]) -> None:
    """Pack a folder with the expected results; the same files give the same bytes."""
    (folder / "expected.json").write_text(json.dumps(expected), encoding="utf-8")
    target.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            if path.name not in ("README.md", ".gitattributes"):
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix())
                packed.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    print(f"{target}: {target.stat().st_size} bytes", flush=True)


def make_modules(name: str, golden: bool, scratch: Path) -> tuple[Path, dict[str, Any]]:
    """Make the folder of one case and its expected results."""
    torch.manual_seed(0)
    build, shape = MODULES[name]
    model = build(REDUCED if golden else shape, scratch / "bare")
    folder = scratch / name
    model.save_pretrained(str(folder))
    if golden:
        half(folder)
        if name == "checkpoints":
            as_checkpoint(folder)
    if name == "colbert-pylate":
        as_pylate(folder)
    if name == "colbert-stanford":
        as_stanford(folder)
    if golden or name.startswith("colbert-"):
        model = type(model)(str(folder), device="cpu").float()
    expected = what_they_compute(model)
    if name == "qwen3-reranker":
        expected["card"] = scores_by_card(folder)
    if name in ("qwen3-embedding", "e5-mistral", "embedding-gemma"):
        expected["ids"] = [model.tokenizer(text)["input_ids"] for text in TEXTS]
    return folder, expected


def write_checkpoints(target: Path) -> None:
    """Write checkpoints of torch, in both layouts, with the same tensors in safetensors."""
    torch.manual_seed(0)
    table = torch.randn(6, 4)
    state = OrderedDict(
        plain=table.clone(),
        transposed=table.t(),
        part=table[2:5, 1:3],
        tied=table,
        half=table.half(),
        bfloat16=table.bfloat16(),
        double=table.double(),
        positions=torch.arange(7).expand((1, -1)),
        flags=torch.tensor([True, False]),
        bytes=torch.tensor([1, 2, 255], dtype=torch.uint8),
        int8=torch.tensor([[-128], [127]], dtype=torch.int8),
        one=torch.tensor(3.5),
        empty=torch.zeros(0, 4),
        parameter=nn.Parameter(table * 2),
    )
    model = Dense(4, 3)  # a state dict with its versions
    state.update(model.state_dict())
    state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        torch.save(state, folder / "zip.bin")
        torch.save(state, folder / "legacy.bin", _use_new_zipfile_serialization=False)
        torch.save(dict(state), folder / "protocol4.bin", pickle_protocol=4)
        torch.save(model, folder / "object.bin")
        torch.save({"state_dict": state, "epoch": 3}, folder / "training.bin")
        tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
        save_file(tensors, folder / "expected.safetensors")
        write_zip(folder, target, {})


def as_checkpoint(folder: Path) -> None:
    """Store a folder's weights as torch did before safetensors, the modules in the older layout."""
    for path in folder.rglob("*.safetensors"):
        new = path.parent == folder
        torch.save(
            OrderedDict(load_file(path)),
            path.with_name("pytorch_model.bin"),
            _use_new_zipfile_serialization=new,
        )
        path.unlink()


def main() -> None:
    """Compare, or write the golden files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--golden", action="store_true", help="write tests/golden/folders")
    parser.add_argument("names", nargs="*", help="cases; all by default")
    chosen = parser.parse_args()
    logging.disable_progress_bar()
    if chosen.golden and not chosen.names:
        write_checkpoints(GOLDEN.parent / "checkpoints.zip")
    worst = 0.0
    for name in chosen.names or (*MODULES, *STATIC, "jina-v3"):
        scratch = Path(tempfile.mkdtemp())
        try:
            if name == "jina-v3":
                folder, expected = make_jina(chosen.golden, scratch)
            else:
                make = make_modules if name in MODULES else make_static
                folder, expected = make(name, chosen.golden, scratch)
            if chosen.golden:
                write_zip(folder, GOLDEN / f"{name}.zip", expected)
            for what, values in what_quaver_computes(folder, expected).items():
                truth = np.asarray(expected[what], np.float32)
                # model2vec rounds its vectors to half precision if its table has it.
                allowed = 5e-4 if name == "model2vec-float16" else LARGEST_FLOAT32_ERROR
                error = float(np.abs(values - truth).max() / max(1.0, np.abs(truth).max()))
                worst = max(worst, error / allowed)
                print(f"{name}: {what} {truth.shape} differ by {error:.1e}", flush=True)
        finally:
            shutil.rmtree(scratch)
    sys.exit(worst > 1)


if __name__ == "__main__":
    main()
