"""README.md of a quantized model: where it comes from, how it was made, what it costs."""

from __future__ import annotations

from collections.abc import Sequence

from quaver.models import OPENS, ModelKind
from quaver.quantization.calibration import CalibrationTexts
from quaver.quantization.convert import Recipe
from quaver.quantization.report import LayerReport

# `quaver evaluate` writes its table between these.
LOSS_TABLE_MARKS = ("<!-- quaver evaluate: start -->", "<!-- quaver evaluate: end -->")
_SCHEMES = {
    "dynamic": "weights int8 with one scale per output, activations int8 with one range per token, "
    "found at run time",
    "static": "weights int8 with one scale per output, activations int8 with one range per layer, "
    "found on calibration text",
    "int4": "weights int4 with one scale per output and {group} inputs, activations int8 with one range per token, "
    "found at run time",
}


def model_card(
    *,
    name: str,
    source: str,
    version: str,
    recipe: Recipe,
    calibration: CalibrationTexts | None,
    layers: Sequence[LayerReport],
    loss: float | None,
    kind: ModelKind,
    in_transformers: bool,
) -> str:
    """Write the model card; the same for the same model, text and version.

    Args:
        name: of the new folder.
        source: the model it was made from.
        version: Quaver's.
        recipe: how it was made.
        calibration: the text it was made with, or None.
        layers: its linear layers.
        loss: on the calibration text, or None.
        kind: what the model is.
        in_transformers: whether transformers has the architecture itself.

    Returns:
        Markdown.
    """
    bits = "int4" if recipe.scheme == "int4" else "int8"
    kept = [layer.name for layer in layers if layer.precision == "float32"]
    scheme = _SCHEMES[recipe.scheme].format(group=recipe.group)
    rows = [("Source model", source), ("Scheme", f"{recipe.scheme}: {scheme}")]
    rows += [("Rounding of weights", recipe.rounding)]
    if recipe.scheme == "static":
        by_token = [f"`{layer.name}`" for layer in layers if layer.precision == "dynamic"]
        rows += [("Ranges", recipe.observer)]
        rows += [("Ranges by token", ", ".join(by_token) or "no linear layer")]
    if calibration is None:
        rows += [("Calibration", "none")]
    else:
        rows += [
            (
                "Calibration",
                f"{calibration.name}, {len(calibration.texts)} samples of {calibration.found}",
            ),
            ("Samples, sha256", f"`{calibration.digest}`"),
        ]
    rows += [("Kept in float32", ", ".join(f"`{name}`" for name in kept) or "no linear layer")]
    if loss is not None:
        what = "1 - correlation of scores" if kind == "cross-encoder" else "1 - mean cosine"
        rows += [("Loss on the samples", f"{100 * loss:.3f} % ({what}, {bits} against float32)")]
    layout = "pack-quantized" if recipe.scheme == "int4" else "int-quantized"
    rows += [("Layout", f"compressed-tensors, {layout}"), ("Made with", f"Quaver {version}")]
    table = "\n".join(f"| {what} | {value} |" for what, value in rows)
    others = (
        "`transformers` and `sentence-transformers` load it too, where `compressed-tensors` is installed:\n"
        "they turn the weights back into floats."
        if in_transformers
        else "`transformers` does not have this architecture: Quaver alone loads the folder."
    )
    start, end = LOSS_TABLE_MARKS
    return f"""---
library_name: quaver
base_model: {source}
base_model_relation: quantized
tags:
- {bits}
- compressed-tensors
---

# {name}

{source} in {bits}, for CPUs.

| | |
|---|---|
{table}

```python
import quaver

model = quaver.{OPENS[kind]}.from_pretrained("path/to/{name}")
```

{others}

## What it costs

{start}
Not measured yet: `quaver evaluate` writes its table here.
{end}
"""
