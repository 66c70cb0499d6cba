"""Find a model's folder on this machine from its name or path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

from quaver.errors import InputError, ModelNotFoundError

# sentence-transformers numbers the folders of its modules: 0_Transformer, 2_Dense.
_NEEDED = [
    "*.json",
    "model*.safetensors",
    "[0-9]*_*/model*.safetensors",
    # The modules of a Router, one folder for each route; the settings of Stanford's ColBERT.
    "query_[0-9]*_*/model*.safetensors",
    "document_[0-9]*_*/model*.safetensors",
    "artifact.metadata",
    # A reranker's, which scores pairs as messages of a chat.
    "*chat_template.jinja",
    # BGE-M3's heads for words and tokens.
    "sparse_linear.pt",
    "colbert_linear.pt",
    "*adapter_model.safetensors",
]
# What older models have instead: fetched only if those are missing.
_OLDER_WEIGHTS = ["pytorch_model*.bin", "[0-9]*_*/pytorch_model*.bin"]
_OLDER_TOKENIZERS = [
    f"{folder}{name}"
    for folder in ("", "[0-9]*_*/")
    for name in ("vocab.txt", "merges.txt", "*.model")
]
# Where sentence-transformers looks for a name without an organization.
ORGANIZATIONS = ("sentence-transformers", "cross-encoder")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


class FoundModel(NamedTuple):
    """The place of a model.

    Attributes:
        path: its folder on this machine.
        name: the hub id, or the folder's name.
        source: the name that loads it from any process and working directory: the hub id, or
            the folder's absolute path.
    """

    path: Path
    name: str
    source: str


def find_folder(
    name_or_path: str | Path,
    revision: str | None,
    local_files_only: bool,
    token: str | bool | None,
    organizations: Sequence[str] = ORGANIZATIONS,
) -> FoundModel:
    """Find a model folder: a local folder if it exists, else the hub.

    A hub id without an organization, such as "all-MiniLM-L6-v2", is first looked for in
    `organizations`, then as written.

    Args:
        name_or_path: a folder, or a hub id such as "BAAI/bge-small-en-v1.5".
        revision: branch, tag or commit on the hub.
        local_files_only: never use the network.
        token: access token of the hub.
        organizations: where to look for a name without an organization, in this order.

    Returns:
        the folder, the model's name, and its source; for a short name both include the organization.

    Raises:
        ModelNotFoundError: there is no such folder, and the hub does not have the model or cannot
            be reached.
        InputError: name_or_path is neither str nor Path, or empty.
    """
    if not isinstance(name_or_path, (str, Path)) or not str(name_or_path):
        raise InputError(f"a model is a hub id or a folder: got {name_or_path!r}")
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        absolute = path.resolve()
        return FoundModel(path, absolute.name, str(absolute))
    name = str(name_or_path)
    if path.is_file():
        raise ModelNotFoundError(
            f"{name} is a file; give the folder that holds config.json and model.safetensors"
        )
    if isinstance(name_or_path, Path) or not is_hub_id(name):
        raise ModelNotFoundError(
            f"there is no folder {name}; give an existing model folder, or a hub id such as "
            "BAAI/bge-small-en-v1.5"
        )
    full = [] if "/" in name else [f"{owner}/{name}" for owner in organizations]
    return _download([*full, name], revision, local_files_only, token)


def is_hub_id(name: str) -> bool:
    """Return whether a name that is no folder here could be a model on the hub."""
    return name[0] not in "./~" and _HUB_ID.fullmatch(name) is not None


def needed_files(folder: Path) -> list[Path]:
    """Return the files of a model's folder that loading it reads: those that the hub is asked for.

    Args:
        folder: of the model.

    Returns:
        the files in order of their paths, also in folders of modules; all safetensors, by whatever name.
    """
    patterns = [*_NEEDED, "*.safetensors", *_missing(folder)]
    return [
        path
        for path in sorted(folder.rglob("*"))
        if any(fnmatchcase(path.relative_to(folder).as_posix(), pattern) for pattern in patterns)
        and path.is_file()
    ]


def _missing(folder: Path) -> list[str]:
    """Return what to fetch for a model that lacks safetensors files or tokenizer.json."""
    weighted = {
        path.parent
        for kind in ("Dense", "LayerNorm", "Transformer")
        for path in folder.glob(f"[0-9]*_{kind}/*config.json")
    }
    inner = any(path.name.endswith("_Transformer") for path in weighted)
    if not inner and not any(folder.glob("[0-9]*_*Embedding*")):
        weighted.add(folder)
    older = []
    if any(next(path.glob("model*.safetensors"), None) is None for path in weighted):
        older += _OLDER_WEIGHTS
    if not any(folder.glob("tokenizer.json")) and not any(folder.glob("*/tokenizer.json")):
        older += _OLDER_TOKENIZERS
    return older


def _download(
    names: Sequence[str], revision: str | None, local_files_only: bool, token: str | bool | None
) -> FoundModel:
    """Fetch the first of several hub ids that exists on the hub or in the download cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # A lost connection raises an error of whichever HTTP library the hub client uses.
    http_errors = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
    lost: tuple[type[Exception], ...] = (HFValidationError, OSError, *http_errors)
    at = f" at revision {revision!r}" if revision else ""
    missing: Exception | None = None
    for name in names:
        fetch = partial(
            snapshot_download,
            name,
            revision=revision,
            local_files_only=local_files_only,
            token=token,
        )
        try:
            folder = fetch(allow_patterns=_NEEDED)
            if older := _missing(Path(folder)):
                folder = fetch(allow_patterns=[*_NEEDED, *older])
        except GatedRepoError as error:
            advice = "accept its terms on the hub and pass token="
            raise ModelNotFoundError(f"{name} needs permission: {advice}") from error
        except RevisionNotFoundError as error:
            raise ModelNotFoundError(f"{name} has no revision {revision!r} on the hub") from error
        except (RepositoryNotFoundError, LocalEntryNotFoundError) as error:
            missing = error
        except lost as error:
            raise ModelNotFoundError(f"cannot get {name}{at} from the hub: {error}") from error
        else:
            return FoundModel(Path(folder), name, name)
    short = names[-1]
    tried = f" (looked for: {', '.join(names)})" if len(names) > 1 else ""
    if isinstance(missing, RepositoryNotFoundError):
        raise ModelNotFoundError(
            f"{short} is neither a folder here nor a model on the hub{tried}; check the spelling, "
            "or pass token= if it is private"
        ) from missing
    reason = "local_files_only is set" if local_files_only else "the hub cannot be reached"
    raise ModelNotFoundError(
        f"{short}{at} is not a folder here, it is not in the download cache{tried}, and {reason}; go "
        "online once, or give a local model folder"
    ) from missing
