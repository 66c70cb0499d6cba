"""config.json to an EncoderSpec, tensors to EncoderWeights: an architecture as data."""

from __future__ import annotations

from quaver.architecture.encoder import (
    FAMILIES,
    SUPPORTED,
    classifier_spec,
    encoder_spec,
    encoder_weights,
    split_tensors,
)
from quaver.architecture.head import DenseStep, HeadActivation, HeadStep, NormStep
from quaver.architecture.modules import module_steps, module_tensors
from quaver.architecture.positions import relative_rows, rotary_tables
from quaver.architecture.spec import (
    MAX_HEAD_SIZE,
    MAX_LENGTH,
    MAX_WIDTH,
    POOLINGS,
    Activation,
    AttentionSpec,
    EncoderSpec,
    Pooling,
    RelativePositions,
    Rotary,
)
from quaver.architecture.weights import EncoderWeights, LayerWeights, NormWeights

__all__ = [
    "FAMILIES",
    "MAX_HEAD_SIZE",
    "MAX_LENGTH",
    "MAX_WIDTH",
    "POOLINGS",
    "SUPPORTED",
    "Activation",
    "AttentionSpec",
    "DenseStep",
    "EncoderSpec",
    "EncoderWeights",
    "HeadActivation",
    "HeadStep",
    "LayerWeights",
    "NormStep",
    "NormWeights",
    "Pooling",
    "RelativePositions",
    "Rotary",
    "classifier_spec",
    "encoder_spec",
    "encoder_weights",
    "module_steps",
    "module_tensors",
    "relative_rows",
    "rotary_tables",
    "split_tensors",
]
