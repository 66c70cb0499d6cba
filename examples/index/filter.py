"""Search only passages with matching metadata.

python examples/index/filter.py [MODEL]
"""

import sys

import quaver

model = quaver.Embedder.from_pretrained(
    sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
)
notes = [
    ("The roof leaks when it rains from the west.", {"year": 2023, "room": "attic"}),
    ("The roof was mended and no longer leaks.", {"year": 2025, "room": "attic"}),
    ("The kitchen tap drips.", {"year": 2025, "room": "kitchen"}),
]
with quaver.Index.create(":memory:", model) as index:
    index.add(
        [
            quaver.Passage(text, text, "diary", "", 0, len(text), metadata=fields)
            for text, fields in notes
        ]
    )
    recent, attic = quaver.Compare("year", ">=", 2024), quaver.Compare("room", "==", "attic")
    (hit,) = index.search("Does water come in?", filter=quaver.And(recent, attic))
print(hit.metadata["year"], hit.text)
assert hit.metadata["year"] == 2025
