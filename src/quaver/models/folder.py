"""Find, download and read a Hugging Face model folder in the layout of sentence-transformers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from quaver.errors import (
    InputError,
    ModelFolderError,
    TokenizerError,
    UnsupportedArchitectureError,
)
from quaver.models.adapters import Adapters, find_adapters
from quaver.models.chat_template import (
    MAX_TEMPLATE,
    QWEN3_RERANKER,
    ChatTemplate,
    special_tokens,
)
from quaver.models.families.registry import STATES_CAUSAL, encoder_spec
from quaver.models.files import (
    ConfigFile,
    ModalityOutput,
    ModuleEntry,
    ModuleFile,
    PoolingFile,
    SentenceBertFile,
    SentenceTransformersFile,
    TokenizerConfigFile,
    checked,
    read_checked,
    read_file,
    read_json,
)
from quaver.models.geometry import EncoderSpec
from quaver.models.hub import ORGANIZATIONS, find_folder
from quaver.models.prompts import document_prompt, known_prompts, query_prompt
from quaver.models.token_modules import (
    KIND_NAMES,
    Kind,
    ModelKind,
    MultiVectorModules,
    SparseModules,
    checked_path,
    kind_of,
    multi_vector_modules,
    require_kind,
    sparse_modules,
)
from quaver.models.tokenizer import Tokenizer
from quaver.models.tokenizer_files import vocabulary_bytes
from quaver.models.weights_file import ADAPTER_FILE, read_tensors, sample_tensors

_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# Modules run one after the other; published models have one to three.
_MAX_MODULES = 16
_MODULES = (
    "Transformer, Pooling, then any of Dense, LayerNorm, Normalize and Dropout; or StaticEmbedding, "
    "Normalize"
)
# Where sentence-transformers has kept the settings of a Transformer module, by its base model.
_TEXT_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_VECTOR, _SCORES = "sentence_embedding", "scores"
# Where models of any kind without an organization are looked for.
_ALL_ORGANIZATIONS = (*ORGANIZATIONS, "sparse-encoder", "lightonai")


@dataclass(frozen=True)
class Module:
    """A module of sentence-transformers after the pooling.

    Attributes:
        kind: "Dense", "LayerNorm", "Normalize", or "LogitScore" of a reranker that reads its score
            from the words of a language model.
        config: its config.json; {} for a Normalize without one.
        path: its folder, with the weights of those that have any.
    """

    kind: str
    config: dict[str, Any]
    path: Path

    @property
    def has_weights(self) -> bool:
        """Whether there are weights in its folder."""
        return self.kind not in ("Normalize", "LogitScore")


@dataclass(frozen=True)
class ModelFolder:
    """The configuration of a model folder.

    Attributes:
        path: the folder.
        transformer: the folder of config.json, tokenizer.json and the weights; `path` for nearly
            every model.
        name: what the user asked for: a hub id, or the folder's name.
        source: the name that loads it from any working directory: the hub id, or the
            folder's absolute path.
        config: config.json.
        file: the same, checked against its schema.
        tokens: tokenizer_config.json.
        pooling: how token vectors become one ("cls", "mean", "max", ...; several joined by "+"), or
            None if the folder does not say.
        normalize: whether modules.json ends with Normalize.
        modules: the modules between the pooling and that Normalize.
        scores: whether the last of them computes the scores of a cross-encoder.
        static: whether it is a table of vectors, as model2vec and StaticEmbedding write it; there is
            no encoder, and config.json may be missing.
        prompts: texts that go before a text, by name; for well-known models without any in their files,
            those of their cards on the hub.
        default_prompt_name: the prompt used by default, or None.
        similarity: "cosine", "dot", "euclidean" or "manhattan"; of a multi-vector model "maxsim" or
            "meanmaxsim".
        truncate_dim: number of leading components to keep, or None for all.
        score_activation: the class that a cross-encoder names for its scores, such as
            "torch.nn.modules.activation.Sigmoid", or None. Only a name: it is never imported.
        max_seq_length: maximum number of tokens in a text, special tokens included, or None if the
            folder does not say.
        lowercase: whether texts are lowercased before tokenization.
        template: the chat template that makes one text of a query and a document, or None.
        sparse: how a sparse encoder weighs words; None for other models.
        multi_vector: how a multi-vector model makes the vectors of tokens; None for other models.
        max_active_dims: the most words that a sparse vector keeps, or None for all.
        adapters: the adapters of tasks that the model has, or None.
        task: which of them it is opened for, or "retrieval" for two; None without adapters.
        pools_prompt: whether the tokens of a prompt are pooled with those of the text after it.
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
    scores: bool
    static: bool
    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity: str
    truncate_dim: int | None
    score_activation: str | None
    max_seq_length: int | None
    lowercase: bool
    template: ChatTemplate | None = None
    sparse: SparseModules | None = None
    multi_vector: MultiVectorModules | None = None
    max_active_dims: int | None = None
    pools_prompt: bool = True
    adapters: Adapters | None = None
    task: str | None = None

    @classmethod
    def open(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        organizations: Sequence[str] = ORGANIZATIONS,
        kind: Kind | Literal["any"] | None = None,
        task: str | None = None,
        is_causal: bool | None = None,
    ) -> ModelFolder:
        """Open a local folder, or fetch a model from the Hugging Face hub and open it.

        Args:
            name_or_path: an existing folder takes precedence; anything else is a hub id such as
                "BAAI/bge-small-en-v1.5".
            revision: branch, tag or commit on the hub; no effect on a local folder.
            local_files_only: never use the network, only what was downloaded before.
            token: access token of the hub for private models.
            organizations: where to look for a hub id without an organization.
            kind: "sparse" or "multi-vector", the models to open; None for those of one vector or of
                scores, "any" for all.
            task: what a model with adapters is opened for; None for retrieval.
            is_causal: whether a token of a decoder sees only those before it, for a config.json that does not
                say; None follows it.

        Returns:
            the folder; weights and tokenizer are not read yet.

        Raises:
            ModelNotFoundError: there is no such folder, and the hub does not have the model or cannot
                be reached.
            ModelFolderError: a JSON file is missing, broken, or contradicts another.
            UnsupportedArchitectureError: modules.json has a module, or pooling an option, that
                Quaver does not run; or the folder is of another kind.
            InputError: the model has no such task, or is_causal contradicts config.json or has no effect.
        """
        path, name, source = find_folder(
            name_or_path, revision, local_files_only, token, organizations
        )
        settings = _settings(path / "config_sentence_transformers.json")
        chain = _chain(path, name, settings, kind)
        transformer = chain.transformer
        config = read_json(transformer / "config.json")
        if config is None and chain.static:
            config = {}
        if config is None:
            raise ModelFolderError(
                f"a model folder needs config.json: {transformer} has none; give the folder that "
                "holds config.json, tokenizer.json and model.safetensors"
            )
        file = checked(ConfigFile, config, transformer / "config.json")
        if is_causal is not None:
            config = _with_causality(config, file, name, is_causal=is_causal)
            file = checked(ConfigFile, config, transformer / "config.json")
        if chain.pooling is None and file.model_type == "model2vec":
            chain = _Chain(path, "mean", normalize=file.normalize is True, static=True)
        if not chain.scores and chain.pooling is None and _is_known_reranker(name, file):
            chain = replace(_LOGITS, transformer=transformer, modules=(_module_of_words(path),))
        by_words = any(module.kind == "LogitScore" for module in chain.modules)
        text_settings = _text_settings(
            transformer,
            name,
            by_words=by_words,
            scores=chain.scores or chain.pooling is None,
            words=chain.sparse is not None,
        )
        tokens = read_checked(TokenizerConfigFile, transformer / "tokenizer_config.json")
        tokens = tokens or TokenizerConfigFile()
        template = _template(transformer, text_settings, tokens)
        if template is None and by_words:
            template = _known_template(name, transformer, tokens)
        length = text_settings.max_seq_length or tokens.model_max_length
        adapters = None if chain.static else find_adapters(transformer, file)
        prompts, default = _prompts(settings, name), settings.default_prompt_name
        if adapters is not None:
            task = adapters.choose(task, name)
            prompts = adapters.prompts(task, prompts)
            if prompts["query"] and prompts["query"] == prompts["document"]:
                default = default or "query"  # a single task has a single prompt
        elif task is not None:
            raise InputError(
                f"{name} has no adapters of tasks, so task has no effect: got {task!r}; leave it out"
            )
        return cls(
            path=path,
            transformer=transformer,
            name=name,
            source=source,
            config=config,
            file=file,
            tokens=tokens,
            pooling=chain.pooling,
            normalize=chain.normalize,
            modules=chain.modules,
            scores=chain.scores,
            static=chain.static,
            prompts=prompts,
            default_prompt_name=default,
            similarity=_similarity(settings, chain),
            truncate_dim=settings.truncate_dim,
            score_activation=_score_activation(file, settings),
            max_seq_length=None if length is None else int(length),
            lowercase=bool(text_settings.do_lower_case),
            template=template,
            sparse=chain.sparse,
            multi_vector=chain.multi_vector,
            max_active_dims=settings.max_active_dims,
            adapters=adapters,
            task=task,
            pools_prompt=chain.pools_prompt and not _INSTRUCTOR.fullmatch(_short(name)),
        )

    @classmethod
    def open_any(
        cls,
        name_or_path: str | Path,
        *,
        pooling: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        is_causal: bool | None = None,
    ) -> ModelFolder:
        """Open a folder of any kind, for tools that take all models.

        A masked language model without modules.json is a sparse encoder, as for sentence-transformers'
        SparseEncoder, unless the caller says how to pool its tokens.

        Args:
            name_or_path: as for `open`.
            pooling: how the caller pools the tokens of an embedding model, or None.
            revision: as for `open`.
            local_files_only: as for `open`.
            token: as for `open`.
            is_causal: as for `open`.

        Returns:
            the folder; `kind` says what it holds.

        Raises:
            ModelError: as for `open`.
            InputError: there is a pooling, and the model has more than one vector for a text.
        """
        found = partial(
            cls.open,
            name_or_path,
            revision=revision,
            local_files_only=local_files_only,
            token=token,
            organizations=_ALL_ORGANIZATIONS,
            is_causal=is_causal,
        )
        folder = found(kind="any")
        if pooling is not None and folder.kind in ("sparse", "multi-vector"):
            raise InputError(
                f"pooling is for models with one vector for a text: {folder.name} is "
                f"{KIND_NAMES[folder.kind]}, got pooling={pooling!r}; leave it out"
            )
        alone = folder.kind == "embedder" and folder.pooling is None and pooling is None
        if alone and any("ForMaskedLM" in name for name in folder.architectures):
            return found(kind="sparse")
        return folder

    @property
    def architectures(self) -> tuple[str, ...]:
        """The classes of transformers that config.json lists."""
        return tuple(self.file.architectures or ())

    @property
    def is_cross_encoder(self) -> bool:
        """Whether its modules compute scores, or it has a classification head and no pooling."""
        classifier = any("SequenceClassification" in name for name in self.architectures)
        return self.scores or (self.pooling is None and classifier)

    @property
    def kind(self) -> ModelKind:
        """What the folder holds, which decides the class that opens it."""
        if self.sparse is not None:
            return "sparse"
        if self.multi_vector is not None:
            return "multi-vector"
        return "cross-encoder" if self.is_cross_encoder else "embedder"

    @property
    def label_names(self) -> dict[str, str]:
        """The names of the labels by their number, from config.json."""
        return {number: str(name) for number, name in (self.file.id2label or {}).items()}

    @property
    def default_prompt(self) -> str:
        """The prompt used by default; "" for most models."""
        return self.prompts.get(self.default_prompt_name or "", "")

    def encoder_spec(
        self, *, pooling: str | None = None, normalize: bool | None = None
    ) -> EncoderSpec:
        """Return the geometry of the encoder that config.json describes, without modules after it.

        Args:
            pooling: how to pool; None follows the folder.
            normalize: whether vectors get length 1; None follows the folder.

        Raises:
            UnsupportedArchitectureError: Quaver does not run this encoder.
            PoolingError: neither the argument nor the folder says how to pool.
        """
        return encoder_spec(
            self.config,
            pooling=self.pooling if pooling is None else pooling,
            normalize=self.normalize if normalize is None else normalize,
        )

    def tokenizer(self, max_length: int, *, pooling: str | None = None) -> Tokenizer:
        """Read the tokenizer, with its settings from tokenizer_config.json.

        Args:
            max_length: maximum number of tokens in a text or pair, special tokens included.
            pooling: how the caller pools the tokens of an embedding model; None follows the folder. The
                last token must be the one that the folder puts behind a text.

        Raises:
            TokenizerError: tokenizer.json is missing or broken, or its tokenizer fails.
            ModelFolderError: the last token is pooled, and the folder does not say which one that is; or its
                chat template fails.
            InputError: max_length leaves no room for a token besides the special tokens.
        """
        if self.template is not None:
            self.template.working_prompt(self.default_prompt)  # a broken template fails here
        pooling = pooling or self.pooling or ""
        return Tokenizer.from_folder(
            self.transformer,
            max_length=max_length,
            last_token=self.kind == "embedder" and "lasttoken" in pooling.split("+"),
            lowercase=self.lowercase,
            settings=self.tokens,
            model=self.file,
            template=self.template,
            unpooled=None if self.pools_prompt else self.prompts.values(),
        )

    def tensors(self, *, widen: bool = True) -> Mapping[str, NDArray[Any]]:
        """Map the weights.

        Args:
            widen: False leaves float16 and float64 as they are; otherwise they and bfloat16 become
                float32 when a tensor is taken. float32 and integers are read-only views of the file.

        Returns:
            the tensors by name; of a model with adapters with that of documents in them.

        Raises:
            ModelFolderError: there is no file of weights, or a shard is missing.
            WeightsError: a file is truncated or corrupt, or has an unsupported dtype.
        """
        stored = read_tensors(self.transformer, widen=widen)
        if self.adapters is None or self.task is None:
            return stored
        return self.adapters.merged(stored, self.adapters.of_documents(self.task), widen=widen)

    @property
    def queries(self) -> ModelFolder | None:
        """The same folder with the adapter of queries; None where queries have the weights of documents."""
        if self.adapters is None or self.task is None or self.task in self.adapters.tasks:
            return None
        return replace(self, task=self.adapters.of_queries(self.task))

    @cached_property
    def fingerprint(self) -> str:
        """Identify the model: the same files have the same 64 hex digits, in any folder.

        sha256 over config.json, tokenizer.json, and name, dtype, shape and the first 4 KiB of every
        tensor. Training changes every layer it reaches, so the samples distinguish two
        trainings of the same model while reading a hundredth of the bytes.

        Raises:
            ModelFolderError: there is no safetensors file.
            WeightsError: a safetensors file is broken.
            TokenizerError: tokenizer.json is missing.
        """
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode())
        path = self.transformer / "tokenizer.json"
        try:
            content = path.read_bytes() if path.exists() else vocabulary_bytes(path.parent)
        except OSError as error:
            raise TokenizerError(f"cannot read tokenizer.json of {self.name}: {error}") from error
        if not content:
            raise TokenizerError(f"cannot read tokenizer.json of {self.name}: there is none")
        digest.update(content)
        if self.template is not None:
            digest.update(repr(self.template).encode())
        for module in self.modules:
            digest.update(json.dumps((module.kind, module.config), sort_keys=True).encode())
        weighted = [module.path for module in self.modules if module.has_weights]
        if self.sparse is not None:
            digest.update(repr((self.sparse.pooling, self.sparse.logarithms)).encode())
            weighted += [] if self.sparse.query is None else [self.sparse.query]
        if self.adapters is not None:
            digest.update(f"{self.task} {self.adapters.tasks}".encode())
            for place in self.adapters.folders.values():
                for description, sample in sample_tensors(place, single=ADAPTER_FILE):
                    digest.update(description.encode())
                    digest.update(sample)
        if self.multi_vector is not None:
            settings = replace(self.multi_vector, transformer=Path(), projections=())
            digest.update(repr(settings).encode())
        for folder in (self.transformer, *weighted):
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


def _with_causality(
    config: dict[str, Any], file: ConfigFile, name: str, *, is_causal: bool
) -> dict[str, Any]:
    """Return config.json with what the caller says of a decoder's attention."""
    if not isinstance(is_causal, bool):
        raise InputError(f"is_causal must be True, False or None: got {is_causal!r}")
    if file.model_type not in STATES_CAUSAL:
        raise InputError(
            f"is_causal is for {', '.join(STATES_CAUSAL)}: {name} is {file.model_type or 'a static model'!r}, got "
            f"is_causal={is_causal}; leave it out"
        )
    if file.is_causal not in (None, is_causal):
        raise InputError(
            f"config.json of {name} says is_causal={file.is_causal}: got is_causal={is_causal}, which makes useless "
            "vectors; leave it out"
        )
    return {**config, "is_causal": is_causal}


@dataclass(frozen=True)
class _Chain:
    """What modules.json lists; the attributes are those of `ModelFolder`."""

    transformer: Path
    pooling: str | None = None
    modules: tuple[Module, ...] = ()
    normalize: bool = False
    scores: bool = False
    static: bool = False
    sparse: SparseModules | None = None
    multi_vector: MultiVectorModules | None = None
    pools_prompt: bool = True


# The state of the last token meets two rows of the language model's head.
_LOGITS = _Chain(Path(), "lasttoken", scores=True)


def kind_of_model(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
) -> Kind | None:
    """Tell which kind of model a folder or hub id is, without opening it.

    Args:
        name_or_path: as of `ModelFolder.open`.
        revision: branch, tag or commit on the hub.
        local_files_only: never use the network.
        token: access token of the hub.

    Returns:
        "sparse" or "multi-vector"; None for models of one vector or of scores, and for a masked
        language model alone, which says nothing of its use.

    Raises:
        ModelNotFoundError: no such folder or hub model.
        ModelFolderError: a JSON file is broken.
    """
    path, _, _ = find_folder(name_or_path, revision, local_files_only, token, _ALL_ORGANIZATIONS)
    listed, architectures = _listed(path)
    settings = _settings(path / "config_sentence_transformers.json")
    return kind_of(path, listed, settings, architectures)


def _listed(path: Path) -> tuple[list[ModuleEntry] | None, tuple[str, ...]]:
    """Read modules.json, and without it the architectures of config.json."""
    listed = read_checked(list[ModuleEntry], path / "modules.json")
    for entry in listed or ():
        checked_path(entry.path, path / "modules.json")
    config = None if listed else read_checked(ConfigFile, path / "config.json")
    return listed, tuple(config.architectures or ()) if config is not None else ()


def _chain(
    path: Path,
    name: str,
    settings: SentenceTransformersFile,
    wanted: Kind | Literal["any"] | None,
) -> _Chain:
    """Read modules.json, and refuse a model of another kind than the one that is wanted."""
    listed, architectures = _listed(path)
    kind = kind_of(path, listed, settings, architectures)
    classes = [entry.type.rpartition(".")[2] for entry in listed or ()]
    if wanted == "sparse" and listed is None and any("ForMaskedLM" in a for a in architectures):
        kind = "sparse"
    if wanted != "any" and (kind is not None or wanted is not None):
        scores = any("SequenceClassification" in a for a in architectures) or classes[1:] == [
            "LogitScore"
        ]
        opens = "CrossEncoder" if scores else "Embedder"
        require_kind(name, kind, wanted, opens, architectures)
    if kind == "sparse":
        sparse = sparse_modules(path, name, listed)
        return _Chain(sparse.transformer, sparse=sparse)
    if kind == "multi-vector":
        multi_vector = multi_vector_modules(path, name, listed, settings)
        projections = tuple(_module(kind, place) for kind, place in multi_vector.projections)
        return _Chain(multi_vector.transformer, modules=projections, multi_vector=multi_vector)
    if listed is None:
        return _Chain(path)
    kinds = [entry.type.rpartition(".")[2] for entry in listed]
    paths = [path / entry.path for entry in listed]
    if kinds == ["Transformer"]:  # a cross-encoder's folder
        return _Chain(paths[0])
    if kinds == ["Transformer", "LogitScore"]:
        module = _module("LogitScore", paths[1])
        read = checked(ModuleFile, module.config, paths[1] / "config.json")
        if read.true_token_id is None or read.module_input_name not in (None, "causal_logits"):
            raise ModelFolderError(
                f"{paths[1] / 'config.json'} must have true_token_id, and causal_logits as its input: got "
                f"{module.config!r}"
            )
        return replace(_LOGITS, transformer=paths[0], modules=(module,))
    if kinds in (["StaticEmbedding"], ["StaticEmbedding", "Normalize"]):
        return _Chain(paths[0], "mean", normalize=len(kinds) > 1, static=True)
    behind = kinds[2:]
    known = {"Dense", "LayerNorm", "Normalize", "Dropout"}
    if kinds[:2] != ["Transformer", "Pooling"] or set(behind) - known:
        raise UnsupportedArchitectureError(
            f"modules.json of {path} lists {', '.join(kinds) or 'nothing'}; supported are "
            f"{_MODULES}, in this order"
        )
    if len(behind) > _MAX_MODULES:
        raise UnsupportedArchitectureError(
            f"modules.json of {path} lists {len(behind)} modules after the pooling; supported are "
            f"{_MAX_MODULES}"
        )
    # Dropout does nothing outside training.
    modules = [
        _module(kind, place)
        for kind, place in zip(behind, paths[2:], strict=True)
        if kind != "Dropout"
    ]
    feature = _VECTOR
    for module in modules:
        feature = _written(module, feature)
    if feature not in (_VECTOR, _SCORES):
        raise UnsupportedArchitectureError(
            f"the last module of {path} writes {feature!r}; supported are {_VECTOR!r} of an embedding "
            f"model and {_SCORES!r} of a cross-encoder"
        )
    scores = feature == _SCORES
    normalize = bool(modules) and modules[-1].kind == "Normalize" and not scores
    pooling, pools_prompt = _pooling(paths[1] / "config.json")
    between = tuple(modules[:-1] if normalize else modules)
    return _Chain(paths[0], pooling, between, normalize, scores, pools_prompt=pools_prompt)


def _module(kind: str, path: Path) -> Module:
    config = read_json(path / "config.json")
    if config is None and kind != "Normalize":
        raise ModelFolderError(
            f"modules.json names a {kind} module, but there is no {path / 'config.json'}"
        )
    return Module(kind, {} if config is None else config, path)


def _written(module: Module, feature: str) -> str:
    """Check that a module reads what the one before it wrote, and return what it writes."""
    where = module.path / "config.json"
    config = checked(ModuleFile, module.config, where)
    if module.kind == "LayerNorm":
        config = ModuleFile()  # sentence-transformers has no choice here
    read = config.module_input_name or _VECTOR
    if read != feature:
        raise UnsupportedArchitectureError(
            f"{where} says module_input_name={read!r}; supported is {feature!r}, what the module "
            "before it computes"
        )
    return config.module_output_name or read


def _text_settings(
    transformer: Path, name: str, *, by_words: bool, scores: bool, words: bool
) -> SentenceBertFile:
    """Read the settings of the Transformer module, and refuse what Quaver does not run.

    A reranker that reads its score from words (`by_words`) generates text, a sparse encoder (`words`)
    fills masks; others give the last layer.
    """
    for file in _TEXT_FILES:
        settings = read_checked(SentenceBertFile, transformer / file)
        if settings is not None:
            break
    else:
        return SentenceBertFile()
    if settings.transformer_task == "fill-mask" and not words:
        require_kind(name, "sparse", None, "", ())
    tasks: tuple[str | None, ...] = (None, "feature-extraction", "sequence-classification")
    if words:
        tasks = (None, "fill-mask")
    if settings.transformer_task not in (("text-generation",) if by_words else tasks):
        raise UnsupportedArchitectureError(
            f"{transformer / file} says transformer_task={settings.transformer_task!r}; supported "
            + (
                "for a sparse encoder is 'fill-mask'"
                if words
                else "are 'feature-extraction' and 'sequence-classification'"
            )
        )
    modalities = settings.modality_config or {}
    if "message" in modalities and not scores:
        raise UnsupportedArchitectureError(
            f"{transformer / file} says that texts go through a chat template; supported are models "
            "that read texts as they are"
        )
    text = modalities.get("text", ModalityOutput())
    if text.method not in (None, "forward") or text.method_output_name not in (
        None,
        "last_hidden_state",
        "logits",
    ):
        raise UnsupportedArchitectureError(
            f"{transformer / file} reads {text.method_output_name!r} of the model's {text.method!r}; "
            "supported is 'last_hidden_state' of 'forward'"
        )
    return settings


def _template(
    transformer: Path, settings: SentenceBertFile, tokens: TokenizerConfigFile
) -> ChatTemplate | None:
    """Read the chat template of a folder whose texts go through it."""
    message = (settings.modality_config or {}).get("message")
    if message is None:
        return None
    path = transformer / "chat_template.jinja"
    content = read_file(path, MAX_TEMPLATE)
    source: object = tokens.chat_template
    if content is not None:
        source = content.decode("utf-8", errors="replace")
    if not isinstance(source, str) or len(source) > MAX_TEMPLATE:
        raise ModelFolderError(
            f"{transformer} says that texts go through a chat template, so it must have "
            f"chat_template.jinja of at most {MAX_TEMPLATE >> 10} KiB, or chat_template in "
            "tokenizer_config.json"
        )
    options = dict(settings.processing_kwargs or {})
    variables = options.pop("chat_template", None) or {}
    simple = all(isinstance(value, (str, int, float, type(None))) for value in variables.values())
    if any(options.values()) or not simple or "restore_suffix" in variables:
        raise UnsupportedArchitectureError(
            f"{transformer} has processing_kwargs={settings.processing_kwargs!r}; supported are simple "
            "variables of the chat template"
        )
    return ChatTemplate(
        source,
        special_tokens(tokens),
        "structured" if message.format == "structured" else "flat",
        tuple(sorted(variables.items())),
    )


def _known_template(name: str, transformer: Path, tokens: TokenizerConfigFile) -> ChatTemplate:
    if not _KNOWN_RERANKER.fullmatch(_short(name)):
        raise ModelFolderError(
            f"{transformer} reads its score from words and does not say how a pair becomes a text: "
            "sentence_bert_config.json must have a modality_config with 'message'; save the model "
            "with sentence-transformers 6"
        )
    return ChatTemplate(QWEN3_RERANKER, special_tokens(tokens))


# Their folders do not say that the instruction is left out of the pooling; sentence-transformers knows
# them by name, too.
_INSTRUCTOR = re.compile(r"instructor-(base|large|xl)")
_KNOWN_RERANKER = re.compile(r"qwen3-reranker-(0\.6b|4b|8b)")


def _short(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


def _is_known_reranker(name: str, config: ConfigFile) -> bool:
    """Whether it is Qwen3-Reranker as its authors publish it, without modules.json."""
    generates = any(kind.endswith("ForCausalLM") for kind in config.architectures or ())
    return generates and _KNOWN_RERANKER.fullmatch(_short(name)) is not None


def _module_of_words(path: Path) -> Module:
    return Module("LogitScore", {"true_token": "yes", "false_token": "no"}, path)


def _pooling(path: Path) -> tuple[str, bool]:
    """Return the pooling, and whether it reads the tokens of a prompt."""
    config = read_checked(PoolingFile, path)
    if config is None:
        raise ModelFolderError(f"modules.json names a Pooling module, but there is no {path}")
    modes = config.pooling_mode
    if modes is None:
        modes = [mode for flag, mode in _POOLING_FLAGS.items() if getattr(config, flag)]
    if not modes:
        raise ModelFolderError(
            f"{path} must name a pooling mode, in pooling_mode or as one of "
            f"{', '.join(_POOLING_FLAGS)}: it has none"
        )
    joined = modes if isinstance(modes, str) else "+".join(modes)
    if config.include_prompt is False and "weightedmean" in joined.split("+"):
        raise UnsupportedArchitectureError(
            f"{path} says include_prompt=false for weightedmean; supported is pooling over all tokens, prompt "
            "included"
        )
    return joined, config.include_prompt is not False


def _prompts(settings: SentenceTransformersFile, name: str) -> dict[str, str]:
    """Return the folder's prompts, and those known for its name if it has none for queries and documents.

    sentence-transformers writes {"query": "", "document": ""} for a model without prompts. e5-mistral's folder
    has prompts, all under names of their own.
    """
    prompts = settings.prompts or {}
    known = known_prompts(name)
    if not known or query_prompt(prompts) or document_prompt(prompts):
        return dict(prompts)
    return {**{key: text for key, text in prompts.items() if text}, **known}


def _similarity(settings: SentenceTransformersFile, chain: _Chain) -> str:
    if chain.multi_vector is not None:
        return "meanmaxsim" if settings.similarity_fn_name == "meanmaxsim" else "maxsim"
    name = settings.similarity_fn_name or ("dot" if chain.sparse is not None else "cosine")
    known = {name: name for name in ("cosine", "dot", "euclidean", "manhattan")}
    known["dot_product"] = "dot"
    if name not in known:
        raise UnsupportedArchitectureError(
            f"similarity_fn_name is {name!r}; supported are {', '.join(known)}"
        )
    return known[name]


def _score_activation(config: ConfigFile, settings: SentenceTransformersFile) -> str | None:
    """Find the activation in one of the three places where versions of sentence-transformers store it."""
    inside = config.sentence_transformers
    places = (
        settings.activation_fn,
        None if inside is None else inside.activation_fn,
        config.sbert_ce_default_activation_function,
    )
    return next((name for name in places if name is not None), None)
