"""`python -m quaver_bench.servers`: compare servers, and write servers.json, servers.md and a picture."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from quaver import ModelFolder, QuaverError, info
from quaver_bench.models import Model, open_model
from quaver_bench.record import describe_run
from quaver_bench.servers.registry import OURS, SERVERS, choose
from quaver_bench.servers.report import RESULTS, read_results, write_report
from quaver_bench.servers.study import (
    Options,
    cases_of,
    make_inputs,
    measure,
    measure_beside_library,
)


def main() -> None:
    """Measure and write, or only write the report again."""
    given = _options()
    try:
        if given.model is None:
            write_report(given.out)
            return
        _measure(given)
    except QuaverError as error:
        sys.exit(f"quaver_bench.servers: {error}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m quaver_bench.servers", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("model", nargs="?", help="folder of an embedding model; without it, write the report again")
    add("--rerank", type=Path, help="folder of a cross-encoder")
    add("--name", default="", help="name of the embedding model in the tables")
    add("--out", type=Path, default=Path("bench-results"), help="folder of the results")
    add("--against", default="all", help=f"servers, with commas: {', '.join(SERVERS)}; all")
    add("--environments", type=Path, default=Path(".envs"), help="folder of their environments")
    add(
        "--cache-folder",
        dest="cache",
        type=Path,
        default=Path("build/bench-models"),
        help="files made for other servers",
    )
    add("--connections", default="1,8,64", help="numbers of connections")
    add("--threads", type=int, default=info()["threads"], help="threads of every server")
    add("--seconds", type=float, help="time of a case; 10, or 4 with --quick")
    add("--rounds", type=int, default=1, help="turns, each of which starts every server again")
    add("--corpus", type=Path, help="text to send; default: Python's documentation")
    add("--quick", action="store_true", help="fewer cases and seconds")
    add(
        "--library",
        action="store_true",
        help="measure only Quaver's server and its library, in turns, and add that to the results",
    )
    return parser.parse_args()


def _measure(given: argparse.Namespace) -> None:
    servers = choose(given.against)
    embed = open_model(given.model, given.cache)
    if given.name:
        embed = Model(given.name, embed.folder, embed.weights, embed.describe, embed.cache)
    rerank = None
    if given.rerank:
        folder = ModelFolder.open(given.rerank)
        size = f"{folder.config.get('hidden_size')} x {folder.config.get('num_hidden_layers')}"
        rerank = Model(given.rerank.name, folder, "real", size, given.cache)
    connections = [int(number) for number in given.connections.split(",")]
    cases = list(cases_of(connections, quick=given.quick, rerank=rerank is not None))
    seconds = given.seconds or (4.0 if given.quick else 10.0)
    options = Options(
        seconds, min(2.0, seconds / 3), 4 * seconds, given.threads, given.environments
    )
    about: dict[str, Any] = {
        "kind": "servers",
        "run": describe_run(given.threads, ["-m", "quaver_bench.servers", *sys.argv[1:]]),
        "models": {
            "embed": f"{embed.name} ({embed.describe})",
            "rerank": f"{rerank.name} ({rerank.describe})" if rerank else "",
        },
        "seconds": seconds,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    if given.library:
        _beside_library(given, embed, options, max(connections), about["run"])
        return

    def keep(result: dict[str, Any]) -> None:
        text = json.dumps({**about, **result}, indent=1) + "\n"
        (given.out / RESULTS).write_text(text, encoding="utf-8")

    measure(
        servers,
        embed,
        rerank,
        cases,
        options,
        rounds=given.rounds,
        corpus=given.corpus,
        keep=keep,
    )
    _beside_library(given, embed, options, max(connections), about["run"])


def _beside_library(
    given: argparse.Namespace, embed: Model, options: Options, connections: int, run: dict[str, Any]
) -> None:
    """Measure Quaver's server beside its library, add that to the results, and write the report."""
    result = read_results(given.out)
    inputs = make_inputs(embed, None, corpus=given.corpus, threads=options.threads)
    turns = measure_beside_library(SERVERS[OURS], embed, inputs, options, connections=connections)
    result["library"] = {"run": run, "connections": connections, "turns": turns}
    (given.out / RESULTS).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_report(given.out)


if __name__ == "__main__":
    main()
