"""Turn text into token ids: a ragged batch without padding, truncated to the model's length."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, takewhile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from quaver.errors import InputError, QuaverError, TokenizerError, TokenRangeError
from quaver.models.chat_template import ChatTemplate, PairText
from quaver.models.files import ConfigFile, TokenizerConfigFile, read_file
from quaver.models.leading_text import leading_text, trailing_text
from quaver.models.prompts import with_prompt
from quaver.models.tokenizer_files import tokenizer_from_vocabulary
from quaver.models.tokenizer_settings import (
    append_end,
    checked_tokenizer,
    follow,
    lower_first,
    model_type,
    require_bounded,
    unknown_id,
)

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Backend


_MAX_BYTES = 256 << 20
_CHARACTERS = 6
"""Characters that are read for each token needed at first; if they are too few, four times as many."""
_MIN_CHARACTERS = 256
_MAX_ID = 2**31 - 1
_WORD_BYTES, _UNIGRAM_BYTES = 210, 1250
"""Bytes that the `tokenizers` library holds for each word, and for each of a Unigram model, which has a tree of them;
measured by benchmarks/tokenizer_memory.py."""
MAX_TOKENS = 2**31 - 1  # the maximum number of tokens in a text where nothing sets a bound
# Each tokenizer is tested on this: case, accents, several scripts, a ligature that expands, an emoji.
_TRIAL = "Hello,  World! na\u00efve \u4e2d\u6587 \u0434\u0430 \ufb01 \ufdfa \U0001f642 x"
_FAILED = "the model's tokenizer fails on a text"


class Words(Protocol):
    """A faster way to the ids of texts, without special tokens."""

    def encode(
        self, texts: Sequence[str], most: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the ids int32 (T,) of N texts, and offsets int32 (N + 1,).

        Args:
            texts: of valid Unicode.
            most: how many tokens of a text are needed; of one that has more, at least one more is
                returned.
        """


MakeWords = Callable[["Backend"], Words | None]


@dataclass(frozen=True)
class TokenBatch:
    """The tokens of N texts, concatenated.

    Attributes:
        ids: int32 (T,), token ids; text i is `ids[offsets[i]:offsets[i + 1]]`.
        offsets: int32 (N + 1,), starts with 0, strictly increasing, ends with T. Of a static model a
            text may have no token.
        type_ids: int32 (T,), token types of a pair (0 first text, 1 second), or None if all are
            0.
        truncated: how many of the N texts were truncated.
        keys: int32 (N,), how many tokens of each text others attend to, at least 1; the tokens after
            them attend to these alone, as the mask tokens of a ColBERT query do. None for all.
        splits: int32 (N,), how many tokens at the start of each text depend on a query alone, less than its
            length; a model of causal layers computes them once for all texts that share them. None where
            texts share nothing.
        unpooled: int32 (N,), how many tokens at the start of each text are read and not pooled, fewer
            than it has; None for none.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int32]
    type_ids: NDArray[np.int32] | None
    truncated: int
    keys: NDArray[np.int32] | None = None
    splits: NDArray[np.int32] | None = None
    unpooled: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        """Return N, the number of texts."""
        return len(self.offsets) - 1

    @property
    def tokens(self) -> int:
        """The total number of tokens T, special tokens included."""
        return len(self.ids)

    def select(self, first: int, last: int) -> TokenBatch:
        """Return the texts [first, last) as a batch of views; its `truncated` is 0.

        Args:
            first: index of the first text, 0 <= first.
            last: index after the last text, first <= last <= N.

        Returns:
            a batch of last - first texts.
        """
        begin, end = int(self.offsets[first]), int(self.offsets[last])
        types = None if self.type_ids is None else self.type_ids[begin:end]
        offsets = self.offsets[first : last + 1] - self.offsets[first]
        keys = None if self.keys is None else self.keys[first:last]
        splits = None if self.splits is None else self.splits[first:last]
        unpooled = None if self.unpooled is None else self.unpooled[first:last]
        return TokenBatch(self.ids[begin:end], offsets, types, 0, keys, splits, unpooled)

    def split(self, max_tokens: int) -> Iterator[tuple[int, TokenBatch]]:
        """Split into batches of at most max_tokens; a longer text is a batch of its own.

        Args:
            max_tokens: the bound, positive.

        Yields:
            the index of the first text and the batch, in order.
        """
        first = 0
        while first < len(self):
            bound = min(int(self.offsets[first]) + max_tokens, self.tokens)
            fitting = int(np.searchsorted(self.offsets, np.int32(bound), side="right")) - 1
            last = max(fitting, first + 1)
            yield first, self.select(first, last)
            first = last


class Piece(NamedTuple):
    """One token of a text.

    Attributes:
        id: its id.
        token: its text in the vocabulary.
        special: whether it was added around the text.
        start: characters of the text before it.
        stop: characters of the text up to its end.
    """

    id: int
    token: str
    special: bool
    start: int
    stop: int


class LocatedTokens(NamedTuple):
    """The tokens of a text, and where they are in it.

    Attributes:
        ids: int32 (T,), without special tokens.
        starts: int64 (T,), characters of the text before each token.
        stops: int64 (T,), characters of the text up to each token's end.
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]


class Tokenizer:
    """A model's own tokenizer, from its tokenizer.json.

    Why not the library's truncation: it is a setting of the tokenizer, so texts and pairs would each
    need a copy, and every truncated text carries its whole overflow. Truncating before special tokens
    are added gives the same ids.

    Attributes:
        max_length: maximum number of tokens in a text or pair, special tokens included.
        max_characters: maximum number of characters of a text that the tokenizer must read at once; a text
            whose start or end is enough may be longer. None for any number.
        appended: the token that tokenizer_config.json puts behind every text and tokenizer.json does not,
            or None.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        max_length: int | None,
        lowercase: bool = False,
        plain: bool = False,
        words: MakeWords | None = None,
        drop_unknown: bool = False,
        template: ChatTemplate | None = None,
        unpooled: Collection[str] | None = None,
    ) -> None:
        """Wrap a loaded tokenizer; its own padding and truncation settings are switched off.

        Args:
            backend: a tokenizer of the `tokenizers` library, owned by this object from now on.
            max_length: maximum number of tokens in a text or pair, special tokens included; None takes the
                truncation of tokenizer.json, or none.
            lowercase: lowercase every text, but not special tokens such as [MASK], like
                `do_lower_case` of sentence-transformers.
            plain: add no special tokens; then `encode_pairs` has nothing to put between two texts.
            words: makes a faster way to the same ids, or returns None for a tokenizer that it does not
                know; used if `plain`.
            drop_unknown: leave out the token of unknown words after a text was cut, and cut texts at
                `max_length` times the median length of a token in characters first; what model2vec
                does.
            template: what makes one text of a pair, instead of special tokens around its two.
            unpooled: prompts of a model that reads a prompt and leaves it out when it pools, as
                instructor does; None for a model that pools all tokens.

        Raises:
            TokenizerError: the tokenizer fails, or produces tokens that no model reads.
            InputError: max_length leaves no room for a token besides the special tokens.
        """
        with _guard("the tokenizer of tokenizer.json"):
            require_bounded(backend)
            backend.no_padding()
            if max_length is None:
                own = backend.truncation
                max_length = MAX_TOKENS if own is None else min(own["max_length"], MAX_TOKENS)
            backend.no_truncation()
            if lowercase:
                lower_first(backend)
            self._backend = backend
            self.max_length = max_length
            self.max_characters: int | None = None
            self.appended: str | None = None
            self._plain = plain
            self._template = template
            self._prompts: tuple[str, ...] | None = None
            if unpooled is not None:
                self._prompts = tuple(sorted(filter(None, unpooled), key=len, reverse=True))
            self.special_tokens = 0 if plain else int(backend.num_special_tokens_to_add(False))
            self.special_tokens_of_pair = int(backend.num_special_tokens_to_add(True))
            vocabulary = backend.get_vocab(with_added_tokens=True)
            self._unknown = unknown_id(backend) if drop_unknown else None
            self._words = words(backend) if plain and words is not None else None
            self._most_characters = sys.maxsize
            if drop_unknown and vocabulary:
                self._most_characters = max_length * int(median(map(len, vocabulary)))
            self.vocab_size = max(vocabulary.values(), default=-1) + 1
            self._try()
            self._leading = leading_text(backend)
            self._trailing = trailing_text(backend)
        if max_length <= self.special_tokens:
            raise InputError(
                f"max_length must leave room besides the {self.special_tokens} special tokens: "
                f"got {max_length}; use {self.special_tokens + 1} or more"
            )

    def _try(self) -> None:
        """Tokenize one text, so that a broken tokenizer fails when it is loaded."""
        self._tried_id = 0
        for text in ("", _TRIAL):
            encoding = self._backend.encode(text, add_special_tokens=False)
            plain = len(encoding)
            ids = encoding.ids if self._plain else self._backend.post_process(encoding).ids
            if len(ids) != plain + self.special_tokens:
                raise TokenizerError(
                    "a tokenizer must put its special tokens around a text and change nothing else: "
                    f"the post-processor of tokenizer.json makes {len(ids)} tokens of {plain} and "
                    f"{self.special_tokens} special ones"
                )
            if max(ids, default=0) > _MAX_ID:
                raise TokenizerError(
                    f"a token id must be at most {_MAX_ID}: tokenizer.json gives {max(ids)}"
                )
            self._tried_id = max(self._tried_id, *ids, 0)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        max_length: int | None,
        lowercase: bool = False,
        settings: TokenizerConfigFile | None = None,
        model: ConfigFile | None = None,
        plain: bool = False,
        words: MakeWords | None = None,
        drop_unknown: bool = False,
        template: ChatTemplate | None = None,
        unpooled: Collection[str] | None = None,
        last_token: bool = False,
    ) -> Tokenizer:
        """Read tokenizer.json of a model folder, or build the tokenizer from its vocabulary.

        Args:
            folder: the folder that holds tokenizer.json.
            max_length: maximum number of tokens in a text or pair, special tokens included; None takes the
                truncation of tokenizer.json, or none.
            lowercase: lowercase every text; see `__init__`.
            settings: tokenizer_config.json, followed as transformers 5 does. None uses
                tokenizer.json alone.
            model: config.json, which determines the tokenizer's class if the settings do not.
            plain: add no special tokens.
            words: see `__init__`.
            drop_unknown: leave out unknown words, see `__init__`.
            template: see `__init__`.
            unpooled: see `__init__`.
            last_token: the model pools the last token: put the one that tokenizer_config.json names behind
                every text if tokenizer.json puts none there.

        Returns:
            the tokenizer.

        Raises:
            TokenizerError: tokenizer.json is missing or broken, or its tokenizer fails.
            ModelFolderError: tokenizer.json is not a regular file, too large, or a git-lfs pointer. Or the
                last token is pooled, and the folder does not say which one that is.
            InputError: max_length leaves no room for a token besides the special tokens.
        """
        from tokenizers import Tokenizer as Backend

        path = folder / "tokenizer.json"
        content = read_file(path, _MAX_BYTES)
        backend: Backend | None = None
        if content is not None:
            content = checked_tokenizer(content, path)
            with _guard(f"{path} is broken", "download it again"):
                backend = Backend.from_buffer(content)
                if settings is not None and model is not None:
                    follow(backend, settings, model)
        elif settings is not None and model is not None:
            with _guard(f"the vocabulary of {folder} is broken", "download it again"):
                backend = tokenizer_from_vocabulary(folder, settings, model)
        if backend is None:
            raise TokenizerError(
                f"a model folder needs tokenizer.json, or the vocabulary of its tokenizer's class: "
                f"{folder} has neither; load the model with transformers and save its fast tokenizer "
                "with save_pretrained()"
            )
        end = None
        if last_token and settings is not None and model is not None:
            end = append_end(backend, settings, model, folder)
        made = cls(
            backend,
            max_length=max_length,
            lowercase=lowercase,
            plain=plain,
            words=words,
            drop_unknown=drop_unknown,
            template=template,
            unpooled=unpooled,
        )
        made.appended = end
        return made

    @property
    def nbytes(self) -> int:
        """About how many bytes the tokenizer holds, by its kind and the size of its vocabulary."""
        return _bytes_of(type(self._backend.model).__name__, self.vocab_size)

    def require_vocabulary(self, rows: int) -> None:
        """Check by their sizes that tokenizer and embedding table belong to the same model.

        Every token needs a row. A table may be padded to a round number of rows, but a tokenizer
        that leaves more than a fiftieth of them (and more than 64) without a token belongs to
        another model: it would run and produce meaningless vectors.

        Args:
            rows: V, the rows of the word embedding table.

        Raises:
            TokenizerError: the tokenizer has more tokens than the table has rows, or far fewer.
        """
        largest = max(self.vocab_size - 1, self._tried_id)
        if largest >= rows:
            raise TokenizerError(
                "every token needs a row of the word embeddings: tokenizer.json goes up to id "
                f"{largest}, the "
                f"model has {rows} rows; tokenizer and weights are of different models"
            )
        if rows - self.vocab_size > max(64, rows // 50):
            raise TokenizerError(
                f"the word embeddings have {rows} rows, but tokenizer.json has only "
                f"{self.vocab_size} tokens; tokenizer and weights are of different models"
            )

    def encode(
        self,
        texts: Sequence[str],
        position: Callable[[int], int] | None = None,
        *,
        keep: Literal["start", "end"] = "start",
        longest: int | None = None,
        prompt: str = "",
    ) -> TokenBatch:
        """Tokenize texts: with special tokens unless it is plain, truncated to `max_length`, without padding.

        Args:
            texts: N texts; an empty text is valid and becomes special tokens only.
            position: maps an index in texts to the one that messages show; None shows the same.
            keep: which part of a text that is too long to keep.
            longest: maximum number of tokens in a text, special tokens included and more than they; None or more than
                `max_length` means `max_length`.
            prompt: what texts begin with; a model that pools no prompt leaves it out, as it does the
                prompts that it knows. Others do not look at it.

        Returns:
            a batch of N texts.

        Raises:
            InputError: an item is not a str, or has half of a surrogate pair; the message has its
                position. Or the model pools no prompt, and a text has nothing else.
        """
        room = min(longest or self.max_length, self.max_length) - self.special_tokens
        most, pieces = self._most_characters, texts
        if most < sys.maxsize and not isinstance(texts, (str, bytes)):
            kept = slice(most) if keep == "start" else slice(-most, None)
            pieces = [text[kept] if isinstance(text, str) else text for text in texts]
        if self._plain:
            return self._encode_plain(texts, pieces, room, keep, position)
        # How much of a prompt was cut off is counted, which needs all tokens before the end.
        wanted = None if keep == "end" and self._prompts is not None else room
        encodings = self._tokenize(pieces, position=position, wanted=wanted, keep=keep)
        truncated, lost = 0, np.zeros(len(encodings), np.int32)
        for i, encoding in enumerate(encodings):
            if len(encoding) > room:
                lost[i] = len(encoding) - room if keep == "end" else 0
                encoding.truncate(room, direction="right" if keep == "start" else "left")
                truncated += 1
        with _guard(_FAILED):
            batch = _batch([self._backend.post_process(e) for e in encodings], truncated)
        if self._prompts is None:
            return batch
        return self._without_prompts(batch, texts, prompt, lost, position)

    def _without_prompts(
        self,
        batch: TokenBatch,
        texts: Sequence[str],
        prompt: str,
        lost: NDArray[np.int32],
        position: Callable[[int], int] | None,
    ) -> TokenBatch:
        """Count the tokens of the prompt that each text begins with, less those that were cut off."""
        known = (prompt, *(self._prompts or ())) if prompt else self._prompts or ()
        counts = np.zeros(len(texts), np.int32)
        tokens: dict[str, int] = {}
        first = len(self.special_ids()[0])
        for i, text in enumerate(texts):
            found = next((each for each in known if text.startswith(each)), "")
            if found and found not in tokens:
                tokens[found] = first + self.count(found)
            counts[i] = max(tokens.get(found, 0) - lost[i], 0)
        whole = counts >= np.diff(batch.offsets)
        if whole.any():
            at = int(np.argmax(whole))
            raise InputError(
                "a prompt is left out when the tokens of a text are pooled, so it must leave some: text "
                f"{_at(at, position)} has {int(np.diff(batch.offsets)[at])} tokens, and its prompt "
                f"{int(counts[at])}; shorten the prompt"
            )
        return replace(batch, unpooled=counts if counts.any() else None)

    def _encode_plain(
        self,
        texts: Sequence[str],
        pieces: Sequence[str],
        room: int,
        keep: Literal["start", "end"],
        position: Callable[[int], int] | None,
    ) -> TokenBatch:
        """Tokenize texts whose characters were cut to `pieces`, without special tokens."""
        if self._words is None:
            encodings = self._tokenize(pieces, position=position, wanted=room, keep=keep)
            ids, offsets = _joined([encoding.ids for encoding in encodings])
        else:
            _check_items(pieces, "text", position)
            with _guard(_FAILED):
                ids, offsets = self._words.encode(pieces, room if keep == "start" else sys.maxsize)
        counts = np.diff(offsets)
        cut = counts > room
        truncated = int(np.count_nonzero(cut))
        if pieces is not texts:
            shorter = [len(piece) < len(text) for text, piece in zip(texts, pieces, strict=True)]
            truncated = int(np.count_nonzero(cut | np.array(shorter, np.bool_)))
        kept = np.ones(len(ids), np.bool_) if self._unknown is None else ids != self._unknown
        if cut.any():
            first = offsets[:-1] if keep == "start" else offsets[1:] - np.minimum(counts, room)
            places = np.arange(len(ids)) - np.repeat(first, counts)
            kept &= (places >= 0) & (places < room)
        if kept.all():
            return TokenBatch(ids, offsets, None, truncated)
        before = np.zeros(len(ids) + 1, np.int32)
        np.cumsum(kept, out=before[1:])
        return TokenBatch(ids[kept], before[offsets], None, truncated)

    def encode_pairs(
        self,
        pairs: Sequence[tuple[str, str]],
        position: Callable[[int], int] | None = None,
        *,
        prompt: str = "",
        longest_second: int | None = None,
        keep: Literal["start", "end"] = "start",
    ) -> TokenBatch:
        """Tokenize pairs such as (query, document); only the second text is truncated.

        Args:
            pairs: N pairs of texts.
            position: maps an index in pairs to the one that messages show; None shows the same.
            prompt: what goes before every first text that does not begin with it; the instruction of a
                model with a chat template.
            longest_second: maximum number of tokens in a second text; None allows as many as fit.
            keep: which part of a second text that is too long to keep.

        Returns:
            a batch of N sequences; `type_ids` as the model's tokenizer sets them.

        Raises:
            InputError: an item is not a pair of str, or its first text leaves no room for the second.
        """
        room = self.max_length - self.special_tokens_of_pair
        for i, pair in enumerate(pairs):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise InputError(
                    f"pairs[{_at(i, position)}] must be (text, text): got {type(pair).__name__}"
                )
        if self._template is not None:
            around = self._template.around(prompt)
            return self._encode_in_template(around, pairs, position, longest_second, keep)
        queries = [pair[0] for pair in pairs]
        if prompt:
            queries = [with_prompt(prompt, q) if isinstance(q, str) else q for q in queries]
        _check_items(queries, "first text of pair", position)
        different = list(dict.fromkeys(queries))
        found = self._tokenize(different, "first text of pair", wanted=room)
        first_of = dict(zip(different, found, strict=True))
        firsts = [first_of[query] for query in queries]
        documents = [pair[1] for pair in pairs]
        seconds = self._tokenize(documents, "second text of pair", position, wanted=room, keep=keep)
        truncated = 0
        for i, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
            if len(first) >= room:
                some = "at least " if self._is_long(queries[i], room) else ""
                raise InputError(
                    "the first text of a pair must leave room for the second: "
                    f"pair {_at(i, position)} has {some}{len(first)} tokens of {room}; shorten it"
                )
            most = min(room - len(first), longest_second or room)
            if len(second) > most:
                second.truncate(most, direction="right" if keep == "start" else "left")
                truncated += 1
        with _guard(_FAILED):
            joined = [
                self._backend.post_process(a, b) for a, b in zip(firsts, seconds, strict=True)
            ]
            return _batch(joined, truncated)

    def _encode_in_template(
        self,
        around: PairText,
        pairs: Sequence[tuple[str, str]],
        position: Callable[[int], int] | None,
        longest_second: int | None,
        keep: Literal["start", "end"],
    ) -> TokenBatch:
        """Tokenize pairs as one text each, because tokens may reach over the edges of its parts.

        Only the document of a pair that is too long is cut: what follows it stays.
        """
        _check_items([query for query, _ in pairs], "first text of pair", position)
        _check_items([document for _, document in pairs], "second text of pair", position)
        rows = [e.ids for e in self._tokenize([around.pair(*pair) for pair in pairs])]
        behind = self._tokens_behind(around)
        room, truncated = self.max_length - len(behind), 0
        for i, (query, _) in enumerate(pairs):
            if longest_second is None and len(rows[i]) <= self.max_length:
                continue
            first = len(self._tokenize([around.query(query)])[0])
            if first >= room:
                raise InputError(
                    "the first text of a pair must leave room for the second: with the chat template "
                    f"pair {_at(i, position)} has {first} tokens of {room}; shorten it"
                )
            most = min(room, first + (longest_second or room))
            if len(rows[i]) > most + len(behind):
                whole = rows[i][: len(rows[i]) - len(behind)]
                kept = whole[:most]
                if keep == "end":
                    kept = whole[:first] + whole[len(whole) - (most - first) :]
                rows[i] = [*kept, *behind]
                truncated += 1
        batch = TokenBatch(*_joined(rows), None, truncated)
        return replace(batch, splits=self._shared(around, pairs, rows))

    def _shared(
        self, around: PairText, pairs: Sequence[tuple[str, str]], rows: Sequence[list[int]]
    ) -> NDArray[np.int32]:
        """Count the first tokens of each pair that are those of its query alone, int32 (N,).

        A function of the pair alone, as its score must be.
        """
        different = list(dict.fromkeys(query for query, _ in pairs))
        encodings = self._tokenize([around.query(query) for query in different])
        alone = {q: e.ids for q, e in zip(different, encodings, strict=True)}
        shared = []
        for (query, _), row in zip(pairs, rows, strict=True):
            same = (a == b for a, b in zip(alone[query], row[:-1], strict=False))
            shared.append(sum(takewhile(bool, same)))
        return np.array(shared, np.int32)

    def _tokens_behind(self, around: PairText) -> list[int]:
        """Return the tokens after the document: those at the end of every pair."""
        first, second = (
            e.ids
            for e in self._tokenize([around.pair("0", "0"), around.pair("1 2 3 4", "1 2 3 4")])
        )
        count = 0
        while count < min(len(first), len(second)) and first[-1 - count] == second[-1 - count]:
            count += 1
        return first[len(first) - count :]

    def token_id(self, token: str) -> int | None:
        """Return the id of a token of the vocabulary, or None."""
        return self._backend.token_to_id(token)

    def token(self, id: int) -> str | None:
        """Return the token of an id as the vocabulary has it, or None."""
        return self._backend.id_to_token(id)

    def count(self, text: str) -> int:
        """Count the tokens of a text, without special tokens and without truncation.

        Args:
            text: the text.

        Returns:
            the number of tokens, 0 for an empty text.

        Raises:
            InputError: the text is not a str, or has half of a surrogate pair.
        """
        return len(self._tokenize([text])[0])

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of many texts at once, each as `count` does.

        Args:
            texts: the texts.

        Returns:
            the number of tokens of each.

        Raises:
            InputError: an item is not a str, or has half of a surrogate pair.
        """
        return [len(encoding) for encoding in self._tokenize(texts)]

    def token_ends(self, text: str) -> list[int]:
        """Find where the tokens of a text end, without special tokens and without truncation.

        Args:
            text: the text.

        Returns:
            for each token, the number of characters up to its end, in ascending order.

        Raises:
            InputError: the text has half of a surrogate pair.
        """
        _check_texts([text], "text", None)
        with _guard(_FAILED):
            offsets = self._encode(text).offsets
        return [end for _, end in offsets]

    def pieces(self, text: str, *, special_tokens: bool = True) -> list[Piece]:
        """Show how a text is tokenized, without truncation.

        Args:
            text: the text.
            special_tokens: add the special tokens.

        Returns:
            the tokens, in order.

        Raises:
            InputError: the text holds half of a surrogate pair.
        """
        _check_texts([text], "text", None)
        with _guard(_FAILED):
            encoding = self._encode(text, special_tokens=special_tokens)
            masks = encoding.special_tokens_mask
            return [
                Piece(id, token, bool(mask), start, stop)
                for id, token, mask, (start, stop) in zip(
                    encoding.ids, encoding.tokens, masks, encoding.offsets, strict=True
                )
            ]

    def locate(self, text: str) -> LocatedTokens:
        """Find the tokens of a text and their places in it, without special tokens and truncation.

        Args:
            text: the text.

        Returns:
            the tokens, in order; of a model that leaves unknown words out, the others.

        Raises:
            InputError: the text is not a str, or has half of a surrogate pair.
        """
        _check_items([text], "text", None)
        with _guard(_FAILED):
            encoding = self._encode(text)
            ids = np.array(encoding.ids, np.int32)
            offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
        if self._unknown is not None:
            known = ids != self._unknown
            ids, offsets = ids[known], offsets[known]
        return LocatedTokens(ids, offsets[:, 0], offsets[:, 1])

    def special_ids(self) -> tuple[list[int], list[int]]:
        """Return the special tokens before a text and after it."""
        if self._plain or not self.special_tokens:
            return [], []
        with _guard(_FAILED):
            encoding = self._backend.encode(_TRIAL, add_special_tokens=False)
            plain = list(encoding.ids)
            whole = list(self._backend.post_process(encoding).ids)
        starts = range(self.special_tokens + 1)
        before = next((i for i in starts if whole[i : i + len(plain)] == plain), None)
        if before is None:
            raise TokenizerError(
                "a tokenizer must put its special tokens around a text and leave its tokens as they "
                "are: the post-processor of tokenizer.json changes them"
            )
        return whole[:before], whole[before + len(plain) :]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Turn token ids into text.

        Args:
            ids: the ids, each in 0 to `vocab_size` - 1.
            skip_special_tokens: leave the special tokens out.

        Returns:
            the text.

        Raises:
            TokenRangeError: an id is outside the vocabulary.
        """
        for i, id in enumerate(ids):
            if not 0 <= id < self.vocab_size:
                raise TokenRangeError(
                    f"a token id must be in 0..{self.vocab_size - 1}: got {id} at position {i}"
                )
        with _guard(_FAILED):
            return str(self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def to_json(self) -> str:
        """Return a tokenizer.json with which the tokenizers library gives the same ids.

        The settings of the folder's other files are in it, such as lowercase and an end token that only
        tokenizer_config.json names. Truncation, padding and a chat template are not.

        Returns:
            the JSON.
        """
        with _guard(_FAILED):
            return str(self._backend.to_str())

    def _encode(self, text: str, *, special_tokens: bool = False) -> Encoding:
        """Tokenize a text with offsets; unlike `encode` of the library, other Python threads go on meanwhile."""
        return self._backend.encode_batch([text], add_special_tokens=special_tokens)[0]

    def _tokenize(
        self,
        texts: Sequence[str],
        name: str = "text",
        position: Callable[[int], int] | None = None,
        *,
        wanted: int | None = None,
        keep: Literal["start", "end"] = "start",
    ) -> list[Encoding]:
        """Tokenize texts, of long ones only the start or end if `wanted` tokens are enough.

        A text of more than `wanted` tokens gets more than that, and they are the first of the text, or
        the last.
        """
        _check_items(texts, name, position)
        if wanted is None or (self._leading if keep == "start" else self._trailing) is None:
            self._check_characters(texts, texts, name, position)
            with _guard(_FAILED):
                return self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        size = max(wanted * _CHARACTERS, _MIN_CHARACTERS)
        with _guard(_FAILED):
            heads = [self._part(text, size, keep) for text in texts]
            self._check_characters(heads, texts, name, position)
            encodings = self._backend.encode_batch_fast(heads, add_special_tokens=False)
            while short := [
                i
                for i, text in enumerate(texts)
                if len(heads[i]) < len(text) and len(encodings[i]) <= wanted
            ]:
                size *= 4
                for i in short:
                    heads[i] = self._part(texts[i], size, keep)
                self._check_characters(heads, texts, name, position)
                again = [heads[i] for i in short]
                longer = self._backend.encode_batch_fast(again, add_special_tokens=False)
                for i, encoding in zip(short, longer, strict=True):
                    encodings[i] = encoding
        return encodings

    def _part(self, text: str, size: int, keep: Literal["start", "end"]) -> str:
        """Return the start or end of a text that is much longer than `size` characters, else the text."""
        cut = self._leading if keep == "start" else self._trailing
        if cut is None or len(text) <= 2 * size:
            return text
        return cut(text, size)

    @staticmethod
    def _is_long(text: str, wanted: int) -> bool:
        """Return whether `_tokenize` may have read a part of a text alone."""
        return len(text) > 2 * max(wanted * _CHARACTERS, _MIN_CHARACTERS)

    def _check_characters(
        self,
        parts: Sequence[str],
        texts: Sequence[str],
        name: str,
        position: Callable[[int], int] | None,
    ) -> None:
        """Check the size of what is about to be tokenized of texts."""
        most = self.max_characters
        if most is None:
            return
        for i, part in enumerate(parts):
            if len(part) > most:
                raise InputError(
                    f"a text may have at most {most} characters where no part of it is known to be enough: "
                    f"{name} {_at(i, position)} has {len(texts[i])}; split it"
                )


def tokenizer_bytes(folder: Path, words: int) -> int:
    """Estimate `Tokenizer.nbytes` without building the tokenizer.

    Args:
        folder: the folder that holds tokenizer.json, or its vocabulary.
        words: the size of the vocabulary.

    Raises:
        TokenizerError: tokenizer.json is broken.
        ModelFolderError: tokenizer.json is not a regular file, too large, or a git-lfs pointer.
    """
    path = folder / "tokenizer.json"
    content = read_file(path, _MAX_BYTES)
    if content is None:
        return _bytes_of("Unigram" if any(folder.glob("*.model")) else "", words)
    return _bytes_of(model_type(content, path), words)


def _bytes_of(kind: str, words: int) -> int:
    return words * (_UNIGRAM_BYTES if kind == "Unigram" else _WORD_BYTES)


def _check_items(texts: Sequence[str], name: str, position: Callable[[int], int] | None) -> None:
    if isinstance(texts, (str, bytes)):
        raise InputError(f"texts must be a list of str: got one {type(texts).__name__}")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"every text must be a str: {name} {_at(i, position)} is {type(text).__name__}; "
                "decode or drop it"
            )
    _check_texts(texts, name, position)


def _at(i: int, position: Callable[[int], int] | None) -> int:
    return i if position is None else position(i)


def _check_texts(texts: Sequence[str], name: str, position: Callable[[int], int] | None) -> None:
    """Check that texts are valid Unicode; ASCII text always is."""
    for i, text in enumerate(texts):
        if text.isascii():
            continue
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"every text must be valid Unicode: {name} {_at(i, position)} has half of a surrogate "
                f"pair at character {error.start}; replace it, for example with "
                "text.encode('utf-8', 'replace').decode()"
            ) from None


@contextmanager
def _guard(what: str, advice: str = "use a model whose tokenizer works") -> Iterator[None]:
    """Convert errors of the tokenizers library to `TokenizerError`.

    The library raises plain Exception for every error it detects, and PanicException, a BaseException
    that cannot be imported, if its Rust code panics. A panic also prints its location to stderr, which
    Python cannot prevent.
    """
    try:
        yield
    except (QuaverError, MemoryError):
        raise
    except BaseException as error:
        panic = type(error).__name__ == "PanicException"
        if not panic and not isinstance(error, Exception):
            raise
        raise TokenizerError(f"{what}: {error}; {advice}") from (None if panic else error)


def _joined(rows: Sequence[list[int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum(list(map(len, rows)), out=offsets[1:])
    return np.fromiter(chain.from_iterable(rows), np.int32, int(offsets[-1])), offsets


def _batch(encodings: Sequence[Encoding], truncated: int) -> TokenBatch:
    ids, offsets = _joined([encoding.ids for encoding in encodings])
    total = len(ids)
    types = np.fromiter(chain.from_iterable(e.type_ids for e in encodings), np.int32, total)
    return TokenBatch(ids, offsets, types if types.any() else None, truncated)
