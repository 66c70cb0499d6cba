"""A language model behind an OpenAI-compatible endpoint.

This uses the standard library's HTTP client instead of an SDK: it needs one kind of request, which
llama.cpp, vLLM, Ollama and OpenAI all serve.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from quaver.answers.prompt import Message
from quaver.errors import InputError, LanguageModelError

if TYPE_CHECKING:
    from tenacity import RetryCallState

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_LONGEST = 16_000_000
_BROKEN = (OSError, http.client.HTTPException)
_LONGEST_WAIT = 30.0


class ChatModel:
    """A language model behind an endpoint.

    Attributes:
        url: the endpoint's address.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        key: str | None = None,
        timeout: float = 120,
        retries: int = 3,
    ) -> None:
        """Check the address; send nothing yet.

        Args:
            url: the endpoint, such as `http://localhost:8080` or `https://api.openai.com/v1`, with
                or without `/chat/completions`.
            model: the model's name; None uses the endpoint's only model.
            key: sent as a bearer token, if given.
            timeout: seconds without a response after which to give up; above 0.
            retries: number of further attempts if the endpoint is busy or cannot be reached.

        Raises:
            InputError: the address is invalid, or a number is out of range.
        """
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise InputError(
                f"an endpoint must be an address like http://localhost:8080/v1: got {url!r}"
            )
        if not timeout > 0 or retries < 0:
            raise InputError(
                f"timeout must be above 0 and retries at least 0: got {timeout} and {retries}"
            )
        path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
        self.url = parts._replace(path=path, fragment="").geturl()
        self._model, self._key = model, key
        self._timeout, self._retries = timeout, retries
        # Following a redirect would turn the POST into a GET.
        self._opener = urllib.request.build_opener(_NoRedirects)

    def complete(
        self, messages: Sequence[Message], *, on_text: Callable[[str], None] | None = None
    ) -> str:
        """Send messages and return the answer.

        Args:
            messages: the conversation.
            on_text: called with each piece of the answer as it arrives.

        Returns:
            the whole answer.

        Raises:
            LanguageModelError: the endpoint refuses, cannot be reached, or its answer breaks off.
        """
        body = {
            "model": self._model or self._only_model(),
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            "stream": True,
        }
        pieces: list[str] = []
        with self._request("chat/completions", body) as response:
            try:
                for piece in _pieces(response):
                    pieces.append(piece)
                    if on_text is not None:
                        on_text(piece)
            except _BROKEN as error:
                got = sum(map(len, pieces))
                raise LanguageModelError(
                    f"the answer from {self.url} broke off after {got} characters: "
                    f"{_reason(error)}; ask again"
                ) from error
        answer = "".join(pieces)
        if not answer.strip():
            raise LanguageModelError(f"the model at {self.url} answered nothing; ask again")
        return answer

    def _only_model(self) -> str:
        """Return the name of the endpoint's only model."""
        with self._request("models", None) as response:
            try:
                names = [str(model["id"]) for model in json.loads(response.read(_LONGEST))["data"]]
            except (*_BROKEN, ValueError, KeyError, TypeError) as error:
                raise LanguageModelError(
                    f"{self.url} does not list its models: name one (--llm-model)"
                ) from error
        if len(names) != 1:
            shown = ", ".join(names[:20]) or "none"
            raise LanguageModelError(
                f"{self.url} has several models, name one (--llm-model): {shown}"
            )
        return names[0]

    def _request(self, path: str, body: Any) -> http.client.HTTPResponse:
        """Send a request, and repeat it if the endpoint is busy or cannot be reached."""
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, */*"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        parts = urlsplit(self.url)
        address = parts._replace(path=f"{parts.path}/{path}").geturl()
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(address, data, headers)
        attempts = Retrying(
            stop=stop_after_attempt(self._retries + 1),
            wait=_wait,
            retry=retry_if_exception_type(_PassingError),
            reraise=True,
        )
        try:
            return attempts(self._send, request)
        except _PassingError as error:
            tried = f"; tried {self._retries + 1} times" if self._retries else ""
            raise LanguageModelError(f"{error}{tried}") from error.__cause__

    def _send(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Send a request once."""
        try:
            answered = self._opener.open(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            with error:
                reason = self._refusal(error)
            if error.code not in _PASSING:
                raise LanguageModelError(reason) from error
            raise _PassingError(reason, _asked_wait(error.headers.get("Retry-After"))) from error
        except _BROKEN as error:
            raise _PassingError(f"{self.url} cannot be reached: {_reason(error)}", 0.0) from error
        assert isinstance(answered, http.client.HTTPResponse)
        return answered

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        """Return why an endpoint refused, and what to do."""
        if error.code in (401, 403):
            hint = "; check the key" if self._key else "; it needs a key"
        elif error.code == 404:
            hint = "; check the address and the model's name"
        elif 300 <= error.code < 400:
            hint = f"; it moved to {error.headers.get('Location')}: use that address"
        else:
            hint = ""
        message = _message(error)
        return f"{self.url} refused with {error.code}{f' ({message})' if message else ''}{hint}"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _pieces(response: http.client.HTTPResponse) -> Iterator[str]:
    """Yield the pieces of the answer, from a stream of events or from one JSON document.

    Raises:
        HTTPException, OSError: the answer breaks off.
        LanguageModelError: the response is not an answer.
    """
    if "event-stream" not in response.headers.get("Content-Type", ""):
        yield _content(_parsed(response.read(_LONGEST)), "message")
        return
    finished = False
    for data in _events(response):
        if data == b"[DONE]":
            return
        event = _parsed(data)
        yield _content(event, "delta")
        finished = finished or any(choice.get("finish_reason") for choice in event["choices"])
    if not finished:
        raise http.client.HTTPException("the stream ended before the answer did")


def _events(response: IO[bytes]) -> Iterator[bytes]:
    """Yield the data of server-sent events; every server writes one line for each."""
    while line := response.readline(_LONGEST):
        if line.startswith(b"data:"):
            yield line[5:].strip()


def _content(document: dict[str, Any], name: str) -> str:
    """Return the text of the first choice, or "" if an event has none."""
    for choice in document["choices"]:
        content = (choice.get(name) or {}).get("content")
        return content if isinstance(content, str) else ""
    return ""


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise LanguageModelError(
            f"the endpoint did not answer in JSON: got {data[:80]!r}"
        ) from error
    if isinstance(document, dict) and "error" in document:
        raise LanguageModelError(f"the endpoint refused: {_error_text(document)}")
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise LanguageModelError(f"the endpoint answered without choices: got {data[:80]!r}")
    return {"choices": choices}


def _message(error: urllib.error.HTTPError) -> str:
    """Return the endpoint's own message, as one short line."""
    try:
        content = error.read(100_000)
    except _BROKEN:
        return ""
    try:
        return _error_text(json.loads(content))
    except ValueError:
        return " ".join(content.decode("utf-8", "replace").split())[:300]


def _error_text(document: Any) -> str:
    found = document.get("error", document) if isinstance(document, dict) else document
    if isinstance(found, dict) and isinstance(found.get("message"), str):
        found = found["message"]
    return " ".join(str(found).split())[:300]


class _PassingError(Exception):
    """A failure that another attempt may not have; `wait` is how long the endpoint asks to wait."""

    def __init__(self, reason: str, wait: float) -> None:
        super().__init__(reason)
        self.wait = wait


def _wait(state: RetryCallState) -> float:
    """Return the seconds before the next attempt: twice those before, or as many as asked for."""
    assert state.outcome is not None
    failure = state.outcome.exception()
    assert isinstance(failure, _PassingError)
    return min(max(failure.wait, 0.5 * 2.0 ** (state.attempt_number - 1)), _LONGEST_WAIT)


def _asked_wait(seconds: str | None) -> float:
    """Return the seconds an endpoint asks to wait; 0 if it asks for none or sends a date."""
    return float(seconds) if seconds is not None and seconds.isdecimal() else 0.0


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(reason).__name__
