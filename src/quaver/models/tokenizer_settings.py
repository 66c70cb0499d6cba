"""Check tokenizer.json against limits, and apply the settings of tokenizer_config.json."""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from quaver.errors import ModelFolderError, TokenizerError
from quaver.models.files import AddedTokenEntry, ConfigFile, TokenizerConfigFile

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

MAX_GROWTH = 100
MAX_STEPS = 64
MAX_WORD = 10_000
MAX_SPECIAL = 64

# Classes of transformers 5 that build normalizer and pre-tokenizer from tokenizer_config.json and take
# only vocabulary and special tokens from tokenizer.json; then the default class by model_type.
BERT_CLASSES = frozenset(
    {
        "BertTokenizer",
        "ConvBertTokenizer",
        "DPRContextEncoderTokenizer",
        "DPRQuestionEncoderTokenizer",
        "DistilBertTokenizer",
        "ElectraTokenizer",
        "LayoutLMTokenizer",
        "LxmertTokenizer",
        "MPNetTokenizer",
        "MobileBertTokenizer",
        "SqueezeBertTokenizer",
    }
)
_ROBERTA = frozenset({"BartTokenizer", "LongformerTokenizer", "RobertaTokenizer"})
_DEFAULT_CLASS = {
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "electra": "BertTokenizer",
    "ernie": "BertTokenizer",
    "albert": "AlbertTokenizer",
    "t5": "T5Tokenizer",
    "mt5": "T5Tokenizer",
    "mpnet": "MPNetTokenizer",
    "nomic_bert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "modernbert": "TokenizersBackend",
}
# The maximum number of bytes that a step can make of one byte.
_GROWTH = {"NFKC": 11.0, "NFKD": 11.0, "NFC": 3.0, "NFD": 3.0}


# --- tokenizer.json -------------------------------------------------------------------------------
def checked_tokenizer(content: bytes, path: Path) -> bytes:
    """Refuse files with which the tokenizers library would abort the process.

    Args:
        content: tokenizer.json.
        path: the file, for messages.

    Returns:
        the same with duplicate keys of the file and its model removed, so that the library reads
        what was checked.

    Raises:
        TokenizerError: it is not JSON, a merge of a BPE does not fit its prefix, or a character map is
            shorter than it declares.
    """
    import msgspec

    try:
        parts = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        model = msgspec.json.decode(parts["model"], type=dict[str, msgspec.Raw])
        prefix = msgspec.json.decode(model.get("continuing_subword_prefix", b"null"))
        if prefix and "merges" in model:
            _require_merges(msgspec.json.decode(model["merges"]), prefix)
        normalizer = msgspec.json.decode(parts.get("normalizer", b"null"))
        _require_maps(normalizer)
    except (msgspec.DecodeError, RecursionError, KeyError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} is broken: {error!r}; download it again") from error
    return msgspec.json.encode({**parts, "normalizer": normalizer, "model": model})


def model_type(content: bytes, path: Path) -> str:
    """Return the type of a tokenizer's model, such as "Unigram"; "" if it does not say.

    Args:
        content: tokenizer.json.
        path: the file, for messages.

    Raises:
        TokenizerError: it is not JSON, or has no model.
    """
    import msgspec

    try:
        parts = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        model = msgspec.json.decode(parts["model"], type=dict[str, msgspec.Raw])
        kind = msgspec.json.decode(model.get("type", b'""'))
    except (msgspec.DecodeError, RecursionError, KeyError, UnicodeDecodeError) as error:
        raise TokenizerError(f"{path} is broken: {error!r}; download it again") from error
    return kind if isinstance(kind, str) else ""


def _require_maps(state: Any) -> None:
    """Check that every character map is as long as it declares, because the library allocates that much."""
    if isinstance(state, list):
        for part in state:
            _require_maps(part)
    elif isinstance(state, dict):
        for key, part in state.items():
            if key != "precompiled_charsmap":
                _require_maps(part)
                continue
            require_charsmap(_charsmap(part))


def require_charsmap(data: bytes) -> None:
    """Check that a character map is as long as it declares.

    Raises:
        TokenizerError: it is not.
    """
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 or size % 4 or size > len(data) - 4:
        raise TokenizerError(
            "precompiled_charsmap of a tokenizer must hold a trie of the size that it starts with: "
            f"got {len(data)} bytes for {size}"
        )


def _charsmap(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise TokenizerError(
            f"precompiled_charsmap of tokenizer.json must be base64: {error}"
        ) from error


def _require_merges(merges: Any, prefix: Any) -> None:
    """Check that the second part of every merge starts with the prefix that the library removes."""
    for merge in merges if isinstance(merges, list) else ():
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(parts, list) and parts and str(parts[-1]).startswith(str(prefix))):
            raise TokenizerError(
                f"a merge of tokenizer.json must continue with {prefix!r}, its "
                f"continuing_subword_prefix: got {merge!r}"
            )


def require_bounded(backend: Backend) -> None:
    """Refuse a tokenizer with unbounded memory, time or template length.

    The growth of the steps multiplies: nine times "replace a by aaaaaaaaaa" would turn a letter into
    a gigabyte, and the library aborts the process when it runs out of memory.

    Args:
        backend: a tokenizer as read from the file.

    Raises:
        TokenizerError: a part exceeds its limit; the message has both.
    """
    normalizers = list(part_steps(part_state(backend.normalizer), "normalizers"))
    splitters = list(part_steps(part_state(backend.pre_tokenizer), "pretokenizers"))
    for name, steps in (("normalizer", normalizers), ("pre_tokenizer", splitters)):
        if len(steps) > MAX_STEPS:
            raise TokenizerError(
                f"the {name} of tokenizer.json may have {MAX_STEPS} steps: it has {len(steps)}"
            )
    growth = _growth(normalizers) * 2.0 ** sum(s.get("type") == "ByteLevel" for s in splitters)
    if growth > MAX_GROWTH:
        raise TokenizerError(
            "the normalizer of tokenizer.json may make a text at most "
            f"{MAX_GROWTH} times as long: it can make it {growth:.3g} times as long"
        )
    for step in part_steps(part_state(backend.post_processor), "processors"):
        if step.get("type") == "TemplateProcessing":
            _require_template(step)
    word = getattr(backend.model, "max_input_chars_per_word", 0)
    if word > MAX_WORD:
        raise TokenizerError(
            f"max_input_chars_per_word of tokenizer.json may be {MAX_WORD}: got {word}; the time "
            "for a word rises with the square of its length"
        )
    dropout = getattr(backend.model, "dropout", None)
    if dropout:
        raise TokenizerError(
            f"tokenizer.json has dropout={dropout:g}, which draws the tokens of a text at random; "
            "save the tokenizer with dropout=null"
        )


def unknown_id(backend: Backend) -> int | None:
    """Return the token that stands for words without one of their own, or None.

    Args:
        backend: the tokenizer.
    """
    model = backend.model
    if hasattr(model, "unk_token"):
        return None if model.unk_token is None else backend.token_to_id(model.unk_token)
    number = part_state(model).get("unk_id")  # of a Unigram, which has no attribute for it
    return number if isinstance(number, int) else None


def part_state(part: Any) -> Any:
    """Return a part of a tokenizer as the library would write it, or None."""
    return None if part is None else json.loads(part.__getstate__())


def part_steps(state: Any, key: str) -> Iterator[dict[str, Any]]:
    """Yield the steps of a part: those of a Sequence, under this key, or the part itself."""
    if state is None:
        return
    if state.get("type") == "Sequence":
        for part in state[key]:
            yield from part_steps(part, key)
    else:
        yield state


def _growth(steps: Iterable[dict[str, Any]]) -> float:
    """Return how many times as long a text can become, in bytes."""
    total, forms, maps = 1.0, 1.0, 0
    for step in steps:
        kind = step.get("type")
        if kind == "Replace":
            total *= _replace_growth(step)
        elif kind == "Prepend":
            # Applied to every part of a text; parts are separated by an added token.
            total *= 1 + _size(step["prepend"]) / 2
        elif kind == "ByteLevel":
            total *= 2
        elif kind == "Precompiled":
            grown = _longest_replacement(step["precompiled_charsmap"]) / 3
            # The first is a Unicode normalization form; a second one may still change the text.
            total, forms = (total * max(1, grown), forms) if maps else (total, max(forms, grown))
            maps += 1
        else:
            forms = max(forms, _GROWTH.get(str(kind), 1))
    return total * forms


def _replace_growth(step: dict[str, Any]) -> float:
    pattern, made = step["pattern"], _size(step["content"])
    if "String" in pattern:
        return max(1.0, made / max(1, len(pattern["String"].encode())))
    return 1.0 + made  # an expression may match the empty string


def _size(text: str) -> int:
    """Count the bytes of a text, in the longest of its Unicode forms."""
    return max(len(text.encode()), len(unicodedata.normalize("NFKD", text).encode()))


def _longest_replacement(charsmap: str) -> int:
    """Return the bytes of the longest text in a map of SentencePiece.

    The map is a size, a trie of that many bytes, and texts that each end with a zero byte.
    """
    data = _charsmap(charsmap)
    texts = data[4 + int.from_bytes(data[:4], "little") :]
    return max((len(text) for text in texts.split(b"\0")), default=0)


def _require_template(step: dict[str, Any]) -> None:
    known = step.get("special_tokens", {})
    tokens = [token["id"] for token in known.values()] if isinstance(known, dict) else []
    for name, texts in (("single", ["A"]), ("pair", ["A", "B"])):
        pieces = step.get(name, [])
        places = [piece["Sequence"]["id"] for piece in pieces if "Sequence" in piece]
        special = [piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece]
        missing = sorted(set(special) - set(tokens) - set(known))
        if missing:
            raise TokenizerError(
                "the template of tokenizer.json must use tokens of its special_tokens: it has no "
                f"{missing[0]!r}"
            )
        # A model that reads a single text has no template for pairs.
        if sorted(places) != texts and (name == "single" or pieces):
            raise TokenizerError(
                f"the template {name} of tokenizer.json must have {' and '.join(texts)} once: got "
                f"{', '.join(places) or 'none'}"
            )
    ids = [len(token.get("ids", ())) for token in known.values()]
    if sum(ids) > MAX_SPECIAL or any(
        len(step.get(n, [])) > MAX_SPECIAL for n in ("single", "pair")
    ):
        raise TokenizerError(
            f"the template of tokenizer.json may have {MAX_SPECIAL} special tokens: it has more"
        )


# --- tokenizer_config.json ------------------------------------------------------------------------
def follow(backend: Backend, settings: TokenizerConfigFile, model: ConfigFile) -> None:
    """Adjust a tokenizer where tokenizer_config.json differs from tokenizer.json, as transformers 5 does.

    The classes of BERT's tokenizer read case, accents and Chinese characters from
    tokenizer_config.json, by default lower case, whatever the normalizer of tokenizer.json says.
    RoBERTa's reads add_prefix_space there. Every class adds the tokens that only this file
    has, except those for which the model has no row: no text could use them.

    Args:
        backend: the tokenizer, modified in place.
        settings: tokenizer_config.json.
        model: config.json.
    """
    from tokenizers import models, normalizers, pre_tokenizers

    kind = tokenizer_class(settings, model)
    if kind in BERT_CLASSES and isinstance(backend.model, models.WordPiece):
        chinese = settings.tokenize_chinese_chars
        lower = settings.do_lower_case
        backend.normalizer = normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=True if chinese is None else chinese,
            strip_accents=settings.strip_accents,
            lowercase=True if lower is None else lower,
        )
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if kind in _ROBERTA and isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=bool(settings.add_prefix_space)
        )
    if kind == "DebertaV2Tokenizer" and settings.do_lower_case:
        lower_first(backend)
    if kind in ("T5Tokenizer", "AlbertTokenizer") and isinstance(backend.model, models.Unigram):
        _rebuild_unigram(backend, kind, settings)
    _add_tokens(backend, settings, model.vocab_size or 0)


def append_end(
    backend: Backend, settings: TokenizerConfigFile, model: ConfigFile, folder: Path
) -> str | None:
    """Put the end token behind every text of a model that pools the last token, if its folder says so.

    e5-mistral's tokenizer.json puts only <s> before a text, its tokenizer_config.json has add_eos_token, and it was
    trained with transformers 4, which followed the second. transformers 5 follows the first, so
    its vectors are those of the last word.

    Args:
        backend: the tokenizer, modified in place.
        settings: tokenizer_config.json.
        model: config.json.
        folder: the model's folder, for messages.

    Returns:
        the token, or None if tokenizer.json puts one behind a text or the folder wants none.

    Raises:
        TokenizerError: the end token has no name or is not in the vocabulary.
        ModelFolderError: a Mistral's folder does not say.

    Source:
        mteb 2.26.24, mteb/models/model_implementations/e5_instruct.py.
    """
    from tokenizers import processors

    state = part_state(backend.post_processor)
    steps = list(part_steps(state, "processors"))
    if any(_ends_texts(step) for step in steps):
        return None
    if settings.add_eos_token is None and model.model_type == "mistral":
        raise ModelFolderError(
            "a Mistral that pools the last token was trained with an end token behind every text, which its "
            f"folder must name: tokenizer.json of {folder} puts none there, and tokenizer_config.json has no "
            "add_eos_token; set it to true in a copy of the folder, or to false if this model was trained "
            "without"
        )
    if not settings.add_eos_token:
        return None
    entry = settings.eos_token
    end = entry if entry is None or isinstance(entry, str) else entry.content
    number = None if end is None else backend.token_to_id(end)
    if end is None or number is None:
        raise TokenizerError(
            f"tokenizer_config.json of {folder} has add_eos_token, so its eos_token must be a token of "
            f"the vocabulary: got {end!r}; download the model again"
        )
    template = next((step for step in steps if step.get("type") == "TemplateProcessing"), None)
    if template is None:
        made = processors.TemplateProcessing(
            single=["$A", end], pair=["$A", "$B:1", f"{end}:1"], special_tokens=[(end, number)]
        )
        own = backend.post_processor
        backend.post_processor = made if own is None else processors.Sequence([own, made])
        return end
    for name, type_id in (("single", 0), ("pair", 1)):
        if template[name]:
            template[name].append({"SpecialToken": {"id": end, "type_id": type_id}})
    template["special_tokens"][end] = {"id": end, "ids": [number], "tokens": [end]}
    changed = processors.Sequence([])
    changed.__setstate__(json.dumps(state).encode())
    backend.post_processor = changed
    return end


def _ends_texts(step: dict[str, Any]) -> bool:
    """Whether a step of a post-processor puts a token behind a text."""
    if step.get("type") in ("BertProcessing", "RobertaProcessing"):
        return True
    return "SpecialToken" in (step.get("single") or [{}])[-1]


def _rebuild_unigram(backend: Backend, kind: str, settings: TokenizerConfigFile) -> None:
    """Give a Unigram the normalizer and pre-tokenizer of its class; only the character map is the file's."""
    from tokenizers import normalizers, pre_tokenizers

    steps: list[Any] = []
    scheme = "always"
    if kind == "AlbertTokenizer":
        steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        if not settings.keep_accents:
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
        if settings.do_lower_case is not False:
            steps.append(normalizers.Lowercase())
        scheme = "never" if settings.add_prefix_space is False else "always"
    for step in part_steps(part_state(backend.normalizer), "normalizers"):
        if step.get("type") == "Precompiled":
            steps.append(normalizers.Precompiled(_charsmap(step["precompiled_charsmap"])))
            break
    backend.normalizer = normalizers.Sequence(steps)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme),
        ]
    )


def lower_first(backend: Backend) -> None:
    """Put Lowercase before all other normalizers, unless it is already there."""
    from tokenizers import normalizers

    own = backend.normalizer
    steps: list[Any] = [] if own is None else [own]
    if isinstance(own, normalizers.Sequence):
        steps = list(cast("Iterable[Any]", own))
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def tokenizer_class(settings: TokenizerConfigFile, model: ConfigFile) -> str | None:
    """Return transformers' class of a tokenizer without "Fast", or None where no file tells it."""
    default = _DEFAULT_CLASS.get(str(model.model_type))
    if default == "TokenizersBackend":  # folders of this type name the wrong class
        return default
    named = settings.tokenizer_class or model.tokenizer_class
    return default if named is None else named.removesuffix("Fast")


def _add_tokens(backend: Backend, settings: TokenizerConfigFile, rows: int) -> None:
    known = backend.get_added_tokens_decoder()
    there = {token.content: _traits(token) for token in known.values()}
    listed = settings.added_tokens_decoder or {}
    wanted = [_token(listed[number]) for number in sorted(listed, key=_number)]
    new = [token for token in wanted if there.get(token.content) != _traits(token)]
    names = {*there, *(token.content for token in new)}
    for token in _special_tokens(settings):
        if token.content not in names:
            names.add(token.content)
            new.append(token)
    for token in new:
        in_vocabulary = backend.token_to_id(token.content) is not None
        if in_vocabulary or backend.get_vocab_size(with_added_tokens=True) < rows:
            backend.add_tokens([token])


def _number(text: str) -> tuple[int, str]:
    return (int(text) if text.isdecimal() and len(text) < 12 else 0), text


def _traits(token: AddedToken) -> tuple[bool, ...]:
    return (token.lstrip, token.rstrip, token.normalized, token.single_word, token.special)


def _token(entry: str | AddedTokenEntry, *, special: bool = False) -> AddedToken:
    from tokenizers import AddedToken

    if isinstance(entry, str):
        return AddedToken(entry, special=special, normalized=False)
    marked = special if entry.special is None else entry.special
    return AddedToken(
        entry.content,
        single_word=entry.single_word,
        lstrip=entry.lstrip,
        rstrip=entry.rstrip,
        normalized=not marked if entry.normalized is None else entry.normalized,
        special=marked,
    )


def _special_tokens(settings: TokenizerConfigFile) -> Iterator[AddedToken]:
    extra = settings.extra_special_tokens or settings.additional_special_tokens or []
    entries = [
        settings.bos_token,
        settings.eos_token,
        settings.unk_token,
        settings.sep_token,
        settings.pad_token,
        settings.cls_token,
        settings.mask_token,
        *(extra.values() if isinstance(extra, dict) else extra),
    ]
    for entry in entries:
        if entry is not None:
            yield _token(entry, special=True)
