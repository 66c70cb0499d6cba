"""Modules of sentence-transformers after the pooling, as steps of a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from quaver.errors import ModelFolderError, UnsupportedArchitectureError
from quaver.models.files import ModuleFile, checked
from quaver.models.folder import Module
from quaver.models.head import DenseStep, HeadActivation, HeadStep, NormStep
from quaver.models.weights_file import read_tensors

_ACTIVATIONS: dict[str, HeadActivation] = {
    "Tanh": "tanh",
    "Identity": "none",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
}
# What torch adds to the variance where nobody says otherwise.
_NORM_EPS = 1e-5


def module_steps(modules: Sequence[Module]) -> tuple[HeadStep, ...]:
    """Translate modules to steps.

    Args:
        modules: as the model folder lists them.

    Returns:
        A step for each; its tensors have the names of `module_tensors`.

    Raises:
        ModelFolderError: a size is missing from a module's config.json.
        UnsupportedArchitectureError: a module works on something else than the pooled vector, or
            has an activation that Quaver does not run. Its name is read; it is never imported.
    """
    return tuple(_step(i, module) for i, module in enumerate(modules))


def module_tensors(modules: Sequence[Module]) -> dict[str, NDArray[Any]]:
    """Read the weights of modules, under names that no encoder has.

    Raises:
        WeightsError: a file is broken.
        ModelFolderError: a module has no safetensors file.
    """
    return {
        f"{_name(i)}.{name}": tensor
        for i, module in enumerate(modules)
        for name, tensor in read_tensors(module.path).items()
    }


def _name(number: int) -> str:
    return f"modules.{number}"


def _step(number: int, module: Module) -> HeadStep:
    where = module.path / "config.json"
    config = checked(ModuleFile, module.config, where)
    for key in ("module_input_name", "module_output_name"):
        if getattr(config, key) not in (None, "sentence_embedding"):
            raise UnsupportedArchitectureError(
                f"{where} says {key}={getattr(config, key)!r}; supported is 'sentence_embedding'"
            )
    if module.kind == "LayerNorm":
        return NormStep(f"{_name(number)}.norm", _NORM_EPS)
    if config.out_features is None:
        raise ModelFolderError(f"{where} must have out_features, the module's output size")
    activation = config.activation_function or "torch.nn.modules.activation.Tanh"
    kind = activation.rpartition(".")[2].removesuffix("()")
    if kind not in _ACTIVATIONS:
        raise UnsupportedArchitectureError(
            f"{where} has activation_function={activation!r}; supported: {', '.join(_ACTIVATIONS)}"
        )
    biased = config.bias is not False
    return DenseStep(f"{_name(number)}.linear", config.out_features, _ACTIVATIONS[kind], biased)
