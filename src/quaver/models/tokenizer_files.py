"""Tokenizers of older model folders, which have a vocabulary instead of tokenizer.json.

Each is built as transformers 5 builds it from the same files: WordPiece of vocab.txt, BPE of vocab.json
and merges.txt, Unigram of a SentencePiece model.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quaver.errors import TokenizerError
from quaver.models.files import (
    AddedTokenEntry,
    ConfigFile,
    SpecialTokensFile,
    TokenizerConfigFile,
    checked,
    read_checked,
    read_file,
    read_json,
)
from quaver.models.tokenizer_settings import (
    BERT_CLASSES,
    follow,
    require_charsmap,
    tokenizer_class,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

VOCABULARIES = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spm.model",
    "spiece.model",
)
"""The files that a tokenizer may be built from."""

_MAX_BYTES = 64 << 20
_DEFAULT_CLASS = {
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "t5": "T5Tokenizer",
    "mt5": "T5Tokenizer",
    "albert": "AlbertTokenizer",
}
_ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_MASK_WITH_SPACE = AddedTokenEntry("<mask>", lstrip=True, normalized=False, special=True)
# What a class calls its special tokens where no file does.
_TOKENS: dict[str, dict[str, Any]] = {
    "MPNetTokenizer": {**_ROBERTA_TOKENS, "unk_token": "[UNK]", "mask_token": _MASK_WITH_SPACE},
    "RobertaTokenizer": _ROBERTA_TOKENS,
    "XLMRobertaTokenizer": _ROBERTA_TOKENS,
    "CamembertTokenizer": {**_ROBERTA_TOKENS, "mask_token": _MASK_WITH_SPACE},
    "DebertaV2Tokenizer": {**_BERT_TOKENS, "bos_token": "[CLS]", "eos_token": "[SEP]"},
    "AlbertTokenizer": {
        **_BERT_TOKENS,
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
    },
    "T5Tokenizer": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
}
_SENTINELS = 100


def tokenizer_from_vocabulary(
    folder: Path, settings: TokenizerConfigFile, model: ConfigFile
) -> Backend | None:
    """Build the tokenizer of a folder without tokenizer.json.

    Args:
        folder: the folder of the vocabulary.
        settings: tokenizer_config.json.
        model: config.json.

    Returns:
        the tokenizer, its settings followed; None if the folder has no vocabulary of its class.

    Raises:
        ModelFolderError: a file is no ordinary file, too large, or says what no tokenizer has.
        TokenizerError: the vocabulary is broken.
    """
    from msgspec.structs import replace

    kind = tokenizer_class(settings, model) or _DEFAULT_CLASS.get(str(model.model_type), "")
    build = _BUILDERS.get("BertTokenizer" if kind in BERT_CLASSES else kind)
    if build is None:
        return None
    names = _with_older_files(settings, folder)
    defaults = _TOKENS.get(kind, _BERT_TOKENS)
    missing = {key: token for key, token in defaults.items() if getattr(names, key) is None}
    names = replace(names, **missing)
    # Settings may leave the class to the model's type; what follows must not.
    names = replace(names, tokenizer_class=kind)
    built = build(folder, names)
    if built is None:
        return None
    backend, pieces = built
    follow(
        backend,
        replace(names, extra_special_tokens=[*_extra(names), *pieces]),
        model,
    )
    _add_template(backend, kind, names)
    return backend


def vocabulary_bytes(folder: Path) -> bytes:
    """Return the content of the files that a tokenizer may be built from, for a fingerprint."""
    files = ((name, read_file(folder / name, _MAX_BYTES)) for name in VOCABULARIES)
    return b"".join(name.encode() + content for name, content in files if content is not None)


def _with_older_files(settings: TokenizerConfigFile, folder: Path) -> TokenizerConfigFile:
    """Add special_tokens_map.json and added_tokens.json, which count where no tokens are listed."""
    from msgspec.structs import replace

    if settings.added_tokens_decoder is not None:
        return settings
    special = read_checked(SpecialTokensFile, folder / "special_tokens_map.json")
    if special is not None:
        named = {
            key: getattr(special, key)
            for key in special.__struct_fields__
            if getattr(special, key) is not None
        }
        settings = replace(settings, **named)
    where = folder / "added_tokens.json"
    listed = read_json(where)
    if listed is None:
        return settings
    marked = {_content(getattr(settings, key)) for key in _ROBERTA_TOKENS}
    marked |= {_content(token) for token in _extra(settings)}
    added = {
        str(number): AddedTokenEntry(token, normalized=token not in marked, special=token in marked)
        for token, number in checked(dict[str, int], listed, where).items()
    }
    return replace(settings, added_tokens_decoder=added)


def _extra(settings: TokenizerConfigFile) -> list[str | AddedTokenEntry]:
    extra = settings.extra_special_tokens or settings.additional_special_tokens or []
    return list(extra.values() if isinstance(extra, dict) else extra)


def _content(token: str | AddedTokenEntry | None) -> str | None:
    return token.content if isinstance(token, AddedTokenEntry) else token


# --- Vocabularies ---------------------------------------------------------------------------------
Built = tuple["Backend", list[AddedTokenEntry]]


def _word_piece(folder: Path, names: TokenizerConfigFile) -> Built | None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, normalizers, pre_tokenizers

    path = folder / "vocab.txt"
    if read_file(path, _MAX_BYTES) is None:
        return None
    vocabulary = models.WordPiece.read_file(str(path))
    backend = Backend(models.WordPiece(vocabulary, unk_token=str(_content(names.unk_token))))
    backend.normalizer = normalizers.BertNormalizer()  # the settings replace it
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend, []


def _byte_pairs(folder: Path, names: TokenizerConfigFile) -> Built | None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers

    paths = folder / "vocab.json", folder / "merges.txt"
    if any(read_file(path, _MAX_BYTES) is None for path in paths):
        return None
    vocabulary, merges = models.BPE.read_file(*map(str, paths))
    backend = Backend(
        models.BPE(
            vocabulary,
            merges,
            continuing_subword_prefix="",
            end_of_word_suffix="",
            fuse_unk=False,
        )
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(names.add_prefix_space))
    return backend, []


def _xlm_roberta(folder: Path, names: TokenizerConfigFile) -> Built | None:
    model = _sentence_piece(folder / "sentencepiece.bpe.model")
    if model is None:
        return None
    # Fairseq's ids: four special tokens, then SentencePiece's own without its first three.
    first = (names.bos_token, names.pad_token, names.eos_token, names.unk_token)
    pieces = [(str(_content(token)), 0.0) for token in first]
    pieces += [*model.scores[3:], (str(_content(names.mask_token)), 0.0)]
    return _spaced_unigram(pieces, 3, model, names), model.special


def _camembert(folder: Path, names: TokenizerConfigFile) -> Built | None:
    model = _sentence_piece(folder / "sentencepiece.bpe.model")
    if model is None:
        return None
    pad, unknown, mask = (
        str(_content(token)) for token in (names.pad_token, names.unk_token, names.mask_token)
    )
    pieces = [("<s>NOTUSED", 0.0), (pad, 0.0), ("</s>NOTUSED", 0.0), (unknown, 0.0)]
    pieces += [("<unk>NOTUSED", -100.0), *model.scores[1:], (mask, 0.0)]
    at = next(i for i, (piece, _) in enumerate(pieces) if piece == unknown)
    return _spaced_unigram(pieces, at, model, names), model.special


def _deberta(folder: Path, names: TokenizerConfigFile) -> Built | None:
    from tokenizers import Regex, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    model = _sentence_piece(folder / "spm.model")
    if model is None:
        return None
    unknown = (str(_content(names.unk_token)), 0.0)
    at = model.scores.index(unknown) if unknown in model.scores else model.unknown
    backend = Backend(models.Unigram(model.scores, unk_id=at, byte_fallback=False))
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
            normalizers.NFC(),
            normalizers.Strip(left=False, right=True),
        ]
    )
    scheme = "first" if names.add_prefix_space is False else "always"
    steps: list[Any] = [pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)]
    if names.split_by_punct:
        steps.insert(0, pre_tokenizers.Punctuation(behavior="isolated"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return backend, model.special


def _t5(folder: Path, names: TokenizerConfigFile) -> Built | None:
    model = _sentence_piece(folder / "spiece.model")
    if model is None:
        return None
    count = _SENTINELS if names.extra_ids is None else names.extra_ids
    named = {_content(token) for token in _extra(names)}
    sentinels = [f"<extra_id_{i}>" for i in range(count)]
    if named.isdisjoint(sentinels):
        model.special.extend(
            AddedTokenEntry(token, normalized=False, special=True) for token in sentinels
        )
    return _spaced_unigram(model.scores, 2, model, names), model.special


def _albert(folder: Path, names: TokenizerConfigFile) -> Built | None:
    model = _sentence_piece(folder / "spiece.model")
    if model is None:
        return None
    return _spaced_unigram(model.scores, 1, model, names), model.special


def _spaced_unigram(
    pieces: list[tuple[str, float]], unknown: int, model: _SentencePiece, names: TokenizerConfigFile
) -> Backend:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, normalizers, pre_tokenizers

    backend = Backend(models.Unigram(pieces, unk_id=unknown, byte_fallback=False))
    if model.charsmap:
        require_charsmap(model.charsmap)
        backend.normalizer = normalizers.Precompiled(model.charsmap)
    scheme = "never" if names.add_prefix_space is False else "always"
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme),
        ]
    )
    return backend


_BUILDERS = {
    "BertTokenizer": _word_piece,
    "RobertaTokenizer": _byte_pairs,
    "XLMRobertaTokenizer": _xlm_roberta,
    "CamembertTokenizer": _camembert,
    "DebertaV2Tokenizer": _deberta,
    "T5Tokenizer": _t5,
    "AlbertTokenizer": _albert,
}


def _add_template(backend: Backend, kind: str, names: TokenizerConfigFile) -> None:
    """Put the special tokens around a text and a pair, as the class does."""
    from tokenizers import processors

    double = kind in ("XLMRobertaTokenizer", "CamembertTokenizer")
    first = str(_content(names.bos_token if double else names.cls_token))
    last = str(_content(names.eos_token if double else names.sep_token))
    if kind == "T5Tokenizer":
        first = last = str(_content(names.eos_token))
    ids = {token: backend.token_to_id(token) for token in (first, last)}
    for token, number in ids.items():
        if number is None:
            raise TokenizerError(
                f"the vocabulary must have the special token {token!r}: it has none; download the "
                "model again"
            )
    if double or kind in ("RobertaTokenizer", "MPNetTokenizer"):
        pair = f"{first} $A {last} {last} $B {last}"
    else:
        pair = f"{first}:0 $A:0 {last}:0 $B:1 {last}:1"
    single = f"{first}:0 $A:0 {last}:0"
    if kind == "T5Tokenizer":
        single, pair = f"$A {last}", f"$A {last} $B {last}"
    backend.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=list(ids.items())
    )


# --- SentencePiece --------------------------------------------------------------------------------
@dataclass(frozen=True)
class _SentencePiece:
    """What transformers takes from a SentencePiece model.

    Attributes:
        scores: pieces and their scores, by id.
        special: the pieces that are no text: control symbols, and symbols of the user.
        unknown: the id of the unknown piece.
        charsmap: the compiled normalizer, or b"".

    Source: sentencepiece/src/sentencepiece_model.proto
    """

    scores: list[tuple[str, float]]
    special: list[AddedTokenEntry]
    unknown: int
    charsmap: bytes


_CONTROL, _USER_DEFINED = 3, 4
_UNIGRAM = 1


def _sentence_piece(path: Path) -> _SentencePiece | None:
    content = read_file(path, _MAX_BYTES)
    if content is None:
        return None
    scores: list[tuple[str, float]] = []
    special: list[AddedTokenEntry] = []
    unknown, charsmap = 0, b""
    try:
        for field, value in _fields(content):
            if field == 1:
                parts = dict(_fields(value))
                piece = parts[1].tobytes().decode("utf-8")
                (score,) = struct.unpack("<f", parts.get(2, memoryview(bytes(4))))
                if not math.isfinite(score):
                    raise ValueError(f"the score of {piece!r} is {score}")
                scores.append((piece, score))
                if parts.get(3) in (_CONTROL, _USER_DEFINED):
                    control = parts[3] == _CONTROL
                    special.append(AddedTokenEntry(piece, normalized=False, special=control))
            elif field == 2:
                parts = dict(_fields(value))
                unknown = int(parts.get(40, 0))
                if parts.get(3, _UNIGRAM) != _UNIGRAM:
                    raise TokenizerError(
                        f"{path} is no Unigram model, as models of this class have; save the "
                        "tokenizer with transformers' save_pretrained(), which writes tokenizer.json"
                    )
            elif field == 3:
                charsmap = dict(_fields(value)).get(2, memoryview(b"")).tobytes()
        if not scores:
            raise ValueError("it has no pieces")
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise TokenizerError(
            f"{path} is no SentencePiece model: {error}; download it again"
        ) from error
    return _SentencePiece(scores, special, unknown, charsmap)


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field of a protobuf message: int, or bytes of any other kind.

    Raises:
        ValueError: it ends within a field, or has a kind of field that protobuf no longer has.
    """
    view, at = memoryview(data), 0
    while at < len(view):
        tag, at = _varint(view, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(view, at)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, at = _varint(view, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field has the kind {kind}")
        if at + size > len(view):
            raise ValueError("it ends within a field")
        yield tag >> 3, view[at : at + size]
        at += size


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(view):
            raise ValueError("it ends within a number")
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number has more than ten bytes")
