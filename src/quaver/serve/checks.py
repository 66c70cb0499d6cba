"""What a server finds out about its settings before it starts."""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

from quaver.errors import InputError
from quaver.serve.models import Models, check_source, overfull
from quaver.serve.settings import Settings


def check(settings: Settings) -> None:
    """Check what a server finds out when it starts, without loading a model, listening, or the network.

    Args:
        settings: the configuration.

    Raises:
        InputError: names of models clash, there is none, those of the start do not fit into `memory`, a key
            is empty, the endpoint for spans is no URL, or the files of keys or TLS cannot be read.
        ImportError: a library of an extra is missing; the message names the extra.
        StoreError: a store cannot be opened.
        ModelNotFoundError: a model is neither a folder nor a hub id, or may only come from this machine,
            which does not have it.
        ModelFolderError: a file of a model's folder is missing or broken.
        UnsupportedArchitectureError: Quaver does not run a model's modules.
    """
    needed: dict[str, int] = {}
    for model in _with_store_models(settings).model:
        size = check_source(model, measure=bool(settings.memory))
        if size is not None and not model.on_demand:
            needed[model.name] = size
    check_start(settings)
    if settings.memory and sum(needed.values()) > settings.memory:
        raise InputError(overfull(settings.memory, needed))


def _with_store_models(settings: Settings) -> Settings:
    if not settings.store:
        return settings
    from quaver.serve.stores import with_store_models

    return with_store_models(settings)


def check_start(settings: Settings) -> None:
    """Check what stops a start; a model that cannot be loaded leaves the others serving.

    Args:
        settings: the configuration.

    Raises:
        InputError: as of `check`, but not for folders of models.
        ImportError: a library of an extra is missing; the message names the extra.
        StoreError: a store cannot be opened.
    """
    Models(_with_store_models(settings).model)
    settings.keys()
    if settings.otlp_endpoint is not None:
        try:
            url = urlsplit(settings.otlp_endpoint)
            usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        except ValueError:
            usable = False
        if not usable:
            raise InputError(
                "otlp_endpoint must be a URL such as http://localhost:4318/v1/traces: got "
                f"{settings.otlp_endpoint!r}"
            )
        import quaver.serve.tracing  # noqa: F401 - a missing library ends the start, and names its extra
    if settings.tls_certificate is None or settings.tls_key is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A password would be asked for at the terminal.
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=lambda: "")
    except OSError as error:
        raise InputError(
            f"cannot use the TLS certificate {settings.tls_certificate} with the key {settings.tls_key}: "
            f"{error.strerror or error}; both must be PEM files, the key without a password"
        ) from error
