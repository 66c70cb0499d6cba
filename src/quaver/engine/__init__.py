"""The engine: precision, instruction sets, threads, and batches of texts."""

from __future__ import annotations

from quaver.engine.arguments import (
    LOADING,
    SENTENCE_TRANSFORMERS,
    check_choice,
    check_listable,
    check_loaded,
    check_range,
    explain_keywords,
    text_list,
)
from quaver.engine.batches import MAX_BATCH_TOKENS, EncodeReport, encode_texts, encode_tokens
from quaver.engine.engine import Engine
from quaver.engine.load import (
    LoadedModel,
    agreed_pooling,
    check_pooling,
    load_classifier,
    load_model,
)
from quaver.engine.machine import info
from quaver.engine.native_model import Precision, relative_projections
from quaver.engine.postprocessing import (
    Matrix,
    Output,
    ShortMatrix,
    ShortVector,
    Vector,
    Vectors,
    convert,
    shortened,
    similarity,
    similarity_pairwise,
)
from quaver.engine.threads import available_threads

__all__ = [
    "LOADING",
    "MAX_BATCH_TOKENS",
    "SENTENCE_TRANSFORMERS",
    "EncodeReport",
    "Engine",
    "LoadedModel",
    "Matrix",
    "Output",
    "Precision",
    "ShortMatrix",
    "ShortVector",
    "Vector",
    "Vectors",
    "agreed_pooling",
    "available_threads",
    "check_choice",
    "check_listable",
    "check_loaded",
    "check_pooling",
    "check_range",
    "convert",
    "encode_texts",
    "encode_tokens",
    "explain_keywords",
    "info",
    "load_classifier",
    "load_model",
    "relative_projections",
    "shortened",
    "similarity",
    "similarity_pairwise",
    "text_list",
]
