"""Killed at any moment, an index opens, holds what was reported as stored, and holds nothing twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from golden_folders import unpacked
from kill_worker import LOOSE, loose_passages, work
from quaver.documents import read_document, split
from quaver.embedder import Embedder
from quaver.index.embedding import late_passage_tokens, passage_budget
from quaver.index.index import Index
from quaver.multi_vector_encoder import MultiVectorEncoder
from quaver.sparse_encoder import SparseEncoder
from whole_documents import require_right

KILLS = int(os.environ.get("QUAVER_TEST_KILLS", "3"))
"""`make test-kill` kills a hundred times."""

FILES = 10


class Folder:
    """A folder whose files change, and the passages that it should give."""

    def __init__(self, path: Path, embedder: Embedder, tokens: int) -> None:
        """Writes the first files."""
        self.path, self._embedder, self._tokens = path, embedder, tokens
        self._texts = 0
        path.mkdir()
        for i in range(FILES):
            self.write(path / f"{i}.txt")

    def write(self, file: Path) -> None:
        self._texts += 1
        lines = [f"Text {self._texts} has paragraph {j} of many words." for j in range(8)]
        file.write_text("\n\n".join([*lines, f"All {self._texts % 3} files end so."] * 3))

    def change(self, chance: random.Random) -> None:
        """Adds, edits, renames and deletes a file."""
        for action in chance.sample(["add", "edit", "rename", "delete"], 2):
            files = sorted(self.path.iterdir())
            file = chance.choice(files)
            if action == "delete" and len(files) > FILES // 2:
                file.unlink()
            elif action == "rename":
                file.rename(self.path / f"renamed {self._texts} {file.name[-5:]}")
            elif action == "add" and len(files) < 2 * FILES:
                self.write(self.path / f"new {self._texts}.txt")
            else:
                self.write(file)

    def passages(self) -> set[str]:
        return {
            passage.id
            for file in self.path.iterdir()
            for passage in split(
                read_document(file, source=file.name, root=str(self.path)),
                self._embedder.tokenizer,
                self._tokens,
            )
        }


def messages(hear: Connection) -> Iterator[tuple[str, int]]:
    """Yields what a process said before it ended."""
    try:
        while True:
            yield hear.recv()
    except (EOFError, OSError):  # a message may be cut
        return


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["dense", "tokens", "late"])
def test_killed_again_and_again(
    tiny_folder: Path, tmp_path: Path, embedder: Embedder, kind: str
) -> None:
    token_models = None
    late = kind == "late"
    if kind == "tokens":
        token_models = unpacked("splade-bert", tmp_path), unpacked("colbert", tmp_path)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["kill_worker", "quaver.cli.index", "quaver.store.folder"])
    tokens = late_passage_tokens(embedder) if late else passage_budget(embedder)
    store, other = tmp_path / "kb", Folder(tmp_path / "other", embedder, tokens)
    folder = Folder(tmp_path / "docs", embedder, tokens)
    chance = random.Random(11)
    safe: set[str] = set()  # reported as stored, and not asked to go since
    seconds = 2.0
    kills: Counter[str] = Counter()
    turn = 0
    # A turn with late chunking embeds whole documents again, and takes several times as long.
    wanted = max(3, KILLS // 3) if late else KILLS
    while kills.total() < wanted:
        turn += 1
        before = folder.passages()
        if turn > 1:
            folder.change(chance)
        now = folder.passages()
        safe -= before - now
        hear, say = processes.Pipe(duplex=False)
        arguments = (tiny_folder, store, folder.path, other.path, turn, say, token_models, late)
        process = processes.Process(target=work, args=arguments, daemon=True)
        process.start()
        say.close()
        assert hear.poll(60)
        assert hear.recv() == ("ready", 0)
        time.sleep(chance.random() * seconds)
        process.kill()
        process.join(60)
        steps = dict(messages(hear))
        assert process.exitcode in (0, -9)
        if process.exitcode == -9:
            kills[next(reversed(steps), "ready")] += 1
        # The machine's speed is found out, so that every step is met.
        seconds *= 0.8 if "closed" in steps else 1.04
        loose = {passage.id for passage in loose_passages(turn)}
        if "updated" in steps:
            safe |= now
        if "added" in steps:
            # From now on half of them may be deleted.
            safe |= {passage.id for passage in loose_passages(turn)[LOOSE // 2 :]}
        if "other" in steps:
            safe |= other.passages()
        elif "added" in steps:
            safe -= other.passages()  # it was about to be removed, or was
        if not Index.exists(store):
            assert not safe
            continue
        assert Index.check(store).ok
        with Index.open(store, embedder) as index:
            lacking = set(index.store.incomplete())
            rows = list(index.store.scan(with_vectors=True))
            stored = [row.passage.id for row in rows]
            assert len(stored) == len(set(stored)) == index.store.count()
            assert safe <= set(stored)
            assert all(row.vector is not None for row in rows)
            if index.store.manifest.sparse is not None:
                assert set(index.store.tokens(stored)) == set(stored) - lacking
            assert steps.get("stored", 0) <= len(now & set(stored))
            hits = [hit.id for hit in index.search("text paragraph loose", k=2000, mode="bm25")]
            assert len(hits) == len(set(hits))
            if "updated" in steps:
                assert {i for i in stored if i in before} <= now
            if "removed" in steps:
                assert str(other.path) not in index.roots()
            if "deleted" in steps:
                assert not set(stored) & {p.id for p in loose_passages(turn)[: LOOSE // 2]}
            index.store.delete(sorted(loose))
            safe -= loose
    assert min(kills[step] for step in ("ready", "stored", "updated", "added")) >= wanted // 50, (
        kills
    )
    # On a slow machine, every process may have died before it made the store.
    with (
        Index.open(store, embedder)
        if Index.exists(store)
        else Index.create(store, embedder, late_chunking=late)
    ) as index:
        if token_models is not None:
            index.add_models(
                sparse=SparseEncoder.from_pretrained(token_models[0], threads=1),
                multi=MultiVectorEncoder.from_pretrained(token_models[1], threads=1),
            )
        index.update(folder.path)
        assert index.store.incomplete() == []
        sources = index.store.sources(str(folder.path))
        found = {i for stored in sources.values() for ids in stored.ids.values() for i in ids}
        assert found == folder.passages()
        if late:
            require_right(index, folder.path)


def test_killed_while_the_store_is_made(
    tiny_folder: Path, tmp_path: Path, embedder: Embedder
) -> None:
    program = (
        "import sys, pathlib; from quaver.store.folder import FolderStore\n"
        "from quaver.store import Manifest\n"
        "print('ready', flush=True)\n"
        "FolderStore.create(pathlib.Path(sys.argv[1]), Manifest('m', 'f', 8, 100, ''))"
    )
    moments = random.Random(3)
    for attempt in range(8):
        store = tmp_path / f"kb{attempt}"
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(store)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.random() * 0.12)
        process.kill()
        process.wait(60)
        process.stdout.close()
        if not Index.exists(store):
            Index.create(store, embedder).close()
            assert Index.exists(store)
