"""Compare every model family with transformers in float32, on random models made from its configs.

Two families are in no package; `published_forms.py`, written from their descriptions, replaces them.
Needs torch and transformers:

    python tools/families.py                 reduced shapes, each layer and the head
    python tools/families.py --real          the shapes of published models, pooled vectors only
    python tools/families.py --golden        write tests/golden/families

Weights are random, with outlier channels as trained models have them. Tokens are random too, so only
the arithmetic is compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.utils import logging

from published_forms import FORMS, published
from quaver import reference
from quaver.engine.engine import Engine
from quaver.models.families.registry import classifier_spec, encoder_spec, encoder_weights
from quaver.models.tokenizer import TokenBatch

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "families"
LARGEST_FLOAT32_ERROR = 1e-4  # of the largest component
SMALLEST_INT8_MEAN = 0.997
LENGTHS = (1, 2, 3, 17, 40, 29)


@dataclass(frozen=True)
class Case:
    """A family, from transformers or `published_forms`.

    Attributes:
        name: the model class without its ending (Model, ForSequenceClassification).
        form: what tells cases of one class apart.
        encoder: the ending of the class without a head.
        head: whether the family has a classifier that Quaver runs.
        reduced: settings of the reduced config, in addition to the sizes that all share.
        real: the published model whose shape `--real` uses, and its config.
        seed: of the random weights.
    """

    name: str
    reduced: dict[str, Any]
    real: tuple[str, dict[str, Any]]
    form: str = ""
    encoder: str = "Model"
    head: bool = True
    seed: int = 0


_SMALL = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 48,
}
_DISTILBERT = {"vocab_size": 50, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24}
_ROBERTA = {"type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_DEBERTA = {
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_LONG = {"intermediate_size": 3072, "max_position_embeddings": 8192}
_SMALL_VOCABULARY = {"vocab_size": 1000}
_DECODER = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 500.0,
    "factor": 4.0,
    "original_max_position_embeddings": 12,
}
_GEMMA = _DECODER | {"sliding_window": 8, "query_pre_attn_scalar": 12, "sliding_window_pattern": 2}
_QWEN3 = {
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
}
_QWEN2 = {
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
}
_MISTRAL = {"num_hidden_layers": 2}
_LLAMA = {
    "num_hidden_layers": 2,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "rope_parameters": _LLAMA3
    | {"rope_theta": 500_000.0, "original_max_position_embeddings": 8192},
}
_EUROBERT = {"rope_type": "default", "rope_theta": 250_000.0}
_EMBEDDING_GEMMA = {
    "hidden_size": 768,
    "num_hidden_layers": 24,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "intermediate_size": 1152,
    "sliding_window": 512,
    "max_position_embeddings": 2048,
    "use_bidirectional_attention": True,
}
_EMBEDDING_GEMMA2 = _DECODER | {
    "sliding_window": 4,
    "sliding_window_pattern": 2,
    "global_head_dim": 12,
    "hidden_size_per_layer_input": 20,
    "embedding_dim": 24,
}
_ELECTRA_SMALL = {
    "embedding_size": 128,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}
_ALBERT_SMALL = {
    "hidden_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
}
# All heads together are wider than the hidden size.
_T5 = {
    "vocab_size": 50,
    "d_model": 16,
    "d_kv": 12,
    "d_ff": 24,
    "num_layers": 3,
    "num_heads": 2,
    "relative_attention_max_distance": 20,
}
_T5_BASE = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12}
CASES = (
    Case("Bert", {}, ("bge-base-en-v1.5", _BASE | {"intermediate_size": 3072})),
    Case(
        "Roberta",
        _ROBERTA,
        ("roberta-base", _BASE | _ROBERTA | {"max_position_embeddings": 514}),
    ),
    Case(
        "XLMRoberta",
        _ROBERTA,
        ("multilingual-e5-base", _BASE | _ROBERTA | {"max_position_embeddings": 514}),
    ),
    Case(
        "Camembert",
        _ROBERTA,
        ("camembert-base", _BASE | _ROBERTA | {"max_position_embeddings": 514}),
    ),
    Case(
        "Electra",
        {"embedding_size": 16},
        ("ms-marco-electra-base", _BASE | {"embedding_size": 768, "intermediate_size": 3072}),
    ),
    Case(
        "Electra",
        {"embedding_size": 8},
        ("electra-small", _ELECTRA_SMALL),
        form="small",
    ),
    Case(
        "Albert",
        {
            "embedding_size": 8,
            "num_hidden_layers": 4,
            "num_hidden_groups": 2,
            "inner_group_num": 2,
            "hidden_act": "gelu",
        },
        ("paraphrase-albert-small-v2", _ALBERT_SMALL),
    ),
    Case("Ernie", {"use_task_id": True}, ("ernie-3.0-base", _BASE | {"use_task_id": True})),
    Case("T5", _T5, ("gtr-t5-base", _T5_BASE), encoder="EncoderModel", head=False),
    Case(
        "T5",
        _T5 | {"feed_forward_proj": "gated-gelu", "relative_attention_num_buckets": 12},
        ("", {}),
        form="gated",
        encoder="EncoderModel",
        head=False,
    ),
    Case(
        "JinaEmbeddingsV3",
        {"pad_token_id": 1},
        ("jina-embeddings-v3, six layers", {"num_hidden_layers": 6}),
    ),
    Case("DistilBert", _DISTILBERT | {"max_position_embeddings": 48}, ("multi-qa-distilbert", {})),
    Case(
        "MPNet",
        {"pad_token_id": 1},
        ("all-mpnet-base-v2", _BASE | {"max_position_embeddings": 514}),
    ),
    Case(
        "ModernBert",
        {"local_attention": 8, "pad_token_id": 0, "global_attn_every_n_layers": 2},
        ("gte-modernbert-base", {"pad_token_id": 0}),
    ),
    Case("Gte", {"type_vocab_size": 1}, ("gte-multilingual-base", {})),
    Case("NomicBert", {}, ("nomic-embed-text-v1.5", {})),
    Case(
        "DebertaV2",
        _DEBERTA | {"position_buckets": 16},
        ("mxbai-rerank-base-v1", _BASE | _DEBERTA | {"intermediate_size": 3072}),
    ),
    Case(
        "GteV15",
        {"rope_theta": 500.0, "rope_scaling": {"type": "ntk", "factor": 8.0}},
        ("gte-base-en-v1.5", _BASE | _LONG),
    ),
    # Three heads, so that slopes come from two series of powers.
    Case(
        "JinaV2",
        {"num_attention_heads": 3, "hidden_size": 24},
        ("jina-embeddings-v2-base-en", _BASE | _LONG),
    ),
    Case("Qwen3", _DECODER, ("Qwen3-Embedding-0.6B", _QWEN3)),
    Case(
        "Qwen3",
        _DECODER | {"is_causal": False, "attention_bias": True},
        ("pplx-embed-v1-0.6b", _QWEN3 | {"is_causal": False}),
        form="both",
    ),
    Case(
        "Qwen2",
        _DECODER | {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        ("jina-code-embeddings-0.5b", _QWEN2),
    ),
    # With seed 0 changes of weights in their eighth bit turn a text by more than 0.1 rad, in transformers too.
    Case("Qwen2", _DECODER | {"is_causal": False}, ("", {}), form="both", seed=1),
    Case("Mistral", _DECODER | {"sliding_window": 8}, ("two layers of e5-mistral-7b", _MISTRAL)),
    Case(
        "Llama",
        _DECODER | {"rope_parameters": _LLAMA3, "attention_bias": True, "mlp_bias": True},
        ("two layers of llama-embed-nemotron-8b", _LLAMA),
    ),
    Case("Llama", _DECODER | {"rope_parameters": _YARN}, ("", {}), form="yarn"),
    Case(
        "Llama",
        _DECODER | {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}},
        ("", {}),
        form="linear",
    ),
    Case(
        "EuroBert",
        _DECODER | {"classifier_pooling": "mean"},
        ("EuroBERT-210m", {"pad_token_id": 0, "rope_parameters": _EUROBERT}),
    ),
    Case("Gemma3Text", _GEMMA, ("", {})),
    Case(
        "Gemma3Text",
        _GEMMA | {"use_bidirectional_attention": True},
        ("embeddinggemma-300m", _EMBEDDING_GEMMA),
        form="both",
    ),
    # transformers 5.23 has its real shape as the defaults.
    Case("EmbeddingGemma2Text", _EMBEDDING_GEMMA2, ("embeddinggemma-2, text", {}), head=False),
)


def make(
    case: Case, *, head: bool, real: bool = False, labels: int = 1, seed: int | None = None
) -> Any:
    """Build a random model of a family, with a head of `labels` or without one."""
    values = case.real[1] | _SMALL_VOCABULARY if real else case.reduced
    if not real and case.name not in ("DistilBert", "T5"):
        values = _SMALL | values
    torch.manual_seed(case.seed if seed is None else seed)
    if case.name in FORMS:
        model: Any = published(case.name, values, labels=labels if head else None).eval()
    else:
        model = from_transformers(
            case.name, values, labels=labels if head else None, encoder=case.encoder
        )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.normal_(std=weight.shape[1] ** -0.5)
                weight[:, :: max(1, weight.shape[1] // 3)] *= 3  # outlier channels
                if real and name.endswith("SelfAttention.q.weight"):
                    weight *= model.config.d_kv**-0.5  # instead of scaled scores, as T5 does
            elif weight.ndim == 2:
                weight.normal_(std=0.5)
            elif name.endswith("bias"):
                weight.normal_(std=0.1)
            else:
                weight.copy_(1 + 0.1 * torch.randn_like(weight))
                weight[:: max(1, len(weight) // 3)] *= 2
        for i, (_, buffer) in enumerate(
            b for b in model.named_buffers() if b[0].endswith("layer_scalar")
        ):
            buffer.fill_((0.75, 1.25, 0.875)[i % 3])
    return model


def from_transformers(
    name: str, values: dict[str, Any], *, labels: int | None, encoder: str = "Model"
) -> Any:
    """Build a model of transformers from its config, with a head for `labels`."""
    head = {"num_labels": labels} if labels else {}
    ids = {"cls_token_id": 3, "sep_token_id": 4, "bos_token_id": 3, "eos_token_id": 4}
    extra = ids if name == "ModernBert" else {}
    config = getattr(transformers, f"{name}Config")(**{**extra, **values, **head})
    ending = "ForSequenceClassification" if labels else encoder
    return getattr(transformers, name + ending)(config).eval()


def tensors_of(model: Any, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Save a model, and read it as from a user's folder."""
    from safetensors.numpy import load_file

    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config, load_file(folder / "model.safetensors")


def random_batch(vocabulary: int, lengths: tuple[int, ...] = LENGTHS) -> TokenBatch:
    """Draw random ids without special tokens."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, vocabulary, sum(lengths)).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return TokenBatch(ids, offsets, None, 0)


def states_of(model: Any, batch: TokenBatch) -> list[np.ndarray]:
    """Return transformers' states after the embeddings and after each layer, float32 (T, H)."""
    rows: list[list[np.ndarray]] = []
    with torch.inference_mode():
        for i in range(len(batch)):
            ids = torch.from_numpy(batch.select(i, i + 1).ids.astype(np.int64))[None]
            out = model(input_ids=ids, output_hidden_states=True)
            states = [*out.hidden_states[:-1], out.last_hidden_state]
            rows.append([state[0].numpy() for state in states])
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def logits_of(model: Any, batch: TokenBatch) -> np.ndarray:
    """Return the logits of the classification head, float32 (N, labels)."""
    with torch.inference_mode():
        ids = [
            torch.from_numpy(batch.select(i, i + 1).ids.astype(np.int64)) for i in range(len(batch))
        ]
        return np.concatenate([model(input_ids=one[None]).logits.numpy() for one in ids])


def relative(got: np.ndarray, truth: np.ndarray) -> float:
    """Return the largest difference, divided by the largest value."""
    return float(np.abs(got - truth).max() / np.abs(truth).max())


def cosines(got: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the cosine of each row."""
    return (got * truth).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(truth, axis=1)


def compare(case: Case, folder: Path, *, real: bool) -> bool:
    """Print one row; return whether it is within the bounds."""
    model = make(case, head=False, real=real)
    config, tensors = tensors_of(model, folder)
    lengths = (16, 128, 256, 300, 64, 200) if real else LENGTHS
    batch = random_batch(config["vocab_size"], lengths)
    truth = states_of(model, batch)
    spec = encoder_spec(config, pooling="cls+mean", normalize=False)
    weights = encoder_weights(spec, tensors)
    layers = [0.0]
    if not real:
        layers = [
            relative(a, b)
            for a, b in zip(reference.hidden_states(spec, weights, batch), truth, strict=True)
        ]
    pooled = reference.pool(spec, truth[-1], batch.offsets)
    error = relative(Engine(spec, weights, precision="float32").encode(batch), pooled)
    mean = replace(spec, pooling="mean")
    kept = reference.pool(mean, truth[-1], batch.offsets)
    cosine = cosines(Engine(mean, weights).encode(batch), kept)
    logit = 0.0
    if not real and case.head:
        judge = make(case, head=True)
        config, tensors = tensors_of(judge, folder)
        head = classifier_spec(config)
        engine = Engine(head, encoder_weights(head, tensors), precision="float32")
        logit = relative(engine.encode(batch), logits_of(judge, batch))
    shape = f"{spec.hidden_size} x {len(spec.layers)}"
    print(
        f"| {case.name} {case.form} | {case.real[0] if real else 'reduced'} ({shape}) | {max(layers):.1e} | "
        f"{error:.1e} | {logit:.1e} | {cosine.mean():.4f} | {cosine.min():.4f} |",
        flush=True,
    )
    worst = max(*layers, error, logit)
    return worst <= LARGEST_FLOAT32_ERROR and (not real or cosine.mean() >= SMALLEST_INT8_MEAN)


def write_golden(case: Case, folder: Path) -> None:
    """Write config, tensors in half precision, and the results of transformers."""
    entry: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for kind, head in (("encoder", False), ("classifier", True)):
        if head and not case.head:
            continue
        model = make(case, head=head)
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(weight.half().float())  # as float16 can represent
        config, tensors = tensors_of(model, folder)
        config.pop("transformers_version", None)
        entry[kind] = config
        arrays |= {f"{kind}/{name}": t.astype(np.float16) for name, t in tensors.items()}
        batch = random_batch(config["vocab_size"])
        if head:
            arrays["logits"] = logits_of(model, batch)
        else:
            states = states_of(model, batch)
            arrays |= {f"state{i}": state for i, state in enumerate(states)}
            arrays |= {"ids": batch.ids, "offsets": batch.offsets}
    GOLDEN.mkdir(exist_ok=True)
    arrays["configs"] = np.frombuffer(json.dumps(entry).encode(), np.uint8)
    np.savez_compressed(GOLDEN / f"{case.name.lower()}{case.form}.npz", **arrays)


def main() -> None:
    """Compare, or write the golden files."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", action="store_true", help="the shapes of published models")
    parser.add_argument("--golden", action="store_true", help="write tests/golden/families")
    parser.add_argument("--only", help="one family")
    chosen = parser.parse_args()
    logging.disable_progress_bar()
    held = True
    print("| family | model | layers | pooled | logits | int8 cosine mean | least |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for case in CASES:
        if chosen.only not in (None, case.name) or (chosen.real and not case.real[0]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            if chosen.golden:
                write_golden(case, Path(folder))
            else:
                held &= compare(case, Path(folder), real=chosen.real)
    sys.exit(not held)


if __name__ == "__main__":
    main()
