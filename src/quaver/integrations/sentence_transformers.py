"""QuaverModule: sentence-transformers, and every tool built on it, on Quaver's engine.

`quaver export-st` writes a folder, which the class for its kind of model opens:

    SentenceTransformer("./folder", trust_remote_code=True)
    CrossEncoder("./folder", trust_remote_code=True)
    SparseEncoder("./folder", trust_remote_code=True)
    MultiVectorEncoder("./folder", trust_remote_code=True)

sentence-transformers 6 requires the flag to import a module of another package, here this one. No
code is loaded from the folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quaver.embedder import Embedder
from quaver.errors import InputError, needs_extra
from quaver.integrations.sentence_transformers_export import (
    CONFIG_FILE,
    MODEL_FOLDER,
    TASKS,
    Task,
    copy_model,
)
from quaver.integrations.shared_models import (
    Role,
    SharedCrossEncoder,
    SharedEmbedder,
    SharedMultiVectorEncoder,
    SharedSparseEncoder,
    name_in_results,
    shared_cross_encoder,
    shared_embedder,
    shared_multi_vector_encoder,
    shared_sparse_encoder,
)
from quaver.models import ModelFolder, checked_prompts, find_folder, with_prompt
from quaver.multi_vector_encoder import MultiVectorEncoder, TokenVectors
from quaver.reranker import CrossEncoder
from quaver.sparse_encoder import SparseEncoder

with needs_extra("sentence-transformers"):
    import torch
    from sentence_transformers.base.modules import InputModule

Shared: TypeAlias = (
    SharedEmbedder | SharedCrossEncoder | SharedSparseEncoder | SharedMultiVectorEncoder
)

# Accepted values of two keywords of sentence-transformers: those that change nothing.
_DEVICES = (None, "cpu", "auto")
_TYPES = (None, "auto", "float32", torch.float32)
# Ignored keywords: `load` has already found the files, and torch does not compute.
_IGNORED = (
    "token",
    "revision",
    "local_files_only",
    "cache_dir",
    "trust_remote_code",
    "attn_implementation",
    "low_cpu_mem_usage",
)


class QuaverModule(InputModule):
    """The whole model as one module: texts in, embeddings, scores or vectors of tokens out, on the CPU.

    It also works without an exported folder, and then without the flag:

        SentenceTransformer(modules=[QuaverModule("BAAI/bge-small-en-v1.5")], device="cpu")

    The module then passes on the model folder's settings: prompts, default prompt and similarity
    function, or a cross-encoder's activation. Arguments of `SentenceTransformer` take precedence,
    but it cannot tell an empty prompt from a missing one; `QuaverModule(..., prompts={})` omits the
    folder's prompts. `SparseEncoder` and `MultiVectorEncoder` say whether texts are queries; the
    table, the prefix tokens and the mask tokens of queries are the folder's.

    sentence-transformers passes `batch_size` texts at a time, 32 by default; 256 and more keep the
    engine busy. The module cannot be trained.

    Attributes:
        model: model folder or hub id.
        task: "embed", "rank", "sparse" or "multi-vector".
        precision: "int8", "bfloat16", "bfloat16-weights" or "float32".
        pooling: such as "mean" or "cls+mean", for a model folder that does not specify it.
        prompts: prompts by name; empty for a cross-encoder.
    """

    config_file_name = CONFIG_FILE
    save_in_root = True

    def __init__(
        self,
        model: str,
        *,
        task: Task = "embed",
        precision: Literal["int8", "bfloat16", "bfloat16-weights", "float32"] = "int8",
        pooling: str | None = None,
        max_seq_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        """Load the model unless this process already has it.

        Args:
            model: model folder or hub id.
            task: "embed" for SentenceTransformer, "rank" for CrossEncoder, "sparse" for
                SparseEncoder, "multi-vector" for MultiVectorEncoder.
            precision: precision of the engine.
            pooling: such as "mean" or "cls+mean", for a model folder that does not specify it.
            max_seq_length: maximum number of tokens in a text or pair; None uses the model's maximum.
            prompts: replace the folder's prompts; {} for no prompts.

        Raises:
            ModelError: the model cannot be loaded.
            InputError: an argument is invalid.
        """
        super().__init__()
        if task not in TASKS.values():
            *names, last = map(repr, TASKS.values())
            raise InputError(f"task must be {', '.join(names)} or {last}: got {task!r}")
        if task == "rank" and prompts:
            raise InputError(
                f"a cross-encoder reads pairs without a prompt: got {prompts!r}; leave it out"
            )
        self.model = model
        self.task = task
        self.precision = precision
        self.pooling = pooling
        self._tokenizer: Any = None
        self._passes_settings = True
        self._load_engine(max_seq_length)
        loaded = self._loaded
        own = {} if isinstance(loaded, CrossEncoder) else loaded.prompts
        self._name = loaded.name
        self.prompts = dict(own) if prompts is None else checked_prompts(prompts)

    def _load_engine(self, max_seq_length: int | None) -> None:
        settings: dict[str, Any] = {"precision": self.precision, "max_seq_length": max_seq_length}
        self._shared: Shared
        if self.task == "embed":
            self._shared = shared_embedder(self.model, pooling=self.pooling, **settings)
        elif self.task == "rank":
            self._shared = shared_cross_encoder(self.model, one_score=False, **settings)
        elif self.task == "sparse":
            self._shared = shared_sparse_encoder(self.model, **settings)
        else:
            self._shared = shared_multi_vector_encoder(self.model, **settings)

    @property
    def _loaded(self) -> Embedder | CrossEncoder | SparseEncoder | MultiVectorEncoder:
        return self._shared.model

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process load its own model, as engines are not pickled."""
        settings = {
            "task": self.task,
            "precision": self.precision,
            "pooling": self.pooling,
            "max_seq_length": self.max_seq_length,
            "prompts": self.prompts,
        }
        return _rebuilt, (self.model, settings, self._passes_settings)

    def on_model_ready(self, model: Any) -> None:
        """Pass on the model folder's settings; sentence-transformers calls this.

        Args:
            model: the model of sentence-transformers around this module.

        Raises:
            InputError: the model has several labels, but `CrossEncoder` does not know how many.
        """
        card = model.model_card_data
        if card.model_name is None:  # mteb saves results under this name
            card.model_name = name_in_results(self._name, self.precision)
        shared = self._shared
        if isinstance(shared, SharedCrossEncoder):
            labels = shared.model.labels
            if labels != 1 and getattr(model, "num_labels", labels) != labels:
                raise InputError(
                    f"without a folder, a CrossEncoder needs a model with one label: "
                    f"{shared.model.name} has {labels} ({', '.join(shared.model.label_names)}); "
                    "write a folder with `quaver export-st` and open that"
                )
            if self._passes_settings and getattr(model, "activation_fn", None) is None:
                sigmoid = shared.model.activation == "sigmoid"
                model.activation_fn = torch.nn.Sigmoid() if sigmoid else torch.nn.Identity()
            return
        if not self._passes_settings:
            return
        for name, text in self.prompts.items():
            if not model.prompts.get(name):
                model.prompts[name] = text
        loaded = self._loaded
        default = getattr(loaded, "default_prompt_name", None)  # a multi-vector model has none
        if model.default_prompt_name is None and default in model.prompts:
            model.default_prompt_name = default
        # The public property returns "cosine" even if nothing was set.
        if getattr(model, "_similarity_fn_name", "known") is None:
            model.similarity_fn_name = getattr(loaded, "similarity_fn_name", None)

    @property
    def tokenizer(self) -> Any:
        """The model folder's tokenizer as transformers loads it.

        The engine uses its own tokenizer and ignores changes to this one.
        """
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            holder = ModelFolder.open_any(self.model, pooling=self.pooling).transformer
            self._tokenizer = AutoTokenizer.from_pretrained(holder)
        self._tokenizer.model_max_length = self.max_seq_length
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        raise InputError(
            f"the engine reads the tokenizer of the model folder: got {type(value).__name__}; save "
            "the new tokenizer into a copy of the folder and load that"
        )

    @property
    def max_seq_length(self) -> int:
        """Maximum tokens of a text or pair, including special tokens."""
        return self._loaded.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self._load_engine(value)

    def get_embedding_dimension(self) -> int | None:
        """Return D, the dimension of an embedding or of a token's; None for a cross-encoder."""
        loaded = self._loaded
        return None if isinstance(loaded, CrossEncoder) else loaded.dimension

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
        task: str | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Add the prompt and leave tokenization to the engine.

        Args:
            inputs: texts, or pairs of texts.
            prompt: prepended to every text.
            processing_kwargs: for a tokenizer of transformers; must be None or empty.
            task: "query" for queries, which sparse and multi-vector models treat in another way.
            _: other keywords, which change nothing here.

        Returns:
            "texts" and "role".

        Raises:
            InputError: a cross-encoder got a prompt, or processing_kwargs is not empty.
        """
        if self.task == "rank" and prompt:
            raise InputError(
                f"a cross-encoder reads pairs without a prompt: got {prompt!r}; leave it out"
            )
        if processing_kwargs:
            raise InputError(
                "the engine has its own tokenizer and takes no processing_kwargs: got "
                f"{dict(processing_kwargs)!r}; set max_seq_length of the model to cut texts earlier"
            )
        texts = list(inputs)
        if prompt and all(isinstance(text, str) for text in texts):
            texts = [with_prompt(prompt, text) for text in texts]
        return {"texts": texts, "role": "query" if task == "query" else "document"}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Run the engine.

        Args:
            features: what `preprocess` returned.

        Returns:
            the features with "sentence_embedding", float32 (N, D), (N, V) with the zeros of a sparse
            encoder; "scores", float32 (N, labels); or "token_embeddings", float32 (N, T, D) padded
            with zeros, and "attention_mask", bool (N, T).

        Raises:
            InputError: an input is not a text or a pair of texts.
        """
        texts, shared = features["texts"], self._shared
        if isinstance(shared, SharedEmbedder):
            rows = shared.encode(texts, "document", prompt="")
            return _Features(features, sentence_embedding=torch.from_numpy(rows))
        role: Role = features["role"]
        if isinstance(shared, SharedSparseEncoder):
            dense = shared.encode(texts, role, prompt="").to_dense()
            return _Features(features, sentence_embedding=torch.from_numpy(dense))
        if isinstance(shared, SharedMultiVectorEncoder):
            padded, mask = _padded(shared.encode(texts, role, prompt=""))
            return _Features(
                features,
                token_embeddings=torch.from_numpy(padded),
                attention_mask=torch.from_numpy(mask),
            )
        pairs = [tuple(pair) for pair in texts]
        scores = shared.model.predict(pairs, activation="identity")
        rows = np.ascontiguousarray(scores.reshape(len(pairs), shared.model.labels))
        return _Features(features, scores=torch.from_numpy(rows))

    def get_config_dict(self) -> dict[str, Any]:
        """Return the configuration that `save` writes."""
        config = {"task": self.task, "precision": self.precision}
        return config if self.pooling is None else {**config, "pooling": self.pooling}

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the module with a copy of the model.

        Args:
            output_path: an existing folder.
            args: not used.
            kwargs: not used.
        """
        copy_model(
            find_folder(self.model, None, False, None).path, Path(output_path) / MODEL_FOLDER
        )
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> QuaverModule:
        """Load what `save` or `quaver export-st` wrote; sentence-transformers calls this.

        Args:
            model_name_or_path: the folder, or a hub id.
            subfolder: the module's subfolder.
            kwargs: token, cache_folder, revision and local_files_only for the hub. Of the others,
                only `processor_kwargs={"model_max_length": 128}` is used, to shorten texts.

        Returns:
            the module.

        Raises:
            InputError: a keyword is not supported by this engine.
        """
        names = ("token", "cache_folder", "revision", "local_files_only")
        hub = {name: kwargs[name] for name in names if name in kwargs}
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **hub)
        folder = cls.load_dir_path(
            model_name_or_path,
            subfolder=f"{subfolder}/{MODEL_FOLDER}".lstrip("/"),
            **hub,
        )
        longest = _checked(kwargs)
        module = cls(folder, **config)
        if longest is not None and longest < module.max_seq_length:
            module.max_seq_length = longest
        module._passes_settings = False  # the folder's own config_sentence_transformers.json does
        path = Path(model_name_or_path)
        module._name = path.resolve().name if path.is_dir() else model_name_or_path
        return module


class _Features(dict[str, Any]):
    """A module's features; a missing one raises an error that explains token vectors."""

    def __missing__(self, name: str) -> NoReturn:
        raise InputError(
            f"the engine returns one vector for each text and no {name!r}: use "
            "output_value='sentence_embedding', or the model without Quaver"
        )


def _padded(vectors: TokenVectors) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return float32 (N, T, D) with zeros behind the tokens of each text, and where there are tokens."""
    counts = np.diff(vectors.offsets)
    longest = int(counts.max(initial=0))
    mask = np.arange(longest) < counts[:, None]
    padded = np.zeros((len(counts), longest, vectors.vectors.shape[1]), np.float32)
    padded[mask] = vectors.vectors
    return padded, mask


def _checked(kwargs: Mapping[str, Any]) -> int | None:
    """Return the maximum tokens given to a constructor of sentence-transformers.

    Raises:
        InputError: a keyword is not supported by this engine.
    """
    backend = kwargs.get("backend") or "torch"
    if backend != "torch":
        raise InputError(
            f"this folder runs on Quaver's engine: got backend={backend!r}; leave it out"
        )
    model = dict(kwargs.get("model_kwargs") or {})
    processor = dict(kwargs.get("processor_kwargs") or {})
    config = dict(kwargs.get("config_kwargs") or {})
    length: int | None = processor.pop("model_max_length", None)
    if model.pop("device_map", None) not in _DEVICES:
        raise InputError("Quaver runs on CPUs only: got a device_map; leave it out")
    for name in ("dtype", "torch_dtype"):
        if (got := model.pop(name, None)) not in _TYPES:
            raise InputError(
                f"`quaver export-st --precision` sets the engine's precision: got {name}={got}; "
                "leave it out"
            )
    for name, given in (
        ("model_kwargs", model),
        ("processor_kwargs", processor),
        ("config_kwargs", config),
    ):
        if given.keys() - _IGNORED:
            raise InputError(
                f"transformers does not run this model, so {name} has no effect: got {given!r}; "
                "leave it out"
            )
    return length


def _rebuilt(model: str, settings: dict[str, Any], passes_settings: bool) -> QuaverModule:
    module = QuaverModule(model, **settings)
    module._passes_settings = passes_settings
    return module
