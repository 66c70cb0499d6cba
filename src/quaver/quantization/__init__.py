"""A model in floats becomes an int8 folder: calibrated, rounded, measured, written whole."""

from __future__ import annotations

from quaver.quantization.report import LayerReport, QuantizationReport
from quaver.quantization.run import quantize

__all__ = ["LayerReport", "QuantizationReport", "quantize"]
