"""Updates of stores that the page starts: one at a time for each store, in a thread, with their progress."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quaver.errors import QuaverError
from quaver.index import Index, Library, UpdateProgress, UpdateReport
from quaver.serve.loaded import LoadedEmbedder, LoadedMultiVector, LoadedSparse
from quaver.serve.models import ServedModel
from quaver.serve.refusal import Reason, Refusal

_LOCK_SECONDS = 10.0
"""How long to wait for another process that writes to the store."""


@dataclass
class Update:
    """An update of a folder, running or ended.

    Attributes:
        root: the folder, or its name.
        running: whether it runs.
        percent: how much of the folder is done, 0 to 100.
        embedded: passages that were embedded.
        report: what it did, once it ended well.
        error: why it ended badly.
    """

    root: str
    running: bool = True
    percent: int = 0
    embedded: int = 0
    report: UpdateReport | None = None
    error: str | None = None

    def see(self, progress: UpdateProgress) -> None:
        """Take over the progress."""
        self.percent = round(100 * progress.bytes_done / max(1, progress.bytes_total))
        self.embedded = progress.embedded


class Updates:
    """The last update of each folder of each store."""

    def __init__(self) -> None:
        """Start without any."""
        self._last: dict[str, dict[str, Update]] = {}

    def of(self, library: Library) -> dict[str, Update]:
        """Return the last updates of a store, by folder."""
        return self._last.get(library.name, {})

    def running(self, library: Library) -> bool:
        """Return whether an update of a store runs."""
        return any(update.running for update in self.of(library).values())

    def begin(self, library: Library, root: str, models: Sequence[ServedModel]) -> None:
        """Begin to update a folder; call it on the event loop.

        Args:
            library: the store.
            root: the folder, or its name.
            models: the store's models, loaded. They stay so until the update ends.

        Raises:
            Refusal: an update of this store runs already.
        """
        if self.running(library):
            raise Refusal(Reason.INVALID, "an update of this store runs already: wait for it")
        update = Update(root)
        self._last.setdefault(library.name, {})[root] = update
        loop = asyncio.get_running_loop()
        own: dict[str, Any] = {}
        for model in models:
            model.hold()
            loaded = model.loaded
            if isinstance(loaded, LoadedEmbedder):
                own["embedder"] = loaded.model
            elif isinstance(loaded, LoadedSparse):
                own["sparse"] = loaded.model
            elif isinstance(loaded, LoadedMultiVector):
                own["multi"] = loaded.model

        def release() -> None:
            for model in models:
                model.release()

        def run() -> None:
            try:
                with Index.open(library.location, wait=_LOCK_SECONDS, **own) as index:
                    update.report = index.update_again(root, on_progress=update.see)
            except (QuaverError, ImportError) as error:  # an extra that a file needs
                update.error = _named(str(error), library)
            except BaseException:
                update.error = "the server failed; its log says where"
                raise
            finally:
                update.running = False
                with suppress(RuntimeError):  # the loop was closed
                    loop.call_soon_threadsafe(release)

        # A daemon: an update that is killed loses nothing that was stored.
        threading.Thread(target=run, name="quaver-update", daemon=True).start()


def _named(message: str, library: Library) -> str:
    """Call a store in a message as its clients do, not by its folder."""
    place = str(library.location)
    for folder in (str(Path(place).resolve()), place):
        message = message.replace(folder, library.name)
    return message


def can_update(library: Library, root: str) -> bool:
    """Return whether a store knows how to update a folder again."""
    note = library.index.store.notes().get(root)
    return note is not None and note.source is not None
