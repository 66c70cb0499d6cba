"""The `quaver` command and its list of commands; a command's module is imported when the command runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from quaver.cli.exit_codes import EPILOG, INTERRUPTED, print_usage_error


@dataclass(frozen=True)
class Command:
    """Where a command is defined, and its line in `quaver --help`.

    Attributes:
        home: module:function in this package.
        summary: the first sentence of the function's docstring, repeated here so that the list needs no import.
    """

    home: str
    summary: str


COMMANDS = {
    "index": Command(
        "index:index",
        "Keep a store in step with a folder: embed what is new or changed, drop what is gone.",
    ),
    "search": Command("search:search", "Find the passages that answer a question."),
    "ask": Command(
        "ask:ask", "Answer a question from the passages of a store, with numbered citations."
    ),
    "status": Command(
        "status:status",
        "Show what a store holds: folders, files, passages, failures, model, size, last update.",
    ),
    "check": Command("check:check", "Compare everything in a store with its checksums."),
    "remove": Command("index:remove", "Drop everything that was indexed from a folder."),
    "export": Command(
        "transfer:export_store",
        "Write a store's passages, metadata and vectors to a Parquet file.",
    ),
    "import": Command(
        "transfer:import_store",
        "Store the passages of a Parquet file, with its vectors if it is an export.",
    ),
    "embed": Command(
        "embed:embed",
        "Embed texts, or files of any size: JSON lines on stdout, a NumPy file, or a folder of vectors or scores.",
    ),
    "load": Command(
        "load:load",
        "Load the vectors of `quaver embed --output` into Qdrant, PostgreSQL or LanceDB.",
    ),
    "plan": Command(
        "plan:plan",
        "Estimate rows, tokens, time and cost of embedding a corpus, from a sample of it.",
    ),
    "serve": Command(
        "serve:serve",
        "Serve models over HTTP, to clients of OpenAI, TEI, Cohere, Jina and Ollama, and a page to search stores.",
    ),
    "mcp": Command(
        "mcp:mcp",
        "Serve stores to agents over the Model Context Protocol: search, read, list documents.",
    ),
    "quantize": Command(
        "quantize:quantize",
        "Write a model as an int8 or int4 folder: smaller, faster to load, readable by transformers.",
    ),
    "evaluate": Command(
        "evaluate:evaluate",
        "Measure what int8 costs: NDCG@10 in retrieval and MAP in reranking, compared with float32.",
    ),
    "bench": Command(
        "bench:bench",
        "Measure how fast a model of any kind runs here, alone or against other engines.",
    ),
    "export-st": Command(
        "export_st:export_st",
        "Write a folder that sentence-transformers, and tools built on it, run on this engine.",
    ),
    "info": Command(
        "info:info",
        "Show this CPU, what the engine uses of it, settings that affect speed, and versions.",
    ),
}
"""All commands, in the order in which a new user needs them."""

OF_CORPORA = ("plan", "embed", "load")
"""Commands that `quaver bulk` may stand before, as `quaver.bulk` does in Python."""


def load(name: str) -> TyperCommand:
    """Import a command.

    Args:
        name: one of COMMANDS.

    Returns:
        the command, ready to run.
    """
    module, _, function = COMMANDS[name].home.partition(":")
    single = typer.Typer(add_completion=False, rich_markup_mode="rich")
    single.command(name)(getattr(import_module(f"quaver.cli.{module}"), function))
    command = get_command(single)
    assert isinstance(command, TyperCommand)
    return command


class _Group(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        """List every command by name and summary."""
        super().__init__(**attributes)
        for name, listed in COMMANDS.items():
            self.add_command(TyperCommand(name, short_help=listed.summary))

    def main(self, *arguments: Any, **options: Any) -> Any:
        """Run a command, and print what is wrong with its line like every other error."""
        standalone = options.get("standalone_mode", True)
        options["standalone_mode"] = False
        if not standalone:
            return super().main(*arguments, **options)
        try:
            code = super().main(*arguments, **options)
        except typer.TyperException as error:
            print_usage_error(error)
            code = error.exit_code
        sys.exit(code)

    def resolve_command(
        self, ctx: Any, args: list[str]
    ) -> tuple[str | None, Any | None, list[str]]:
        """Import the command that was asked for."""
        if args[:1] == ["bulk"]:
            if args[1:2] not in [[name] for name in OF_CORPORA]:
                ctx.fail(
                    "for a corpus there are `quaver plan`, `quaver embed --output` and `quaver load`"
                )
            args = args[1:]
        name, _, arguments = super().resolve_command(ctx, args)
        if name is None:
            return name, None, arguments
        try:
            return name, load(name), arguments
        except KeyboardInterrupt as error:
            print("quaver: interrupted", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from error


app = typer.Typer(
    name="quaver",
    cls=_Group,
    help="Embedding and reranking models in int8 on the CPU: index documents, search them, embed texts."
    "\n\nExample: quaver index ./docs --model sentence-transformers/all-MiniLM-L6-v2 --store ./kb",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        print(f"quaver {metadata.version('quaver')}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass
