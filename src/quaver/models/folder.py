"""A Hugging Face model folder in the sentence-transformers layout: found, fetched, read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from numpy.typing import NDArray

from quaver.errors import (
    ModelFolderError,
    TokenizerError,
    UnsupportedArchitectureError,
)
from quaver.models.files import (
    ConfigFile,
    ModuleEntry,
    ModuleFile,
    PoolingFile,
    SentenceBertFile,
    SentenceTransformersFile,
    TokenizerConfigFile,
    checked,
    read_checked,
    read_json,
)
from quaver.models.hub import ORGANIZATIONS, find_folder
from quaver.models.prompts import known_prompts
from quaver.models.tokenizer import Tokenizer
from quaver.models.weights_file import read_tensors, sample_tensors

_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Modules run one after the other; published models have one or two.
_MOST_MODULES = 16
_MODULES = "Transformer, Pooling, any number of Dense and LayerNorm, Normalize"


@dataclass(frozen=True)
class Module:
    """A module of sentence-transformers after the pooling.

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
        source: the name that finds it again from any working directory: the hub id, or the
            folder's absolute path.
        config: config.json.
        file: the same, checked.
        tokens: tokenizer_config.json.
        pooling: how token vectors become one ("cls", "mean", "max", ...; several joined by "+"), or
            None when the folder does not say.
        normalize: whether modules.json ends with Normalize.
        modules: the modules between the pooling and Normalize.
        prompts: texts put before a text, by name; of a well-known model that leaves them to its card
            those of `quaver.models.prompts.known_prompts`.
        default_prompt_name: the prompt used when none is named.
        similarity: "cosine" or "dot".
        truncate_dim: leading components that the model's author keeps of a vector, or None.
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
    file: ConfigFile
    tokens: TokenizerConfigFile
    pooling: str | None
    normalize: bool
    modules: tuple[Module, ...]
    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity: str
    truncate_dim: int | None
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
        organizations: Sequence[str] = ORGANIZATIONS,
    ) -> ModelFolder:
        """Open a local folder, or fetch a model from the Hugging Face hub and open it.

        Args:
            name_or_path: an existing folder wins; anything else is a hub id such as
                "BAAI/bge-small-en-v1.5".
            revision: branch, tag or commit on the hub; no effect on a local folder.
            local_files_only: never use the network, only what was downloaded before.
            token: access token of the hub for private models.
            organizations: where a hub id without an organization is looked for.

        Returns:
            The folder; weights and tokenizer are not read yet.

        Raises:
            ModelNotFoundError: there is no such folder, and the hub does not have or cannot be
                asked for it.
            ModelFolderError: a JSON file is missing, broken, or contradicts another.
            UnsupportedArchitectureError: modules.json has a module, or pooling an option, that
                Quaver does not run.
        """
        path, name, source = find_folder(
            name_or_path, revision, local_files_only, token, organizations
        )
        transformer, pooling, modules, normalize = _modules(path)
        config = read_json(transformer / "config.json")
        if config is None:
            raise ModelFolderError(
                f"a model folder needs config.json: {transformer} has none; give the folder that "
                "holds config.json, tokenizer.json and model.safetensors"
            )
        file = checked(ConfigFile, config, transformer / "config.json")
        settings = _settings(path / "config_sentence_transformers.json")
        lengths = transformer / "sentence_bert_config.json"
        text_settings = read_checked(SentenceBertFile, lengths) or SentenceBertFile()
        tokens = read_checked(TokenizerConfigFile, transformer / "tokenizer_config.json")
        tokens = tokens or TokenizerConfigFile()
        length = text_settings.max_seq_length or tokens.model_max_length
        return cls(
            path=path,
            transformer=transformer,
            name=name,
            source=source,
            config=config,
            file=file,
            tokens=tokens,
            pooling=pooling,
            normalize=normalize,
            modules=modules,
            prompts=_prompts(settings, name),
            default_prompt_name=settings.default_prompt_name,
            similarity=_similarity(settings),
            truncate_dim=settings.truncate_dim,
            score_activation=_score_activation(file, settings),
            max_seq_length=None if length is None else int(length),
            lowercase=bool(text_settings.do_lower_case),
        )

    @property
    def architectures(self) -> tuple[str, ...]:
        """The classes of transformers that config.json lists."""
        return tuple(self.file.architectures or ())

    @property
    def is_classifier(self) -> bool:
        """Whether one of them has a classification head, as a cross-encoder has."""
        return any("SequenceClassification" in name for name in self.architectures)

    @property
    def label_names(self) -> dict[str, str]:
        """The names of the labels by their number, as config.json has them."""
        return {number: str(name) for number, name in (self.file.id2label or {}).items()}

    def tokenizer(self, max_length: int) -> Tokenizer:
        """Read the tokenizer, with the settings that the folder has beside tokenizer.json.

        Args:
            max_length: most tokens of a text or pair, special tokens included.

        Raises:
            TokenizerError: tokenizer.json is missing or broken, or its tokenizer fails.
            InputError: max_length leaves no room for a token beside the special tokens.
        """
        return Tokenizer.from_folder(
            self.transformer,
            max_length=max_length,
            lowercase=self.lowercase,
            settings=self.tokens,
            model=self.file,
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Read the weights; see `quaver.models.weights_file.read_tensors`."""
        return read_tensors(self.transformer)

    @cached_property
    def fingerprint(self) -> str:
        """Identify the model: the same files have the same 64 hex digits, in any folder.

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


def _settings(path: Path) -> SentenceTransformersFile:
    settings = read_checked(SentenceTransformersFile, path) or SentenceTransformersFile()
    default = settings.default_prompt_name
    if default is not None and default not in (settings.prompts or {}):
        raise ModelFolderError(
            f"{path} must have default_prompt_name among its prompts: got {default!r} for "
            f"{', '.join(settings.prompts or {}) or 'none'}"
        )
    return settings


def _modules(path: Path) -> tuple[Path, str | None, tuple[Module, ...], bool]:
    """Read modules.json: the transformer's folder, pooling or None, modules, normalise or not."""
    modules = read_checked(list[ModuleEntry], path / "modules.json")
    if modules is None:
        return path, None, (), False
    for module in modules:
        parts = PurePosixPath(module.path)
        if parts.is_absolute() or ".." in parts.parts or "\0" in module.path:
            raise ModelFolderError(
                f"{path / 'modules.json'} must name folders inside the model's: got {module.path!r}"
            )
    kinds = [module.type.rpartition(".")[2] for module in modules]
    paths = [path / module.path for module in modules]
    if kinds == ["Transformer"]:  # a cross-encoder's folder
        return paths[0], None, (), False
    normalize = kinds[-1:] == ["Normalize"]
    between = kinds[2 : len(kinds) - normalize]
    if kinds[:2] != ["Transformer", "Pooling"] or set(between) - {"Dense", "LayerNorm"}:
        raise UnsupportedArchitectureError(
            f"modules.json of {path} lists {', '.join(kinds) or 'nothing'}; supported are "
            f"{_MODULES}, in this order"
        )
    if len(between) > _MOST_MODULES:
        raise UnsupportedArchitectureError(
            f"modules.json of {path} lists {len(between)} modules behind the pooling; supported are "
            f"{_MOST_MODULES}"
        )
    found = tuple(_module(kind, place) for kind, place in zip(between, paths[2:], strict=False))
    return paths[0], _pooling(paths[1] / "config.json"), found, normalize


def _module(kind: str, path: Path) -> Module:
    config = read_json(path / "config.json")
    if config is None:
        raise ModelFolderError(
            f"modules.json names a {kind} module, but there is no {path / 'config.json'}"
        )
    checked(ModuleFile, config, path / "config.json")
    return Module(kind, config, path)


def _pooling(path: Path) -> str:
    config = read_checked(PoolingFile, path)
    if config is None:
        raise ModelFolderError(f"modules.json names a Pooling module, but there is no {path}")
    if config.include_prompt is False:
        raise UnsupportedArchitectureError(
            f"{path} says include_prompt=false; supported is pooling over all tokens, prompt "
            "included"
        )
    modes = config.pooling_mode
    if modes is None:
        modes = [mode for flag, mode in _POOLING_FLAGS.items() if getattr(config, flag)]
    if not modes:
        raise ModelFolderError(
            f"{path} must name a pooling mode, in pooling_mode or as one of "
            f"{', '.join(_POOLING_FLAGS)}: it has none"
        )
    return modes if isinstance(modes, str) else "+".join(modes)


def _prompts(settings: SentenceTransformersFile, name: str) -> dict[str, str]:
    """Return the folder's prompts, or those known by its name where it has none.

    sentence-transformers writes {"query": "", "document": ""} for a model without prompts.
    """
    prompts = settings.prompts or {}
    known = {} if any(prompts.values()) else known_prompts(name)
    return known or dict(prompts)


def _similarity(settings: SentenceTransformersFile) -> str:
    name = settings.similarity_fn_name or "cosine"
    known = {"cosine": "cosine", "dot": "dot", "dot_product": "dot"}
    if name not in known:
        raise UnsupportedArchitectureError(
            f"similarity_fn_name is {name!r}; supported are {', '.join(known)}"
        )
    return known[name]


def _score_activation(config: ConfigFile, settings: SentenceTransformersFile) -> str | None:
    """Find the activation in the three places where sentence-transformers has kept it."""
    inside = config.sentence_transformers
    places = (
        settings.activation_fn,
        None if inside is None else inside.activation_fn,
        config.sbert_ce_default_activation_function,
    )
    return next((name for name in places if name is not None), None)
