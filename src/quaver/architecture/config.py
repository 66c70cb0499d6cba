"""config.json read key by key, every value checked, every fault named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from quaver.architecture.head import HeadActivation
from quaver.architecture.spec import MAX_HEAD_SIZE, MAX_WIDTH, Activation
from quaver.errors import ModelFolderError, UnsupportedArchitectureError

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
# Options that change the forward pass of every family, with the values that leave it as it is.
_EVERYWHERE: dict[str, tuple[object, ...]] = {
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
}


class Sizes(TypedDict):
    """Fields of an EncoderSpec that are checked together."""

    hidden_size: int
    heads: int
    intermediate_size: int


class Config:
    """config.json of one model.

    Attributes:
        values: the JSON object.
        model_type: its model_type.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Wrap config.json, and refuse what no family runs."""
        self.values = values
        self.model_type = str(values.get("model_type"))
        self.require(_EVERYWHERE)

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

    def size(self, *keys: str, least: int = 1, default: int | None = None) -> int:
        """Return a whole number, under the first of several keys that is there.

        Raises:
            ModelFolderError: it is missing without a default, or no whole number from `least`.
        """
        key = next((key for key in keys if self.values.get(key) is not None), keys[0])
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            kinds = {0: "a whole number", 1: "a positive whole number"}
            kind = kinds.get(least, f"a whole number from {least}")
            raise ModelFolderError(f"config.json must have {key}, {kind}: got {value!r}")
        return value

    def number(self, *keys: str, default: float | None = None) -> float:
        """Return a positive number, under the first of several keys that is there.

        Raises:
            ModelFolderError: it is missing without a default, or no positive number.
        """
        key = next((key for key in keys if self.values.get(key) is not None), keys[0])
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ModelFolderError(f"config.json must have {key}, a positive number: got {value!r}")
        return float(value)

    def norm_eps(self, key: str, default: float | None = None) -> float:
        """Return what LayerNorm adds to the variance.

        Raises:
            ModelFolderError: it is missing without a default, or no small positive number.
        """
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
            raise ModelFolderError(
                f"config.json must have {key}, a small positive number: got {value!r}"
            )
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Return an option that is on or off.

        Raises:
            ModelFolderError: it is neither true nor false.
        """
        value = self.values.get(key, default)
        if not isinstance(value, bool):
            raise ModelFolderError(f"config.json must have {key}, true or false: got {value!r}")
        return value

    def activation(self, key: str, default: str | None = None) -> Activation:
        """Return an activation by its name in config.json.

        Raises:
            UnsupportedArchitectureError: it is none that Quaver has.
        """
        name = self.values.get(key, default)
        if name not in _ACTIVATIONS:
            raise UnsupportedArchitectureError(
                f"config.json has {key}={name!r}; supported: {', '.join(_ACTIVATIONS)}"
            )
        return _ACTIVATIONS[name]

    def head_activation(self, key: str, default: str) -> HeadActivation:
        """Return the activation of a classification head, which may also be tanh."""
        return "tanh" if self.values.get(key, default) == "tanh" else self.activation(key, default)

    def sizes(self, hidden: str, heads: str, inner: str) -> Sizes:
        """Return hidden_size, heads and intermediate_size, under the keys of a family.

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
        return {"hidden_size": h, "heads": n, "intermediate_size": i}

    def labels(self) -> int:
        """Count the labels as transformers does: id2label, else num_labels, else 2.

        Raises:
            ModelFolderError: that is no positive number.
        """
        names = self.values.get("id2label")
        count = len(names) if isinstance(names, Mapping) else self.values.get("num_labels", 2)
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ModelFolderError(
                f"config.json must have id2label or num_labels, at least one label: got {count!r}"
            )
        return count
