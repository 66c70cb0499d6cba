"""All forms by name, and how a user picks them."""

from __future__ import annotations

from collections.abc import Sequence

from quaver.errors import InputError
from quaver_bench.engines import (
    Form,
    ctranslate2,
    fastembed,
    inductor,
    ipex,
    llamacpp,
    onnxruntime,
    openvino,
    pytorch,
    quaver,
    sentence_transformers,
    zentorch,
)

ALL = "all"
"""What stands for every engine that is known."""
OURS = "quaver-int8"
"""What every ratio is a ratio to."""
FAMILIES = {
    "quaver": quaver.FORMS,
    "openvino": openvino.FORMS,
    "onnxruntime": onnxruntime.FORMS,
    "torch": (*pytorch.FORMS, *inductor.FORMS),
    "sentence-transformers": sentence_transformers.FORMS,
    "fastembed": fastembed.FORMS,
    "ctranslate2": ctranslate2.FORMS,
    "llamacpp": llamacpp.FORMS,
    "ipex": ipex.FORMS,
    "zentorch": zentorch.FORMS,
}
FORMS = {form.name: form for forms in FAMILIES.values() for form in forms}
_ALWAYS = (OURS, "quaver-float32")
QUICK = ("openvino-int8", "openvino-float32", "onnxruntime-int8-dynamic", "torch-float32")


def choose_forms(names: Sequence[str]) -> list[Form]:
    """Return the forms that names stand for.

    Args:
        names: of forms ("openvino-int8") or of engines ("openvino": all its forms); none, or "all", for all.

    Returns:
        Different forms in the order of the tables. Quaver's own are always among them: int8 is what
        speed is compared with, float32 what vectors are compared with where torch is not there.

    Raises:
        InputError: a name is neither; the message lists what there is.
    """
    chosen = set(_ALWAYS)
    for name in FAMILIES if ALL in names or not names else names:
        if name in FAMILIES:
            chosen |= {form.name for form in FAMILIES[name]}
        elif name in FORMS:
            chosen.add(name)
        else:
            raise InputError(
                f"an engine must be one of {', '.join(FAMILIES)}, or a form of one, of "
                f"{', '.join(FORMS)}: got {name!r}"
            )
    return [form for form in FORMS.values() if form.name in chosen]
