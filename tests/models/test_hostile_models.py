"""Model folders made to do harm, or damaged: each ends in a ModelError, soon, and in no other way."""

from __future__ import annotations

import base64
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_family_refusals import config_of

from quaver.embedder import Embedder
from quaver.errors import ModelError, ModelFolderError, TokenizerError
from quaver.models import files as model_files
from quaver.models.families.registry import encoder_spec
from quaver.models.folder import ModelFolder
from quaver.models.geometry import MAX_LENGTH
from quaver.models.tokenizer import Tokenizer
from quaver.reranker import CrossEncoder
from tiny_model import (
    edit_json,
    tiny_tokenizer,
    write_json,
    write_tiny_cross_encoder,
    write_tiny_model,
)

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny")


# --- JSON -----------------------------------------------------------------------------------------
FILES = [
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer_config.json",
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "more than 64 levels"),
        ('{"a":' * 100_000, "more than 64 levels"),
        ("[" * 65 + "]" * 65, "more than 64 levels"),
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": -Infinity}', "Infinity is not a JSON number"),
        ('{"a": 1e999}', "1e999 is too large"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' occurs twice"),
        ('{"a": ' + "9" * 5000 + "}", "not readable JSON"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ('"' + '\\"' * 200_000, "not readable JSON"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run `git lfs pull` in"),
    ],
)
def test_json_that_no_tool_writes(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(ModelFolderError, match=message) as caught:
        Embedder.from_pretrained(folder)
    assert name in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_file_larger_than_any_is_not_parsed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "MAX_JSON_BYTES", 1 << 20)
    (folder / "config.json").write_bytes(b" " * (1 << 20) + b"{}")
    with pytest.raises(ModelFolderError, match="at most 1 MiB"):
        ModelFolder.open(folder)


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink(missing_ok=True)
    os.mkfifo(folder / "tokenizer_config.json")
    with pytest.raises(ModelFolderError, match="must be a file"):
        ModelFolder.open(folder)


@pytest.mark.parametrize("place", ["..", "/etc", "1_Pooling/../..", "a\0b"])
def test_a_module_outside_the_folder(folder: Path, place: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = place
    write_json(folder / "modules.json", modules)
    with pytest.raises(ModelFolderError, match="must name folders inside"):
        ModelFolder.open(folder)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("config.json", "hidden_act", []),
        ("config.json", "architectures", 1),
        ("config.json", "architectures", [1]),
        ("config.json", "model_type", {}),
        ("config.json", "max_position_embeddings", 2**33),
        ("config.json", "max_position_embeddings", 0),
        ("config.json", "num_hidden_layers", 2**63),
        ("config.json", "num_hidden_layers", 200_000_000),
        ("config.json", "num_attention_heads", 64.0),
        ("config.json", "vocab_size", 2**31),
        ("config.json", "type_vocab_size", 2**40),
        ("config.json", "layer_norm_eps", "x"),
        ("config.json", "id2label", [1]),
        ("config.json", "sentence_transformers", []),
        ("config.json", "quantization_config", []),
        ("config.json", "quantization_config", {"config_groups": {"a": {"targets": 1}}}),
        ("config.json", "quantization_config", {"config_groups": {"a": {"weights": [8]}}}),
        ("config_sentence_transformers.json", "similarity_fn_name", ["a"]),
        ("config_sentence_transformers.json", "default_prompt_name", []),
        ("config_sentence_transformers.json", "prompts", [[]]),
        ("config_sentence_transformers.json", "truncate_dim", 0),
        ("config_sentence_transformers.json", "truncate_dim", "8"),
        ("sentence_bert_config.json", "max_seq_length", {}),
        ("sentence_bert_config.json", "do_lower_case", "no"),
        ("tokenizer_config.json", "model_max_length", []),
        ("tokenizer_config.json", "do_lower_case", 1),
        ("tokenizer_config.json", "added_tokens_decoder", {"5": {"content": 1}}),
        ("tokenizer_config.json", "added_tokens_decoder", {"5": "x"}),
        ("tokenizer_config.json", "mask_token", []),
        ("1_Pooling/config.json", "pooling_mode", 1),
        ("1_Pooling/config.json", "pooling_mode", ["mean"] * 1000),
        ("1_Pooling/config.json", "pooling_mode", ["mean", "mean"]),
        ("1_Pooling/config.json", "pooling_mode_mean_tokens", "yes"),
    ],
)
def test_a_value_of_another_kind_is_named(folder: Path, name: str, key: str, value: object) -> None:
    edit_json(folder / name, **{key: value})
    with pytest.raises(ModelError) as caught:
        Embedder.from_pretrained(folder)
    assert key in str(caught.value) or "pooling" in str(caught.value)


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("modernbert", "layer_types", [[]]),
        ("modernbert", "layer_types", {}),
        ("modernbert", "rope_parameters", {"full_attention": {"rope_theta": "x"}}),
        ("modernbert", "rope_parameters", [1]),
        ("modernbert", "global_rope_theta", "x"),
        ("modernbert", "global_rope_theta", 1e300),
        ("modernbert", "local_attention", 1),
        ("modernbert", "classifier_bias", 3),
        ("gtev15", "rope_theta", "x"),
        ("gtev15", "rope_scaling", {"type": "ntk", "factor": "x"}),
        ("gtev15", "rope_scaling", {"type": "ntk", "factor": 1e300}),
        ("gtev15", "rope_scaling", 2),
        ("nomicbert", "rotary_emb_base", -1),
        ("debertav2", "position_buckets", [1]),
        ("debertav2", "pos_att_type", [[]]),
        ("debertav2", "position_biased_input", 2),
        ("roberta", "pad_token_id", 10**6),
        ("distilbert", "activation", []),
        ("distilbert", "n_layers", 200_000_000),
    ],
)
def test_a_value_of_another_kind_in_other_families(family: str, key: str, value: object) -> None:
    config = config_of(family)
    if "rope_parameters" in config and key == "global_rope_theta":
        del config["rope_parameters"]
    with pytest.raises(ModelError) as caught:
        encoder_spec({**config, key: value}, pooling="cls", normalize=False)
    assert key in str(caught.value)


@pytest.mark.parametrize(
    "index", ["[" * 100_000, '{"weight_map": {"a": 1}}', '{"weight_map": []}', "{}", "[]"]
)
def test_an_index_of_shards(folder: Path, index: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelFolderError, match=r"index\.json"):
        Embedder.from_pretrained(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_git_lfs_pointer_is_called_one(folder: Path, name: str) -> None:
    (folder / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 133093492\n"
    )
    with pytest.raises(ModelError, match=rf"{name} is a git-lfs pointer.*run `git lfs pull` in"):
        Embedder.from_pretrained(folder)


def test_a_token_id_far_beyond_the_vocabulary(folder: Path) -> None:
    # Room for every id up to it would be gigabytes, and the library ends the process.
    state = json.loads((folder / "tokenizer.json").read_text())
    state["model"]["vocab"]["the"] = 2**31
    write_json(folder / "tokenizer.json", state)
    with pytest.raises(TokenizerError, match="2147483648"):
        Embedder.from_pretrained(folder)


# --- Sizes ----------------------------------------------------------------------------------------
def test_a_size_in_a_file_costs_nothing(folder: Path) -> None:
    """No tuple of 200 million layers is made: it took 1.6 GB and 46 s of CPU time."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for layers in (3, 1024, 1025, 200_000_000):
        edit_json(folder / "config.json", num_hidden_layers=layers)
        with pytest.raises(ModelError, match=r"num_hidden_layers|encoder\.layer\.2"):
            Embedder.from_pretrained(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


@pytest.mark.parametrize("family", ["modernbert", "gtev15", "nomicbert", "jinav2"])
def test_positions_without_a_table_are_bounded(family: str) -> None:
    config = config_of(family)
    key = "n_positions" if "n_positions" in config else "max_position_embeddings"
    spec = encoder_spec({**config, key: 20_000_000}, pooling="cls", normalize=False)
    assert spec.max_length == MAX_LENGTH


def test_a_length_of_the_folder_without_room_for_a_word(folder: Path) -> None:
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 2})
    with pytest.raises(ModelFolderError, match=r"a text may have 2 tokens.*too few"):
        Embedder.from_pretrained(folder)


def test_heads_of_odd_size_cannot_turn() -> None:
    config = config_of("modernbert")
    config |= {"hidden_size": 9, "num_attention_heads": 3}
    with pytest.raises(ModelFolderError, match="must be even"):
        encoder_spec(config, pooling="cls", normalize=False)


# --- Tokenizers -----------------------------------------------------------------------------------
def changed(change: Change) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(tiny_tokenizer().to_str())
    change(described)
    return described


def normalized(*steps: dict[str, Any]) -> Change:
    return lambda d: d.update(normalizer={"type": "Sequence", "normalizers": list(steps)})


def replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def charsmap(content: bytes) -> Change:
    text = base64.b64encode(content).decode()
    return lambda d: d.update(normalizer={"type": "Precompiled", "precompiled_charsmap": text})


def template(**changes: Any) -> Change:
    return lambda d: d["post_processor"].update(changes)


def byte_levels(count: int) -> Change:
    level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }
    return lambda d: d.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [level] * count})


A, B = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
CLS = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
HUGE = {"[CLS]": {"id": "[CLS]", "ids": [2**32 - 1], "tokens": ["[CLS]"]}}
MANY = {"[CLS]": {"id": "[CLS]", "ids": [2] * 1000, "tokens": ["[CLS]"] * 1000}}
BROKEN: dict[str, tuple[Change, str]] = {
    "a token of the template is missing": (
        lambda d: d["post_processor"]["special_tokens"].pop("[SEP]"),
        r"it has no '\[SEP\]'",
    ),
    "a template without the text": (template(single=[CLS]), "single.*must have A once: got none"),
    "a template of the second text": (template(single=[CLS, B]), "must have A once: got B"),
    "a template with the text thrice": (template(single=[A, A, A]), "got A, A, A"),
    "a pair without the second text": (template(pair=[A, CLS]), "must have A and B once: got A"),
    "a template of an impossible id": (
        template(special_tokens=HUGE, single=[CLS, A], pair=[]),
        "4294967295",
    ),
    "a template of a thousand tokens": (
        template(special_tokens=MANY, single=[CLS, A], pair=[]),
        "64 special tokens",
    ),
    "an impossible id": (
        lambda d: d["model"]["vocab"].update(the=2**32 - 1),
        "4294967294|4294967295",
    ),
    "no token for the unknown": (lambda d: d["model"].update(unk_token="[NONE]"), "fail|unk|UNK"),
    # These two end the process inside the library.
    "a map of characters larger than its file": (
        charsmap(b"\xfc\xff\xff\xff" + bytes(64)),
        "trie of the size that it starts with: got 68 bytes for 4294967292",
    ),
    "merges that do not continue with the prefix": (
        lambda d: d.update(
            model={
                "type": "BPE",
                "vocab": {"\u0120": 0, "a": 1, "\u0120a": 2},
                "merges": [["a", "\u0120"]],
                "continuing_subword_prefix": "x",
            }
        ),
        "a merge of tokenizer.json must continue with 'x'",
    ),
    "an empty map of characters": (charsmap(b""), "got 0 bytes"),
    "a map of characters that is none": (
        lambda d: d.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "%"}),
        "must be base64",
    ),
    "a map of characters that leads outside": (
        charsmap(b"\x08\0\0\0" + b"\xff\xf1\x02\x03" * 2 + b"abc"),
        "index out of bounds|broken",
    ),
    "a map of characters that grows": (
        charsmap(b"\x04\0\0\0\0\0\0\0" + b"a" * 10_000),
        "times as long",
    ),
    "nine times ten": (normalized(*[replace("a", "a" * 10)] * 9), "1e[+]09 times as long"),
    "expressions that match nothing": (
        normalized(*[replace("x*", "aaaa", "Regex")] * 9),
        "times as long",
    ),
    "a long text before all": (
        normalized({"type": "Prepend", "prepend": "a" * 1000}),
        "times as long",
    ),
    "many steps": (normalized(*[{"type": "Lowercase"}] * 65), "64 steps: it has 65"),
    "bytes of bytes of bytes": (byte_levels(12), "4.1e[+]03 times as long"),
    "an endless word": (
        lambda d: d["model"].update(max_input_chars_per_word=10**9),
        "max_input_chars_per_word.*10000",
    ),
    "nested too deeply": (
        lambda d: d.update(normalizer=nested(200)),
        "broken",
    ),
}


def nested(depth: int) -> dict[str, Any]:
    step: dict[str, Any] = {"type": "Lowercase"}
    for _ in range(depth):
        step = {"type": "Sequence", "normalizers": [step]}
    return step


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_tokenizer_fails_when_it_is_loaded(folder: Path, name: str) -> None:
    change, message = BROKEN[name]
    write_json(folder / "tokenizer.json", changed(change))
    # The class that takes tokenizer.json as it is; BERT's own takes only the vocabulary from it.
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    with pytest.raises(TokenizerError, match=message):
        Embedder.from_pretrained(folder)


@pytest.mark.parametrize(
    "step",
    [
        replace(" ", "\u2581"),
        replace(" {2,}", " ", "Regex"),
        {"type": "Prepend", "prepend": "\u2581"},
        {"type": "NFKC"},
    ],
)
def test_steps_of_published_tokenizers_are_within_the_bound(step: dict[str, Any]) -> None:
    from tokenizers import Tokenizer as Backend

    lead = {"type": "Prepend", "prepend": "\u2581"}
    for steps in ([step], [{"type": "NFKC"}, lead, replace(" ", "\u2581")]):
        backend = Backend.from_str(json.dumps(changed(normalized(*steps))))
        assert Tokenizer(backend, max_length=64).count("a b")


def failing_on_x() -> Tokenizer:
    """A tokenizer whose regular expression gives up on a long row of x."""
    from tokenizers import Tokenizer as Backend

    described = changed(normalized(replace("(x+x+)+y", "", "Regex")))
    return Tokenizer(Backend.from_str(json.dumps(described)), max_length=64)


def test_a_tokenizer_that_panics_on_a_text() -> None:
    tokenizer = failing_on_x()
    text = "x" * 3000
    for call in (
        lambda: tokenizer.encode([text]),
        lambda: tokenizer.encode_pairs([("a", text)]),
        lambda: tokenizer.count(text),
        lambda: tokenizer.token_ends(text),
    ):
        with pytest.raises(TokenizerError, match=r"fails on a text: .*retry-limit"):
            call()
    assert len(tokenizer.encode(["a"])) == 1


def test_tokens_drawn_at_random_are_refused() -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import BPE

    backend = Backend(BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")], dropout=0.5))
    with pytest.raises(TokenizerError, match=r"dropout=0\.5"):
        Tokenizer(backend, max_length=8)


def test_an_interrupt_is_not_taken_for_a_broken_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = failing_on_x()

    class Backend:
        def encode_batch_fast(self, *_: Any, **__: Any) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer, "_backend", Backend())
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode(["a"])


# --- The wrong class ------------------------------------------------------------------------------
@pytest.mark.parametrize("pooling", [None, "cls"])
def test_an_embedder_of_a_cross_encoder(tmp_path: Path, pooling: str | None) -> None:
    folder = write_tiny_cross_encoder(tmp_path / "ranker")
    with pytest.raises(
        ModelError, match=r"ranker is a cross-encoder.*CrossEncoder\.from_pretrained"
    ):
        Embedder.from_pretrained(folder, pooling=pooling)


def test_a_cross_encoder_of_an_embedder(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny")
    with pytest.raises(ModelError, match=r"tiny is an embedding model.*Embedder\.from_pretrained"):
        CrossEncoder.from_pretrained(folder)
    bare = write_tiny_model(tmp_path / "bare", pooling=None)
    with pytest.raises(ModelError, match=r"BertModel.*Embedder\.from_pretrained"):
        CrossEncoder.from_pretrained(bare)
