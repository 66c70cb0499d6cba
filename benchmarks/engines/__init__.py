"""The engines that are measured, one file each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inputs import Case

Run = Callable[[], NDArray[np.float32]]
"""One request: encodes its texts, returns float32 (N, H), unit rows, in the order of the texts."""


class Engine(Protocol):
    """A model loaded in one engine.

    Attributes:
        settings: what was set, for the record.
    """

    settings: dict[str, Any]

    def prepare(self, case: Case) -> list[Run]:
        """Make the inputs of a case; nothing of this is timed.

        Args:
            case: the case.

        Returns:
            One function for each request.
        """
        ...


PEERS = (
    "openvino-int8",
    "openvino-int8-tuned",
    "openvino-float32",
    "torch-float32",
    "onnxruntime-int8-dynamic",
)
OURS = ("quaver-int8", "quaver-float32")
