"""Start a server: models are read from disk while the libraries that serve them are imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from quaver.errors import needs_extra

if TYPE_CHECKING:
    from quaver.serve.settings import Settings

_SWITCH_SECONDS = 0.0005
"""How long one Python thread may keep the others waiting; Python's own 5 ms is the time of a batch."""


def serve(settings: Settings, *, warnings: Sequence[str] = ()) -> None:
    """Run a server until SIGTERM or Ctrl-C.

    Args:
        settings: the configuration.
        warnings: sentences about it for the log.

    Raises:
        InputError: the settings are wrong.
        ImportError: a library of an extra is missing; the message names the extra.
        EngineError: no model could be loaded, those of the start do not fit into `memory`, the address could
            not be had, or accepted requests were not finished within the grace time.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    models = None
    try:
        if not settings.store:  # stores bring models of their own
            with needs_extra("serve"):
                from quaver.serve.checks import check_start
                from quaver.serve.models import Models
            check_start(settings)
            models = Models.of(settings)
            models.begin_early()
        with needs_extra("serve"):
            from quaver.serve.server import run
        run(settings, models, warnings=warnings)
    finally:
        sys.setswitchinterval(interval)
        if models is not None:  # whatever kept the server from starting
            models.close()
