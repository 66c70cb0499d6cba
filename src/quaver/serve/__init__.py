"""Embedding and reranking over HTTP, in the dialects that clients already speak."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from quaver.errors import needs_extra

with needs_extra("serve"):
    from quaver.serve.settings import ModelSettings, Settings, read_settings, unknown_variables
from quaver.serve.start import serve

if TYPE_CHECKING:
    from quaver.serve.app import create_app
    from quaver.serve.checks import check

# Loaded when first named: `serve` lets models load before the libraries that these need are imported.
_HOMES = {"check": "quaver.serve.checks", "create_app": "quaver.serve.app"}

__all__ = [
    "ModelSettings",
    "Settings",
    "check",
    "create_app",
    "read_settings",
    "serve",
    "unknown_variables",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        with needs_extra("serve"):
            return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'quaver.serve' has no attribute {name!r}")
