"""zentorch, AMD's own stack for PyTorch: compiled in float32, bf16, and int8 by torchao."""

from __future__ import annotations

import copy
import threading
import warnings
from functools import partial
from typing import Any

from quaver_bench.engines import CannotRunError, Form, Setup, Vectors
from quaver_bench.engines.pytorch import ProgramEngine, pooled_module

PACKAGES = ("zentorch", "torch", "transformers")
INT8_PACKAGES = (*PACKAGES, "torchao")
INSTALL = "make .envs/zentorch/made"


class ZentorchEngine(ProgramEngine):
    """`torch.compile` with zentorch as its backend, for lengths that change."""

    def __init__(self, setup: Setup, kind: str) -> None:
        """Load, quantize where asked for, and set up the compiler; it compiles in the first calls.

        Args:
            setup: see `Setup`.
            kind: "float32", "bf16" or "int8": weights per output, activations per token, as AMD
                documents it.

        Raises:
            CannotRunError: zentorch leaves programs as they are on this CPU.
        """
        import torch
        import zentorch

        if not zentorch._C.is_avx512_supported():
            raise CannotRunError("zentorch optimizes nothing on a CPU without AVX-512")
        super().__init__(setup)
        torch.set_num_threads(setup.threads)
        # Weights in bf16 and no autocast: under that, zentorch's program gives other vectors (cosine
        # -0.03 to float32), while torch's own gives the model's.
        module = pooled_module(setup, bf16=kind == "bf16")
        if kind == "int8":
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

            module = copy.deepcopy(module)  # the encoder is shared with the other forms
            quantize_(module, Int8DynamicActivationInt8WeightConfig())
        self.program = torch.compile(module, backend="zentorch", dynamic=True)
        self._lock = threading.Lock()  # two callers at once wait for each other, spinning, for good
        self.settings = {"threads": torch.get_num_threads(), "zentorch": zentorch.__version__}

    def compute(self, inputs: Any) -> Vectors:
        """Run the program, one caller at a time."""
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first calls compile
            return super().compute(inputs)


FORMS = tuple(
    Form(
        f"zentorch-{kind}",
        partial(ZentorchEngine, kind=kind),
        INT8_PACKAGES if kind == "int8" else PACKAGES,
        ("zentorch",),
        INSTALL,
        "zentorch",
        compiles=True,
    )
    for kind in ("float32", "bf16", "int8")
)
