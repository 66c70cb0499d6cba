"""Answer a question with citations; without an endpoint, show the messages.

python examples/index/ask.py [MODEL [http://localhost:8080/v1]]
"""

import sys
from pathlib import Path

import quaver

model = quaver.Embedder.from_pretrained(
    sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
)
llm = quaver.ChatModel(sys.argv[2]) if len(sys.argv) > 2 else None
documents = Path(__file__).parent.parent / "python-docs" / "howto"
with quaver.Index.create(":memory:", model, passage_tokens=128) as index:
    index.update(documents)
    answer = quaver.ask(index, "How do I sort by two keys?", llm=llm, k=2)
if llm is None:
    for message in answer.messages:
        print(f"--- {message.role}\n{message.content}\n")
else:
    print(answer.text)
    for number in answer.cited:
        print(f"[{number}] {answer.passages[number - 1].source}")
assert "sorting.html" in {hit.source for hit in answer.passages}
