"""Models whose code is in no package, written in torch from their published descriptions.

GTE v1.5 and mGTE with NTK scaling (model_type "new"), and Jina v2. `tools/families.py` compares Quaver
with them layer by layer and writes their golden files. Nothing of Quaver is used here, and formulas differ
from Quaver's where possible: a rotation is a product of complex numbers, a slope a power of
the first one, a bias a matrix of all pairs. Tensors have the names of the published folders.

Source:
    GTE v1.5: Zhang et al., mGTE (arXiv 2407.19669), with the fixed NTK scaling of
    https://kexue.fm/archives/9706, formula 6. Jina v2: Günther et al., Jina Embeddings 2
    (arXiv 2310.19923), with the slopes of Press et al., ALiBi (arXiv 2108.12409).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput


def module(**children: nn.Module) -> nn.Module:
    """Group modules by the dotted names of tensors."""
    group = nn.Module()
    for name, child in children.items():
        group.add_module(name, child)
    return group


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Split heads: (N, T, H) to (N, heads, T, D)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute attention of whole texts and merge heads: (N, heads, T, D) to (N, T, H)."""
    scores = torch.einsum("nhid,nhjd->nhij", q, k) / q.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + bias
    mixed = torch.einsum("nhij,nhjd->nhid", scores.softmax(-1), v)
    return mixed.transpose(1, 2).flatten(2)


def ntk_frequencies(theta: float, factor: float, head_size: int) -> torch.Tensor:
    """Return the angle that each pair of features turns from one token to the next, float64 (D/2,).

    Formula:
        (factor * theta)^(-2i/D) / factor^(2/D): all pairs turn factor^(2/D) times slower, and
        the last one 1/factor as fast as before.
    """
    pairs = torch.arange(head_size // 2, dtype=torch.float64)
    slow = factor ** (-2 / head_size)
    return slow * torch.exp(-2 * pairs / head_size * torch.tensor(factor * theta).double().log())


def rotated(x: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Rotate every pair (x_i, x_(i + D/2)) by position * frequency_i: (N, heads, T, D)."""
    real, imaginary = x.double().chunk(2, -1)
    angles = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * frequencies
    turn = torch.polar(torch.ones_like(angles), angles)
    turned = torch.complex(real, imaginary) * turn
    return torch.cat([turned.real, turned.imag], -1).to(x.dtype)


class Rotation(nn.Module):
    """`rotated` in real numbers, which exporters of graphs support."""

    def __init__(self, frequencies: torch.Tensor, length: int) -> None:
        """Compute the angles of `length` positions."""
        super().__init__()
        angles = torch.arange(length, dtype=torch.float64)[:, None] * torch.cat([frequencies] * 2)
        self.register_buffer("cosine", angles.cos().float(), persistent=False)
        self.register_buffer("sine", angles.sin().float(), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, heads, T, D)."""
        real, imaginary = x.chunk(2, -1)
        crossed = torch.cat([-imaginary, real], -1)
        places = x.shape[2]
        return x * self.cosine[:places] + crossed * self.sine[:places]


def alibi_slopes(heads: int) -> list[float]:
    """Return each head's factor for distances.

    With n heads, n a power of two, they are a geometric series from 2^(-8/n) with that ratio. Other
    numbers use those of the next lower power of two, then the 1st, 3rd, ... of the next higher one.
    """
    power = 1
    while power * 2 <= heads:
        power *= 2
    ratio = 2 ** (-8 / power)
    slopes = [ratio]
    while len(slopes) < power:
        slopes.append(slopes[-1] * ratio)
    if power < heads:
        slopes += alibi_slopes(2 * power)[::2]
    return slopes[:heads]


class PublishedModel(nn.Module):
    """The interface for `tools/families.py`, around the layers of a family.

    Attributes:
        config: the content of config.json.
        prefix: prefix of the encoder's names if there is a head.
    """

    prefix = ""

    def __init__(self, config: dict[str, Any], labels: int | None) -> None:
        """Make the modules of both families: embeddings, layers, and a head for `labels`."""
        super().__init__()
        self.values = config
        hidden, eps = config["hidden_size"], config["layer_norm_eps"]
        self.embeddings = module(
            word_embeddings=nn.Embedding(config["vocab_size"], hidden),
            token_type_embeddings=nn.Embedding(config["type_vocab_size"], hidden),
            LayerNorm=nn.LayerNorm(hidden, eps=eps),
        )
        layers = [self.make_layer() for _ in range(config["num_hidden_layers"])]
        self.encoder = module(layer=nn.ModuleList(layers))
        self.classifier = None
        if labels is not None:
            self.pooler = module(dense=nn.Linear(hidden, hidden))
            self.classifier = nn.Linear(hidden, labels)
            self.values = config | {"num_labels": labels}

    def make_layer(self) -> nn.Module:
        """Make the modules of one layer."""
        raise NotImplementedError

    def run_layer(self, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Run one layer: (N, T, H) to (N, T, H)."""
        raise NotImplementedError

    def forward(self, input_ids: torch.Tensor, output_hidden_states: bool = False) -> Any:
        """Run ids (N, T) without padding."""
        embeddings: Any = self.embeddings
        x = embeddings.word_embeddings(input_ids)
        x = x + embeddings.token_type_embeddings(torch.zeros_like(input_ids))
        x = embeddings.LayerNorm(x)
        states = [x]
        for layer in self.encoder.layer:
            states.append(self.run_layer(layer, states[-1]))
        if self.classifier is not None:
            first = torch.tanh(self.pooler.dense(states[-1][:, 0]))
            return SequenceClassifierOutput(logits=self.classifier(first))
        kept = tuple(states) if output_hidden_states else None
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=kept)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors."""
        text = json.dumps(self.values)
        (Path(folder) / "config.json").write_text(text, encoding="utf-8")
        tensors = {
            (
                name
                if self.classifier is None or name.startswith("classifier")
                else self.prefix + name
            ): t
            for name, t in self.state_dict().items()
        }
        save_file(tensors, Path(folder) / "model.safetensors", {"format": "pt"})


class GteV15(PublishedModel):
    """GTE v1.5: rotary positions with NTK scaling, packed projections, GELU on the second half."""

    prefix = "new."

    def __init__(self, config: dict[str, Any], labels: int | None) -> None:
        """Store the frequencies; see `PublishedModel`."""
        super().__init__(config, labels)
        head_size = config["hidden_size"] // config["num_attention_heads"]
        factor = (config.get("rope_scaling") or {"factor": 1.0})["factor"]
        self.frequencies = ntk_frequencies(config["rope_theta"], factor, head_size)
        self.rotation: nn.Module | None = None

    def for_export(self, length: int) -> None:
        """Rotate with real numbers, for texts up to a length."""
        self.rotation = Rotation(self.frequencies, length)

    def make_layer(self) -> nn.Module:
        """Make the modules of one layer."""
        hidden, inner = self.values["hidden_size"], self.values["intermediate_size"]
        eps = self.values["layer_norm_eps"]
        return module(
            attention=module(
                qkv_proj=nn.Linear(hidden, 3 * hidden), o_proj=nn.Linear(hidden, hidden)
            ),
            mlp=module(
                up_gate_proj=nn.Linear(hidden, 2 * inner, bias=False),
                down_proj=nn.Linear(inner, hidden),
            ),
            attn_ln=nn.LayerNorm(hidden, eps=eps),
            mlp_ln=nn.LayerNorm(hidden, eps=eps),
        )

    def run_layer(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        """Run one layer."""
        heads = self.values["num_attention_heads"]
        q, k, v = (split_heads(part, heads) for part in layer.attention.qkv_proj(x).chunk(3, -1))
        if self.rotation is None:
            q, k = (rotated(part, self.frequencies) for part in (q, k))
        else:
            q, k = self.rotation(q), self.rotation(k)
        x = layer.attn_ln(x + layer.attention.o_proj(attend(q, k, v)))
        up, gate = layer.mlp.up_gate_proj(x).chunk(2, -1)
        return layer.mlp_ln(x + layer.mlp.down_proj(functional.gelu(gate) * up))


class JinaV2(PublishedModel):
    """Jina v2: BERT's attention with a bias for distances, GELU on the first half."""

    prefix = "bert."

    def make_layer(self) -> nn.Module:
        """Make the modules of one layer."""
        hidden, inner = self.values["hidden_size"], self.values["intermediate_size"]
        eps = self.values["layer_norm_eps"]
        projections = {name: nn.Linear(hidden, hidden) for name in ("query", "key", "value")}
        return module(
            attention=module(
                self=module(**projections),
                output=module(
                    dense=nn.Linear(hidden, hidden), LayerNorm=nn.LayerNorm(hidden, eps=eps)
                ),
            ),
            mlp=module(
                gated_layers=nn.Linear(hidden, 2 * inner, bias=False),
                wo=nn.Linear(inner, hidden),
                layernorm=nn.LayerNorm(hidden, eps=eps),
            ),
        )

    def run_layer(self, layer: Any, x: torch.Tensor) -> torch.Tensor:
        """Run one layer."""
        heads = self.values["num_attention_heads"]
        own, output, mlp = layer.attention.self, layer.attention.output, layer.mlp
        q, k, v = (split_heads(part(x), heads) for part in (own.query, own.key, own.value))
        places = torch.arange(x.shape[1])
        distances = (places[:, None] - places[None, :]).abs()
        bias = -torch.tensor(alibi_slopes(heads))[:, None, None] * distances
        x = output.LayerNorm(x + output.dense(attend(q, k, v, bias)))
        gate, value = mlp.gated_layers(x).chunk(2, -1)
        gated = functional.relu if self.values["feed_forward_type"] == "reglu" else functional.gelu
        return mlp.layernorm(x + mlp.wo(gated(gate) * value))


_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
_DEFAULTS: dict[str, dict[str, Any]] = {
    "GteV15": {
        "model_type": "new",
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "rope_theta": 500_000.0,
        "rope_scaling": {"type": "ntk", "factor": 2.0},
    },
    "JinaV2": {
        "model_type": "bert",
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "position_embedding_type": "alibi",
        "feed_forward_type": "geglu",
    },
}
FORMS: dict[str, type[PublishedModel]] = {"GteV15": GteV15, "JinaV2": JinaV2}


def published(name: str, values: dict[str, Any], *, labels: int | None) -> PublishedModel:
    """Make a model of a family that transformers does not have.

    Args:
        name: a key of `FORMS`.
        values: sizes, and differences from the published models' configuration.
        labels: labels of a classification head, None for none.
    """
    missing = [key for key in _SIZES if key not in values]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}")
    return FORMS[name](_DEFAULTS[name] | values, labels)
