"""Keep an index up to date with its folder: a new file is found a moment later.

python examples/index/watch.py [MODEL]        needs quaver[watch]; `quaver index --watch` does the same
"""

import sys
import tempfile
import threading
from pathlib import Path

import quaver

model = quaver.Embedder.from_pretrained(
    sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
)
with tempfile.TemporaryDirectory() as place:
    notes, store, stop = Path(place, "notes"), Path(place, "store"), threading.Event()
    notes.mkdir()
    (notes / "tea.md").write_text("Green tea is brewed at 70 degrees.\n")
    quaver.Index.create(store, model).close()
    for number, report in enumerate(quaver.watch(store, model, notes, stop=stop)):
        print(f"{report.added} added, {report.unchanged} unchanged, {report.removed} removed")
        if number == 0:
            (notes / "cats.txt").write_text("A cat sleeps for most of the day.\n")
        else:
            stop.set()
    with quaver.Index.open(store, model) as index:
        assert index.search("Which animal is lazy?", k=1)[0].source == "cats.txt"
