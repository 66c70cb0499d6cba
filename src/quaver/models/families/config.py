"""config.json as a family reads it: sizes, options and activations, every fault named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from quaver.errors import ModelFolderError, UnsupportedArchitectureError
from quaver.models.files import ConfigFile, checked
from quaver.models.geometry import MAX_HEAD_SIZE, MAX_LENGTH, MAX_WIDTH, Activation
from quaver.models.head import HeadActivation

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# Of these the encoder is run, and the decoder is not.
_WITH_DECODER = frozenset({"t5", "mt5"})
# Options that change the forward pass of every family, with the values that leave it as it is.
_EVERYWHERE: dict[str, tuple[object, ...]] = {
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
    "per_layer_config": ({}, None),
}
# Families whose layers have sizes of their own.
_BY_LAYER = frozenset({"embedding_gemma2", "embedding_gemma2_text"})


class Sizes(TypedDict):
    """Sizes of a LayerSpec."""

    heads: int
    kv_heads: int
    head_size: int
    intermediate_size: int


class Config:
    """config.json of one model.

    Attributes:
        values: the JSON object.
        file: the same, checked; types and ranges hold from here on.
        model_type: its model_type.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Check config.json, and refuse what no family runs.

        Args:
            values: the JSON object.

        Raises:
            ModelFolderError: a key has another type than the format says, or is out of its range.
            UnsupportedArchitectureError: an option has a value that no family runs.
        """
        self.values = values
        self.file = checked(ConfigFile, dict(values), "config.json")
        self.model_type = str(self.file.model_type)
        kept = {"is_encoder_decoder"} if self.model_type in _WITH_DECODER else set()
        kept |= {"per_layer_config"} if self.model_type in _BY_LAYER else set()
        self.require({key: values for key, values in _EVERYWHERE.items() if key not in kept})

    def require(self, options: Mapping[str, tuple[object, ...]]) -> None:
        """Check options that change the forward pass.

        Args:
            options: by key the values that are run, the usual one first.

        Raises:
            UnsupportedArchitectureError: an option has another value; both are named.
        """
        for key, values in options.items():
            if self.values.get(key) not in values:
                raise UnsupportedArchitectureError(
                    f"config.json has {key}={self.values.get(key)!r}; {self.model_type} is supported "
                    f"with {key}={values[0]!r}"
                )

    def _first(self, keys: Sequence[str], default: Any) -> tuple[str, Any]:
        """Return the first of several keys that is there, and its value."""
        key = next((key for key in keys if getattr(self.file, key) is not None), keys[0])
        value = getattr(self.file, key)
        value = default if value is None else value
        if value is None:
            raise ModelFolderError(
                f"config.json of a {self.model_type} must have {key}; is it the file that belongs to "
                "these weights?"
            )
        return key, value

    def size(self, *keys: str, least: int = 1, default: int | None = None) -> int:
        """Return a whole number, under the first of several keys that is there.

        Raises:
            ModelFolderError: it is missing without a default, or less than `least`.
        """
        key, value = self._first(keys, default)
        if value < least:
            raise ModelFolderError(f"config.json must have {key} of at least {least}: got {value}")
        return int(value)

    def number(self, *keys: str, default: float | None = None) -> float:
        """Return a positive number, under the first of several keys that is there.

        Raises:
            ModelFolderError: it is missing without a default.
        """
        return float(self._first(keys, default)[1])

    def length(self, *keys: str, default: int | None = None) -> int:
        """Return the maximum number of positions of a model without a table of them, at most `MAX_LENGTH`.

        Tables of positions are built for all of them when a model is loaded, so a number in a file
        must not decide their size.

        Raises:
            ModelFolderError: it is missing, or less than 1.
        """
        return min(self.size(*keys, default=default), MAX_LENGTH)

    def flag(self, key: str, default: bool) -> bool:
        """Return an option that is on or off."""
        value = getattr(self.file, key)
        return default if value is None else bool(value)

    def activation(self, key: str, default: str | None = None) -> Activation:
        """Return an activation by its name in config.json.

        Raises:
            UnsupportedArchitectureError: Quaver does not have it.
        """
        return self.activation_named(key, getattr(self.file, key) or default)

    def activation_named(self, key: str, name: str | None) -> Activation:
        """Return an activation by its name in transformers; `key` is where config.json has it.

        Raises:
            UnsupportedArchitectureError: Quaver does not have it.
        """
        if name not in _ACTIVATIONS:
            raise UnsupportedArchitectureError(
                f"config.json has {key}={self.values.get(key)!r}; supported: {', '.join(_ACTIVATIONS)}"
            )
        return _ACTIVATIONS[name]

    def head_activation(self, key: str, default: str) -> HeadActivation:
        """Return the activation of a classification head, which may also be tanh."""
        return "tanh" if getattr(self.file, key) == "tanh" else self.activation(key, default)

    def sizes(
        self, hidden: str, heads: str, inner: str, *, rotary: bool = False
    ) -> tuple[int, Sizes]:
        """Return H and the sizes of a layer, under the keys of a family.

        With `rotary` heads turn their features in pairs.

        Raises:
            ModelFolderError: one is missing, or the heads do not divide the hidden size.
            UnsupportedArchitectureError: they are larger than the kernels are made for.
        """
        h, n, i = self.size(hidden), self.size(heads), self.size(inner)
        if h % n:
            raise ModelFolderError(
                f"{hidden} must be a multiple of {heads}: got {h} and {n} in config.json"
            )
        if max(h, i) > MAX_WIDTH or h // n > MAX_HEAD_SIZE:
            raise UnsupportedArchitectureError(
                f"supported are {hidden} and {inner} up to {MAX_WIDTH} and heads of up to "
                f"{MAX_HEAD_SIZE} features: got {h}, {i} and {h // n} in config.json"
            )
        if rotary and h // n % 2:
            raise ModelFolderError(
                f"{hidden} / {heads} must be even, because rotary positions turn features in pairs: "
                f"got {h} / {n} in config.json"
            )
        return h, {"heads": n, "kv_heads": n, "head_size": h // n, "intermediate_size": i}

    def grouped_sizes(
        self, head_size: int | None, kv_heads: int | None = None
    ) -> tuple[int, Sizes]:
        """Return H and the sizes of a layer whose query heads share keys and values.

        Args:
            head_size: D where config.json has no head_dim; None divides H by the heads.
            kv_heads: Hkv where config.json has no num_key_value_heads; None takes the query's.

        Raises:
            ModelFolderError: a size is missing, or the sizes contradict each other.
            UnsupportedArchitectureError: they are larger than the kernels are made for.
        """
        h, n, i = (
            self.size(key) for key in ("hidden_size", "num_attention_heads", "intermediate_size")
        )
        shared = self.size("num_key_value_heads", default=kv_heads or n)
        if self.file.head_dim is None and head_size is None and h % n:
            raise ModelFolderError(
                "config.json must have head_dim, or hidden_size as a multiple of "
                f"num_attention_heads: got {h} and {n}"
            )
        size = self.size("head_dim", default=head_size or h // n)
        if n % shared:
            raise ModelFolderError(
                "num_attention_heads must be a multiple of num_key_value_heads: got "
                f"{n} and {shared} in config.json"
            )
        if max(h, i, n * size) > MAX_WIDTH or size > MAX_HEAD_SIZE:
            raise UnsupportedArchitectureError(
                f"supported are hidden_size, intermediate_size and all heads together up to {MAX_WIDTH}, "
                f"and heads of up to {MAX_HEAD_SIZE} features: got {h}, {i}, {n * size} and {size} in "
                "config.json"
            )
        if size % 2:
            raise ModelFolderError(
                f"head_dim must be even, because rotary positions turn features in pairs: got {size}"
            )
        return h, {"heads": n, "kv_heads": shared, "head_size": size, "intermediate_size": i}

    def t5_sizes(self) -> tuple[int, Sizes]:
        """Return H and the sizes of a layer under T5's keys; all heads together may be wider than H.

        Raises:
            ModelFolderError: a size is missing.
            UnsupportedArchitectureError: they are larger than the kernels are made for.
        """
        h, n, d, i = (self.size(key) for key in ("d_model", "num_heads", "d_kv", "d_ff"))
        if max(h, i, n * d) > MAX_WIDTH or d > MAX_HEAD_SIZE:
            raise UnsupportedArchitectureError(
                f"supported are d_model, d_ff and all heads together up to {MAX_WIDTH}, and d_kv up to "
                f"{MAX_HEAD_SIZE}: got {h}, {i}, {n * d} and {d} in config.json"
            )
        return h, {"heads": n, "kv_heads": n, "head_size": d, "intermediate_size": i}

    def labels(self) -> int:
        """Count the labels as transformers does: id2label, else num_labels, else 2.

        Raises:
            ModelFolderError: there are no labels.
        """
        names, stated = self.file.id2label, self.file.num_labels
        count = len(names) if names is not None else 2 if stated is None else stated
        if count < 1:
            raise ModelFolderError(
                "config.json must have id2label or num_labels, at least one label: got none"
            )
        return count
