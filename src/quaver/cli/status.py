"""`quaver status`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console
from rich.text import Text

from quaver.cli.exit_codes import reported_errors
from quaver.cli.options import JsonOption, StoreArgument
from quaver.cli.terminal import failure_lines, harmless, plural, size
from quaver.store import FolderStatus, StoreStatus, read_status


def status(
    store: StoreArgument,
    as_json: JsonOption = False,
) -> None:
    """Show what a store holds: folders, files, passages, failures, model, size, last update.

    Example: quaver status ./kb

    The model is not loaded.
    """
    with reported_errors():
        found = read_status(store)
        if as_json:
            sums = {"files": found.files, "failures": found.failures, "updated": found.updated}
            print(json.dumps({**asdict(found), **sums}, indent=2))
            return
        console = Console(highlight=False, soft_wrap=True)
        facts = dict(_facts(found))
        width = max(map(len, facts))
        for name, value in facts.items():
            console.print(Text.assemble((f"{name:{width}}  ", "dim"), harmless(value)))
        for folder in found.folders:
            console.print(Text(f"\n{harmless(folder.root)}", "bold"))
            for line in _lines(folder):
                console.print(Text(f"  {line}"))


def _facts(found: StoreStatus) -> Iterator[tuple[str, str]]:
    yield "store", found.location
    gone = Path(found.model).is_absolute() and not Path(found.model).is_dir()
    yield "model", found.model + (" (no longer there: name it with -m)" if gone else "")
    yield (
        "passages",
        f"{found.passages:,}, at most {found.passage_tokens} tokens each; language {found.language}",
    )
    late = ", pooled from whole documents" if found.late_chunking else ""
    yield "vectors", f"{found.dimension} dimensions, compared as {found.vectors}{late}"
    if found.sparse is not None:
        yield "sparse", found.sparse
    if found.multi is not None:
        yield "multi", found.multi
    if found.incomplete:
        yield (
            "incomplete",
            f"{plural(found.incomplete, 'passage')} without sparse or token vectors: `quaver index` encodes "
            "them",
        )
    yield "files", f"{found.files:,}; {found.failures:,} could not be read"
    if found.bytes is not None:
        yield "size", size(found.bytes)
    yield "created", _local(found.created)
    yield "updated", "unknown" if found.updated is None else _local(found.updated)


def _lines(folder: FolderStatus) -> Iterator[str]:
    updated = "" if folder.updated is None else f", updated {_local(folder.updated)}"
    yield f"{plural(folder.files, 'file')}, {plural(folder.passages, 'passage')}{updated}"
    if folder.failures:
        yield f"{plural(folder.failures, 'file')} could not be read:"
        yield from (f"  {line}" for line in failure_lines(folder.failed))


def _local(moment: str) -> str:
    """Return a time in the local time zone."""
    at = datetime.fromisoformat(moment)
    at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
