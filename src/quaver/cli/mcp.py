"""`quaver mcp`: stores as tools for agents."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from quaver.cli.exit_codes import reported_errors
from quaver.cli.options import (
    Precision,
    PrecisionOption,
    StoredModelOption,
    ThreadsOption,
    require_option,
    stored_model,
)
from quaver.cli.terminal import plural
from quaver.errors import InputError
from quaver.index import Library, load_ranker
from quaver.store import named_location


def mcp(
    store: Annotated[
        list[str],
        typer.Option(
            "--store", "-s", help="Store: LOCATION or NAME=LOCATION; repeatable.", metavar="STORE"
        ),
    ],
    http: Annotated[
        bool, typer.Option("--http", help="Serve over HTTP at /mcp, not over stdin and stdout.")
    ] = False,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default: 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; default: 8081.", min=1, max=65535)
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option(help="Rerank what a search finds with this model, a folder or hub id."),
    ] = None,
    maxsim: Annotated[
        bool,
        typer.Option(
            "--maxsim",
            help="Rerank what a search finds by stored token vectors, from `quaver index --multi`.",
        ),
    ] = False,
    model: StoredModelOption = None,
    precision: PrecisionOption = Precision.int8,
    threads: ThreadsOption = None,
) -> None:
    """Serve stores to agents over the Model Context Protocol: search, read, list documents.

    Example: quaver mcp --store ./kb

    A client starts this command and speaks to it over stdin and stdout; docs/guide/mcp.md has configurations for common
    clients. With --http any number of clients connect; QUAVER_API_KEYS has the keys that let them in, separated by
    commas.
    """
    with reported_errors():
        require_option("--http", http, {"--host": host, "--port": port})
        from quaver import mcp as server

        keys = [
            key.strip() for key in os.environ.get("QUAVER_API_KEYS", "").split(",") if key.strip()
        ]
        if host not in (None, "127.0.0.1", "localhost", "::1") and not keys:
            raise InputError(
                f"a server on another address than the loopback one needs keys: got --host {host}; set "
                "QUAVER_API_KEYS"
            )
        libraries = [
            Library(location, name=name, embedder=stored_model(location, model, precision, threads))
            for name, location in map(named_location, store)
        ]
        ranker = None if rerank is None else load_ranker(rerank, threads=threads)
        made = server.create_server(libraries, ranker=ranker, maxsim=maxsim)
        if http:
            address = f"http://{host or '127.0.0.1'}:{port or 8081}/mcp"
            print(
                f"quaver: serving {plural(len(libraries), 'store')} at {address}", file=sys.stderr
            )
            server.serve_http(made, host=host or "127.0.0.1", port=port or 8081, keys=keys)
        else:
            server.serve_stdio(made)
