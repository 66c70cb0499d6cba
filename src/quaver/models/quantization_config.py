"""Read and write quantization_config in config.json, which describes the int8 layers.

The layout is `int-quantized` of compressed-tensors, so transformers, vLLM and others can
read folders that Quaver writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from quaver.errors import UnsupportedArchitectureError
from quaver.models.files import Group, QuantizationFile, checked

METHOD, FORMAT = "compressed-tensors", "int-quantized"
# Ends of the patterns for word embedding tables.
_TABLES = ("embeddings$", "embed_tokens$")
_WEIGHTS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}


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
    if inputs is None and all(target.endswith(_TABLES) for target in group.targets or []):
        return
    if inputs is None or inputs.num_bits != 8:
        _refuse("input_activations", "8 bits", described)
    strategy = "token" if inputs.dynamic else "tensor"
    if inputs.strategy != strategy or inputs.type != "int":
        _refuse("input_activations", f"int by {strategy}", described)
    if group.output_activations is not None:
        _refuse("output_activations", None, described)


def _refuse(key: str, supported: object, got: object) -> NoReturn:
    raise UnsupportedArchitectureError(
        f"config.json has quantization_config={got}; supported is {key}: {supported}; take the "
        "original model and quantize it with `quaver quantize`"
    )


def quantization_config(
    dynamic: Iterable[str],
    static: Iterable[str],
    left: Iterable[str],
    tables: Iterable[str] = (),
) -> dict[str, Any]:
    """Describe int8 layers for config.json.

    Args:
        dynamic: names in the bare encoder of int8 layers whose input gets a range for each token.
        static: names of int8 layers with one input range.
        left: names of linear layers that stay in floating point.
        tables: names of int8 embeddings, one scale for each row.

    Returns:
        the value of "quantization_config".
    """
    groups: dict[str, Any] = {}
    activations = {"num_bits": 8, "type": "int", "symmetric": False}
    for names, inputs in (
        (dynamic, {**activations, "strategy": "token", "dynamic": True}),
        (static, {**activations, "strategy": "tensor", "dynamic": False}),
        (tables, None),
    ):
        targets = [_pattern(name) for name in names]
        if targets:
            groups[f"group_{len(groups)}"] = {
                "targets": targets,
                "weights": {**_WEIGHTS, "dynamic": False},
                "input_activations": inputs,
                "output_activations": None,
                "format": FORMAT,
            }
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
