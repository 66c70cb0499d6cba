"""Search a store of `quaver serve` from LangChain and from Haystack.

python examples/serve/remote_retrievers.py [MODEL]        needs quaver[serve], langchain-core, haystack-ai
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
from haystack import Document as HaystackDocument
from haystack import Pipeline, component
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

import quaver


class LangChainRetriever(BaseRetriever):
    """Asks a server for the passages that answer a question."""

    url: str
    k: int = 4

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        answer = httpx.post(self.url, json={"query": query, "k": self.k}).raise_for_status()
        return [
            Document(hit["text"], metadata={"source": hit["source"], "score": hit["score"]})
            for hit in answer.json()["hits"]
        ]


@component
class HaystackRetriever:
    """Asks a server for the passages that answer a question."""

    def __init__(self, url: str, k: int = 4) -> None:
        """Ask at this address for k passages."""
        self.url, self.k = url, k

    @component.output_types(documents=list[HaystackDocument])
    def run(self, query: str) -> dict[str, list[HaystackDocument]]:
        """Ask."""
        answer = httpx.post(self.url, json={"query": query, "k": self.k}).raise_for_status()
        return {
            "documents": [
                HaystackDocument(
                    content=hit["text"], meta={"source": hit["source"]}, score=hit["score"]
                )
                for hit in answer.json()["hits"]
            ]
        }


model = quaver.Embedder.from_pretrained(
    sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
)
documents = Path(__file__).parent.parent / "python-docs" / "howto"
question = "How do I sort by two keys?"
with tempfile.TemporaryDirectory() as place:
    with quaver.Index.create(f"{place}/kb", model) as index:
        index.update(documents, name="howto")
    command = [sys.executable, "-m", "quaver", "serve", "--store", f"{place}/kb", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        events = {}
        while "ready" not in events:
            event = json.loads(server.stderr.readline())
            events[event["event"]] = event
        host, port = events["listening"]["address"]
        url = f"http://{host}:{port}/v1/stores/kb/search"
        try:
            found = LangChainRetriever(url=url).invoke(question)
            pipeline = Pipeline()
            pipeline.add_component("retriever", HaystackRetriever(url))
            retrieved = pipeline.run({"retriever": {"query": question}})["retriever"]["documents"]
        finally:
            server.terminate()
for document, other in zip(found, retrieved, strict=True):
    print(f"{document.metadata['source']}: {document.page_content[:60]!r}")
    assert document.page_content == other.content
assert found[0].metadata["source"] == "sorting.html"
