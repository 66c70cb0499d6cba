"""`quaver bench`: how fast, against other engines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from quaver.cli.app import app
from quaver.cli.options import cache_folder, reported_errors
from quaver.errors import InputError
from quaver_bench.command import CommandLine, compare, report, run
from quaver_bench.result import PARTS


@app.command()
def bench(
    model: Annotated[
        str | None, typer.Argument(help="Model folder or hub id, in float32.", show_default=False)
    ] = None,
    against: Annotated[
        str,
        typer.Option(
            help="Engines to compare with, or forms of them, with commas, such as openvino,torch-float32; all "
            "for every engine. Without it, this model alone is measured, in about a minute."
        ),
    ] = "",
    parts: Annotated[
        str,
        typer.Option(
            help=f"What to measure, with commas: {', '.join(PARTS)}; default: all, and without --against the first two."
        ),
    ] = "",
    cases: Annotated[
        str,
        typer.Option(help="Instead of the usual ones, with commas: 1x16,32x256,ragged256."),
    ] = "",
    shapes: Annotated[
        str,
        typer.Option(
            help="Published BGE shapes with random weights as well, with commas: small,base,large."
        ),
    ] = "",
    only_shapes: Annotated[
        bool, typer.Option("--only-shapes", help="Not the model itself; it gives the tokenizer.")
    ] = False,
    name: Annotated[str, typer.Option(help="What to call the model in the tables.")] = "",
    corpus: Annotated[
        Path | None,
        typer.Option(
            help=".jsonl, .txt or a folder of documents; default: Python's documentation.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(help="Texts of the corpus at most; default: 256, with --quick 200.", min=1),
    ] = None,
    judgements: Annotated[
        Path | None,
        typer.Option(help="Judged texts in BEIR layout: adds NDCG@10 to every engine."),
    ] = None,
    clients: Annotated[
        str, typer.Option(help="Numbers of clients; default: 1,2,4,8, with --quick 1,4.")
    ] = "",
    random_ids: Annotated[
        bool, typer.Option("--random-ids", help="Random token ids instead of text.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(help="Of every engine; default: all CPUs.", min=1)
    ] = None,
    cores: Annotated[str, typer.Option(help="CPUs to use, such as 0-21; default: all.")] = "",
    instances: Annotated[
        int,
        typer.Option(
            help="Processes of each engine that work at the same time, each on CPUs of its own: "
            "one for each socket; --threads are of one.",
            min=1,
        ),
    ] = 1,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="For each case, all engines together; default: 20, with --quick 6.", min=0
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Least rounds of a case.", min=1)] = 3,
    longest: Annotated[
        float,
        typer.Option(
            help="Leave out an engine whose single call takes longer, s; with texts of different "
            "lengths three times as long.",
            min=0,
        ),
    ] = 30.0,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A few cases and one form of each engine, in minutes; what is given beside it wins.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for results.json, results.md and plots; default, with --against: bench-results.",
            show_default=False,
        ),
    ] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Keep what is in --out and was not measured anew.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Keep what is in --out and measure only what is not there."),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Forget what is in --out, which is refused otherwise."),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for what engines make of a model.", show_default=False),
    ] = None,
    environments: Annotated[
        Path,
        typer.Option(
            help="Folder of virtual environments: engines that are not installed here run in "
            "peers, ipex, zentorch or llamacpp of these."
        ),
    ] = Path(".envs"),
    compare_files: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--compare", help="Two results: show what changed, and measure nothing.", metavar="A B"
        ),
    ] = None,
    report_file: Annotated[
        Path | None,
        typer.Option("--report", help="Results: make tables and plots anew, measure nothing."),
    ] = None,
) -> None:
    """Measure how fast a model runs here, alone or against other engines.

    Example: quaver bench sentence-transformers/all-MiniLM-L6-v2 --against openvino,onnxruntime

    Every engine runs the same texts with the same number of threads, in turns. A row says how fast
    it was and how near its vectors are to float32. Ctrl-C keeps what was measured.
    """
    with reported_errors(interrupted="interrupted: nothing was measured yet"):
        if compare_files is not None:
            print(compare(*compare_files))
        elif report_file is not None:
            report(report_file)
        elif model is None:
            raise InputError("bench needs a model: a folder or a hub id; see quaver bench --help")
        else:
            line = CommandLine(
                model=model,
                name=name,
                against=_words(against),
                parts=_words(parts),
                cases=_words(cases),
                shapes=_words(shapes),
                only_shapes=only_shapes,
                corpus=corpus,
                count=count,
                judgements=judgements,
                clients=_words(clients),
                random_ids=random_ids,
                threads=threads,
                cores=cores,
                instances=instances,
                seconds=seconds,
                rounds=rounds,
                longest=longest,
                quick=quick,
                out=out,
                add=add,
                resume=resume,
                overwrite=overwrite,
                cache=cache or cache_folder("bench"),
                environments=environments,
                command=("quaver", *sys.argv[1:]),
            )
            run(line)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
