"""A hub cache that holds the real model, so that code with hub ids runs without the network."""

from __future__ import annotations

from pathlib import Path

COMMIT = "0" * 40


def write_hub_cache(folder: Path, repository: str, model: Path) -> Path:
    """Lay a model out as huggingface_hub keeps a download.

    Args:
        folder: the new cache.
        repository: the id under which it is found, such as "org/name".
        model: the model's folder.

    Returns:
        The cache, for HF_HUB_CACHE.
    """
    kept = folder / f"models--{repository.replace('/', '--')}"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(COMMIT)
    snapshots = kept / "snapshots"
    snapshots.mkdir()
    (snapshots / COMMIT).symlink_to(model.resolve(), target_is_directory=True)
    return folder
