"""QuaverModule: sentence-transformers on Quaver's engine, and every tool built on them.

`quaver export-st` writes a folder; then:

    SentenceTransformer("./folder", trust_remote_code=True)
    CrossEncoder("./folder", trust_remote_code=True)

The flag is what sentence-transformers 6 asks for before it imports a module of another package, here
this one; no code comes from the folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from quaver.errors import InputError, needs_extra
from quaver.integrations.sentence_transformers_export import CONFIG, MODEL, Task, copy_model
from quaver.integrations.shared_models import (
    SharedCrossEncoder,
    SharedEmbedder,
    name_in_results,
    shared_cross_encoder,
    shared_embedder,
)
from quaver.models import checked_prompts, find_folder, with_prompt

with needs_extra("sentence-transformers"):
    import torch
    from sentence_transformers.base.modules import InputModule

# What these keywords of sentence-transformers may say: what is so in any case.
_DEVICES = (None, "cpu", "auto")
_TYPES = (None, "auto", "float32", torch.float32)
# Where files come from, which `load` has done, and how torch computes the same numbers.
_LEFT_OUT = (
    "token",
    "revision",
    "local_files_only",
    "cache_dir",
    "trust_remote_code",
    "attn_implementation",
    "low_cpu_mem_usage",
)


class QuaverModule(InputModule):
    """The whole model as one module: texts in, embeddings or scores out, on the CPU.

    It can be used without a folder of its own too, and without the flag:

        SentenceTransformer(modules=[QuaverModule("BAAI/bge-small-en-v1.5")], device="cpu")

    The module then hands over what the model folder says beside its weights: prompts, the default
    prompt and the similarity function, or a cross-encoder's activation. What the constructor of
    ``SentenceTransformer`` is given comes first; but it does not tell an empty prompt from a missing
    one, so ``QuaverModule(..., prompts={})`` leaves the folder's prompts out.

    sentence-transformers hands over ``batch_size`` texts at a time, 32 unless told otherwise; 256
    and more keep the engine busy. Training is not possible.

    Attributes:
        model: model folder or hub id.
        task: "embed" or "rank".
        precision: "int8" or "float32".
        pooling: "cls" or "mean", where the model folder does not say.
        prompts: what goes before texts, by name; empty for a cross-encoder.
    """

    config_file_name = CONFIG
    save_in_root = True

    def __init__(
        self,
        model: str,
        *,
        task: Task = "embed",
        precision: Literal["int8", "float32"] = "int8",
        pooling: str | None = None,
        max_seq_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
    ) -> None:
        """Load the model, unless this process has it already.

        Args:
            model: model folder or hub id.
            task: "embed" for SentenceTransformer, "rank" for CrossEncoder.
            precision: what the engine computes in.
            pooling: "cls" or "mean", for a model folder that does not say.
            max_seq_length: most tokens of a text or pair; None takes the most the model allows.
            prompts: instead of the folder's; {} for none.

        Raises:
            ModelError: the model cannot be loaded.
            InputError: an argument is outside its rule.
        """
        super().__init__()
        if task not in ("embed", "rank"):
            raise InputError(f"task must be 'embed' or 'rank': got {task!r}")
        if task == "rank" and prompts:
            raise InputError(f"a cross-encoder reads pairs without a prompt: got {prompts!r}")
        self.model = model
        self.task = task
        self.precision = precision
        self.pooling = pooling
        self._tokenizer: Any = None
        self._hands_over = True
        self._load_engine(max_seq_length)
        shared = self._shared
        own = shared.embedder.prompts if isinstance(shared, SharedEmbedder) else {}
        loaded = shared.embedder if isinstance(shared, SharedEmbedder) else shared.model
        self._name = loaded.name
        self.prompts = dict(own) if prompts is None else checked_prompts(prompts)

    def _load_engine(self, max_seq_length: int | None) -> None:
        settings: dict[str, Any] = {"precision": self.precision, "max_seq_length": max_seq_length}
        self._shared: SharedEmbedder | SharedCrossEncoder
        if self.task == "embed":
            self._shared = shared_embedder(self.model, pooling=self.pooling, **settings)
        else:
            self._shared = shared_cross_encoder(self.model, one_score=False, **settings)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let another process load the model itself: an engine is not pickled."""
        settings = {
            "task": self.task,
            "precision": self.precision,
            "pooling": self.pooling,
            "max_seq_length": self.max_seq_length,
            "prompts": self.prompts,
        }
        return _made, (self.model, settings, self._hands_over)

    def on_model_ready(self, model: Any) -> None:
        """Hand over what the model folder says; sentence-transformers calls it.

        Args:
            model: the ``SentenceTransformer`` or ``CrossEncoder`` around this module.

        Raises:
            InputError: the model has several labels, and a ``CrossEncoder`` does not know how many.
        """
        card = model.model_card_data
        if card.model_name is None:  # mteb files results under it
            card.model_name = name_in_results(self._name, self.precision)
        shared = self._shared
        if isinstance(shared, SharedCrossEncoder):
            labels = shared.model.labels
            if labels != 1 and getattr(model, "num_labels", labels) != labels:
                raise InputError(
                    f"a CrossEncoder takes a custom module for one label: {shared.model.name} has "
                    f"{labels} ({', '.join(shared.model.label_names)}); write a folder with `quaver "
                    "export-st` and open that"
                )
            if self._hands_over and getattr(model, "activation_fn", None) is None:
                sigmoid = shared.model.activation == "sigmoid"
                model.activation_fn = torch.nn.Sigmoid() if sigmoid else torch.nn.Identity()
            return
        if not self._hands_over:
            return
        for name, text in self.prompts.items():
            if not model.prompts.get(name):
                model.prompts[name] = text
        default = shared.embedder.default_prompt_name
        if model.default_prompt_name is None and default in model.prompts:
            model.default_prompt_name = default
        # The public property answers "cosine" where nobody has said anything.
        if getattr(model, "_similarity_fn_name", "known") is None:
            model.similarity_fn_name = shared.embedder.similarity_fn_name

    @property
    def tokenizer(self) -> Any:
        """The tokenizer as transformers loads it from the model folder, for whoever asks for it.

        The engine has its own and reads no change of this one.
        """
        if self._tokenizer is None:
            from transformers import AutoTokenizer

            folder = find_folder(self.model, None, False, None).path
            holder = next(file.parent for file in sorted(folder.rglob("tokenizer.json")))
            self._tokenizer = AutoTokenizer.from_pretrained(holder)
        self._tokenizer.model_max_length = self.max_seq_length
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        raise InputError(
            f"the engine reads the tokenizer of the model folder: got {type(value).__name__}; save "
            "another tokenizer into a copy of the folder"
        )

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a text or pair, special tokens included."""
        shared = self._shared
        model = shared.embedder if isinstance(shared, SharedEmbedder) else shared.model
        return model.max_seq_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self._load_engine(value)

    def get_embedding_dimension(self) -> int | None:
        """Return D, the components of an embedding; None for a cross-encoder."""
        shared = self._shared
        return shared.embedder.dimension if isinstance(shared, SharedEmbedder) else None

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        processing_kwargs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Keep the texts as they are: the engine has its own tokenizer.

        Args:
            inputs: texts, or pairs of texts.
            prompt: goes before every text.
            processing_kwargs: for a tokenizer of transformers; must be None or empty.
            _: "task" and the like, which change nothing here.

        Returns:
            "texts".

        Raises:
            InputError: a cross-encoder got a prompt, or something is asked of the tokenizer.
        """
        if self.task == "rank" and prompt:
            raise InputError(f"a cross-encoder reads pairs without a prompt: got {prompt!r}")
        if processing_kwargs:
            raise InputError(
                "the engine has its own tokenizer and takes no processing_kwargs: got "
                f"{dict(processing_kwargs)!r}; set max_seq_length of the model to cut texts earlier"
            )
        texts = list(inputs)
        if prompt and all(isinstance(text, str) for text in texts):
            texts = [with_prompt(prompt, text) for text in texts]
        return {"texts": texts}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Run the engine.

        Args:
            features: what ``preprocess`` gave.

        Returns:
            The same with "sentence_embedding", float32 (N, D), or "scores", float32 (N, labels).

        Raises:
            InputError: an input is no text, or no pair of texts.
        """
        texts, shared = features["texts"], self._shared
        if isinstance(shared, SharedEmbedder):
            rows = shared.encode(texts, "document", prompt="")
            return _Features(features, sentence_embedding=torch.from_numpy(rows))
        pairs = [tuple(pair) for pair in texts]
        scores = shared.model.predict(pairs, activation="identity")
        rows = np.ascontiguousarray(scores.reshape(len(pairs), shared.model.labels))
        return _Features(features, scores=torch.from_numpy(rows))

    def get_config_dict(self) -> dict[str, Any]:
        """Return what ``save`` writes beside the model."""
        config = {"task": self.task, "precision": self.precision}
        return config if self.pooling is None else {**config, "pooling": self.pooling}

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the module with a copy of the model.

        Args:
            output_path: an existing folder.
            args: not used.
            kwargs: not used.
        """
        copy_model(find_folder(self.model, None, False, None).path, Path(output_path) / MODEL)
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> QuaverModule:
        """Load what ``save`` or `quaver export-st` wrote; sentence-transformers calls it.

        Args:
            model_name_or_path: the folder, or a hub id.
            subfolder: where in it.
            kwargs: token, cache_folder, revision and local_files_only for the hub; of what
                sentence-transformers passes on besides, ``processor_kwargs={"model_max_length": 128}``
                is taken, where the model allows longer texts.

        Returns:
            The module.

        Raises:
            InputError: a keyword asks for what this engine does not do.
        """
        names = ("token", "cache_folder", "revision", "local_files_only")
        hub = {name: kwargs[name] for name in names if name in kwargs}
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **hub)
        folder = cls.load_dir_path(
            model_name_or_path,
            subfolder=f"{subfolder}/{MODEL}".lstrip("/"),
            **hub,
        )
        longest = _checked(kwargs)
        module = cls(folder, **config)
        if longest is not None and longest < module.max_seq_length:
            module.max_seq_length = longest
        module._hands_over = False  # the folder's own config_sentence_transformers.json does
        path = Path(model_name_or_path)
        module._name = path.resolve().name if path.is_dir() else model_name_or_path
        return module


class _Features(dict[str, Any]):
    """What a module of sentence-transformers passes on; says why there are no token vectors."""

    def __missing__(self, name: str) -> NoReturn:
        raise InputError(
            f"the engine gives one vector for each text and no {name!r}: take "
            "output_value='sentence_embedding', or the model without Quaver"
        )


def _checked(kwargs: Mapping[str, Any]) -> int | None:
    """Return the longest text that a constructor of sentence-transformers was given.

    Raises:
        InputError: it was given something that this engine does not do.
    """
    backend = kwargs.get("backend") or "torch"
    if backend != "torch":
        raise InputError(
            f"Quaver is the engine of this folder: got backend={backend!r}; leave it out"
        )
    model = dict(kwargs.get("model_kwargs") or {})
    processor = dict(kwargs.get("processor_kwargs") or {})
    config = dict(kwargs.get("config_kwargs") or {})
    length: int | None = processor.pop("model_max_length", None)
    if model.pop("device_map", None) not in _DEVICES:
        raise InputError("Quaver runs on the CPU: got a device_map; leave it out")
    for name in ("dtype", "torch_dtype"):
        if (got := model.pop(name, None)) not in _TYPES:
            raise InputError(
                f"`quaver export-st --precision` says what the engine computes in: got {name}={got}; "
                "leave it out"
            )
    for name, given in (
        ("model_kwargs", model),
        ("processor_kwargs", processor),
        ("config_kwargs", config),
    ):
        if given.keys() - _LEFT_OUT:
            raise InputError(
                f"transformers does not run in this folder, so {name} changes nothing: got {given!r}; "
                "leave it out"
            )
    return length


def _made(model: str, settings: dict[str, Any], hands_over: bool) -> QuaverModule:
    module = QuaverModule(model, **settings)
    module._hands_over = hands_over
    return module
