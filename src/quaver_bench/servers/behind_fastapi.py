"""The server that people write themselves: a model of sentence-transformers or fastembed behind FastAPI.

    python behind_fastapi.py LIBRARY --embed FOLDER [--rerank FOLDER] --port PORT --threads N

It imports neither Quaver nor this package, so it runs in the library's own environment. Requests are
computed one after another in the event loop, which was faster than a thread for each: the library's
own threads use all CPUs already. Answers are written with orjson.
"""

# The type hints are read by FastAPI, so this file has no `from __future__ import annotations`.

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Embed = Callable[[Sequence[str]], Any]
Rerank = Callable[[str, Sequence[str]], Sequence[float]]


def of_sentence_transformers(
    embed: Path, rerank: Path | None, threads: int
) -> tuple[Embed, Rerank | None]:
    """Load with sentence-transformers, in float32 on the CPU."""
    import torch
    from sentence_transformers import CrossEncoder, SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(str(embed), device="cpu")
    ranker = CrossEncoder(str(rerank), device="cpu") if rerank else None

    def vectors(texts: Sequence[str]) -> Any:
        return model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)

    def scores(query: str, documents: Sequence[str]) -> Sequence[float]:
        assert ranker is not None
        pairs = [(query, document) for document in documents]
        found: Sequence[float] = ranker.predict(pairs, show_progress_bar=False).tolist()
        return found

    return vectors, scores if ranker else None


def of_fastembed(embed: Path, rerank: Path | None, threads: int) -> tuple[Embed, Rerank | None]:
    """Load ONNX files with fastembed; `onnx_folder.py` writes the folders."""
    import json

    import numpy as np
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    facts = json.loads((embed / "facts.json").read_text(encoding="utf-8"))
    TextEmbedding.add_custom_model(
        model="bench/embed",
        pooling=PoolingType.CLS if facts["pooling"] == "cls" else PoolingType.MEAN,
        normalization=True,
        sources=ModelSource(hf="bench/embed"),
        dim=facts["hidden"],
        model_file="model.onnx",
    )
    options = {"threads": threads, "local_files_only": True}
    model = TextEmbedding("bench/embed", specific_model_path=str(embed), **options)
    ranker = None
    if rerank:
        TextCrossEncoder.add_custom_model(
            model="bench/rerank", sources=ModelSource(hf="bench/rerank"), model_file="model.onnx"
        )
        ranker = TextCrossEncoder("bench/rerank", specific_model_path=str(rerank), **options)

    def vectors(texts: Sequence[str]) -> Any:
        return np.array(list(model.embed(list(texts), batch_size=64)), np.float32)

    def scores(query: str, documents: Sequence[str]) -> Sequence[float]:
        assert ranker is not None
        return [float(score) for score in ranker.rerank(query, list(documents), batch_size=64)]

    return vectors, scores if ranker else None


LIBRARIES = {"sentence-transformers": of_sentence_transformers, "fastembed": of_fastembed}


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("library", choices=tuple(LIBRARIES))
    parser.add_argument("--embed", type=Path, required=True)
    parser.add_argument("--rerank", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()

    import orjson
    import uvicorn
    from fastapi import FastAPI, Response
    from pydantic import BaseModel

    embed, rerank = LIBRARIES[given.library](given.embed, given.rerank, given.threads)
    app = FastAPI()

    class Inputs(BaseModel):
        model: str
        input: list[str]

    class Ranking(BaseModel):
        model: str
        query: str
        documents: list[str]

    def written(value: Any) -> Response:
        content = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(content, media_type="application/json")

    @app.post("/v1/embeddings")
    async def embeddings(body: Inputs) -> Response:
        rows = list(embed(body.input))
        data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
        return written({"object": "list", "model": body.model, "data": data})

    if rerank is not None:

        @app.post("/v1/rerank")
        async def ranked(body: Ranking) -> Response:
            scores = rerank(body.query, body.documents)
            order = sorted(range(len(scores)), key=lambda i: -scores[i])
            results = [{"index": i, "relevance_score": scores[i]} for i in order]
            return written({"model": body.model, "results": results})

    uvicorn.run(app, host="127.0.0.1", port=given.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
