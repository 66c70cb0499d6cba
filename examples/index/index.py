"""Index a folder, change it, index it again: only the change is embedded.

python examples/index/index.py [MODEL]
"""

import sys
import tempfile
from pathlib import Path

import quaver

model = quaver.Embedder.from_pretrained(
    sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
)
with tempfile.TemporaryDirectory() as folder:
    notes = Path(folder, "notes")
    notes.mkdir()
    (notes / "tea.md").write_text("# Tea\n\nGreen tea is brewed at 70 degrees.\n")
    (notes / "music.txt").write_text("A quaver lasts half as long as a crotchet.\n")
    with quaver.Index.create(Path(folder, "store"), model) as index:
        first = index.update(notes)
        (notes / "tea.md").rename(notes / "green-tea.md")
        (notes / "cats.txt").write_text("A cat sleeps for most of the day.\n")
        second = index.update(notes)
        for hit in index.search("How hot should the water be?", k=1):
            print(f"{hit.score:.3f}  {hit.source}  {hit.heading}: {hit.text.strip()}")
print(f"first {first.added} added; then {second.added} added, {second.reused} moved")
assert (first.added, second.added, second.reused) == (2, 1, 1)
