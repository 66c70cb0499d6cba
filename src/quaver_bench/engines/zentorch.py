"""zentorch, AMD's own stack for PyTorch: compiled in float32, bf16, and int8 by torchao."""

from __future__ import annotations

import copy
import threading
import warnings
from dataclasses import replace
from typing import Any

from quaver_bench.engines import CannotRunError, Engine, Form, Setup, Vectors
from quaver_bench.engines.padded import PaddedEngine
from quaver_bench.engines.pytorch import pooled_module
from quaver_bench.inputs import PaddedBatch

PACKAGES = ("zentorch", "torch", "transformers")
INT8_PACKAGES = (*PACKAGES, "torchao")
INSTALL = "make .envs/zentorch/made"


class ZentorchEngine(PaddedEngine):
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
        self._model = torch.compile(module, backend="zentorch", dynamic=True)
        self._lock = threading.Lock()  # two callers at once wait for each other, spinning, for good
        self.settings = {"threads": torch.get_num_threads(), "zentorch": zentorch.__version__}

    def inputs(self, batch: PaddedBatch) -> Any:
        """Make tensors."""
        import torch

        return torch.from_numpy(batch.ids), torch.from_numpy(batch.mask)

    def compute(self, inputs: Any) -> Vectors:
        """Run the compiled module."""
        import torch

        with self._lock, torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vectors: Vectors = self._model(*inputs).numpy()
        return vectors


def _float32(setup: Setup) -> Engine:
    return ZentorchEngine(setup, "float32")


def _bf16(setup: Setup) -> Engine:
    return ZentorchEngine(setup, "bf16")


def _int8(setup: Setup) -> Engine:
    return ZentorchEngine(setup, "int8")


_FLOAT32 = Form(
    "zentorch-float32", _float32, PACKAGES, ("zentorch",), INSTALL, "zentorch", compiles=True
)
FORMS = (
    _FLOAT32,
    replace(_FLOAT32, name="zentorch-bf16", load=_bf16),
    replace(_FLOAT32, name="zentorch-int8", load=_int8, packages=INT8_PACKAGES),
)
