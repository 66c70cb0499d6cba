"""The engine: precision, instruction sets, threads, and batches of texts."""

from __future__ import annotations

from quaver.engine.batches import (
    MAX_BATCH_TOKENS,
    EncodeReport,
    encode_texts,
    encode_tokens,
    token_batches,
)
from quaver.engine.eight_bits import EightBits, Place, eight_bits, in_eight_bits
from quaver.engine.engine import Engine, token_spans
from quaver.engine.forward import run_layers
from quaver.engine.load import (
    LoadedModel,
    LoadedMultiVector,
    LoadedSparse,
    agreed_pooling,
    bytes_of_folder,
    check_loaded,
    check_pooling,
    check_reopened,
    load_classifier,
    load_model,
    load_multi_vector,
    load_sparse,
)
from quaver.engine.machine import info
from quaver.engine.micro_batches import MicroBatcher
from quaver.engine.migration import CALL_KEYWORDS, LOADING_KEYWORDS, explain_keywords
from quaver.engine.native_model import Precision
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
from quaver.engine.text_list import check_listable, text_list
from quaver.engine.threads import available_threads
from quaver.engine.windows import choose_windows

__all__ = [
    "CALL_KEYWORDS",
    "LOADING_KEYWORDS",
    "MAX_BATCH_TOKENS",
    "EightBits",
    "EncodeReport",
    "Engine",
    "LoadedModel",
    "LoadedMultiVector",
    "LoadedSparse",
    "Matrix",
    "MicroBatcher",
    "Output",
    "Place",
    "Precision",
    "ShortMatrix",
    "ShortVector",
    "Vector",
    "Vectors",
    "agreed_pooling",
    "available_threads",
    "bytes_of_folder",
    "check_listable",
    "check_loaded",
    "check_pooling",
    "check_reopened",
    "choose_windows",
    "convert",
    "eight_bits",
    "encode_texts",
    "encode_tokens",
    "explain_keywords",
    "in_eight_bits",
    "info",
    "load_classifier",
    "load_model",
    "load_multi_vector",
    "load_sparse",
    "run_layers",
    "shortened",
    "similarity",
    "similarity_pairwise",
    "text_list",
    "token_batches",
    "token_spans",
]
