"""The report of a quantization: layers, sizes, seconds, and the loss on calibration text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quaver.documents import Failure

Precision = Literal["dynamic", "static", "int4", "float32"]


@dataclass(frozen=True)
class LayerReport:
    """One linear layer of the encoder.

    Attributes:
        name: of its tensors; "a.query+key+value" if several are stacked.
        precision: "dynamic" or "static" int8, "int4", or "float32" if it was kept.
        error: mean squared error of its int8 output on calibration text, as a fraction of the output's
            mean square; None without text.
        smoothing: strength of SmoothQuant, 0 for none.
        share: its share of the loss: with it alone in int8, divided by the sum over all layers; None
            if not measured.
    """

    name: str
    precision: Precision
    error: float | None = None
    smoothing: float = 0.0
    share: float | None = None


@dataclass(frozen=True)
class QuantizationReport:
    """What `quantize` did.

    Attributes:
        source: name of the model.
        target: the new folder.
        scheme: "dynamic", "static" or "int4".
        rounding: "nearest" or "gptq".
        observer: how static ranges were found; None for the dynamic scheme.
        calibration: name of the calibration source, or None.
        samples: calibration samples, 0 without.
        digest: sha256 over the samples, or None.
        layers: one for each linear layer of the encoder.
        loss: 1 - the mean cosine between the int8 and the float32 vectors of the samples; of a
            cross-encoder 1 - the correlation of its scores. None without calibration text.
        max_loss: the requested bound, or None.
        slowdown: time of the samples with the layers that were kept in float32, divided by the time
            with all layers in int8; None if none was kept.
        source_bytes: size of the model's weights file or files.
        target_bytes: size of the new folder.
        seconds: from start to end.
        failed: files of the calibration folder that could not be read, and why.
    """

    source: str
    target: str
    scheme: str
    rounding: str
    observer: str | None
    calibration: str | None
    samples: int
    digest: str | None
    layers: tuple[LayerReport, ...]
    loss: float | None
    max_loss: float | None
    slowdown: float | None
    source_bytes: int
    target_bytes: int
    seconds: float
    failed: tuple[Failure, ...] = ()

    @property
    def kept(self) -> tuple[LayerReport, ...]:
        """The layers that stayed in float32."""
        return tuple(layer for layer in self.layers if layer.precision == "float32")
