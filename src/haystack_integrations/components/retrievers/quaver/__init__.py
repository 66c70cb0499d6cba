"""Haystack retrievers that embed queries in int8 on the CPU."""

from haystack_integrations.components.retrievers.quaver.bi_encoder_retriever import (
    QuantizedBiEncoderRetriever,
)

__all__ = ["QuantizedBiEncoderRetriever"]
