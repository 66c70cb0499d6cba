"""Embedder: texts to vectors."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, overload

import numpy as np
from numpy.typing import NDArray

from quaver.engine import (
    CALL_KEYWORDS,
    LOADING_KEYWORDS,
    MAX_BATCH_TOKENS,
    EncodeReport,
    Engine,
    LoadedModel,
    Matrix,
    Output,
    Precision,
    ShortMatrix,
    ShortVector,
    Vector,
    Vectors,
    check_listable,
    check_loaded,
    check_reopened,
    choose_windows,
    convert,
    encode_texts,
    encode_tokens,
    explain_keywords,
    load_model,
    shortened,
    similarity,
    similarity_pairwise,
    text_list,
    token_batches,
)
from quaver.errors import InputError, check_range
from quaver.models import (
    LocatedTokens,
    TokenBatch,
    checked_prompts,
    choose_prompt,
    document_prompt,
    query_prompt,
    with_prompt,
)
from quaver.multi_vector_encoder import TokenVectors, max_sim
from quaver.sparse_encoder import (
    SparseVector,
    SparseVectors,
    sparse_similarity,
    weights_of_words,
)

__all__ = [
    "Embedder",
    "EncodeReport",
    "EncodedTexts",
    "WindowTokens",
    "encode_tokenized",
    "finish_vectors",
    "loading_settings",
    "pool_parts",
    "pool_tokenized",
    "require_parts",
    "tokenize_documents",
    "window_batches",
    "windows_of_texts",
]

BLOCK_SIZE = 4096
"""Texts in a block of `encode_iter`: tokenizing all but the first quarter overlaps encoding."""

_ENCODE = {
    **CALL_KEYWORDS,
    "prompt": "encode(texts, prompt=...) puts your own prompt before every text",
    "prompt_name": "encode(texts, prompt_name=...) takes one of the model's prompts by name",
}

_ENCODE_ITER = {
    **_ENCODE,
    "batch_size": "block_size is the number of texts in a block; max_batch_tokens bounds a batch",
    "show_progress_bar": "encode(texts, show_progress_bar=True) shows a bar; the total is unknown here",
}


Outputs = Literal["dense", "sparse", "multi"]
_OUTPUTS: tuple[Outputs, ...] = ("dense", "sparse", "multi")
# Numbers that one native call writes at most where tokens have outputs: 64 MB.
_MOST_NUMBERS = 1 << 24


@dataclass(frozen=True)
class EncodedTexts:
    """What a model with heads for words and tokens (BGE-M3) makes of texts in one pass.

    `Embedder.similarity` compares each with its like.

    Attributes:
        dense: (N, D), or (D,) for one text; None unless asked for.
        sparse: `SparseVectors` of N rows, or a `SparseVector`; None unless asked for.
        multi: `TokenVectors` of N texts, of a single one too, which are no matrix of texts; None unless
            asked for.
    """

    dense: Vectors | None = None
    sparse: SparseVector | SparseVectors | None = None
    multi: TokenVectors | None = None


class Embedder:
    """A model that turns texts into vectors.

        model = Embedder.from_pretrained("BAAI/bge-small-en-v1.5")
        documents = model.encode_document(["Paris is the capital of France.", "Rome is in Italy."])
        model.similarity(model.encode_query("What is the capital of France?"), documents)

    Calls do not change an embedder, so threads can share it. Pickling stores the model's name and the
    options, so a worker loads the model itself. `token` is not stored, and unpickling fails if the
    model's files differ.

    Attributes:
        name: hub id or folder name.
        source: the name that loads this model again in any process: the hub id, or the folder's
            absolute path.
        spec: the model as data, an encoder or a table.
        precision: "int8", "bfloat16", "bfloat16-weights" or "float32".
        prompts: words that go before a text, by name.
        default_prompt_name: the prompt that `encode` uses by default, or None.
        max_seq_length: maximum number of tokens in a text, special tokens included; longer texts are truncated.
        truncate_dim: number of leading components that every vector keeps, or None for all.
        normalize: whether vectors have length 1.
        task: which adapter the weights have, or "retrieval" for two; None for a model without adapters.
        tokenizer: the model's tokenizer.
        fingerprint: 64 hex digits that say which vectors can be compared: the model's files,
            pooling, normalization, truncate_dim and the document prompt. The same for int8 and
            float32.
    """

    @explain_keywords(LOADING_KEYWORDS)
    def __init__(
        self,
        model: LoadedModel,
        *,
        prompts: Mapping[str, str] | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        """Wrap a loaded model; `from_pretrained` is the usual way.

        Args:
            model: the model.
            prompts: prompts by name; None uses the folder's.
            truncate_dim: leading components kept; None uses the folder's, else all.

        Raises:
            InputError: an argument is invalid.
        """
        check_loaded("Embedder", model, LoadedModel)
        folder, spec = model.folder, model.spec
        given = truncate_dim
        if truncate_dim is None and folder.truncate_dim is not None:
            truncate_dim = min(folder.truncate_dim, spec.outputs)
        if truncate_dim is not None:
            check_range("truncate_dim", truncate_dim, spec.outputs)
        self.name = folder.name
        self.source = folder.source
        self.spec = spec
        self.precision = model.engine.precision
        own = None if prompts is None else checked_prompts(prompts)
        self._options = {**model.options, "prompts": own, "truncate_dim": given}
        self.prompts = dict(folder.prompts) if own is None else dict(own)
        default = folder.default_prompt_name
        self.default_prompt_name = default if default in self.prompts else None
        self.max_seq_length = model.tokenizer.max_length
        self.truncate_dim = truncate_dim
        self.normalize = spec.normalize
        self.task = folder.task
        self.tokenizer = model.tokenizer
        self._engine, self._heads = model.engine, model.heads
        self._metric = folder.similarity
        space: tuple[Any, ...] = (spec.pooling, spec.normalize, truncate_dim, self.document_prompt)
        if not folder.pools_prompt:
            space += ("without the prompt",)
        if model.tokenizer.appended is not None:
            space += ("with an end token behind each text",)
        self.fingerprint = hashlib.sha256(repr((folder.fingerprint, *space)).encode()).hexdigest()

    @classmethod
    @explain_keywords(LOADING_KEYWORDS)
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        precision: Precision = "int8",
        revision: str | None = None,
        max_seq_length: int | None = None,
        truncate_dim: int | None = None,
        pooling: str | None = None,
        normalize: bool | None = None,
        prompts: Mapping[str, str] | None = None,
        threads: int | None = None,
        isa: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        task: str | None = None,
        is_causal: bool | None = None,
    ) -> Embedder:
        """Load a model.

        Args:
            name_or_path: local folder, or hub id.
            precision: "int8" quantizes the weights while loading; "float32" is the same engine with
                the weights as they are; "bfloat16" rounds weights and activations to bfloat16, on CPUs
                that multiply it (`quaver info` says so); "bfloat16-weights" stores weights in half the
                memory of "float32" and computes in that, on every CPU. A static model has no layers:
                its table stays as it is.
            revision: branch, tag or commit on the hub.
            max_seq_length: maximum number of tokens in a text; None allows the model's maximum.
            truncate_dim: leading components to keep, 1 to all, for models trained for it; None
                follows the folder.
            pooling: "cls", "mean", "max", "lasttoken" or "mean_sqrt_len_tokens", or several joined by
                "+", for a folder that does not say how to pool; refused if it says otherwise.
            normalize: whether vectors get length 1; None follows modules.json; without it,
                they are not normalized.
            prompts: prompts by name, instead of the folder's.
            threads: threads of the engine; None uses the CPUs this process may use.
            isa: force an instruction set; None uses the best.
            local_files_only: never use the network.
            token: access token of the hub.
            task: which adapter of a model with one for each task (jina-embeddings-v3) its weights get. None
                is "retrieval": queries and documents have an adapter each, and that of queries is loaded
                with the first query, which needs the memory of a second model.
            is_causal: whether a token of a decoder sees only those before it, for a model with code of its
                own whose config.json does not say (gte-Qwen2); refused if it says otherwise. None follows
                config.json.

        Returns:
            the embedder.

        Raises:
            ModelNotFoundError: no such folder or hub model.
            ModelError: the folder is broken, not supported, or does not say how to pool; see the
                subclasses.
            InputError: an argument is invalid.
            InstructionSetError: isa is unknown or not available here, or this CPU lacks what precision needs.
        """
        model = load_model(
            name_or_path,
            precision=precision,
            revision=revision,
            max_seq_length=max_seq_length,
            pooling=pooling,
            normalize=normalize,
            threads=threads,
            isa=isa,
            local_files_only=local_files_only,
            token=token,
            task=task,
            is_causal=is_causal,
        )
        return cls(model, prompts=prompts, truncate_dim=truncate_dim)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the name and options that load the model again; see the class."""
        return _reopened, (self.source, self._options, self.fingerprint)

    def __repr__(self) -> str:
        """Return the model and what decides its vectors and its speed."""
        return (
            f"Embedder({self.name!r}, dimension={self.dimension}, precision={self.precision!r}, "
            f"isa={self.isa!r}, threads={self.threads})"
        )

    @property
    def dimension(self) -> int:
        """The dimension D of the vectors."""
        return self.truncate_dim or self.spec.outputs

    @property
    def similarity_fn_name(self) -> str:
        """What `similarity` computes: "cosine", "dot", "euclidean" or "manhattan"."""
        return self._metric

    @property
    def isa(self) -> str:
        """The instruction set that the engine uses."""
        return self._engine.isa

    @property
    def threads(self) -> int:
        """The number of threads that the engine uses."""
        return self._engine.threads

    @property
    def nbytes(self) -> int:
        """The bytes that the model holds: packed weights, tables (mapped from a file or not), and its tokenizer."""
        return self._engine.nbytes + self.tokenizer.nbytes

    @property
    def document_prompt(self) -> str:
        """The prompt of documents: the one named "document", else "passage", else ""."""
        return document_prompt(self.prompts)

    @overload
    def encode(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Literal["float32"] = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> Vector: ...

    @overload
    def encode(
        self,
        texts: Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Literal["float32"] = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> Matrix: ...

    @overload
    def encode(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Literal["int8", "binary"],
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> ShortVector: ...

    @overload
    def encode(
        self,
        texts: Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Literal["int8", "binary"],
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> ShortMatrix: ...

    @explain_keywords(_ENCODE)
    def encode(
        self,
        texts: str | Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> Vector | Matrix | ShortVector | ShortMatrix:
        """Turn texts into vectors, in the order of the texts.

        Formula:
            v = pool(encoder(prompt + text))[:truncate_dim], then v / |v| if normalize; then
            `output`. A text that already begins with the prompt
            does not get it twice.

        Args:
            texts: one text, or any sequence of texts; empty texts and lists are valid.
            prompt_name: a name in `prompts`; None uses the model's default prompt, if it has one.
            prompt: a text to put before every text, instead of a named one; "" for no prompt.
            normalize: overrides the model's own.
            truncate_dim: overrides the model's own; 1 to all.
            output: "float32", "int8" (unit vectors times 127, rounded) or "binary" (packed signs).
            max_batch_tokens: maximum number of tokens in one native call; bounds memory and does not change vectors.
            show_progress_bar: show a bar on stderr.

        Returns:
            (D,) for a str, (N, D) for N texts, also for N = 0; float32 or int8, C-contiguous. "binary"
            is uint8 with ceil(D / 8) columns.

        Raises:
            InputError: an argument or a text is invalid; the message has a text's position.
        """
        return self.encode_with_report(
            texts,
            prompt_name=prompt_name,
            prompt=prompt,
            normalize=normalize,
            truncate_dim=truncate_dim,
            output=output,
            max_batch_tokens=max_batch_tokens,
            show_progress_bar=show_progress_bar,
        ).vectors

    @overload
    def encode_query(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Literal["float32"] = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> Vector: ...

    @overload
    def encode_query(
        self,
        texts: Iterable[str],
        *,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Literal["float32"] = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> Matrix: ...

    @overload
    def encode_query(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Literal["int8", "binary"],
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> ShortVector: ...

    @overload
    def encode_query(
        self,
        texts: Iterable[str],
        *,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Literal["int8", "binary"],
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> ShortMatrix: ...

    @overload
    def encode_query(
        self,
        texts: str | Iterable[str],
        *,
        outputs: Sequence[Outputs],
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> EncodedTexts: ...

    @explain_keywords(_ENCODE)
    def encode_query(
        self,
        texts: str | Iterable[str],
        *,
        outputs: Sequence[Outputs] | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> Vector | Matrix | ShortVector | ShortMatrix | EncodedTexts:
        """Turn queries into vectors: `encode` with the prompt "query", if the model has one.

        With `outputs`, a model with heads for words and tokens (BGE-M3) gives several results in one pass.

        Args:
            texts: as for `encode`.
            outputs: any of "dense", "sparse" and "multi"; None for vectors alone.
            normalize: as for `encode`, for the vectors.
            truncate_dim: as for `encode`, for the vectors.
            output: as for `encode`, for the vectors and those of tokens.
            max_batch_tokens: as for `encode`.
            show_progress_bar: as for `encode`.

        Returns:
            as `encode` returns them; an `EncodedTexts` for `outputs`.

        Raises:
            InputError: as for `encode`; or the model has no such heads.
        """
        if outputs is not None:
            return self._encode_outputs(
                texts,
                outputs,
                query_prompt(self.prompts),
                normalize=normalize,
                truncate_dim=truncate_dim,
                output=output,
                max_batch_tokens=max_batch_tokens,
                show_progress_bar=bool(show_progress_bar),
            )
        return self.encode(
            texts,
            prompt=query_prompt(self.prompts),
            normalize=normalize,
            truncate_dim=truncate_dim,
            output=output,
            max_batch_tokens=max_batch_tokens,
            show_progress_bar=show_progress_bar,
        )

    @overload
    def encode_document(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Literal["float32"] = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> Vector: ...

    @overload
    def encode_document(
        self,
        texts: Iterable[str],
        *,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Literal["float32"] = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> Matrix: ...

    @overload
    def encode_document(  # type: ignore[overload-overlap]
        self,
        texts: str,
        *,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Literal["int8", "binary"],
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> ShortVector: ...

    @overload
    def encode_document(
        self,
        texts: Iterable[str],
        *,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Literal["int8", "binary"],
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> ShortMatrix: ...

    @overload
    def encode_document(
        self,
        texts: str | Iterable[str],
        *,
        outputs: Sequence[Outputs],
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> EncodedTexts: ...

    @explain_keywords(_ENCODE)
    def encode_document(
        self,
        texts: str | Iterable[str],
        *,
        outputs: Sequence[Outputs] | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> Vector | Matrix | ShortVector | ShortMatrix | EncodedTexts:
        """Turn documents into vectors: `encode` with `document_prompt`.

        Arguments, results and errors are those of `encode_query`.
        """
        if outputs is not None:
            return self._encode_outputs(
                texts,
                outputs,
                self.document_prompt,
                normalize=normalize,
                truncate_dim=truncate_dim,
                output=output,
                max_batch_tokens=max_batch_tokens,
                show_progress_bar=bool(show_progress_bar),
            )
        return self.encode(
            texts,
            prompt=self.document_prompt,
            normalize=normalize,
            truncate_dim=truncate_dim,
            output=output,
            max_batch_tokens=max_batch_tokens,
            show_progress_bar=show_progress_bar,
        )

    @explain_keywords(_ENCODE)
    def encode_with_report(
        self,
        texts: str | Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        show_progress_bar: bool | None = False,
    ) -> EncodeReport:
        """Encode as `encode` does, and count tokens and truncated texts."""
        report = self._encode(
            [texts] if isinstance(texts, str) else text_list(texts),
            prompt_name=prompt_name,
            prompt=prompt,
            normalize=normalize,
            truncate_dim=truncate_dim,
            output=output,
            max_batch_tokens=max_batch_tokens,
            show_progress_bar=bool(show_progress_bar),
        )
        return replace(report, vectors=report.vectors[0]) if isinstance(texts, str) else report

    @explain_keywords(_ENCODE_ITER)
    def encode_iter(
        self,
        texts: Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        block_size: int = BLOCK_SIZE,
    ) -> Generator[Vectors, None, None]:
        """Turn any number of texts into vectors, block by block, in bounded memory.

            with open("lines.txt") as lines:
                for vectors in model.encode_iter(lines, prompt=model.document_prompt):
                    ...

        Arguments are checked immediately. Texts are read in the caller's thread, one block at a time,
        when the block is requested. Nothing runs between blocks, so the iterator can be closed or
        dropped at any time.

        Args:
            texts: any iterable of texts, such as a generator or an open file; it may be endless.
            prompt_name: as for `encode`.
            prompt: as for `encode`.
            normalize: as for `encode`.
            truncate_dim: as for `encode`.
            output: as for `encode`.
            max_batch_tokens: as for `encode`.
            block_size: texts in a block; the last block may be smaller. Does not change vectors.

        Returns:
            an iterator over the blocks, in the order of the texts, each as `encode` returns it:
            float32 (B, D), int8 (B, D) or uint8 (B, ceil(D / 8)). Without texts there are no blocks.

        Raises:
            InputError: an argument or a text is invalid; the message has a text's position
                among all texts. Earlier blocks have been returned by then.
        """
        if isinstance(texts, str):
            raise InputError("texts must be an iterable of str: got one str; encode(text) takes it")
        check_listable("texts", texts, "an iterable of str")
        check_range("block_size", block_size)
        options: dict[str, Any] = {
            "prompt_name": prompt_name,
            "prompt": prompt,
            "normalize": normalize,
            "truncate_dim": truncate_dim,
            "output": output,
            "max_batch_tokens": max_batch_tokens,
        }
        self._encode([], **options)  # checks the options
        return self._blocks(iter(texts), block_size, options)

    def _blocks(
        self, texts: Iterator[str], size: int, options: Mapping[str, Any]
    ) -> Generator[Vectors, None, None]:
        start = 0
        while block := list(islice(texts, size)):
            yield self._encode(text_list(block, start=start), start=start, **options).vectors
            start += len(block)

    def _encode(
        self,
        items: Sequence[str],
        *,
        prompt_name: str | None,
        prompt: str | None,
        normalize: bool | None,
        truncate_dim: int | None,
        output: Output,
        max_batch_tokens: int,
        show_progress_bar: bool = False,
        start: int = 0,
    ) -> EncodeReport:
        """Encode a list; `start` is the index of its first text among the caller's."""
        if truncate_dim is not None:  # before the work, not only in finish_vectors
            check_range("truncate_dim", truncate_dim, self.spec.outputs)
        before = choose_prompt(
            self.prompts,
            prompt_name=prompt_name,
            prompt=prompt,
            default=self.default_prompt_name,
            model=self.name,
        )
        copies = Counter(items)
        unique = {text: row for row, text in enumerate(copies)}
        report = encode_texts(
            partial(self.tokenizer.encode, prompt=before),
            self._engine,
            [with_prompt(before, text) for text in unique],
            max_batch_tokens=max_batch_tokens,
            show_progress_bar=show_progress_bar,
            copies=list(copies.values()),
            position=lambda row: start + items.index(list(unique)[row]),
        )
        vectors = finish_vectors(
            self, report.vectors, normalize=normalize, truncate_dim=truncate_dim, output=output
        )
        if len(unique) < len(items):
            vectors = vectors[[unique[text] for text in items]]
        return replace(report, vectors=vectors)

    def _encode_outputs(
        self,
        texts: str | Iterable[str],
        outputs: Sequence[Outputs],
        prompt: str,
        *,
        normalize: bool | None,
        truncate_dim: int | None,
        output: Output,
        max_batch_tokens: int,
        show_progress_bar: bool,
    ) -> EncodedTexts:
        """Encode texts through the engine once, with its head for tokens."""
        _check_outputs(outputs)
        heads, engine = self._heads, self._engine
        if heads is None or not isinstance(engine, Engine):
            raise InputError(
                f"outputs needs a model with heads for words and tokens, such as BAAI/bge-m3: {self.name} "
                "has none (sparse_linear.pt, colbert_linear.pt); leave it out"
            )
        check_range("max_batch_tokens", max_batch_tokens, sys.maxsize)
        most = _MOST_NUMBERS // (self.spec.outputs + len(heads.linear.bias))
        items = [texts] if isinstance(texts, str) else text_list(texts)
        pooled = [np.empty((0, self.spec.outputs), np.float32)]
        weights = [np.empty(0, np.float32)]
        vectors = [
            convert(np.empty((0, heads.dimension), np.float32), normalize=True, output=output)
        ]
        ids, counts = [np.empty(0, np.int32)], [np.zeros(1, np.int64)]
        for batch, position in token_batches(
            self.tokenizer.encode,
            [with_prompt(prompt, text) for text in items],
            max_batch_tokens=min(max_batch_tokens, most),
            show_progress_bar=show_progress_bar,
        ):
            of_texts, of_tokens = engine.encode_tokens_too(batch, position=position)
            pooled.append(of_texts)
            weights.append(of_tokens[:, 0].copy())
            if "multi" in outputs:  # the first token of a text has no vector
                kept = np.delete(of_tokens[:, 1:], batch.offsets[:-1], axis=0)
                vectors.append(convert(kept, normalize=True, output=output))
            ids.append(batch.ids)
            counts.append(np.diff(batch.offsets))
        offsets = np.cumsum(np.concatenate(counts))
        sparse = multi = None
        dense = finish_vectors(
            self,
            np.concatenate(pooled),
            normalize=normalize,
            truncate_dim=truncate_dim,
            output=output,
        )
        if "sparse" in outputs:
            unused = [self.tokenizer.token_id(token) for token in heads.unused]
            sparse = weights_of_words(
                np.concatenate(ids),
                offsets,
                np.concatenate(weights),
                engine.spec.vocab_size,
                np.array([id for id in unused if id is not None], np.int32),
            )
        if "multi" in outputs:
            multi = TokenVectors(np.concatenate(vectors), offsets - np.arange(len(offsets)))
        encoded = EncodedTexts(dense if "dense" in outputs else None, sparse, multi)
        if not isinstance(texts, str):
            return encoded
        one = None if encoded.dense is None else encoded.dense[0]
        return EncodedTexts(one, None if sparse is None else sparse[0], multi)

    def _encode_tokens(self, tokens: TokenBatch) -> NDArray[np.float32]:
        return cast("Matrix", finish_vectors(self, pool_tokenized(self, tokens)))

    @explain_keywords(_ENCODE)
    def encode_spans(
        self,
        text: str,
        spans: Sequence[tuple[int, int]],
        *,
        prompt: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        output: Output = "float32",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
    ) -> Matrix | ShortMatrix:
        """Turn parts of a document into vectors that know the text around them (late chunking).

            text = "Berlin is the capital of Germany. It has 3.8 million inhabitants."
            vectors = model.encode_spans(text, [(0, 33), (34, len(text))])  # "It" is Berlin

        The document goes through the model once, and the tokens of each span are pooled as the model
        pools a text; special tokens and the prompt are left out. A document longer than
        `max_seq_length` is read in windows that overlap by half; a span's vector does not depend on
        the other spans. Models that pool one token, of class "cls" or "lasttoken", have no such vectors.

        Args:
            text: the document.
            spans: S pairs of a span's first character and the one after its last, in any order; they
                may overlap. A token that is partly in a span counts. A span of more tokens than a
                window loses its end.
            prompt: words before the document; None takes `document_prompt`, "" none.
            normalize: as for `encode`.
            truncate_dim: as for `encode`.
            output: as for `encode`.
            max_batch_tokens: as for `encode`.

        Returns:
            (S, D), of the dtype that `output` names, C-contiguous.

        Raises:
            InputError: the model pools one token, an argument or the text is invalid, or a span is
                outside the text or has no token; the message has its position.

        Source:
            Günther et al., Late Chunking (arXiv 2409.04701).
        """
        check_range("max_batch_tokens", max_batch_tokens, sys.maxsize)
        if truncate_dim is not None:
            check_range("truncate_dim", truncate_dim, self.spec.outputs)
        before = self.document_prompt if prompt is None else prompt
        read, _ = _windows_of_spans(self, text, spans, before)
        pooled = np.empty((len(spans), self.spec.outputs), np.float32)
        for batch, parts, places in window_batches(read, max_batch_tokens):
            pooled[places] = pool_parts(self, batch, parts)
        return finish_vectors(
            self, pooled, normalize=normalize, truncate_dim=truncate_dim, output=output
        )

    def encode_ids(self, ids: NDArray[np.int32], offsets: NDArray[np.int32]) -> NDArray[np.float32]:
        """Turn token ids into vectors, for callers with their own tokenizer.

        Args:
            ids: int32 (T,), the tokens of all texts, special tokens included, each in [0, V).
            offsets: int32 (N + 1,), the first token of each text, and T.

        Returns:
            float32 (N, D), C-contiguous.

        Raises:
            InputError: an array is not int32, or offsets do not increase from 0 to T.
            TokenRangeError: an id is outside the vocabulary, or a text is longer than the model allows.
        """
        return self._encode_tokens(TokenBatch(ids, offsets, None, 0))

    def similarity(
        self,
        a: Vectors | SparseVector | SparseVectors | TokenVectors,
        b: Vectors | SparseVector | SparseVectors | TokenVectors,
    ) -> NDArray[np.float32]:
        """Compare every vector of a with every vector of b.

        By cosine, or as the model folder says; see `similarity_fn_name`. Distances are negative,
        so larger means more similar. Weights of words are compared by their dot product, vectors of
        tokens by MaxSim, divided by the vectors of a.

        Args:
            a: float32 or int8, (D,) or (N, D); or sparse vectors or vectors of tokens of N texts.
            b: float32 or int8, (D,) or (M, D); or the same kind as a of M texts.

        Returns:
            float32 (N, M); a single vector drops its axis: (D,) with (M, D) returns (M,).

        Raises:
            InputError: the vectors have the wrong shape, different dimensions or kinds, or are binary.
        """
        if isinstance(a, (SparseVector, SparseVectors)) or isinstance(
            b, (SparseVector, SparseVectors)
        ):
            return sparse_similarity(
                cast("SparseVectors", a), cast("SparseVectors", b), metric="dot"
            )
        if isinstance(a, TokenVectors) or isinstance(b, TokenVectors):
            dimension = self.dimension if self._heads is None else self._heads.dimension
            return max_sim(a, b, dimension, mean=True)
        return similarity(a, b, metric=self._metric)

    def similarity_pairwise(self, a: Vectors, b: Vectors) -> NDArray[np.float32]:
        """Compare each vector of a with the vector of b in the same row, as `similarity` does.

        Args:
            a: float32 or int8, (D,) or (N, D).
            b: float32 or int8, of the same shape.

        Returns:
            float32 (N,); () for two single vectors.

        Raises:
            InputError: the shapes differ, or the vectors are binary.
        """
        return similarity_pairwise(a, b, metric=self._metric)


def _check_outputs(outputs: Sequence[Outputs]) -> None:
    known = isinstance(outputs, (list, tuple)) and all(each in _OUTPUTS for each in outputs)
    if not known or not outputs or len(set(outputs)) < len(outputs):
        raise InputError(
            f"outputs must be some of {', '.join(map(repr, _OUTPUTS))}, each once: got {outputs!r}"
        )


def tokenize_documents(embedder: Embedder, texts: Sequence[str]) -> TokenBatch:
    """Tokenize texts as `Embedder.encode_document` does, for `encode_tokenized`.

    So one thread can tokenize the next texts while another encodes.

    Args:
        embedder: the model.
        texts: N texts; a repeated text is repeated in the batch.

    Returns:
        their tokens, with the document prompt before each text.

    Raises:
        InputError: a text is invalid; the message has its position.
    """
    prompt = embedder.document_prompt
    return embedder.tokenizer.encode([with_prompt(prompt, text) for text in texts], prompt=prompt)


def encode_tokenized(embedder: Embedder, tokens: TokenBatch) -> NDArray[np.float32]:
    """Turn tokens into vectors, as `Embedder.encode_document` does.

    Args:
        embedder: the model.
        tokens: N texts, from `tokenize_documents`.

    Returns:
        float32 (N, D), C-contiguous.
    """
    return embedder._encode_tokens(tokens)


def pool_tokenized(embedder: Embedder, tokens: TokenBatch) -> NDArray[np.float32]:
    """Turn tokens into pooled vectors, for `finish_vectors`.

    So one pass through the model serves callers who need other dimensions or formats of the same text.

    Args:
        embedder: the model.
        tokens: N texts.

    Returns:
        float32 (N, O), O of `embedder.spec.outputs`: neither shortened nor normalized.

    Raises:
        TokenRangeError: an id is outside the vocabulary, or a text is longer than the model allows.
        EngineError: a vector came out with NaN or infinity.
    """
    return encode_tokens(embedder._engine, tokens)


def pool_parts(
    embedder: Embedder, tokens: TokenBatch, parts: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Turn parts of texts into pooled vectors, for `finish_vectors`.

    Args:
        embedder: the model.
        tokens: N texts.
        parts: int32 (S, 2), the first token of each part and the one after its last, counted as
            `tokens.ids` is; text by text, none across two.

    Returns:
        float32 (S, O), O of `embedder.spec.outputs`: neither shortened nor normalized.

    Raises:
        TokenRangeError: an id is outside the vocabulary, or a text is longer than the model allows.
        EngineError: a vector came out with NaN or infinity.
    """
    return embedder._engine.encode(tokens, spans=parts)


class WindowTokens(NamedTuple):
    """Tokens that the model reads together, and the parts of a document that get their vectors here.

    Attributes:
        ids: int32 (n,), with the prompt and special tokens.
        places: which parts of the document these are.
        parts: int32 (s, 2), the first token of each part and the one after its last, in `ids`.
    """

    ids: NDArray[np.int32]
    places: list[int]
    parts: NDArray[np.int32]


def windows_of_texts(
    embedder: Embedder, texts: Sequence[str], before: str, *, skip_empty: bool = False
) -> tuple[list[WindowTokens], int]:
    """Make one document of texts that follow each other, each of them a part, as `Embedder.encode_spans` does.

    Args:
        embedder: the model.
        texts: S texts; each keeps the tokens that it has alone.
        before: words before the document.
        skip_empty: leave out texts without a token, so that no window has their places; False
            refuses them.

    Returns:
        what the model reads, and how many texts lost their end.

    Raises:
        InputError: as for `Embedder.encode_spans`.
    """
    require_parts(embedder)
    rows, parts, places, tokens = [], [], [], 0
    prompt, first = _located(embedder, texts[0], before) if texts else ([], None)
    for i, text in enumerate(texts):
        located = first if i == 0 and first is not None else embedder.tokenizer.locate(text)
        if len(located.ids):
            rows.append(located.ids)
            parts.append((tokens, tokens + len(located.ids)))
            places.append(i)
            tokens += len(located.ids)
        elif not skip_empty:
            raise InputError(f"a part of a document must have a token: text {i} has none")
    if not rows:
        return [], 0
    windows, cut = _windows(embedder, np.concatenate(rows), np.array(parts, np.int32), prompt)
    return [
        window._replace(places=[places[place] for place in window.places]) for window in windows
    ], cut


def window_batches(
    windows: Sequence[WindowTokens], max_tokens: int, max_parts: int = sys.maxsize
) -> Iterator[tuple[TokenBatch, NDArray[np.int32], list[int]]]:
    """Put windows together, for `pool_parts`.

    Args:
        windows: what the model reads.
        max_tokens: maximum number of tokens in a batch; a longer window is one of its own.
        max_parts: a batch ends with the window that reaches this number of parts.

    Yields:
        the tokens of some windows; int32 (s, 2), their parts, counted in these tokens; and the places of
        these parts.
    """
    start = 0
    while start < len(windows):
        stop, tokens = start + 1, len(windows[start].ids)
        held = len(windows[start].places)
        while (
            stop < len(windows)
            and held < max_parts
            and tokens + len(windows[stop].ids) <= max_tokens
        ):
            tokens += len(windows[stop].ids)
            held += len(windows[stop].places)
            stop += 1
        some = windows[start:stop]
        offsets = np.cumsum([0, *(len(each.ids) for each in some)], dtype=np.int32)
        parts = [each.parts + begin for each, begin in zip(some, offsets[:-1], strict=True)]
        yield (
            TokenBatch(np.concatenate([each.ids for each in some]), offsets, None, 0),
            np.concatenate(parts),
            [place for each in some for place in each.places],
        )
        start = stop


def _windows_of_spans(
    embedder: Embedder, text: str, spans: Sequence[tuple[int, int]], before: str
) -> tuple[list[WindowTokens], int]:
    """Find the tokens of each span of characters, and the windows that they are read in."""
    require_parts(embedder)
    if not isinstance(text, str):
        raise InputError(f"text must be one str: got {type(text).__name__}")
    prompt, located = _located(embedder, text, before)
    parts = np.empty((len(spans), 2), np.int32)
    for i, span in enumerate(spans):
        if len(span) != 2 or not 0 <= span[0] < span[1] <= len(text):
            raise InputError(
                f"a span must be its first character and the one after its last, within 0 to {len(text)}: "
                f"got spans[{i}]={tuple(span)}"
            )
        first = np.searchsorted(located.stops, span[0], side="right")
        last = np.searchsorted(located.starts, span[1], side="left")
        if first >= last:
            raise InputError(
                f"a span must have a token: spans[{i}]={tuple(span)} has none; leave it out"
            )
        parts[i] = first, last
    return _windows(embedder, located.ids, parts, prompt)


def require_parts(embedder: Embedder) -> None:
    """Refuse a model that pools one token of a text, so that parts of a document have no vectors.

    Args:
        embedder: the model.

    Raises:
        InputError: its pooling is or contains "cls" or "lasttoken".
    """
    single = {"cls", "lasttoken"} & set(embedder.spec.pooling.split("+"))
    if single:
        raise InputError(
            f"parts of a document are pooled from all their tokens: {embedder.name} was trained to "
            f"pool one ({single.pop()}); encode the parts alone, or take a model with mean pooling"
        )


def _located(embedder: Embedder, text: str, before: str) -> tuple[list[int], LocatedTokens]:
    """Return the tokens of the words before a text, and those of the text."""
    whole = with_prompt(before, text)
    ahead = len(whole) - len(text)
    ids, starts, stops = embedder.tokenizer.locate(whole)
    count = int(np.searchsorted(stops, ahead, side="right")) if ahead else 0
    return ids[:count].tolist(), LocatedTokens(
        ids[count:], np.maximum(starts[count:] - ahead, 0), stops[count:] - ahead
    )


def _windows(
    embedder: Embedder, ids: NDArray[np.int32], parts: NDArray[np.int32], prompt: Sequence[int]
) -> tuple[list[WindowTokens], int]:
    """Put the prompt and the special tokens around each window."""
    first, last = embedder.tokenizer.special_ids()
    ahead = np.array([*first, *prompt], np.int32)
    behind = np.array(last, np.int32)
    room = embedder.max_seq_length - len(ahead) - len(behind)
    if room < 1:
        raise InputError(
            f"the prompt must leave room for the document: it has {len(prompt)} tokens of "
            f"{embedder.max_seq_length}; shorten it"
        )
    chosen, truncated = choose_windows(len(ids), parts, room)
    return [
        WindowTokens(
            np.concatenate([ahead, ids[window.first : window.last], behind]),
            window.places,
            window.parts + np.int32(len(ahead)),
        )
        for window in chosen
    ], truncated


def finish_vectors(
    embedder: Embedder,
    pooled: NDArray[np.float32],
    *,
    normalize: bool | None = None,
    truncate_dim: int | None = None,
    output: Output = "float32",
) -> Matrix | ShortMatrix:
    """Shorten, normalize and convert pooled vectors, as `Embedder.encode` does.

    Args:
        embedder: the model.
        pooled: float32 (N, O), from `pool_tokenized`.
        normalize: as for `Embedder.encode`.
        truncate_dim: as for `Embedder.encode`.
        output: as for `Embedder.encode`.

    Returns:
        (N, D), of the dtype that `output` names.

    Raises:
        InputError: truncate_dim or output is outside its rule.
    """
    if truncate_dim is not None:
        check_range("truncate_dim", truncate_dim, embedder.spec.outputs)
    return convert(
        shortened(pooled, truncate_dim or embedder.truncate_dim, embedder.spec.family),
        normalize=embedder.normalize if normalize is None else normalize,
        output=output,
    )


def loading_settings(embedder: Embedder) -> dict[str, Any]:
    """Return the arguments of `from_pretrained`, besides the name, that decide a model's vectors."""
    is_causal = embedder._options.get("is_causal")
    return {
        "pooling": embedder.spec.pooling,
        "normalize": embedder.normalize,
        "max_seq_length": embedder.max_seq_length,
        "truncate_dim": embedder.truncate_dim,
        **({} if embedder.task is None else {"task": embedder.task}),
        **({} if is_causal is None else {"is_causal": is_causal}),
    }


def _reopened(source: str, options: Mapping[str, Any], fingerprint: str) -> Embedder:
    """Load the model of a pickled embedder."""
    embedder = Embedder.from_pretrained(source, **options)
    check_reopened("embedder", "Embedder", source, embedder.fingerprint, fingerprint)
    return embedder
