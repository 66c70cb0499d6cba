"""Intel Extension for PyTorch 2.8, the last one: the system of the published study itself."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

from quaver_bench.engines import CannotRunError, Engine, Form, Setup, Vectors
from quaver_bench.engines.padded import PaddedEngine
from quaver_bench.engines.pytorch import first_line, load_encoder, pool
from quaver_bench.inputs import PaddedBatch

PACKAGES = ("intel_extension_for_pytorch", "torch", "transformers")
RUNS_ON = ("intel_extension_for_pytorch", "transformers")
INSTALL = "make .envs/ipex/made"


class IpexEngine(PaddedEngine):
    """`ipex.optimize` or static int8, traced to TorchScript and frozen."""

    def __init__(self, setup: Setup, kind: str) -> None:
        """Optimize and trace.

        Args:
            setup: see `Setup`.
            kind: "float32", "bf16" or "int8".

        Raises:
            CannotRunError: IPEX has no kernels for this on this CPU.
        """
        import torch

        super().__init__(setup)
        torch.set_num_threads(setup.threads)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._model = _traced(setup, kind)
        except AssertionError as error:
            raise CannotRunError(first_line(error)) from error
        self.settings = {"threads": torch.get_num_threads(), **_level()}

    def inputs(self, batch: PaddedBatch) -> Any:
        """Make tensors."""
        import torch

        return torch.from_numpy(batch.ids), torch.from_numpy(batch.mask)

    def compute(self, inputs: Any) -> Vectors:
        """Run the frozen program."""
        import torch

        with torch.no_grad():
            vectors: Vectors = self._model(*inputs).float().numpy()
        return vectors


@lru_cache(maxsize=1)
def _level() -> dict[str, str]:
    import intel_extension_for_pytorch as ipex

    return {"ipex_isa": str(ipex._C._get_current_isa_level())}


def _traced(setup: Setup, kind: str) -> Any:
    import intel_extension_for_pytorch as ipex
    import torch
    from intel_extension_for_pytorch.quantization import convert, prepare

    encoder = load_encoder(str(setup.model.folder.transformer), "eager")

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            hidden = self.encoder(input_ids, attention_mask).last_hidden_state
            # In float32: a norm in bf16 leaves vectors up to 0.4 % longer or shorter than 1.
            return pool(hidden.float(), attention_mask.float(), setup.model.pooling)

    module = Pooled().eval()
    # `start` gives no texts to calibrate with; the ids of an example do not matter.
    ids = torch.from_numpy(setup.calibration[0][None]) if setup.calibration else torch.ones(1, 8)
    ids = ids.to(torch.int64)
    example = (ids, torch.ones_like(ids))
    bf16 = torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16")
    with torch.no_grad(), bf16:
        if kind == "int8":
            mapping = ipex.quantization.default_static_qconfig_mapping
            prepared = prepare(module, mapping, example_inputs=example, inplace=False)
            for text in setup.calibration:
                tensor = torch.from_numpy(text[None])
                prepared(tensor, torch.ones_like(tensor))
            module = convert(prepared)
        else:
            dtype = torch.bfloat16 if kind == "bf16" else torch.float32
            module = ipex.optimize(module, dtype=dtype)
        traced = torch.jit.freeze(torch.jit.trace(module, example, check_trace=False).eval())
        for _ in range(2):  # the program is optimized in its first runs
            traced(*example)
    return traced


def _float32(setup: Setup) -> Engine:
    return IpexEngine(setup, "float32")


def _bf16(setup: Setup) -> Engine:
    return IpexEngine(setup, "bf16")


def _int8(setup: Setup) -> Engine:
    if not setup.calibration:
        raise CannotRunError("it quantizes anew in every process, which start does not measure")
    return IpexEngine(setup, "int8")


FORMS = tuple(
    Form(name, load, PACKAGES, RUNS_ON, INSTALL, "ipex", compiles=True)
    for name, load in (("ipex-float32", _float32), ("ipex-bf16", _bf16), ("ipex-int8", _int8))
)
