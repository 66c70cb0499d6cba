"""int8 embedding and reranking on plain CPUs, from a model name to a searchable index."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from quaver.errors import (
    CalibrationError,
    DocumentError,
    EngineError,
    InputError,
    InstructionSetError,
    LanguageModelError,
    ModelError,
    ModelFolderError,
    ModelNotFoundError,
    PoolingError,
    QuantizationError,
    QuaverError,
    StoreClosedError,
    StoreError,
    StoreExistsError,
    StoreLockedError,
    StoreMismatchError,
    StoreNotFoundError,
    StoreUnavailableError,
    StoreWriteError,
    TaskError,
    TokenizerError,
    TokenRangeError,
    UnsupportedArchitectureError,
    WeightsError,
)

if TYPE_CHECKING:
    from quaver.answers import Answer, ChatModel, ask
    from quaver.documents import Passage
    from quaver.embedder import Embedder
    from quaver.engine import info
    from quaver.index import Index
    from quaver.quantization import QuantizationReport, quantize
    from quaver.reranker import BiEncoderRanker, CrossEncoder, Ranked
    from quaver.store import Hit

__version__ = metadata.version("quaver")

# Loaded when first named: `import quaver` reads no model code, no tokenizer and no store.
_HOMES = {
    "Answer": "quaver.answers",
    "BiEncoderRanker": "quaver.reranker",
    "ChatModel": "quaver.answers",
    "CrossEncoder": "quaver.reranker",
    "Embedder": "quaver.embedder",
    "Hit": "quaver.store",
    "Index": "quaver.index",
    "Passage": "quaver.documents",
    "Ranked": "quaver.reranker",
    "QuantizationReport": "quaver.quantization",
    "ask": "quaver.answers",
    "info": "quaver.engine",
    "quantize": "quaver.quantization",
}

__all__ = [
    "Answer",
    "BiEncoderRanker",
    "CalibrationError",
    "ChatModel",
    "CrossEncoder",
    "DocumentError",
    "Embedder",
    "EngineError",
    "Hit",
    "Index",
    "InputError",
    "InstructionSetError",
    "LanguageModelError",
    "ModelError",
    "ModelFolderError",
    "ModelNotFoundError",
    "Passage",
    "PoolingError",
    "QuantizationError",
    "QuantizationReport",
    "QuaverError",
    "Ranked",
    "StoreClosedError",
    "StoreError",
    "StoreExistsError",
    "StoreLockedError",
    "StoreMismatchError",
    "StoreNotFoundError",
    "StoreUnavailableError",
    "StoreWriteError",
    "TaskError",
    "TokenRangeError",
    "TokenizerError",
    "UnsupportedArchitectureError",
    "WeightsError",
    "ask",
    "info",
    "quantize",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'quaver' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
