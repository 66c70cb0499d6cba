"""What int8 and int4 cost decoders whose activations have outliers, and what helps.

    python benchmarks/outliers.py [--json FILE] [--only qwen3]

No trained decoder is needed: random models of reduced shapes get what trained ones have. A few channels of the
hidden dimension are 50 to 100 times as wide as the others, in every layer; the first token of a text has two of them
twenty times as wide again; some inner features of the feed-forward part and some channels of the keys are ten times
as wide; heads of values differ. The weights that read a wide channel are small, as they are in trained models, so
that the others matter as much.

Prints mean and least cosine to float32 over texts of 5 to 160 random tokens, for forms of int8, each with one change
more.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.engine.eight_bits import EightBits, eight_bits, in_eight_bits
from quaver.engine.engine import Engine
from quaver.engine.instruction_sets import choose_isa
from quaver.evaluate.fidelity import row_cosines
from quaver.models.encoder_weights import EncoderWeights, LayerWeights, NormWeights
from quaver.models.families.registry import encoder_spec, encoder_weights
from quaver.models.geometry import EncoderSpec
from quaver.models.linear import Linear, LinearWeights, dequantized, quantize_weight
from quaver.models.tokenizer import TokenBatch

FloatArray = NDArray[np.float32]
LINEARS = ("qkv", "out", "up", "down")
VOCABULARY = 2000
LENGTHS = (5, 16, 24, 40, 64, 96, 128, 160) * 4
_SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 512, "num_hidden_layers": 8}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen3": {
        "model_type": "qwen3",
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "intermediate_size": 1536,
        "rope_theta": 1e6,
    },
    "qwen2": {
        "model_type": "qwen2",
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 2432,
        "rope_theta": 1e6,
    },
    "llama": {
        "model_type": "llama",
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "intermediate_size": 1792,
        "rope_theta": 5e5,
    },
    "gemma3_text": {
        "model_type": "gemma3_text",
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "intermediate_size": 1024,
        "sliding_window": 64,
        "use_bidirectional_attention": True,
        "query_pre_attn_scalar": 256,
    },
}


@dataclass(frozen=True)
class Model:
    """A random model with outliers.

    Attributes:
        spec: it pools the last token, or all of them where they see each other.
        weights: float32.
    """

    spec: EncoderSpec
    weights: EncoderWeights


def outlier_model(name: str, seed: int = 0) -> Model:
    """Draw a model of a family."""
    config = {**_SHAPE, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, **CONFIGS[name]}
    pooling = "mean" if name == "gemma3_text" else "lasttoken"
    spec = encoder_spec(config, pooling=pooling, normalize=True)
    rng = np.random.default_rng(seed)
    tensors: dict[str, FloatArray] = {}

    def normal(*shape: int, std: float = 1.0) -> FloatArray:
        return rng.normal(0, std, shape).astype(np.float32)

    h = spec.hidden_size
    wide = rng.choice(h, 6, replace=False)
    width = rng.uniform(50, 100, 6).astype(np.float32) * rng.choice([-1, 1], 6)
    word = normal(VOCABULARY, h)
    word[:, wide] = width * (1 + 0.2 * normal(VOCABULARY, 6))
    word[0, wide[:2]] *= 20
    tensors["embed_tokens.weight"] = word / np.float32(spec.embedding_scale)
    offset = np.float32(name == "gemma3_text")

    def gamma(size: int) -> FloatArray:
        return 1 + np.float32(0.1) * normal(size) - offset

    for i, layer in enumerate(spec.layers):
        at, d = f"layers.{i}", layer.head_size
        q, kv, inner = layer.query_width, layer.kv_width, layer.intermediate_size

        def reads_hidden(rows: int) -> FloatArray:
            weight = normal(rows, h, std=4 * h**-0.5)  # a norm leaves little of an ordinary channel
            weight[:, wide] *= 0.1
            return weight

        keys, queries, values = reads_hidden(kv), reads_hidden(q), reads_hidden(kv)
        channels = rng.choice(d // 2, 4, replace=False)
        channels = np.concatenate([channels, channels + d // 2])
        factor = np.ones(d, np.float32)
        factor[channels] = 10
        if layer.head_norms:
            tensors[f"{at}.self_attn.k_norm.weight"] = (gamma(d) + offset) * factor - np.float32(
                offset
            )
            tensors[f"{at}.self_attn.q_norm.weight"] = (gamma(d) + offset) / factor - np.float32(
                offset
            )
        elif name == "qwen2":
            tensors[f"{at}.self_attn.k_proj.bias"] = np.tile(
                factor * 4 * (factor > 1), layer.kv_heads
            ) + 0.1 * normal(kv)
            tensors[f"{at}.self_attn.q_proj.bias"] = 0.1 * normal(q)
            tensors[f"{at}.self_attn.v_proj.bias"] = 0.1 * normal(kv)
        else:
            keys *= np.tile(factor, layer.kv_heads)[:, None]
            queries /= np.tile(factor, layer.heads)[:, None]
        values *= np.repeat(np.exp(0.7 * normal(layer.kv_heads)), d)[:, None]
        gates, ups, down = (
            reads_hidden(inner),
            reads_hidden(inner),
            normal(h, inner, std=inner**-0.5),
        )
        hot = rng.choice(inner, 8, replace=False)
        gates[hot] *= 4
        ups[hot] *= 4
        down[:, hot] /= 10
        for part, weight in (
            ("self_attn.q_proj", queries),
            ("self_attn.k_proj", keys),
            ("self_attn.v_proj", values),
            ("self_attn.o_proj", normal(h, q, std=q**-0.5)),
            ("mlp.gate_proj", gates),
            ("mlp.up_proj", ups),
            ("mlp.down_proj", down),
        ):
            tensors[f"{at}.{part}.weight"] = weight
        norms = ["input_layernorm", "post_attention_layernorm"]
        if name == "gemma3_text":
            norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        for part in norms:
            tensors[f"{at}.{part}.weight"] = gamma(h)
    final = gamma(h) + offset
    final[wide] *= 0.05  # trained models weigh them down at the end
    tensors["norm.weight"] = final - offset
    weights = encoder_weights(spec, tensors)
    return Model(spec, replace(weights, layers=tuple(weights.layers)))


def texts(seed: int = 1) -> TokenBatch:
    """Draw random ids; every text begins with token 0, which has the massive values."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int32)
    ids = rng.integers(1, VOCABULARY, int(offsets[-1])).astype(np.int32)
    ids[offsets[:-1]] = 0
    return TokenBatch(ids, offsets, None, 0)


# --- Changes that keep what the model computes ------------------------------------------------------
def with_folded_norms(weights: EncoderWeights) -> EncoderWeights:
    """Multiply the factors of the norms into the layers that read them."""

    def folded(
        linear: Linear, norm: NormWeights | None
    ) -> tuple[LinearWeights, NormWeights | None]:
        exact = dequantized(linear)
        if norm is None:
            return exact, None
        return (
            replace(exact, weight=exact.weight * norm.gamma),
            replace(norm, gamma=np.ones_like(norm.gamma)),
        )

    layers = []
    for parts in weights.layers:
        qkv, attention = folded(parts.qkv, parts.attention_norm)
        up, output = folded(parts.up, parts.output_norm)
        assert output is not None
        layers.append(replace(parts, qkv=qkv, up=up, attention_norm=attention, output_norm=output))
    return replace(weights, layers=tuple(layers))


def rotated(spec: EncoderSpec, weights: EncoderWeights) -> tuple[EncoderWeights, FloatArray] | None:
    """Rotate the residual stream; also return what turns a pooled vector back. None where norms stand after a half."""
    if spec.layers[0].norm_places != "before":
        return None
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.normal(size=(spec.hidden_size,) * 2))[0]

    def times(matrix: FloatArray, other: NDArray[np.float64]) -> FloatArray:
        return np.ascontiguousarray((matrix.astype(np.float64) @ other).astype(np.float32))

    folded = with_folded_norms(weights)
    layers: list[LayerWeights] = []
    for parts in folded.layers:
        qkv, out, up, down = (dequantized(getattr(parts, name)) for name in LINEARS)
        layers.append(
            replace(
                parts,
                qkv=replace(qkv, weight=times(qkv.weight, turn)),
                up=replace(up, weight=times(up.weight, turn)),
                out=replace(
                    out, weight=times(out.weight.T, turn).T.copy(), bias=times(out.bias, turn)
                ),
                down=replace(
                    down, weight=times(down.weight.T, turn).T.copy(), bias=times(down.bias, turn)
                ),
            )
        )
    assert folded.final_norm is not None
    gamma = folded.final_norm.gamma
    final = replace(folded.final_norm, gamma=np.ones_like(gamma))
    made = replace(
        folded, word=times(weights.word[:], turn), layers=tuple(layers), final_norm=final
    )
    return made, (turn.T * gamma).astype(np.float32)


# --- Forms --------------------------------------------------------------------------------------------
def quantized(
    weights: EncoderWeights,
    how: EightBits,
    *,
    wide: bool = False,
    asymmetric: bool = False,
    groups: bool = False,
    power: bool = False,
) -> EncoderWeights:
    """Quantize with some of what `EightBits` knows."""
    layers = []
    for i, parts in enumerate(weights.layers):
        made: dict[str, Any] = {
            name: quantize_weight(
                dequantized(getattr(parts, name)),
                symmetric=not asymmetric or name == "out",
                groups=how.ends[i] if groups and name == "down" else (),
                power=how.power[i, name] if power else None,
            )
            for name in LINEARS
        }
        layers.append(replace(parts, **made))
    return replace(weights, layers=tuple(layers), wide=how.wide if wide else None)


def with_floats(
    spec: EncoderSpec, exact: EncoderWeights, made: EncoderWeights, count: int
) -> EncoderWeights:
    """Leave those linear layers in float32 whose rounding alone moves the vectors of other texts most."""
    layers = [list(exact.layers), list(made.layers)]
    probe = texts(seed=2)
    truth = Engine(spec, exact, precision="float32").encode(probe).astype(np.float64)
    losses = {}
    for i, parts in enumerate(layers[1]):
        for name in LINEARS:
            changed: dict[str, Any] = {name: getattr(parts, name)}
            one = list(layers[0])
            one[i] = replace(one[i], **changed)
            weights = replace(exact, layers=tuple(one), wide=made.wide)
            got = Engine(spec, weights, precision=None).encode(probe).astype(np.float64)
            losses[i, name] = 1 - float(row_cosines(got, truth).mean())
    for i, name in sorted(losses, key=lambda place: -losses[place])[:count]:
        kept: dict[str, Any] = {name: getattr(layers[0][i], name)}
        layers[1][i] = replace(layers[1][i], **kept)
    return replace(made, layers=tuple(layers[1]))


def forms(model: Model) -> Iterator[tuple[str, EncoderWeights, FloatArray | None]]:
    """Yield names of forms, their weights, and what turns their vectors back."""
    spec, weights = model.spec, model.weights
    how = eight_bits(spec, weights)
    plain = eight_bits(spec, weights, equalize=False)
    yield "plain int8", quantized(weights, plain), None
    yield "wide features apart", quantized(weights, plain, wide=True), None
    more = {"wide": True, "asymmetric": True, "groups": True}
    yield "and asymmetric, in groups", quantized(weights, plain, **more), None
    turned = rotated(spec, weights)
    if turned is not None:
        made, back = turned
        other = eight_bits(spec, made, equalize=False)
        yield "rotated", quantized(made, other), back
        yield (
            "rotated, asymmetric, in groups",
            quantized(made, other, asymmetric=True, groups=True),
            back,
        )
    same = replace(weights, layers=tuple(how.equalized(i, p) for i, p in enumerate(weights.layers)))
    yield "factors moved", quantized(same, how), None
    yield "factors moved, wide features apart", quantized(same, how, wide=True), None
    default = in_eight_bits(spec, weights)
    yield "the default", default, None
    few = max(1, len(spec.layers) * len(LINEARS) // 10)
    yield (
        "the default, a tenth of its layers in float32",
        with_floats(spec, same, default, few),
        None,
    )
    int4 = in_eight_bits(spec, weights, group=32)
    yield "int4, groups of 32", int4, None
    of_int4 = eight_bits(spec, weights, group=32)
    moved = tuple(of_int4.equalized(i, p) for i, p in enumerate(weights.layers))
    exact = replace(weights, layers=moved)
    yield "int4, a tenth of its layers in float32", with_floats(spec, exact, int4, few), None


def compare(name: str) -> list[dict[str, Any]]:
    """Print and return a row for each form."""
    model, batch = outlier_model(name), texts()
    truth = Engine(model.spec, model.weights, precision="float32").encode(batch).astype(np.float64)
    plain = replace(model.spec, normalize=False)
    rows = []
    for form, weights, back in forms(model):
        engine = Engine(plain, weights, precision=None)
        got = engine.encode(batch).astype(np.float64)
        if back is not None:
            got = got @ back
        cosines = row_cosines(got, truth)
        row = {
            "family": name,
            "form": form,
            "mean": round(float(cosines.mean()), 6),
            "min": round(float(cosines.min()), 6),
        }
        print(" | ".join(map(str, row.values())), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Print a table for every family."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=CONFIGS, help="one family")
    parser.add_argument("--json", type=Path, help="write the rows to a file")
    options = parser.parse_args()
    rows = [row for name in CONFIGS if options.only in (None, name) for row in compare(name)]
    if options.json is not None:
        found = {"isa": choose_isa(None), "tokens": sum(LENGTHS), "rows": rows}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
