"""Index files of several formats; a broken file is reported. Needs quaver[files].

python examples/index/files.py [MODEL]
"""

import sys
import tempfile
from pathlib import Path

import quaver

model = quaver.Embedder.from_pretrained(
    sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
)
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    (folder / "prices.csv").write_text("product,price\ngreen tea,12 euros\nblack tea,9 euros\n")
    (folder / "mail.eml").write_text("Subject: Lunch\nFrom: Ada <a@x.org>\n\nWe meet at noon.\n")
    (folder / "scan.pdf").write_bytes(b"%PDF-1.7 and then nothing")
    (folder / "draft.txt").write_text("not yet\n")
    with quaver.Index.create(":memory:", model) as index:
        report = index.update(folder, exclude=["draft*"])
        for question in ("What does black tea cost?", "When is lunch?"):
            (best,) = index.search(question, k=1)
            print(f"{question}  {best.source}: {' '.join(best.text.split())} {dict(best.metadata)}")
for failure in report.failed:
    print(f"{failure.source}: {failure.reason}")
assert (report.files, len(report.failed)) == (2, 1)
