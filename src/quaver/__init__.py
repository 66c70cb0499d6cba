"""int8 embedding and reranking on plain CPUs, from a model name to a searchable index."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from quaver.errors import (
    BulkError,
    BulkWriteError,
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
    __version__: str
    from quaver.answers import Answer, ChatModel, ask
    from quaver.documents import Passage, read_passages
    from quaver.embedder import Embedder, EncodedTexts, EncodeReport
    from quaver.engine import info
    from quaver.evaluate import EvaluationReport, compare_models
    from quaver.index import Index, UpdateReport, export_passages, import_passages, watch
    from quaver.models import ModelFolder, Tokenizer
    from quaver.multi_vector_encoder import MultiVectorEncoder, TokenVectors
    from quaver.quantization import (
        CalibrationTexts,
        QuantizationReport,
        calibration_texts,
        quantize,
    )
    from quaver.reranker import BiEncoderRanker, CrossEncoder, Ranked, Ranker
    from quaver.sparse_encoder import SparseEncoder, SparseVector, SparseVectors
    from quaver.store import And, Compare, Hit, Not, Or

# Loaded when first named: `import quaver` reads no model code, no tokenizer and no store.
_HOMES = {
    "And": "quaver.store",
    "Answer": "quaver.answers",
    "BiEncoderRanker": "quaver.reranker",
    "CalibrationTexts": "quaver.quantization",
    "ChatModel": "quaver.answers",
    "Compare": "quaver.store",
    "CrossEncoder": "quaver.reranker",
    "Embedder": "quaver.embedder",
    "EncodeReport": "quaver.embedder",
    "EncodedTexts": "quaver.embedder",
    "EvaluationReport": "quaver.evaluate",
    "Hit": "quaver.store",
    "Index": "quaver.index",
    "ModelFolder": "quaver.models",
    "MultiVectorEncoder": "quaver.multi_vector_encoder",
    "Not": "quaver.store",
    "Or": "quaver.store",
    "Passage": "quaver.documents",
    "QuantizationReport": "quaver.quantization",
    "Ranked": "quaver.reranker",
    "Ranker": "quaver.reranker",
    "SparseEncoder": "quaver.sparse_encoder",
    "SparseVector": "quaver.sparse_encoder",
    "SparseVectors": "quaver.sparse_encoder",
    "TokenVectors": "quaver.multi_vector_encoder",
    "Tokenizer": "quaver.models",
    "UpdateReport": "quaver.index",
    "ask": "quaver.answers",
    "calibration_texts": "quaver.quantization",
    "compare_models": "quaver.evaluate",
    "export_passages": "quaver.index",
    "import_passages": "quaver.index",
    "info": "quaver.engine",
    "quantize": "quaver.quantization",
    "read_passages": "quaver.documents",
    "watch": "quaver.index",
}

__all__ = [
    "And",
    "Answer",
    "BiEncoderRanker",
    "BulkError",
    "BulkWriteError",
    "CalibrationError",
    "CalibrationTexts",
    "ChatModel",
    "Compare",
    "CrossEncoder",
    "DocumentError",
    "Embedder",
    "EncodeReport",
    "EncodedTexts",
    "EngineError",
    "EvaluationReport",
    "Hit",
    "Index",
    "InputError",
    "InstructionSetError",
    "LanguageModelError",
    "ModelError",
    "ModelFolder",
    "ModelFolderError",
    "ModelNotFoundError",
    "MultiVectorEncoder",
    "Not",
    "Or",
    "Passage",
    "PoolingError",
    "QuantizationError",
    "QuantizationReport",
    "QuaverError",
    "Ranked",
    "Ranker",
    "SparseEncoder",
    "SparseVector",
    "SparseVectors",
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
    "TokenVectors",
    "Tokenizer",
    "TokenizerError",
    "UnsupportedArchitectureError",
    "UpdateReport",
    "WeightsError",
    "ask",
    "calibration_texts",
    "compare_models",
    "export_passages",
    "import_passages",
    "info",
    "quantize",
    "read_passages",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "__version__":
        from importlib import metadata  # takes longer than all of the above

        return metadata.version("quaver")
    raise AttributeError(f"module 'quaver' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
