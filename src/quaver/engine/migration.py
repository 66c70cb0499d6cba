"""Advice to callers who come from sentence-transformers: what to use instead of a keyword of its calls."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

CALL_KEYWORDS: Mapping[str, str] = {
    "batch_size": "leave it out: a batch costs only its tokens, and max_batch_tokens bounds its memory",
    "chunk_size": "leave it out: one call takes any number of texts",
    "convert_to_numpy": "leave it out: results are NumPy arrays",
    "convert_to_tensor": "results are NumPy arrays: torch.from_numpy(result) makes a tensor",
    "device": "leave it out: the engine runs on the CPU; set threads in from_pretrained",
    "inputs": "give the texts as the first argument",
    "normalize_embeddings": "use normalize; None follows the model folder",
    "output_value": "leave it out: the result is one vector for each text",
    "pool": "leave it out: one call uses every core; set threads in from_pretrained",
    "precision": "use output: 'float32', 'int8' or 'binary'",
    "sentences": "give the texts as the first argument",
    "task": "use prompt_name",
}
"""What to do instead of the arguments of sentence-transformers' calls that Quaver does not have."""

LOADING_KEYWORDS: Mapping[str, str] = {
    "activation_fn": "predict takes activation",
    "backend": "leave it out: the engine is Quaver's own",
    "cache_folder": "set the environment variable HF_HUB_CACHE",
    "config_kwargs": "leave it out: the configuration comes from the folder",
    "default_prompt_name": "name the prompt in encode(texts, prompt_name=...)",
    "device": "leave it out: the engine runs on the CPU, with as many threads as threads says",
    "dtype": "use precision: 'int8', 'bfloat16', 'bfloat16-weights' or 'float32'",
    "max_length": "use max_seq_length",
    "model_kwargs": "leave it out: precision, threads and isa are separate arguments",
    "model_name_or_path": "give the name or folder as the first argument",
    "num_labels": "leave it out: it comes from the model folder",
    "processor_kwargs": "leave it out: max_seq_length is a separate argument",
    "similarity_fn_name": "leave it out: it comes from the model folder",
    "tokenizer_kwargs": "leave it out: max_seq_length is a separate argument",
    "torch_dtype": "use precision: 'int8', 'bfloat16', 'bfloat16-weights' or 'float32'",
    "trust_remote_code": "leave it out: no code from a model folder is run",
    "use_auth_token": "use token",
}
"""The same for the arguments that load a model in sentence-transformers."""

_GUIDE = "docs/guide/migration.md"  # lists all of them


def explain_keywords(
    advice: Mapping[str, str],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function explain keywords of other libraries that it does not have.

    The function keeps its signature. Other unknown keywords raise Python's own TypeError.

    Args:
        advice: what to do instead, by keyword.

    Returns:
        a decorator. The decorated function raises TypeError for one of these keywords.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        own = frozenset(inspect.signature(function).parameters)
        foreign = {name: what for name, what in advice.items() if name not in own}

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            unknown = [name for name in kwargs if name in foreign]
            if unknown:
                listed = "; ".join(f"{name!r} ({foreign[name]})" for name in unknown)
                raise TypeError(f"{function.__qualname__}() does not take {listed}; see {_GUIDE}")
            return function(*args, **kwargs)

        return checked

    return decorate
