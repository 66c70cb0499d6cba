"""Text to token ids: a ragged batch without padding, cut at the model's length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quaver.errors import InputError, TokenizerError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Backend


@dataclass(frozen=True)
class TokenBatch:
    """The tokens of N texts, one behind the other.

    Attributes:
        ids: int32 (T,), token ids; text i is ``ids[offsets[i]:offsets[i + 1]]``.
        offsets: int32 (N + 1,), starts with 0, strictly increasing, ends with T.
        type_ids: int32 (T,), token types of a pair (0 first text, 1 second), or None when all are
            0.
        truncated: how many of the N texts were cut.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    type_ids: NDArray[np.int32] | None
    truncated: int

    def __len__(self) -> int:
        """Return N, the number of texts."""
        return len(self.offsets) - 1

    @property
    def tokens(self) -> int:
        """T, the number of tokens of all texts together, special tokens included."""
        return len(self.ids)

    def select(self, first: int, last: int) -> TokenBatch:
        """Return the texts [first, last) as a batch of views; its `truncated` is 0.

        Args:
            first: index of the first text, 0 <= first.
            last: index behind the last text, first <= last <= N.

        Returns:
            A batch of last - first texts.
        """
        begin, end = int(self.offsets[first]), int(self.offsets[last])
        types = None if self.type_ids is None else self.type_ids[begin:end]
        offsets = self.offsets[first : last + 1] - self.offsets[first]
        return TokenBatch(self.ids[begin:end], offsets, types, 0)

    def split(self, max_tokens: int) -> Iterator[tuple[int, TokenBatch]]:
        """Cut into batches of at most max_tokens; a single longer text is a batch of its own.

        Args:
            max_tokens: the bound, positive.

        Yields:
            The index of the first text and the batch, in order.
        """
        first = 0
        while first < len(self):
            bound = min(int(self.offsets[first]) + max_tokens, self.tokens)
            fitting = int(np.searchsorted(self.offsets, np.int32(bound), side="right")) - 1
            last = max(fitting, first + 1)
            yield first, self.select(first, last)
            first = last


class Tokenizer:
    """A model's own tokenizer, from its tokenizer.json.

    Why not the truncation of the library: it is a state of the tokenizer, so texts and pairs would
    need one copy each, and every cut text carries its whole overflow. Cutting before the special
    tokens are added gives the same ids.
    """

    def __init__(self, backend: Backend, *, max_length: int, lowercase: bool = False) -> None:
        """Wrap a loaded tokenizer; its own padding and truncation settings are switched off.

        Args:
            backend: a tokenizer of the `tokenizers` library, owned by this object from now on.
            max_length: most tokens of a text or pair, special tokens included.
            lowercase: lower the case of every text before anything else.

        Raises:
            InputError: max_length leaves no room for a token beside the special tokens.
        """
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._lowercase = lowercase
        self.max_length = max_length
        self.special_tokens = int(backend.num_special_tokens_to_add(False))
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if max_length <= self.special_tokens:
            raise InputError(
                f"max_length must leave room beside the {self.special_tokens} special tokens: "
                f"got {max_length}; use {self.special_tokens + 1} or more"
            )

    @classmethod
    def from_folder(cls, folder: Path, *, max_length: int, lowercase: bool = False) -> Tokenizer:
        """Read tokenizer.json of a model folder.

        Args:
            folder: the folder that holds tokenizer.json.
            max_length: most tokens of a text or pair, special tokens included.
            lowercase: lower the case of every text before anything else.

        Returns:
            The tokenizer.

        Raises:
            TokenizerError: tokenizer.json is missing or broken.
            InputError: max_length leaves no room for a token beside the special tokens.
        """
        from tokenizers import Tokenizer as Backend

        path = folder / "tokenizer.json"
        try:
            content = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise TokenizerError(
                f"a model folder needs tokenizer.json: {folder} has none; load the model with "
                "transformers and save its "
                "fast tokenizer with save_pretrained()"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise TokenizerError(f"cannot read {path}: {error}; download it again") from error
        try:
            # The library raises plain Exception for every fault of the file, so a fault is told by
            # what is left: no tokenizer.
            backend = Backend.from_str(content)
        except Exception as error:
            raise TokenizerError(f"{path} is broken: {error}; download it again") from error
        return cls(backend, max_length=max_length, lowercase=lowercase)

    def require_vocabulary(self, rows: int) -> None:
        """Check that tokenizer and embedding table are of one model, as far as their sizes tell.

        Every token needs a row. A table may be padded to a round number of rows, but a tokenizer
        that leaves more than a fiftieth of them (and more than 64) without a token is another
        model's: it would run, and give vectors without meaning.

        Args:
            rows: V, the rows of the word embedding table.

        Raises:
            TokenizerError: the tokenizer has more tokens than the table has rows, or far fewer.
        """
        if self.vocab_size > rows:
            raise TokenizerError(
                "every token needs a row of the word embeddings: tokenizer.json goes up to id "
                f"{self.vocab_size - 1}, the "
                f"model has {rows} rows; tokenizer and weights are of different models"
            )
        if rows - self.vocab_size > max(64, rows // 50):
            raise TokenizerError(
                f"the word embeddings have {rows} rows, but tokenizer.json has only "
                f"{self.vocab_size} tokens; tokenizer and weights are of different models"
            )

    def encode(self, texts: Sequence[str], start: int = 0) -> TokenBatch:
        """Tokenize texts: special tokens added, cut at `max_length`, not padded.

        Args:
            texts: N texts; the empty text is valid and becomes its special tokens alone.
            start: the first text's position among the caller's, for messages.

        Returns:
            A batch of N texts.

        Raises:
            InputError: an item is not a str, or holds half of a surrogate pair; its position is
                named.
        """
        room = self.max_length - self.special_tokens
        encodings = self._tokenize(texts, start=start)
        truncated = 0
        for encoding in encodings:
            if len(encoding) > room:
                encoding.truncate(room)
                truncated += 1
        return _batch([self._backend.post_process(e) for e in encodings], truncated)

    def encode_pairs(self, pairs: Sequence[tuple[str, str]], start: int = 0) -> TokenBatch:
        """Tokenize pairs such as (query, document); only the second text is cut.

        Args:
            pairs: N pairs of texts.
            start: the first pair's position among the caller's, for messages.

        Returns:
            A batch of N sequences; `type_ids` as the model's tokenizer sets them.

        Raises:
            InputError: an item is no pair of str, or its first text leaves no room for the second.
        """
        room = self.max_length - int(self._backend.num_special_tokens_to_add(True))
        for i, pair in enumerate(pairs):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise InputError(
                    f"pairs[{start + i}] must be (text, text): got {type(pair).__name__}"
                )
        firsts = self._tokenize([pair[0] for pair in pairs], "first text of pair", start)
        seconds = self._tokenize([pair[1] for pair in pairs], "second text of pair", start)
        truncated = 0
        for i, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
            if len(first) >= room:
                raise InputError(
                    f"the first text of a pair must leave room for the second: pair {start + i} has "
                    f"{len(first)} tokens of {room}; "
                    "shorten it"
                )
            if len(first) + len(second) > room:
                second.truncate(room - len(first))
                truncated += 1
        joined = [self._backend.post_process(a, b) for a, b in zip(firsts, seconds, strict=True)]
        return _batch(joined, truncated)

    def count(self, text: str) -> int:
        """Count the tokens of a text, without special tokens and without truncation.

        Args:
            text: the text.

        Returns:
            The number of tokens, 0 for an empty text.

        Raises:
            InputError: the text is not a str, or holds half of a surrogate pair.
        """
        return len(self._tokenize([text])[0])

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of many texts at once, each as `count` does.

        Args:
            texts: the texts.

        Returns:
            The number of tokens of each.

        Raises:
            InputError: an item is not a str, or holds half of a surrogate pair.
        """
        return [len(encoding) for encoding in self._tokenize(texts)]

    def token_ends(self, text: str) -> list[int]:
        """Tell where the tokens of a text end, without special tokens and without truncation.

        Args:
            text: the text.

        Returns:
            For each token the number of characters up to its end, rising.

        Raises:
            InputError: the text holds half of a surrogate pair.
        """
        # Lower case of the same length, so that places stay: only a few letters grow ("İ").
        low = "".join(c.lower()[:1] for c in text) if self._lowercase else text
        try:
            offsets = self._backend.encode(low, add_special_tokens=False).offsets
        except (TypeError, UnicodeEncodeError):
            _raise_for_surrogate([low], "text", 0)
            raise
        return [end for _, end in offsets]

    def _tokenize(self, texts: Sequence[str], name: str = "text", start: int = 0) -> list[Encoding]:
        if isinstance(texts, (str, bytes)):
            raise InputError(f"texts must be a list of str: got one {type(texts).__name__}")
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(
                    f"every text must be a str: {name} {start + i} is {type(text).__name__}; decode or "
                    "drop it"
                )
        lowered = [text.lower() for text in texts] if self._lowercase else list(texts)
        try:
            return self._backend.encode_batch_fast(lowered, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            _raise_for_surrogate(lowered, name, start)
            raise


def _raise_for_surrogate(texts: Sequence[str], name: str, start: int) -> None:
    for i, text in enumerate(texts, start):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"every text must be valid Unicode: {name} {i} has half of a surrogate pair at "
                f"character {error.start}; "
                "replace it, for example with text.encode('utf-8', 'replace').decode()"
            ) from None


def _batch(encodings: Sequence[Encoding], truncated: int) -> TokenBatch:
    lengths = [len(encoding) for encoding in encodings]
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    total = int(offsets[-1])
    ids = np.fromiter(chain.from_iterable(e.ids for e in encodings), np.int32, total)
    types = np.fromiter(chain.from_iterable(e.type_ids for e in encodings), np.int32, total)
    return TokenBatch(ids, offsets, types if types.any() else None, truncated)
