"""The configuration of a server: flags, then QUAVER_* of the environment, then a TOML file, then defaults."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec

from quaver.errors import InputError
from quaver.models import is_hub_id, mismatch_in_words

Task = Literal["embed", "sparse", "multi-vector", "rerank"]
Count = Annotated[int, msgspec.Meta(ge=1)]
_YEAR = 366 * 86400.0
Seconds = Annotated[float, msgspec.Meta(gt=0, le=_YEAR)]
Filled = Annotated[str, msgspec.Meta(min_length=1)]

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_TIMES = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_BYTES = {"cache", "memory", "max_body", "queue_bytes", "answer_bytes"}
_DURATIONS = {
    "timeout",
    "grace",
    "idle_unload",
    "header_timeout",
    "body_timeout",
    "batch_time",
    "queue_time",
    "llm_timeout",
}
_TABLES = {"model", "store"}
"""Settings that are tables in the file."""
_SECRET = "***"
_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT_\d+_(TCP|UDP|SCTP)")
"""Parts of variables that Kubernetes sets for the services of a namespace."""


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model of a server: a table of `[[model]]` in the file.

    Attributes:
        source: hub id or folder.
        name: what requests call it; "" for the source, or of a folder its last part.
        task: "embed" or "rerank". A folder that is a sparse encoder or a multi-vector model is taken as
            such; "sparse" and "multi-vector" say so before it is loaded, and open a masked language
            model as a sparse encoder.
        aliases: other names, such as the one that a client has built in.
        on_demand: load it with the first request, not at the start.
        precision: "int8", "bfloat16", "bfloat16-weights" or "float32".
        revision: branch, tag or commit on the hub.
        max_seq_length: maximum number of tokens in a text.
        truncate_dim: components kept of every vector.
        pooling: for a folder that does not say.
        normalize: whether vectors get length 1; None does what the folder says.
        prompts: prompts by name, instead of the folder's.
        local_files_only: never use the network.
    """

    source: Annotated[str, msgspec.Meta(min_length=1)]
    name: str = ""
    task: Task = "embed"
    aliases: tuple[str, ...] = ()
    on_demand: bool = False
    precision: Literal["int8", "bfloat16", "bfloat16-weights", "float32"] = "int8"
    revision: str | None = None
    max_seq_length: Count | None = None
    truncate_dim: Count | None = None
    pooling: str | None = None
    normalize: bool | None = None
    prompts: dict[str, str] | None = None
    local_files_only: bool = False

    def __post_init__(self) -> None:
        """Give the model a name."""
        if not self.name:
            # Clients do not see where a folder is, also one that is missing.
            name = self.hub_id or Path(self.source).resolve().name
            msgspec.structs.force_setattr(self, "name", name or self.source)

    @property
    def hub_id(self) -> str | None:
        """The source if it is a hub id; None for a folder."""
        return self.source if is_hub_id(self.source) and not Path(self.source).exists() else None


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One store of a server: a table of `[[store]]` in the file.

    Attributes:
        location: folder of the store, or `qdrant://host:port/collection`.
        name: what requests call it; "" for the last part of the location.
    """

    location: Annotated[str, msgspec.Meta(min_length=1)]
    name: Annotated[str, msgspec.Meta(pattern="^[^/]*$")] = ""

    def __post_init__(self) -> None:
        """Give the store a name."""
        if not self.name:
            from quaver.store import name_of

            msgspec.structs.force_setattr(self, "name", name_of(self.location))


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that a server can be told.

    Attributes:
        model: the models.
        store: the stores to search.
        llm: OpenAI-compatible endpoint that answers questions from a store, or None.
        llm_model: its language model; None for the endpoint's only one.
        llm_key: its key.
        llm_timeout: seconds without a response from it after which to give up.
        allow_update: let the page update stores from their folders.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        unix_socket: path of a socket to listen on instead.
        tls_certificate: PEM file with the certificate chain.
        tls_key: PEM file with its private key.
        api_keys: keys, any of which a client must send; none lets everybody in.
        api_key_file: file with one key a line.
        cors: origins that browsers may call from, or "*"; none by default.
        allow_host: names by which stores may be asked for, or "*"; by default any with a key or on a
            network address, and else those of the loopback address.
        threads: of the engine; None takes the CPUs this process may use.
        cache: bytes for the cache of vectors; 0 for none. They are besides those of `memory`.
        memory: maximum number of bytes that all loaded models hold together; 0 for any. For a model that is
            loaded on demand, idle ones are unloaded, the least recently used first.
        idle_unload: seconds after which an unused model is unloaded; 0 keeps it.
        max_body: maximum number of bytes in a request's body.
        max_inputs: maximum number of inputs in a request.
        max_characters: maximum number of characters of a text that must be tokenized at once, of all texts of
            a request to /tokenize, and of token ids in one to /decode.
        max_connections: most open connections.
        queue_requests: maximum number of requests accepted and not yet answered.
        queue_inputs: maximum number of inputs of those requests.
        queue_tokens: maximum number of tokens of those requests, as estimated.
        queue_bytes: maximum number of bytes of all bodies that have arrived and are not yet answered.
        answer_bytes: maximum number of bytes of all answers that clients have not read.
        queue_time: longest time in seconds that what goes before a request may take, as the last batches tell.
        batch_tokens: maximum number of tokens in a batch of the engine.
        batch_time: seconds that a batch may take; a request waits for one at least.
        timeout: seconds until an accepted request is given up, counted again whenever some of its inputs were
            computed.
        header_timeout: seconds a client may take to send a request's head, and may be idle.
        body_timeout: seconds a client may take to send a request's body, and to read the next part of an answer.
        grace: seconds after SIGTERM in which accepted requests are finished.
        access_log: write a line for each request.
        otlp_endpoint: where to send OpenTelemetry spans, such as http://localhost:4318/v1/traces.
    """

    model: tuple[ModelSettings, ...] = ()
    store: tuple[StoreSettings, ...] = ()
    llm: str | None = None
    llm_model: str | None = None
    llm_key: str | None = None
    llm_timeout: Seconds = 120.0
    allow_update: bool = False
    host: Filled = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080
    unix_socket: Filled | None = None
    tls_certificate: str | None = None
    tls_key: str | None = None
    api_keys: tuple[str, ...] = ()
    api_key_file: str | None = None
    cors: tuple[Filled, ...] = ()
    allow_host: tuple[Filled, ...] = ()
    threads: Count | None = None
    cache: Annotated[int, msgspec.Meta(ge=0)] = 0
    memory: Annotated[int, msgspec.Meta(ge=0)] = 0
    idle_unload: Annotated[float, msgspec.Meta(ge=0, le=_YEAR)] = 0.0
    max_body: Count = 8_000_000
    max_inputs: Count = 2048
    max_characters: Count = 500_000
    max_connections: Count = 16384
    queue_requests: Count = 512
    queue_inputs: Count = 16384
    queue_tokens: Count = 2_000_000
    queue_bytes: Count = 256_000_000
    answer_bytes: Count = 256_000_000
    queue_time: Seconds = 30.0
    batch_tokens: Count = 16384
    batch_time: Seconds = 0.04
    timeout: Seconds = 60.0
    header_timeout: Seconds = 15.0
    body_timeout: Seconds = 30.0
    grace: Annotated[float, msgspec.Meta(ge=0, le=_YEAR)] = 30.0
    access_log: bool = True
    otlp_endpoint: str | None = None

    def keys(self) -> tuple[str, ...]:
        """Return the API keys of the settings and of the key file.

        Raises:
            InputError: a key is empty, has spaces around it or is not of ASCII characters, or the file
                cannot be read or holds no key.
        """
        for i, key in enumerate(self.api_keys):
            if not key.strip() or key != key.strip():
                fault = "has spaces around it" if key.strip() else "is empty"
                raise InputError(
                    f"an API key must not be empty, and needs no spaces around it: api_keys[{i}] {fault}; "
                    "remove the empty entry, such as a comma at the end, or the spaces"
                )
            if not _can_be_sent(key):
                raise InputError(f"{_KEY_RULE}: api_keys[{i}] has another one; make a new key")
        if self.api_key_file is None:
            return self.api_keys
        try:
            lines = Path(self.api_key_file).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the API keys of {self.api_key_file}: {error}") from error
        stripped = (line.strip() for line in lines)
        found = tuple(line for line in stripped if line and not line.startswith("#"))
        if not found:
            raise InputError(f"a key file holds one key a line: {self.api_key_file} holds none")
        for i, key in enumerate(found):
            if not _can_be_sent(key):
                raise InputError(
                    f"{_KEY_RULE}: key {i + 1} of {self.api_key_file} has another one; make a new key"
                )
        return (*self.api_keys, *found)

    def shown(self) -> str:
        """Return the settings as TOML that can be read again, without the keys."""
        from tomli_w import dumps

        hidden = msgspec.structs.replace(
            self,
            api_keys=tuple(_SECRET for _ in self.api_keys),
            llm_key=None if self.llm_key is None else _SECRET,
        )
        plain = msgspec.to_builtins(hidden)
        models = [_without_none(model) for model in plain.pop("model")]
        stores = plain.pop("store")
        return dumps({**_without_none(plain), "model": models, "store": stores})


_KEY_RULE = "an API key may have only printable ASCII characters, since clients encode others in different ways"


def _can_be_sent(key: str) -> bool:
    return key.isascii() and key.isprintable()


def read_settings(
    flags: Mapping[str, Any],
    *,
    models: Sequence[str] = (),
    rerankers: Sequence[str] = (),
    stores: Sequence[str] = (),
    file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Put together a server's settings: flags over environment over file over defaults.

    Args:
        flags: settings by name, None for a flag that was not given. Sizes may be "256MB", times "10m".
        models: embedding models, MODEL or NAME=MODEL; they replace those of environment and file.
        rerankers: the same for reranking.
        stores: stores to search, LOCATION or NAME=LOCATION; they replace those of environment and file.
        file: a TOML file with the fields of `Settings`.
        environ: the environment. A variable is QUAVER_ and the setting's name in capitals; lists are
            separated by commas. QUAVER_MODEL and QUAVER_RERANK name models, QUAVER_STORE stores,
            QUAVER_CONFIG the file.

    Returns:
        the settings.

    Raises:
        InputError: a setting is unknown or outside its rule, or the file cannot be read.
    """
    path = file or (Path(environ["QUAVER_CONFIG"]) if environ.get("QUAVER_CONFIG") else None)
    values: dict[str, Any] = {} if path is None else _read_file(path)
    from_file = set(values)
    from_environ = set()
    hints = get_type_hints(Settings)
    for name in hints:
        if name not in _TABLES and (given := environ.get(f"QUAVER_{name.upper()}")):
            listed = name in {"api_keys", "cors", "allow_host"}
            values[name] = [part.strip() for part in given.split(",")] if listed else given
            from_environ.add(name)
    given_flags = {name: value for name, value in flags.items() if value is not None}
    values.update(given_flags)
    _check_place(from_file, from_environ, given_flags)
    models = models or _listed(environ.get("QUAVER_MODEL"))
    rerankers = rerankers or _listed(environ.get("QUAVER_RERANK"))
    if models or rerankers:
        options = {"local_files_only": True} if environ.get("HF_HUB_OFFLINE") == "1" else {}
        values["model"] = [
            *({**_named(each), "task": "embed", **options} for each in models),
            *({**_named(each), "task": "rerank", **options} for each in rerankers),
        ]
    stores = stores or _listed(environ.get("QUAVER_STORE"))
    if stores:
        from quaver.store import named_location

        values["store"] = [
            dict(zip(("name", "location"), named_location(each), strict=True)) for each in stores
        ]
    for name, value in values.items():
        if isinstance(value, str) and name in _BYTES | _DURATIONS:
            values[name] = _quantity(name, value)
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(
            f"the server's settings are wrong: {_mismatch(error, values)}"
            f"{_origin(error, flags, environ, path)}"
        ) from error
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise InputError("TLS needs both tls_certificate and tls_key: got one of them")
    for name, needed in (("llm_model", "llm"), ("llm", "store"), ("allow_update", "store")):
        if getattr(settings, name) and not getattr(settings, needed):
            raise InputError(f"{name} has no effect without {needed}: give both, or neither")
    return settings


def _check_place(*levels: Collection[str]) -> None:
    """Check that no port is given where a Unix socket is, or over it.

    A socket may replace the port of a level below, such as a container's environment.

    Args:
        levels: names of the settings that each level gives, the lowest first.

    Raises:
        InputError: the port or host would have no effect.
    """
    highest = {name: i for i, level in enumerate(levels) for name in level}
    for name in ("host", "port"):
        if highest.get(name, -1) >= highest.get("unix_socket", len(levels)):
            raise InputError(
                f"{name} has no effect with unix_socket, which replaces it: give one of them"
            )


def unknown_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Say which QUAVER_* variables are no settings: most are misspelt.

    Variables that Kubernetes sets in a pod for a service whose name begins with quaver are left out.

    Args:
        environ: the environment.

    Returns:
        a sentence for each, by name.
    """
    known = [f"QUAVER_{name.upper()}" for name in get_type_hints(Settings)]
    known += ["QUAVER_RERANK", "QUAVER_CONFIG", "QUAVER_ISA"]
    said = []
    for name in sorted(environ):
        if not name.startswith("QUAVER_") or name in known:
            continue
        if _KUBERNETES.search(name) or environ[name].startswith(("tcp://", "udp://", "sctp://")):
            continue
        near = get_close_matches(name, known, n=1)
        advice = (
            f"did you mean {near[0]}?" if near else "`quaver serve --check` prints the settings"
        )
        said.append(f"the variable {name} is no setting, so it has no effect: {advice}")
    return said


def _mismatch(error: msgspec.ValidationError, values: Mapping[str, Any]) -> str:
    """Put a wrong setting into words, without the value of a key."""
    field = re.search(r"\.(\w+)`$", str(error))
    hints = {**get_type_hints(Settings), **get_type_hints(ModelSettings)}
    listed = get_args(hints.get(field[1])) if field and "enum" in str(error) else ()
    keys = values.get("api_keys")
    hidden = [_SECRET for _ in keys] if isinstance(keys, list) else _SECRET
    return mismatch_in_words(error, {**values, "api_keys": hidden}, listed)


def _origin(
    error: msgspec.ValidationError,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    path: Path | None,
) -> str:
    """Say where a wrong setting comes from: Kubernetes, for one, sets QUAVER_PORT for a service named quaver."""
    found = re.search(r"`\$\.(\w+)", str(error))
    name = found[1] if found else ""
    variable = f"QUAVER_{name.upper()}"
    if flags.get(name) is not None:
        return f", which --{name.replace('_', '-')} gives"
    if name and name not in _TABLES and environ.get(variable):
        # Not its value: it may be a key.
        return f", which the variable {variable} gives"
    return f", in {path}" if path else ""


def _named(text: str) -> dict[str, str]:
    """Read MODEL or NAME=MODEL."""
    name, equals, source = text.rpartition("=")
    if not source or (equals and not name):
        raise InputError(f"a model is given as MODEL or NAME=MODEL: got {text!r}")
    return {"source": source, "name": name}


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def _quantity(name: str, text: str) -> float:
    """Read a size such as 256MB or a time such as 10m."""
    units: Mapping[str, float] = _UNITS if name in _BYTES else _TIMES
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].lower() not in units:
        example = "256MB" if name in _BYTES else "30s, 10m"
        raise InputError(f"{name} must be a number with a unit, such as {example}: got {text!r}")
    value = float(found[1]) * units[found[2].lower()]
    return int(value) if name in _BYTES else value


def _read_file(path: Path) -> dict[str, Any]:
    try:
        values = msgspec.toml.decode(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} must be TOML: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must be a TOML table")
    return values


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
