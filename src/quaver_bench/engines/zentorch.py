"""zentorch, AMD's backend of torch.compile: float32, bf16, and int8 by torchao."""

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
    """`torch.compile` with the zentorch backend, for dynamic lengths."""

    def __init__(self, setup: Setup, kind: str) -> None:
        """Load the model, quantize it for int8, and set up the compiler, which compiles in the first calls.

        Args:
            setup: see `Setup`.
            kind: "float32", "bf16", or "int8": weights per output and activations per token, as documented
                by AMD.

        Raises:
            CannotRunError: zentorch optimizes nothing on this CPU.
        """
        import torch
        import zentorch

        if not zentorch._C.is_avx512_supported():
            raise CannotRunError("zentorch optimizes nothing on a CPU without AVX-512")
        super().__init__(setup)
        torch.set_num_threads(setup.threads)
        # bf16 weights instead of autocast, with which zentorch computes wrong vectors (cosine -0.03 to
        # float32); torch's own backend does not.
        module = pooled_module(setup, bf16=kind == "bf16")
        if kind == "int8":
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

            module = copy.deepcopy(module)  # other forms share the encoder
            quantize_(module, Int8DynamicActivationInt8WeightConfig())
        self.program = torch.compile(module, backend="zentorch", dynamic=True)
        self._lock = threading.Lock()  # two callers at once block each other forever
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
