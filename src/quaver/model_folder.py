"""A Hugging Face model folder in the sentence-transformers layout: found, fetched, read."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from quaver.errors import ModelFolderError, TokenizerError, UnsupportedArchitectureError
from quaver.hub import find_folder
from quaver.prompts import known_prompts
from quaver.weights_file import read_tensors, sample_tensors

_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_MODULES = "Transformer, Pooling, any number of Dense and LayerNorm, Normalize"


@dataclass(frozen=True)
class Module:
    """A module of sentence-transformers behind the pooling.

    Attributes:
        kind: "Dense" or "LayerNorm".
        config: its config.json.
        path: the folder of its weights.
    """

    kind: str
    config: dict[str, Any]
    path: Path


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder says about itself.

    Attributes:
        path: the folder.
        transformer: the folder of config.json, tokenizer.json and the weights; `path` for nearly
            every model.
        name: what the user asked for: a hub id, or the folder's name.
        source: under what it is found again, from any working directory: the hub id, or the
            folder's absolute path.
        config: config.json.
        pooling: how token vectors become one ("cls", "mean", "max", ...; several joined by "+"), or
            None when the folder does not say.
        normalize: whether modules.json ends with Normalize.
        modules: what stands between the pooling and there.
        prompts: texts put before a text, by name; of a well-known model that leaves them to its card
            those of `quaver.prompts.known_prompts`.
        default_prompt_name: the prompt used when none is named.
        similarity: "cosine" or "dot".
        score_activation: the class that a cross-encoder names for its scores, such as
            "torch.nn.modules.activation.Sigmoid", or None. Only a name: it is never imported.
        max_seq_length: most tokens of a text, special tokens included, or None when the folder
            leaves that to the model.
        lowercase: whether texts are lowered before the tokenizer.
    """

    path: Path
    transformer: Path
    name: str
    source: str
    config: dict[str, Any]
    pooling: str | None
    normalize: bool
    modules: tuple[Module, ...]
    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity: str
    score_activation: str | None
    max_seq_length: int | None
    lowercase: bool

    @classmethod
    def open(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> ModelFolder:
        """Open a local folder, or fetch a model from the Hugging Face hub and open it.

        Args:
            name_or_path: an existing folder wins; anything else is a hub id such as
                "BAAI/bge-small-en-v1.5".
            revision: branch, tag or commit on the hub; no effect on a local folder.
            local_files_only: never use the network, only what was downloaded before.
            token: access token of the hub for private models.

        Returns:
            The folder; weights and tokenizer are not read yet.

        Raises:
            ModelNotFoundError: there is no such folder, and the hub does not have or cannot be
                asked for it.
            ModelFolderError: a JSON file is missing, broken, or contradicts another.
            UnsupportedArchitectureError: modules.json has a module, or pooling an option, that
                Quaver does not run.
        """
        path, name, source = find_folder(name_or_path, revision, local_files_only, token)
        transformer, pooling, modules, normalize = _modules(path)
        config = _read_json(transformer / "config.json")
        if config is None:
            raise ModelFolderError(
                f"a model folder needs config.json: {transformer} has none; give the folder that "
                "holds config.json, "
                "tokenizer.json and model.safetensors"
            )
        settings = _read_json(path / "config_sentence_transformers.json") or {}
        text_settings = _read_json(transformer / "sentence_bert_config.json") or {}
        return cls(
            path=path,
            transformer=transformer,
            name=name,
            source=source,
            config=config,
            pooling=pooling,
            normalize=normalize,
            modules=modules,
            prompts=_prompts(path, settings, name),
            default_prompt_name=settings.get("default_prompt_name"),
            similarity=_similarity(settings),
            score_activation=_score_activation(config, settings),
            max_seq_length=_max_seq_length(transformer, text_settings),
            lowercase=bool(text_settings.get("do_lower_case")),
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Read the weights; see `quaver.weights_file.read_tensors`."""
        return read_tensors(self.transformer)

    @cached_property
    def fingerprint(self) -> str:
        """Identify the model: the same files give the same 64 hex digits, wherever they lie.

        sha256 over config.json, tokenizer.json, and name, dtype, shape and the first 4 KiB of every
        tensor. Training changes every layer it reaches, so the samples tell two trainings of one
        model apart at a hundredth of the reading.

        Raises:
            ModelFolderError: there is no safetensors file.
            WeightsError: a safetensors file is broken.
            TokenizerError: tokenizer.json is missing.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        try:
            digest.update((self.transformer / "tokenizer.json").read_bytes())
        except OSError as error:
            raise TokenizerError(f"cannot read tokenizer.json of {self.name}: {error}") from error
        for module in self.modules:
            digest.update(json.dumps((module.kind, module.config), sort_keys=True).encode())
        for folder in (self.transformer, *(module.path for module in self.modules)):
            for description, sample in sample_tensors(folder):
                digest.update(description.encode())
                digest.update(sample)
        return digest.hexdigest()


def _read_json(path: Path, kind: type = dict) -> Any:
    """Read a JSON file of the folder; None when there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{path} is no readable JSON: {error}; download it again") from error
    if not isinstance(value, kind):
        raise ModelFolderError(
            f"{path} must hold a JSON {kind.__name__}: got {type(value).__name__}"
        )
    return value


def _modules(path: Path) -> tuple[Path, str | None, tuple[Module, ...], bool]:
    """Read modules.json: the transformer's folder, pooling or None, modules, normalise or not."""
    modules = _read_json(path / "modules.json", list)
    if modules is None:
        return path, None, (), False
    try:
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        paths = [path / module["path"] for module in modules]
    except (KeyError, TypeError) as error:
        raise ModelFolderError(
            f"{path / 'modules.json'} must list modules with type and path: {error!r}"
        ) from error
    if kinds == ["Transformer"]:  # a cross-encoder's folder
        return paths[0], None, (), False
    normalize = kinds[-1:] == ["Normalize"]
    between = kinds[2 : len(kinds) - normalize]
    if kinds[:2] != ["Transformer", "Pooling"] or set(between) - {"Dense", "LayerNorm"}:
        raise UnsupportedArchitectureError(
            f"modules.json of {path} lists {', '.join(kinds) or 'nothing'}; supported are "
            f"{_MODULES}, in this order"
        )
    found = tuple(_module(kind, place) for kind, place in zip(between, paths[2:], strict=False))
    return paths[0], _pooling(paths[1] / "config.json"), found, normalize


def _module(kind: str, path: Path) -> Module:
    config = _read_json(path / "config.json")
    if config is None:
        raise ModelFolderError(
            f"modules.json names a {kind} module, but there is no {path / 'config.json'}"
        )
    return Module(kind, config, path)


def _pooling(path: Path) -> str:
    config = _read_json(path)
    if config is None:
        raise ModelFolderError(f"modules.json names a Pooling module, but there is no {path}")
    if config.get("include_prompt") is False:
        raise UnsupportedArchitectureError(
            f"{path} says include_prompt=false; supported is pooling over all tokens, prompt "
            "included"
        )
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes:
        raise ModelFolderError(f"{path} must name a pooling mode: got {config}")
    return "+".join(map(str, modes))


def _prompts(path: Path, settings: dict[str, Any], name: str) -> dict[str, str]:
    """Return the folder's prompts, or those known by its name where it has none.

    sentence-transformers writes {"query": "", "document": ""} for a model without prompts.
    """
    prompts = settings.get("prompts") or {}
    fits = isinstance(prompts, dict) and all(isinstance(value, str) for value in prompts.values())
    default = settings.get("default_prompt_name")
    if not fits or (default is not None and default not in prompts):
        raise ModelFolderError(
            f"config_sentence_transformers.json of {path} must map prompt names to texts, "
            "default_prompt_name among them: "
            f"got prompts={prompts!r}, default_prompt_name={default!r}"
        )
    known = {} if any(prompts.values()) else known_prompts(name)
    return known or dict(prompts)


def _similarity(settings: dict[str, Any]) -> str:
    name = settings.get("similarity_fn_name") or "cosine"
    known = {"cosine": "cosine", "dot": "dot", "dot_product": "dot"}
    if name not in known:
        raise UnsupportedArchitectureError(
            f"similarity_fn_name is {name!r}; supported are {', '.join(known)}"
        )
    return known[name]


def _score_activation(config: dict[str, Any], settings: dict[str, Any]) -> str | None:
    """Find the activation in the three places where sentence-transformers has kept it."""
    inside = config.get("sentence_transformers")
    places = (
        settings.get("activation_fn"),
        inside.get("activation_fn") if isinstance(inside, dict) else None,
        config.get("sbert_ce_default_activation_function"),
    )
    return next((str(name) for name in places if name is not None), None)


def _max_seq_length(path: Path, text_settings: dict[str, Any]) -> int | None:
    """Return the first of the stated lengths."""
    tokenizer = _read_json(path / "tokenizer_config.json") or {}
    length = text_settings.get("max_seq_length") or tokenizer.get("model_max_length")
    if length is None:
        return None
    if isinstance(length, bool) or not isinstance(length, (int, float)) or length < 1:
        raise ModelFolderError(f"the length of {path} must be a positive number: got {length!r}")
    return int(length)
