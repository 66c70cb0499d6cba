"""All forms by name, and how a user chooses them."""

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
"""The name that means every engine."""
OURS = "quaver-int8"
"""The base of every ratio."""
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
    """Return the forms with some names.

    Args:
        names: names of forms ("openvino-int8") or engines ("openvino": all its forms); empty, or "all",
            for all forms.

    Returns:
        the forms in the order of the tables. Quaver's int8 and float32 are always included: speed is
        compared with int8, and vectors with float32 if torch is not installed.

    Raises:
        InputError: a name is unknown; the message lists the names.
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
