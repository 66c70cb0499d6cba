"""Two kinds of engines: those that take padded batches of ids, and those that take texts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from quaver_bench.engines import CannotRunError, Run, Setup
from quaver_bench.inputs import PADDED_BATCH, Ids, PaddedBatch, Request, Text, pad
from quaver_bench.kinds import Output
from quaver_bench.quality import DOCUMENT, prompted


class PaddedEngine:
    """An engine that computes padded batches; subclasses implement `compute`."""

    settings: dict[str, Any]

    def __init__(self, setup: Setup) -> None:
        """Read the tokenizer, with the same truncation as in every engine.

        Args:
            setup: see `Setup`.
        """
        from tokenizers import Tokenizer

        self._kind, self._inputs = setup.model.kind, setup.model.inputs
        self._tokenizer = Tokenizer.from_file(str(setup.model.tokenizer_file()))
        self._tokenizer.no_padding()
        self._prompt, self._prefix, self._skipped = _document_tokens(setup, self._tokenizer)
        self._tokenizer.enable_truncation(setup.max_length - len(self._prefix))

    def inputs(self, batch: PaddedBatch) -> Any:
        """Convert a batch for `compute`; timed only if the text is."""
        return batch

    def compute(self, inputs: Any) -> Any:
        """Return what the model computes of converted inputs: an array with B rows."""
        raise NotImplementedError

    def tokenize(self, texts: Sequence[Text]) -> tuple[Ids, ...]:
        """Return the truncated ids of texts or pairs, special tokens included."""
        given = list(texts)
        if self._prompt:  # of documents, which are no pairs
            documents = cast("list[str]", given)
            given = list(prompted(documents, {"document": self._prompt}, DOCUMENT))
        found = (np.array(e.ids, np.int64) for e in self._tokenizer.encode_batch(given))
        if not self._prefix:
            return tuple(found)
        return tuple(np.insert(ids, 1, self._prefix) for ids in found)

    def prepare(self, request: Request) -> Run:
        """Lay out the ids, unless calls start from text; see `engines.Engine`."""
        if self._kind.from_text:
            return partial(self._from_text, require_texts(request), request.batch)
        return self.lay_out(request.ids, request.batch)

    def encode(self, texts: Sequence[Text]) -> Output:
        """Tokenize all texts, sort, pad, compute; see `engines.Engine`."""
        return self._from_text(texts, PADDED_BATCH)

    def _from_text(self, texts: Sequence[Text], size: int) -> Output:
        return self.lay_out(self.tokenize(texts), size)()

    def lay_out(self, ids: Sequence[Ids], size: int) -> Run:
        """Make padded arrays.

        Args:
            ids: ids of each text.
            size: number of texts in a batch.

        Returns:
            the call.
        """
        made = [(batch, self.inputs(batch)) for batch in pad(ids, size)]

        def run() -> Output:
            computed = [(batch, self.compute(inputs)) for batch, inputs in made]
            return self._kind.joined(len(ids), computed, self._skipped)

        return run


def require_texts(request: Request) -> tuple[Text, ...]:
    """Return the texts of a request.

    Raises:
        CannotRunError: it has only ids.
    """
    if request.texts is None:
        raise CannotRunError("it needs text, and this run measures random ids")
    return request.texts


def _document_tokens(setup: Setup, tokenizer: Any) -> tuple[str, list[int], Ids]:
    """Return what the documents of a sparse or multi-vector model get.

    Returns:
        the prompt before a text; the token before it, if any; and tokens without a vector. A prefix that
        the tokenizer has no token for goes before the prompt.
    """
    folder = setup.model.folder
    none = np.zeros(0, np.int64)
    if folder.sparse is None and folder.multi_vector is None:
        return "", [], none
    prompt = next((folder.prompts[name] for name in DOCUMENT if name in folder.prompts), "")
    modules = folder.multi_vector
    if modules is None:
        return prompt, [], none
    words = modules.skipped if "document" in modules.skips else ()
    skipped = [id for word in words if (id := tokenizer.token_to_id(word)) is not None]
    text = modules.prefix("document")
    tokens = [tokenizer.token_to_id(name) for name in (text, *text.split()[:1])]
    known = [token for token in tokens if token is not None][:1]
    return prompt if known else text + prompt, known, np.array(skipped, np.int64)


_TOKENIZER = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def copy_tokenizer(setup: Setup, folder: Path) -> None:
    """Write config.json and the tokenizer's files, for a library that reads a model's files by itself.

    Args:
        setup: see `Setup`.
        folder: a new folder; it is made, with its parents.

    Raises:
        CannotRunError: the model folder lacks one of them.
    """
    transformer = setup.model.folder.transformer
    if lacking := [file for file in _TOKENIZER if not (transformer / file).is_file()]:
        raise CannotRunError(f"it needs {', '.join(lacking)} in the model folder")
    folder.mkdir(parents=True)
    for file in _TOKENIZER:
        shutil.copy(transformer / file, folder / file)
    shutil.copy(setup.model.tokenizer_file(), folder / "tokenizer.json")


class TextEngine:
    """An engine that tokenizes, sorts and pads by itself; subclasses implement `embed`."""

    settings: dict[str, Any]

    def embed(self, texts: Sequence[Text], batch: int) -> Output:
        """Return the output of texts, `batch` at a time."""
        raise NotImplementedError

    def prepare(self, request: Request) -> Run:
        """Take the texts; see `engines.Engine`."""
        return partial(self.embed, require_texts(request), request.batch)

    def encode(self, texts: Sequence[Text]) -> Output:
        """Encode texts; see `engines.Engine`."""
        return self.embed(texts, PADDED_BATCH)
