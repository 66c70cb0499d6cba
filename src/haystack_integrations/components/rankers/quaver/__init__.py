"""Haystack rankers that run in int8 on the CPU."""

from haystack_integrations.components.rankers.quaver.bi_encoder_ranker import (
    QuantizedBiEncoderRanker,
)
from haystack_integrations.components.rankers.quaver.ranker import QuaverRanker

__all__ = ["QuantizedBiEncoderRanker", "QuaverRanker"]
