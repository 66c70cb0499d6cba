"""Read and write quantization_config in config.json, which describes the quantized layers.

The layouts are `int-quantized` and, for weights in four bits, `pack-quantized` of compressed-tensors, so transformers,
vLLM and others can read folders that Quaver writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from quaver.errors import ModelFolderError, UnsupportedArchitectureError
from quaver.models.files import Group, OwnSection, QuantizationFile, checked

METHOD = "compressed-tensors"
FORMATS: dict[str, Literal[8, 4]] = {"int-quantized": 8, "pack-quantized": 4}
"""Formats that are read and written, and the bits of their weights."""
OWN_SECTION = "quaver"
"""What config.json says to Quaver alone."""
# Ends of the patterns for word embedding tables.
_TABLES = ("embeddings$", "embed_tokens$")
_STRATEGIES = {8: ("channel", "group"), 4: ("group",)}
_INT4_GROUPS = (32, 64, 128)


@dataclass(frozen=True)
class StoredForm:
    """How quantized linear layers are stored.

    Attributes:
        static: whether the input has one range; otherwise each token has its own.
        symmetric: whether 0 stands for 0 in the weights.
        group_size: inputs in a group with scales of its own; None for one scale for each output.
        bits: of the weights.
    """

    static: bool = False
    symmetric: bool = True
    group_size: int | None = None
    bits: Literal[8, 4] = 8


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
    if file.format not in FORMATS:
        _refuse("format", " or ".join(FORMATS), described)
    if not file.config_groups:
        _refuse("config_groups", "at least one group", described)
    for name, group in file.config_groups.items():
        _check_group(group, FORMATS[file.format], described["config_groups"][name])
    return True


def _check_group(group: Group, bits: Literal[8, 4], described: object) -> None:
    weights, inputs = group.weights, group.input_activations
    if weights is None or weights.num_bits != bits or weights.type != "int":
        _refuse("weights", {"num_bits": bits, "type": "int"}, described)
    if weights.strategy not in _STRATEGIES[bits]:
        _refuse(
            "weights", f"int{bits} with the strategy {' or '.join(_STRATEGIES[bits])}", described
        )
    if bits == 4 and (weights.group_size not in _INT4_GROUPS or weights.symmetric is False):
        _refuse("weights", f"symmetric int4 with group_size one of {_INT4_GROUPS}", described)
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
    linears: Mapping[StoredForm, Iterable[str]],
    left: Iterable[str],
    tables: Iterable[str] = (),
) -> dict[str, Any]:
    """Describe quantized layers for config.json.

    Args:
        linears: names in the bare encoder of quantized layers, by their form; all of as many bits.
        left: names of linear layers that stay in floating point.
        tables: names of int8 embeddings, one scale for each row.

    Returns:
        the value of "quantization_config".
    """
    groups: dict[str, Any] = {}
    bits = next((form.bits for form in linears), 8)
    layout = next(name for name, count in FORMATS.items() if count == bits)

    def add(names: Iterable[str], form: StoredForm, inputs: dict[str, Any] | None) -> None:
        targets = [_pattern(name) for name in names]
        if not targets:
            return
        weights: dict[str, Any] = {
            "num_bits": form.bits,
            "type": "int",
            "symmetric": form.symmetric,
            "strategy": "channel",
            "dynamic": False,
        }
        if form.group_size is not None:
            weights = {**weights, "strategy": "group", "group_size": form.group_size}
        groups[f"group_{len(groups)}"] = {
            "targets": targets,
            "weights": weights,
            "input_activations": inputs,
            "output_activations": None,
            "format": layout,
        }

    # transformers restores all weights with the first group's: groups of inputs fit one scale, too.
    for form, names in sorted(linears.items(), key=lambda item: item[0].group_size is None):
        strategy = "tensor" if form.static else "token"
        range_of_inputs = {"strategy": strategy, "dynamic": not form.static}
        add(names, form, {"num_bits": 8, "type": "int", "symmetric": False, **range_of_inputs})
    add(tables, StoredForm(), None)
    return {
        "quant_method": METHOD,
        "format": layout,
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
