"""Stores as tools for agents, over the Model Context Protocol."""

from __future__ import annotations

from quaver.errors import needs_extra

with needs_extra("mcp"):
    from quaver.mcp.server import create_server, serve_http, serve_stdio

__all__ = ["create_server", "serve_http", "serve_stdio"]
