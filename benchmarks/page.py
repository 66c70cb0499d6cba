"""Measure the search page: seconds from a request to its answer while people type, on loopback.

    python benchmarks/page.py --model MODEL [--passages 50000] [--people 20] [--out FILE]

Makes a store of passages from the words of examples/python-docs with random vectors, serves it, and types questions:
first one person, then all of them at once. A browser adds its debounce of 30 ms and the time to draw.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np

from quaver import Embedder, Index, Passage

DOCS = Path(__file__).parent.parent / "examples" / "python-docs"
QUESTIONS = (
    "how do I merge two dictionaries",
    "what does yield return",
    "sort a list of tuples by its second item",
)
_BATCH = 1000


def make_store(path: Path, model: str, count: int) -> None:
    """Store passages of 100 words with random vectors."""
    text = " ".join(file.read_text(encoding="utf-8") for file in sorted(DOCS.rglob("*.rst")))
    words = re.findall(r"\S+", text)
    random = np.random.default_rng(1)
    with Index.create(path, Embedder.from_pretrained(model)) as index:
        for first in range(0, count, _BATCH):
            passages = []
            for number in range(first, min(first + _BATCH, count)):
                at = int(random.integers(len(words) - 100))
                body = " ".join(words[at : at + 100])
                source = f"folder{number % 7}/{number // 50}.md"
                passages.append(Passage(f"{number}", body, source, "Heading", 0, len(body), "docs"))
            vectors = random.standard_normal((len(passages), index.embedder.dimension), np.float32)
            index.store.upsert(passages, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        index.store.flush()
        index.store.optimize()


def type_question(address: str, question: str, pause: float) -> list[float]:
    """Type a question, and return the milliseconds of each answer."""
    taken = []
    with httpx.Client(base_url=address, timeout=60, headers={"hx-request": "true"}) as client:
        for end in range(1, len(question) + 1):
            begin = time.perf_counter()
            client.get("/", params={"q": question[:end]}).raise_for_status()
            taken.append((time.perf_counter() - begin) * 1000)
            time.sleep(pause)
    return taken


def shown(taken: list[float]) -> dict[str, float]:
    """Return percentiles in milliseconds."""
    found = np.percentile(taken, (50, 95, 99))
    return {
        "answers": len(taken),
        **{f"p{p}_ms": round(float(v), 1) for p, v in zip((50, 95, 99), found, strict=True)},
    }


def main() -> None:
    """Make the store, serve it, type."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--passages", type=int, default=50_000)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "kb"
        make_store(store, given.model, given.passages)
        command = [
            sys.executable,
            "-m",
            "quaver",
            "serve",
            "--store",
            str(store),
            "--port",
            "0",
            "--no-access-log",
        ]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            address = ""
            for line in server.stderr:
                event = json.loads(line)
                if event["event"] == "listening":
                    address = "http://{}:{}".format(*event["address"])
                if event["event"] == "ready":
                    break
            begin = time.perf_counter()
            httpx.get(address, timeout=60).raise_for_status()
            first = (time.perf_counter() - begin) * 1000
            type_question(address, QUESTIONS[0], 0.0)
            alone = [ms for question in QUESTIONS for ms in type_question(address, question, 0.05)]
            with ThreadPoolExecutor(given.people) as pool:
                asked = [QUESTIONS[person % len(QUESTIONS)] for person in range(given.people)]
                together = [
                    ms
                    for part in pool.map(lambda q: type_question(address, q, 0.2), asked)
                    for ms in part
                ]
        finally:
            server.terminate()
            server.wait()
    result = {
        "passages": given.passages,
        "first_page_ms": round(first, 1),
        "one_person": shown(alone),
        "people": given.people,
        "together": shown(together),
    }
    print(json.dumps(result, indent=2))
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
