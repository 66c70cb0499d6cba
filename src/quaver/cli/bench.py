"""`quaver bench`: measure speed, alone or against other engines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from quaver.cli.exit_codes import reported_errors
from quaver.cli.options import cache_folder, require_option
from quaver.errors import InputError
from quaver_bench.command import CommandLine, compare, report, run
from quaver_bench.result import PARTS


def bench(
    model: Annotated[
        str | None, typer.Argument(help="Model folder or hub id, in float32.", show_default=False)
    ] = None,
    against: Annotated[
        str,
        typer.Option(
            help="Engines or forms to compare with, separated by commas: openvino,torch-float32; all for every "
            "engine. Default: none; only this model is measured, in about a minute."
        ),
    ] = "",
    parts: Annotated[
        str,
        typer.Option(
            help=f"What to measure, separated by commas: {', '.join(PARTS)}. Default: all; without --against, and of "
            "other models than embedding models, the first two."
        ),
    ] = "",
    cases: Annotated[
        str,
        typer.Option(
            help="Cases, as texts x tokens, instead of the default ones: 1x16,32x256,ragged256."
        ),
    ] = "",
    shapes: Annotated[
        str,
        typer.Option(help="Also measure BGE's shapes with random weights: small,base,large."),
    ] = "",
    only_shapes: Annotated[
        bool,
        typer.Option(
            "--only-shapes", help="Measure only --shapes; the model provides the tokenizer."
        ),
    ] = False,
    name: Annotated[str, typer.Option(help="Name of the model in the tables.")] = "",
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="Text to measure with: .jsonl, .txt or a folder of documents. Default: Python's documentation.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of texts of the corpus. Default: 256; without --against or with --quick 100.",
            min=1,
        ),
    ] = None,
    judgments: Annotated[
        Path | None,
        typer.Option(help="Retrieval tasks in BEIR layout: adds NDCG@10 for every engine."),
    ] = None,
    clients: Annotated[
        str,
        typer.Option(
            help="Numbers of concurrent clients. Default: 1,2,4,8; without --against or with --quick 1,4."
        ),
    ] = "",
    random_ids: Annotated[
        bool, typer.Option("--random-ids", help="Use random token ids instead of text.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option(help="Threads of every engine. Default: all cores.", min=1)
    ] = None,
    cores: Annotated[str, typer.Option(help="CPUs to use, such as 0-21. Default: all.")] = "",
    instances: Annotated[
        int,
        typer.Option(
            help="Run each engine in this many processes at once, each on its own CPUs, such as one per socket; "
            "--threads counts those of one process.",
            min=1,
        ),
    ] = 1,
    seconds: Annotated[
        float | None,
        typer.Option(
            help="Time for each case, all engines together. Default: 20; without --against or with --quick 6.",
            min=0,
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Minimum number of rounds of a case.", min=1)] = 3,
    longest: Annotated[
        float,
        typer.Option(
            help="Leave out an engine if one call takes longer than this many seconds; three times as many for "
            "texts of different lengths.",
            min=0,
        ),
    ] = 30.0,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="With --against: fewer cases, seconds and texts; `all` means four common forms. Other options win.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for results.json, results.md and plots. Default: bench-results with --against; without it "
            "nothing is written.",
            show_default=False,
        ),
    ] = None,
    add: Annotated[
        bool, typer.Option("--add", help="Measure again, and keep the other rows in --out.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Keep the rows in --out, and measure only those that are missing."
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Discard the results in --out."),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache-folder", help="Folder for the models that engines convert.", show_default=False
        ),
    ] = None,
    environments: Annotated[
        Path,
        typer.Option(
            help="Folder of virtual environments named peers, ipex, zentorch and llamacpp, for engines that are "
            "not installed here."
        ),
    ] = Path(".envs"),
    compare_files: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", help="Compare two results; measure nothing.", metavar="A B"),
    ] = None,
    report_file: Annotated[
        Path | None,
        typer.Option(
            "--report", help="Make the tables and plots of a result again; measure nothing."
        ),
    ] = None,
) -> None:
    """Measure how fast a model of any kind runs here, alone or against other engines.

    Example: quaver bench sentence-transformers/all-MiniLM-L6-v2 --against openvino,onnxruntime

    Engines take turns with the same texts and the same number of threads. Each row has the speed, and the
    mean cosine of the vectors to float32, or the mean difference of scores. Ctrl-C keeps the rows measured so far.
    """
    with reported_errors(interrupted="interrupted: nothing was measured yet"):
        if sum(choice is not None for choice in (model, compare_files, report_file)) != 1:
            raise InputError(
                "bench takes one of: a model (a folder or a hub id), --compare A B, or --report RESULT"
            )
        require_option("--against", against, {"--quick": quick})
        if compare_files is not None:
            print(compare(*compare_files))
        elif report_file is not None:
            report(report_file)
        elif model is not None:
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
                judgments=judgments,
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
