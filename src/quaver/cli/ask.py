"""`quaver ask`: a question, answered from a store with citations."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from quaver.answers import DEFAULT_PASSAGES, DEFAULT_TEMPLATE, Answer, ChatModel, Message
from quaver.answers import ask as ask_index
from quaver.cli.exit_codes import reported_errors
from quaver.cli.options import (
    JsonOption,
    Precision,
    PrecisionOption,
    StoreArgument,
    StoredModelOption,
    ThreadsOption,
    require_option,
    stored_model,
)
from quaver.cli.search import (
    CandidatesOption,
    FilterOption,
    MaxsimOption,
    MinScoreOption,
    ModeOption,
    RerankOption,
)
from quaver.cli.terminal import harmless, place_of
from quaver.errors import DocumentError
from quaver.index import Index, load_ranker
from quaver.store import CANDIDATES, RANKINGS, read_conditions, unknown_fields

_KEY_VARIABLE = "OPENAI_API_KEY"
_TIMEOUT = 120.0


def ask(
    store: StoreArgument,
    question: Annotated[str, typer.Argument(help="The question.")],
    llm: Annotated[
        str | None,
        typer.Option(
            help="OpenAI-compatible endpoint, such as http://localhost:8080/v1; without it the prompt "
            "is printed and nothing is sent.",
            metavar="URL",
        ),
    ] = None,
    llm_model: Annotated[
        str | None,
        typer.Option(help="The language model; default: the endpoint's only one."),
    ] = None,
    key_variable: Annotated[
        str, typer.Option("--key-env", help="Environment variable with the endpoint's key.")
    ] = _KEY_VARIABLE,
    k: Annotated[
        int, typer.Option("-k", help="How many passages the language model gets.", min=1)
    ] = DEFAULT_PASSAGES,
    mode: ModeOption = "hybrid",
    filters: FilterOption = None,
    rerank: RerankOption = None,
    maxsim: MaxsimOption = False,
    candidates: CandidatesOption = CANDIDATES,
    min_score: MinScoreOption = None,
    prompt: Annotated[
        Path | None,
        typer.Option(help="File with your own prompt; docs/guide/ask.md shows the default."),
    ] = None,
    show_prompt: Annotated[
        bool, typer.Option("--show-prompt", help="Print the prompt before the answer.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(help="Give up after so many seconds without a response.", min=0.1)
    ] = _TIMEOUT,
    as_json: JsonOption = False,
    model: StoredModelOption = None,
    precision: PrecisionOption = Precision.int8,
    threads: ThreadsOption = None,
) -> None:
    """Answer a question from the passages of a store, with numbered citations.

    Example: quaver ask ./kb "how do I merge two dictionaries" --llm http://localhost:8080/v1

    The passages go to the language model at --llm and nowhere else. The answer is printed as it
    arrives, then the passages that it cites.
    """
    with reported_errors():
        reranked = rerank or maxsim
        require_option("--rerank or --maxsim", reranked, {"--candidates": candidates != CANDIDATES})
        require_option(
            "--llm",
            llm,
            {
                "--llm-model": llm_model,
                "--key-env": key_variable != _KEY_VARIABLE,
                "--timeout": timeout != _TIMEOUT,
            },
        )
        template = DEFAULT_TEMPLATE if prompt is None else _read(prompt)
        key = os.environ.get(key_variable)
        chat = None if llm is None else ChatModel(llm, model=llm_model, key=key, timeout=timeout)
        wanted = read_conditions(filters)
        load = stored_model(store, model, precision, threads)
        lazy = "dense" not in RANKINGS[mode]
        with Index.open(store, load, read_only=True, lazy=lazy) as index:
            own = None if lazy else index.embedder
            answer = ask_index(
                index,
                question,
                llm=chat,
                k=k,
                mode=mode,
                filter=wanted,
                ranker=None if rerank is None else load_ranker(rerank, own, threads=threads),
                candidates=candidates,
                min_score=min_score,
                maxsim=maxsim,
                template=template,
                on_prompt=_print_prompt if not as_json and (show_prompt or llm is None) else None,
                on_text=None if as_json else _print_piece,
            )
            unknown = [] if answer.passages or as_json else unknown_fields(wanted, index.store)
        for field in unknown:
            print(f"quaver: no passage in {store} has a field {field!r}", file=sys.stderr)
        if as_json:
            print(json.dumps(_document(answer), indent=2))
        elif not answer.passages:
            print("nothing found")
        elif llm is None:
            print("quaver: nothing was sent: name an endpoint with --llm", file=sys.stderr)
        else:
            _print_sources(answer)


def _document(answer: Answer) -> dict[str, Any]:
    """Return what --json prints; docs/guide/ask.md lists the fields."""
    return {
        "question": answer.question,
        "answer": answer.text,
        "citations": answer.cited,
        "unknown_citations": answer.unknown,
        "passages": [asdict(hit) for hit in answer.passages],
        "prompt": [asdict(message) for message in answer.messages],
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"the prompt {path} cannot be read: {error}") from error


def _print_prompt(messages: Sequence[Message]) -> None:
    for message in messages:
        print(f"--- {message.role}\n{harmless(message.content, lines=True)}\n")


def _print_piece(piece: str) -> None:
    print(harmless(piece, lines=True), end="", flush=True)


def _print_sources(answer: Answer) -> None:
    """Print the passages that the answer cites, and warn about wrong citations."""
    print("\n")
    out, complain = Console(highlight=False), Console(stderr=True, highlight=False)
    for number in answer.cited:
        hit = answer.passages[number - 1]
        out.print(f"[{number}] {place_of(hit)}", markup=False, soft_wrap=True)
    if answer.unknown:
        numbers = ", ".join(map(str, answer.unknown))
        complain.print(
            f"quaver: the answer cites {numbers}, but the passages are 1 to {len(answer.passages)}: "
            "do not rely on it",
            markup=False,
        )
    elif not answer.cited:
        complain.print("quaver: the answer cites no passage", markup=False)
