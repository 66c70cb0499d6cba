"""Why the server does not answer a request as asked; each dialect has its own words and status for it."""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """The kinds of refusal, by what the client can do about them."""

    MALFORMED = "malformed"
    """The body is not JSON, or not UTF-8."""
    INVALID = "invalid"
    """The body is JSON, but a field is missing, of a wrong type, or outside its rule."""
    EMPTY = "empty"
    """There is nothing to compute."""
    TOO_LARGE = "too large"
    """The body has more bytes than the server reads."""
    ENCODED = "encoded"
    """The body is compressed."""
    UNAUTHORIZED = "unauthorized"
    """The API key is missing or wrong."""
    NOT_FOUND = "not found"
    """No model has this name."""
    NO_PATH = "no path"
    """No route has this path."""
    NOT_ALLOWED = "not allowed"
    """The route has another method."""
    WRONG_MODEL = "wrong model"
    """The model cannot do this: an embedding model asked for scores, or the other way around."""
    OVERLOADED = "overloaded"
    """The queue is full."""
    UNAVAILABLE = "unavailable"
    """The model could not be loaded, or the server is stopping."""
    SLOW = "slow"
    """The request's body took too long to arrive."""
    TIMEOUT = "timeout"
    """The answer took too long."""
    UPSTREAM = "upstream"
    """The language model's endpoint failed, hung or answered nonsense."""
    FAILED = "failed"
    """The engine failed on these inputs, or the server on the request."""


STATUSES = {
    Reason.MALFORMED: 400,
    Reason.INVALID: 400,
    Reason.EMPTY: 400,
    Reason.TOO_LARGE: 413,
    Reason.ENCODED: 415,
    Reason.UNAUTHORIZED: 401,
    Reason.NOT_FOUND: 404,
    Reason.NO_PATH: 404,
    Reason.NOT_ALLOWED: 405,
    Reason.WRONG_MODEL: 400,
    Reason.OVERLOADED: 429,
    Reason.UNAVAILABLE: 503,
    Reason.SLOW: 408,
    Reason.TIMEOUT: 504,
    Reason.UPSTREAM: 502,
    Reason.FAILED: 500,
}
"""The HTTP status of each refusal in every dialect that has none of its own for it."""


class Refusal(Exception):  # noqa: N818 - most are the client's mistakes
    """A request that is not answered as asked.

    Attributes:
        reason: which kind.
        message: the rule, what was found, and what to do.
        field: the field of the body that is wrong, or None.
        retry_after: seconds after which the client may try again, or None.
        detail: what the log says besides, since it may name folders of this machine; or None.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        field: str | None = None,
        retry_after: int | None = None,
        detail: str | None = None,
    ) -> None:
        """Refuse a request.

        Args:
            reason: which kind.
            message: the rule, what was found, and what to do.
            field: the field of the body that is wrong.
            retry_after: seconds after which the client may try again.
            detail: what only the log says.
        """
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_after = retry_after
        self.detail = detail


class HungUp(Exception):  # noqa: N818 - nothing failed here
    """The client went away; nobody reads an answer."""
