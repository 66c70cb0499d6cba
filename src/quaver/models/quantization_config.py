"""Read and write quantization_config in config.json, which describes the int8 layers.

The layout is `int-quantized` of compressed-tensors, so transformers, vLLM and others can
read folders that Quaver writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from quaver.errors import ModelFolderError, UnsupportedArchitectureError
from quaver.models.files import Group, OwnSection, QuantizationFile, checked

METHOD, FORMAT = "compressed-tensors", "int-quantized"
OWN_SECTION = "quaver"
"""What config.json says to Quaver alone."""
# Ends of the patterns for word embedding tables.
_TABLES = ("embeddings$", "embed_tokens$")
_WEIGHTS = {"num_bits": 8, "type": "int"}
_STRATEGIES = ("channel", "group")


@dataclass(frozen=True)
class Int8Form:
    """How linear layers in int8 are stored.

    Attributes:
        static: whether the input has one range; otherwise each token has its own.
        symmetric: whether 0 stands for 0 in the weights.
        group_size: inputs in a group with scales of its own; None for one scale for each output.
    """

    static: bool = False
    symmetric: bool = True
    group_size: int | None = None


def is_quantized(config: Mapping[str, Any]) -> bool:
    """Return whether config.json describes a quantized model; check that Quaver supports it.

    Args:
        config: config.json of the model.

    Raises:
        ModelFolderError: a key has the wrong type.
        UnsupportedArchitectureError: it is quantized in a way that Quaver does not support.
    """
    described = config.get("quantization_config")
    if described is None:
        return False
    file = checked(QuantizationFile, described, "quantization_config of config.json")
    if file.quant_method != METHOD:
        _refuse("quant_method", METHOD, described)
    if file.format != FORMAT:
        _refuse("format", FORMAT, described)
    if not file.config_groups:
        _refuse("config_groups", "at least one group", described)
    for name, group in file.config_groups.items():
        _check_group(group, described["config_groups"][name])
    return True


def _check_group(group: Group, described: object) -> None:
    weights, inputs = group.weights, group.input_activations
    if weights is None or any(getattr(weights, key) != value for key, value in _WEIGHTS.items()):
        _refuse("weights", _WEIGHTS, described)
    if weights.strategy not in _STRATEGIES:
        _refuse("weights", f"int8 with the strategy {' or '.join(_STRATEGIES)}", described)
    if inputs is None and all(target.endswith(_TABLES) for target in group.targets or []):
        return
    if inputs is None or inputs.num_bits != 8:
        _refuse("input_activations", "8 bits", described)
    strategy = "token" if inputs.dynamic else "tensor"
    if inputs.strategy != strategy or inputs.type != "int":
        _refuse("input_activations", f"int by {strategy}", described)
    if group.output_activations is not None:
        _refuse("output_activations", None, described)


def wide_features(config: Mapping[str, Any], size: int) -> NDArray[np.int32] | None:
    """Return the features that layers in int8 hold apart.

    Args:
        config: config.json of the model.
        size: H, features of the hidden dimension.

    Returns:
        int32 (W,), see `EncoderWeights`; None where config.json names none.

    Raises:
        ModelFolderError: a key has the wrong type, or these are no features.
    """
    own = config.get(OWN_SECTION)
    if own is None:
        return None
    found = checked(OwnSection, own, f"{OWN_SECTION} of config.json").wide_features
    if found is None:
        return None
    count = len(found)
    if count == 0 or count % 64 or count >= size or len(set(found)) < count or max(found) >= size:
        raise ModelFolderError(
            f"{OWN_SECTION}.wide_features of config.json must be different features of 0..{size - 1}, "
            f"a multiple of 64 and not all: got {count} numbers, at most {max(found, default=None)}; "
            "quantize the model again"
        )
    return np.array(found, np.int32)


def _refuse(key: str, supported: object, got: object) -> NoReturn:
    raise UnsupportedArchitectureError(
        f"config.json has quantization_config={got}; supported is {key}: {supported}; take the "
        "original model and quantize it with `quaver quantize`"
    )


def quantization_config(
    linears: Mapping[Int8Form, Iterable[str]],
    left: Iterable[str],
    tables: Iterable[str] = (),
) -> dict[str, Any]:
    """Describe int8 layers for config.json.

    Args:
        linears: names in the bare encoder of int8 layers, by their form.
        left: names of linear layers that stay in floating point.
        tables: names of int8 embeddings, one scale for each row.

    Returns:
        the value of "quantization_config".
    """
    groups: dict[str, Any] = {}

    def add(names: Iterable[str], form: Int8Form, inputs: dict[str, Any] | None) -> None:
        targets = [_pattern(name) for name in names]
        if not targets:
            return
        weights = {**_WEIGHTS, "symmetric": form.symmetric, "strategy": "channel", "dynamic": False}
        if form.group_size is not None:
            weights = {**weights, "strategy": "group", "group_size": form.group_size}
        groups[f"group_{len(groups)}"] = {
            "targets": targets,
            "weights": weights,
            "input_activations": inputs,
            "output_activations": None,
            "format": FORMAT,
        }

    # transformers restores all weights with the first group's: groups of inputs fit one scale, too.
    for form, names in sorted(linears.items(), key=lambda item: item[0].group_size is None):
        strategy = "tensor" if form.static else "token"
        range_of_inputs = {"strategy": strategy, "dynamic": not form.static}
        add(names, form, {"num_bits": 8, "type": "int", "symmetric": False, **range_of_inputs})
    add(tables, Int8Form(), None)
    return {
        "quant_method": METHOD,
        "format": FORMAT,
        "quantization_status": "compressed",
        # transformers dequantizes the weights while loading. Without this, a hook of the first
        # forward pass would, and sentence-transformers bypasses it.
        "dequantize": True,
        "config_groups": groups,
        "ignore": [_pattern(name) for name in left],
    }


def _pattern(name: str) -> str:
    # Model classes add their own prefix to a name, such as "bert.".
    return "re:(.*\\.)?" + re.escape(name) + "$"
