"""The process that ``test_kill`` kills: it does one piece of work on an index and says what is done.

A process of its own forks it for each piece, with everything imported, so that a hundred of them take
seconds.
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path

import quaver.index.embedding
import quaver.index.update
import quaver.store.folder
from quaver.documents import Passage
from quaver.embedder import Embedder
from quaver.index.index import Index, UpdateProgress
from quaver.multi_vector_encoder import MultiVectorEncoder
from quaver.sparse_encoder import SparseEncoder

LOOSE = 40


def loose_passages(turn: int) -> list[Passage]:
    """Passages of no folder, other ones in each turn."""
    return [
        Passage(f"loose {turn} {i}", f"loose text {i} of turn {turn}", "", "", 0, 1)
        for i in range(LOOSE)
    ]


def work(
    model: Path,
    store: Path,
    folder: Path,
    other: Path,
    turn: int,
    said: Connection,
    token_models: tuple[Path, Path] | None,
    late_chunking: bool = False,
) -> None:
    """Updates, adds and deletes; says what is stored as soon as Quaver says so.

    Args:
        model: Model folder.
        store: The store; made if there is none.
        folder: A folder that changed since the last turn.
        other: A folder that is indexed in some turns and removed in others.
        turn: Which turn it is.
        said: Gets (what, how many) after each step.
        token_models: A sparse and a multi-vector model, which the index gets in the second turn.
        late_chunking: As for ``Index.create``.
    """
    quaver.index.embedding.PASSAGES_PER_BATCH = 8  # many moments between two batches
    quaver.index.update.FLUSH_SECONDS = 0.02 * (turn % 3)
    embedder = Embedder.from_pretrained(model, threads=1)
    # Not only at the end of an update, but also in its middle.
    quaver.store.folder.MIN_DROPPED = 20
    quaver.store.folder.MERGE_FAN_IN = 3
    quaver.store.folder._MANY_RUNS = 1
    further = {}
    if token_models is not None and turn > 1:
        further["sparse"] = SparseEncoder.from_pretrained(token_models[0], threads=1)
        further["multi"] = MultiVectorEncoder.from_pretrained(token_models[1], threads=1)
    said.send(("ready", 0))
    with (
        Index.open(store, embedder)
        if Index.exists(store)
        else Index.create(store, embedder, late_chunking=late_chunking) as index
    ):

        def stored(progress: UpdateProgress) -> None:
            said.send(("stored", progress.passages))

        index.add_models(**further)
        index.update(folder, on_progress=stored)
        said.send(("updated", 0))
        index.add(loose_passages(turn))
        said.send(("added", LOOSE))
        if str(other) in index.roots():
            index.remove(other)
            said.send(("removed", 0))
        else:
            index.update(other)
            said.send(("other", 0))
        index.store.delete([passage.id for passage in loose_passages(turn)][: LOOSE // 2])
        index.store.flush()
        said.send(("deleted", LOOSE // 2))
    said.send(("closed", 0))
