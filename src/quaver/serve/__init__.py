"""Embedding and reranking over HTTP, in the dialects that clients already speak."""

from __future__ import annotations

from quaver.errors import needs_extra
from quaver.serve.settings import ModelSettings, Settings, read_settings, unknown_variables

with needs_extra("serve"):
    from quaver.serve.app import create_app
    from quaver.serve.server import check, serve

__all__ = [
    "ModelSettings",
    "Settings",
    "check",
    "create_app",
    "read_settings",
    "serve",
    "unknown_variables",
]
