"""llama.cpp through its Python package: BERT as GGUF, in float32 and with weights in Q8_0."""

from __future__ import annotations

import ctypes
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quaver.errors import QuaverError
from quaver_bench.engines import CannotRunError, Form, Run, Setup, Vectors
from quaver_bench.engines.padded import PaddedEngine
from quaver_bench.inputs import Ids
from quaver_bench.whole_files import written_whole

TOKENS = 512
"""Tokens of one computation, llama.cpp's default. It compares every token with all others, masked or not, so
more tokens at a time cost more per token."""
_TEXTS = 64
_INSTALL = "make .envs/llamacpp/made"


def converted(setup: Setup, kind: str, *, vocabulary: bool = False) -> Path:
    """Return the model as a GGUF file, and write it if needed.

    Args:
        setup: see `Setup`.
        kind: "float32", or "int8": weights of linear layers and embeddings in Q8_0, int8 with a
            scale per 32 values, as quantized by llama.cpp's own tool.
        vocabulary: with WordPiece's vocabulary, for a server, which gets text. Otherwise without one:
            like the other engines, llama.cpp gets ids from the model's tokenizer.

    Raises:
        CannotRunError: the model is not a BERT that llama.cpp can compute.
    """
    version = metadata.version("gguf")
    form = f"{kind}-vocabulary" if vocabulary else kind
    path = setup.model.built(f"gguf-{version}-{form}", ".gguf")
    if not path.is_file():
        with written_whole(path) as part:
            _write(setup, kind, part, vocabulary=vocabulary)
    return path


def _write(setup: Setup, kind: str, path: Path, *, vocabulary: bool = False) -> None:
    config = setup.model.folder.config
    found = [config.get("model_type"), config.get("hidden_act", "gelu")]
    found.append(config.get("position_embedding_type", "absolute"))
    if found != ["bert", "gelu", "absolute"]:
        raise CannotRunError(
            f"it needs BERT with GELU and absolute positions: got {', '.join(map(str, found))}"
        )
    import gguf
    from gguf.quants import quantize

    try:
        tensors = setup.model.folder.tensors()
    except QuaverError as error:
        raise CannotRunError(str(error)) from error
    layers = int(config["num_hidden_layers"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, layers)
    pooling = {"cls": gguf.PoolingType.CLS, "mean": gguf.PoolingType.MEAN}
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name(setup.model.name)
    writer.add_vocab_size(int(config["vocab_size"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(layers)
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(int(config["num_attention_heads"]))
    writer.add_layer_norm_eps(float(config["layer_norm_eps"]))
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling[setup.model.pooling])
    if vocabulary:
        _write_vocabulary(writer, setup.model.folder.transformer)
    else:
        writer.add_tokenizer_model("none")
    writer.add_token_type_count(int(config["type_vocab_size"]))
    for name, tensor in tensors.items():
        title = names.get_name(name.removeprefix("bert."), try_suffixes=(".weight", ".bias"))
        if title is None or title.startswith("cls"):
            continue  # pooling and prediction layers, which the vectors do not need
        values = tensor.astype(np.float32)
        # Position and type embeddings stay in float32, as in llama.cpp's own tool.
        small = values.ndim < 2 or title.startswith(("position", "token_types"))
        if kind == "int8" and not small:
            quantum = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(title, quantize(values, quantum), raw_dtype=quantum)
        else:
            writer.add_tensor(title, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_vocabulary(writer: Any, transformer: Path) -> None:
    """Write WordPiece's vocabulary in llama.cpp's form: a mark before the first piece of a word."""
    import gguf

    tokenizer = json.loads((transformer / "tokenizer.json").read_text(encoding="utf-8"))
    if tokenizer["model"]["type"] != "WordPiece":
        raise CannotRunError(f"it needs WordPiece: got {tokenizer['model']['type']}")
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    special = {added["content"] for added in tokenizer["added_tokens"] if added["special"]}
    pieces = sorted(vocabulary, key=lambda piece: vocabulary[piece])
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(
        [p if p in special else p[2:] if p.startswith("##") else f"\u2581{p}" for p in pieces]
    )
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if p in special else kinds.NORMAL for p in pieces])
    for piece, add in (
        ("[CLS]", writer.add_bos_token_id),
        ("[SEP]", writer.add_sep_token_id),
        ("[SEP]", writer.add_eos_token_id),
        ("[UNK]", writer.add_unk_token_id),
        ("[PAD]", writer.add_pad_token_id),
        ("[MASK]", writer.add_mask_token_id),
    ):
        add(vocabulary[piece])


def pack(lengths: Sequence[int], *, tokens: int = TOKENS, texts: int = _TEXTS) -> list[range]:
    """Split texts, in their order, into computations with as many texts as fit.

    Args:
        lengths: number of tokens of each text.
        tokens: maximum number of tokens of a computation; a longer text is alone in one.
        texts: maximum number of texts of a computation.

    Returns:
        the indices of the texts of each computation.
    """
    parts: list[range] = []
    first = used = 0
    for index, length in enumerate(lengths):
        if index > first and (used + length > tokens or index - first == texts):
            parts.append(range(first, index))
            first, used = index, 0
        used += length
    return [*parts, range(first, len(lengths))] if lengths else parts


@dataclass(frozen=True)
class Batch:
    """The input of one computation: texts one after another, each its own sequence.

    Attributes:
        tokens: int32 (T,), ids.
        positions: int32 (T,), from 0 in every text.
        counts: int32 (T,), number of sequences of each token: 1.
        sequences: int32 (T,), sequence of each token.
        places: uintp (T,), address of each element of `sequences`, as llama.cpp expects it.
        outputs: int8 (T,), 1 for tokens that the vectors use: all.
        texts: number of texts.
    """

    tokens: NDArray[np.int32]
    positions: NDArray[np.int32]
    counts: NDArray[np.int32]
    sequences: NDArray[np.int32]
    places: NDArray[np.uintp]
    outputs: NDArray[np.int8]
    texts: int

    @classmethod
    def of(cls, ids: Sequence[Ids]) -> Batch:
        """Lay out texts.

        Args:
            ids: ids of each text.
        """
        lengths = [len(text) for text in ids]
        sequences = np.repeat(np.arange(len(ids), dtype=np.int32), lengths)
        places = sequences.ctypes.data + sequences.itemsize * np.arange(len(sequences))
        return cls(
            np.concatenate(ids).astype(np.int32),
            np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
            np.ones(len(sequences), np.int32),
            sequences,
            places.astype(np.uintp),
            np.ones(len(sequences), np.int8),
            len(ids),
        )


class LlamaEngine(PaddedEngine):
    """A context of llama.cpp, which computes ragged batches for one caller at a time."""

    def __init__(self, setup: Setup, kind: str) -> None:
        """Load.

        Args:
            setup: see `Setup`.
            kind: "float32" or "int8".

        Raises:
            CannotRunError: llama.cpp does not load the file.
        """
        import llama_cpp

        super().__init__(setup)
        self._library: Any = llama_cpp
        self._lock = threading.Lock()
        llama_cpp.llama_log_set(_silence(), None)
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(
            bytes(converted(setup, kind)), llama_cpp.llama_model_default_params()
        )
        wanted = llama_cpp.llama_context_default_params()
        wanted.n_ctx = wanted.n_batch = wanted.n_ubatch = max(TOKENS, setup.max_length)
        wanted.n_seq_max, wanted.kv_unified = _TEXTS, True
        wanted.n_threads = wanted.n_threads_batch = setup.threads
        wanted.embeddings = True
        self._context: Any = model and llama_cpp.llama_init_from_model(model, wanted)
        if not self._context:
            raise CannotRunError("llama.cpp does not load the converted file")
        self._hidden = llama_cpp.llama_model_n_embd(model)
        self.settings = {
            "threads": setup.threads,
            "batch_tokens": wanted.n_ubatch,
            "system": llama_cpp.llama_print_system_info().decode(),
        }

    def lay_out(self, ids: Sequence[Ids], size: int) -> Run:
        """Lay out the texts without padding, as many in a computation as fit; see `PaddedEngine`."""
        parts = pack([len(text) for text in ids])
        batches = [Batch.of([ids[index] for index in part]) for part in parts]
        return lambda: np.concatenate([self._encode(batch) for batch in batches])

    def _encode(self, batch: Batch) -> Vectors:
        llama = self._library
        int32 = ctypes.POINTER(ctypes.c_int32)
        layout = llama.llama_batch(
            n_tokens=len(batch.tokens),
            token=batch.tokens.ctypes.data_as(int32),
            pos=batch.positions.ctypes.data_as(int32),
            n_seq_id=batch.counts.ctypes.data_as(int32),
            seq_id=batch.places.ctypes.data_as(ctypes.POINTER(int32)),
            logits=batch.outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )
        vectors = np.empty((batch.texts, self._hidden), np.float32)
        with self._lock:
            if code := llama.llama_encode(self._context, layout):
                raise CannotRunError(f"llama_encode returned {code}")
            for text in range(batch.texts):
                found = llama.llama_get_embeddings_seq(self._context, text)
                vectors[text] = np.ctypeslib.as_array(found, (self._hidden,))
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


@lru_cache(maxsize=1)
def _silence() -> Any:
    """Return a callback that drops llama.cpp's many messages; cached to keep it alive."""
    import llama_cpp

    return llama_cpp.llama_log_callback(lambda level, text, data: None)


FORMS = tuple(
    Form(
        f"llamacpp-{kind}",
        partial(LlamaEngine, kind=kind),
        ("llama_cpp", "gguf"),
        ("llama_cpp",),
        _INSTALL,
        "llamacpp",
        pads=False,
        artifact=partial(converted, kind=kind),
    )
    for kind in ("float32", "int8")
)
