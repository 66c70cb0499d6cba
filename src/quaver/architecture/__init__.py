"""config.json to an EncoderSpec, tensors to EncoderWeights: an architecture as data."""

from __future__ import annotations

from quaver.architecture.encoder import (
    MAX_HEAD_SIZE,
    MAX_WIDTH,
    POOLINGS,
    SUPPORTED,
    Activation,
    EncoderSpec,
    EncoderWeights,
    LayerWeights,
    NormWeights,
    Pooling,
    classifier_spec,
    encoder_spec,
    encoder_weights,
)
from quaver.architecture.head import DenseStep

__all__ = [
    "MAX_HEAD_SIZE",
    "MAX_WIDTH",
    "POOLINGS",
    "SUPPORTED",
    "Activation",
    "DenseStep",
    "EncoderSpec",
    "EncoderWeights",
    "LayerWeights",
    "NormWeights",
    "Pooling",
    "classifier_spec",
    "encoder_spec",
    "encoder_weights",
]
