"""Quantization: from a float model to an int8 folder, with or without calibration."""

from __future__ import annotations

from quaver.quantization.calibration import CalibrationTexts, calibration_texts
from quaver.quantization.card import LOSS_TABLE_MARKS
from quaver.quantization.report import LayerReport, QuantizationReport
from quaver.quantization.run import quantize

__all__ = [
    "LOSS_TABLE_MARKS",
    "CalibrationTexts",
    "LayerReport",
    "QuantizationReport",
    "calibration_texts",
    "quantize",
]
