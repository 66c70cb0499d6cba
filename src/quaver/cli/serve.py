"""`quaver serve`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from quaver.cli.exit_codes import reported_errors
from quaver.cli.options import ThreadsOption

_SIZE = 'A number of bytes, or a size such as "256MB".'
_TIME = 'Seconds, or a time such as "500ms" or "10m".'


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Embedding model: MODEL or NAME=MODEL; repeatable."),
    ] = None,
    rerank: Annotated[
        list[str] | None,
        typer.Option("--rerank", help="Reranking model: MODEL or NAME=MODEL; repeatable."),
    ] = None,
    store: Annotated[
        list[str] | None,
        typer.Option(
            "--store",
            "-s",
            help="Store to search: LOCATION or NAME=LOCATION; repeatable.",
            metavar="STORE",
        ),
    ] = None,
    llm: Annotated[
        str | None,
        typer.Option(
            help="Chat endpoint that answers questions from the stores; "
            "QUAVER_LLM_KEY has its key.",
            metavar="URL",
        ),
    ] = None,
    llm_model: Annotated[
        str | None, typer.Option(help="Its language model; default: the endpoint's only one.")
    ] = None,
    allow_update: Annotated[
        bool | None,
        typer.Option(
            "--allow-update",
            help="Let the page update stores from their folders.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="TOML file with settings and models.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Check the settings and the models' folders, print the settings, and end.",
        ),
    ] = False,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default: 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 takes a free one; default: 8080.")
    ] = None,
    unix_socket: Annotated[
        str | None, typer.Option(help="Listen on a socket at this path, instead of a port.")
    ] = None,
    tls_certificate: Annotated[str | None, typer.Option(help="PEM file, for HTTPS.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="PEM file with its private key.")] = None,
    api_key_file: Annotated[
        str | None,
        typer.Option(help="File with API keys, one a line; QUAVER_API_KEYS has them directly."),
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option(help="Origin that browsers may call from, or *; repeatable.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name by which stores may be asked for, or *; repeatable. Without keys, a server on a "
            "loopback address answers only to that address and localhost."
        ),
    ] = None,
    cache: Annotated[
        str | None, typer.Option(help=f"Keep vectors in memory; default: none. {_SIZE}")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Most bytes that all loaded models hold; default: any. Idle ones make room for one that is "
            f"loaded on demand. {_SIZE}"
        ),
    ] = None,
    idle_unload: Annotated[
        str | None, typer.Option(help=f"Unload a model that nobody uses; default: never. {_TIME}")
    ] = None,
    max_body: Annotated[
        str | None, typer.Option(help=f"Largest request; default: 8MB. {_SIZE}")
    ] = None,
    max_inputs: Annotated[
        int | None, typer.Option(help="Maximum number of inputs in a request; default: 2048.")
    ] = None,
    max_characters: Annotated[
        int | None,
        typer.Option(help="Maximum number of characters of a text that is tokenized whole."),
    ] = None,
    queue_requests: Annotated[
        int | None, typer.Option(help="Maximum number of requests that wait; default: 512.")
    ] = None,
    queue_inputs: Annotated[
        int | None, typer.Option(help="Maximum number of inputs that wait; default: 16384.")
    ] = None,
    queue_tokens: Annotated[
        int | None, typer.Option(help="Maximum number of tokens that wait; default: 2000000.")
    ] = None,
    queue_bytes: Annotated[
        str | None,
        typer.Option(help=f"Largest total of requests that wait; default: 256MB. {_SIZE}"),
    ] = None,
    answer_bytes: Annotated[
        str | None,
        typer.Option(help=f"Largest total of answers that are not read; default: 256MB. {_SIZE}"),
    ] = None,
    queue_time: Annotated[
        str | None,
        typer.Option(help=f"Longest wait that a request is accepted for; default: 30s. {_TIME}"),
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option(help="Maximum number of tokens in a batch; default: 16384.")
    ] = None,
    batch_time: Annotated[
        str | None,
        typer.Option(help=f"Longest batch, which a query waits for; default: 40ms. {_TIME}"),
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(help=f"Give a request up after this; default: 60s. {_TIME}")
    ] = None,
    grace: Annotated[
        str | None,
        typer.Option(help=f"Time to finish requests after SIGTERM; default: 30s. {_TIME}"),
    ] = None,
    threads: ThreadsOption = None,
    access_log: Annotated[
        bool | None, typer.Option(help="Log a line for each request.", show_default=False)
    ] = None,
    otlp_endpoint: Annotated[
        str | None,
        typer.Option(help="Send OpenTelemetry spans to this URL, which ends in /v1/traces."),
    ] = None,
) -> None:
    """Serve models over HTTP, to clients of OpenAI, TEI, Cohere, Jina and Ollama, and a page to search stores.

    Example: quaver serve --store ./kb --rerank cross-encoder/ms-marco-MiniLM-L6-v2
    """
    flags = {
        "llm": llm,
        "llm_model": llm_model,
        "allow_update": allow_update,
        "host": host,
        "port": port,
        "unix_socket": unix_socket,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "api_key_file": api_key_file,
        "cors": cors,
        "allow_host": allow_host,
        "cache": cache,
        "memory": memory,
        "idle_unload": idle_unload,
        "max_body": max_body,
        "max_inputs": max_inputs,
        "max_characters": max_characters,
        "queue_requests": queue_requests,
        "queue_inputs": queue_inputs,
        "queue_tokens": queue_tokens,
        "queue_bytes": queue_bytes,
        "answer_bytes": answer_bytes,
        "queue_time": queue_time,
        "batch_tokens": batch_tokens,
        "batch_time": batch_time,
        "timeout": timeout,
        "grace": grace,
        "threads": threads,
        "access_log": access_log,
        "otlp_endpoint": otlp_endpoint,
    }
    with reported_errors():
        from quaver import serve as server

        settings = server.read_settings(
            flags, models=model or (), rerankers=rerank or (), stores=store or (), file=config
        )
        warnings = server.unknown_variables()
        if check:
            server.check(settings)
            for warning in warnings:
                print(f"quaver: warning: {warning}", file=sys.stderr)
            print(settings.shown(), end="")
        else:
            server.serve(settings, warnings=warnings)
