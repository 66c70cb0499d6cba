"""Rerank with a decoder, as Qwen3-Reranker: the score is the logit of "yes" minus that of "no".

python examples/rerank/decoder.py FOLDER

FOLDER is a reranker. If it is another model, a tiny decoder with random weights takes its place, which reads with that
model's tokenizer: its order means nothing, everything else is as with a trained one.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

import quaver

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
QUERY = "What is the capital of France?"
DOCUMENTS = [
    "Lyon is the third largest city of France.",
    "Paris is the capital of France.",
    "The capital of a company is what its owners paid in.",
    "Paris, a prince of Troy, gave Aphrodite the apple.",
]
TEMPLATE = """\
{%- set q = messages | selectattr("role", "equalto", "query") | first -%}
{%- set d = messages | selectattr("role", "equalto", "document") | first -%}
{%- set s = messages | selectattr("role", "equalto", "system") | first -%}
Judge whether the document answers the query. {{ s.content }}
Query: {{ q.content }}
Document: {{ d.content }}
Answer yes or no:"""
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}


def random_reranker(folder: Path, tokenizer: Path) -> Path:
    """Write a Qwen3 with random weights and sentence-transformers' module for rerankers of words."""
    words = Tokenizer.from_file(str(tokenizer))
    config: dict[str, Any] = {
        "model_type": "qwen3",
        "max_position_embeddings": 512,
        **SIZES,
        **HEADS,
    }
    config |= {"vocab_size": words.get_vocab_size(), "rms_norm_eps": 1e-6, "rope_theta": 1e6}
    config |= {"tie_word_embeddings": True}  # the head is the table of words
    rng = np.random.default_rng(0)
    shapes = {"embed_tokens": (config["vocab_size"], 64)}
    norms = {"norm": 64}
    for at in ("layers.0", "layers.1"):
        shapes |= {
            f"{at}.self_attn.{x}_proj": (rows, 64)
            for x, rows in zip("qkv", (128, 64, 64), strict=True)
        }
        shapes |= {f"{at}.self_attn.o_proj": (64, 128), f"{at}.mlp.down_proj": (64, 128)}
        shapes |= {f"{at}.mlp.{x}_proj": (128, 64) for x in ("gate", "up")}
        norms |= {f"{at}.{x}_layernorm": 64 for x in ("input", "post_attention")}
        norms |= {f"{at}.self_attn.{x}_norm": 32 for x in "qk"}
    tensors = {name: rng.normal(0, shape[1] ** -0.5, shape) for name, shape in shapes.items()}
    tensors |= {name: np.ones(size) for name, size in norms.items()}
    made = {f"model.{name}.weight": value.astype(np.float32) for name, value in tensors.items()}
    folder.mkdir()
    save_file(made, folder / "model.safetensors", {"format": "pt"})
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    kinds = ("base.modules.transformer.Transformer", "cross_encoder.modules.logit_score.LogitScore")
    output = {"method": "forward", "method_output_name": "logits"}
    files: dict[str, Any] = {
        "config.json": {**config, "architectures": ["Qwen3ForCausalLM"]},
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
            for i, (path, kind) in enumerate(zip(("", "1_LogitScore"), kinds, strict=True))
        ],
        "1_LogitScore/config.json": {
            "true_token_id": words.token_to_id("yes"),
            "false_token_id": words.token_to_id("no"),
            "module_input_name": "causal_logits",
        },
        "sentence_bert_config.json": {
            "transformer_task": "text-generation",
            "modality_config": {"text": output, "message": {**output, "format": "flat"}},
            "module_output_name": "causal_logits",
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def main(folder: str) -> None:
    """Rerank, and check that a score does not depend on the batch."""
    with tempfile.TemporaryDirectory() as place:
        try:
            ranker = quaver.CrossEncoder.from_pretrained(folder)
        except quaver.UnsupportedArchitectureError as error:
            print(f"{error}\nA random decoder takes its place.\n")
            made = random_reranker(Path(place) / "decoder", Path(folder) / "tokenizer.json")
            ranker = quaver.CrossEncoder.from_pretrained(made)
        print(QUERY)
        # What comes before the document, the instruction and the query, is computed once for all of them.
        hits = ranker.rank(QUERY, DOCUMENTS, prompt=INSTRUCTION)
        for hit in hits:
            print(f"  {hit.score:.3f}  {hit.text}")
        assert sorted(hit.index for hit in hits) == list(range(len(DOCUMENTS)))
        for hit in hits:
            alone = ranker.predict([(QUERY, DOCUMENTS[hit.index])], prompt=INSTRUCTION)
            assert alone[0] == hit.score  # the same bits


if __name__ == "__main__":
    main(*sys.argv[1:])
