"""torch and transformers: float32, bf16 autocast, compiled; and the modules that other engines convert."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

from quaver_bench.engines import EVERY_KIND, CannotRunError, Form, Setup, Vectors
from quaver_bench.engines.padded import PaddedEngine
from quaver_bench.inputs import PaddedBatch
from quaver_bench.kinds import EMBEDDER

PACKAGES = ("torch", "transformers")
RUNS_ON = ("torch", "transformers")
INSTALL = "pip install torch transformers"


@lru_cache(maxsize=1)
def load_encoder(folder: str, attention: str | None = None, opens: str = "AutoModel") -> Any:
    """Load a model in float32, in evaluation mode; the last one is kept.

    Args:
        folder: model folder.
        attention: transformers' name of the attention implementation; None for its own choice, which is
            torch's fused one ("sdpa") where the architecture has it.
        opens: transformers' class that opens it.

    Returns:
        transformers' model; without a pooling layer, if it is an `AutoModel`.

    Raises:
        CannotRunError: transformers cannot load it.
    """
    import torch
    import transformers

    try:
        encoder = getattr(transformers, opens).from_pretrained(
            folder,
            local_files_only=True,
            **({"attn_implementation": attention} if attention else {}),
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise CannotRunError(f"transformers cannot load it: {first_line(error)}") from error
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = torch.nn.Identity()  # its output is not used
    # Not as an argument: transformers 5 calls it dtype, transformers 4 torch_dtype.
    return encoder.float().eval().requires_grad_(False)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def pooled_module(setup: Setup, *, attention: str | None = None, bf16: bool = False) -> Any:
    """Return a torch module from ids and mask (B, L) to unit vectors, for other engines to convert.

    Its method `tokens` returns the token vectors (B, L, H).

    Args:
        setup: see `Setup`.
        attention: see `load_encoder`.
        bf16: use weights in bfloat16; pooling stays in float32.

    Returns:
        the module, in evaluation mode.
    """
    import torch

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            encoder = load_encoder(str(setup.model.folder.transformer), attention)
            self.encoder = copy.deepcopy(encoder).to(torch.bfloat16) if bf16 else encoder

        def tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            added = _added(attention_mask, torch.bfloat16 if bf16 else torch.float32)
            vectors = self.encoder(input_ids=input_ids, attention_mask=added).last_hidden_state
            return cast(torch.Tensor, vectors)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.tokens(input_ids, attention_mask)
            hidden = hidden.float() if bf16 else hidden
            return pool(hidden, attention_mask.to(torch.float32), setup.model.pooling)

    return Pooled().eval()


def _mask(mask: Any) -> Any:
    """Return what transformers gets for a mask (B, L): the mask itself, or `_added` while a program is made."""
    import torch

    traced = torch.jit.is_tracing() or torch.compiler.is_exporting()
    return _added(mask, torch.float32) if traced else mask


def _added(mask: Any, dtype: Any) -> Any:
    """Return what is added to the scores of attention for a mask (B, L): 0 for a token, and the least number.

    With a mask of 0 and 1, tracing would fix whether there is padding.
    """
    import torch

    return (1.0 - mask.to(dtype)[:, None, None, :]) * torch.finfo(dtype).min


def _score_module(setup: Setup) -> Any:
    """Return a torch module from ids, mask and token types (B, L) to the logits (B, labels) of pairs."""
    import torch

    folder = setup.model.folder
    if folder.scores:
        raise CannotRunError("its scores come from modules of sentence-transformers")
    classifier = load_encoder(str(folder.transformer), opens="AutoModelForSequenceClassification")

    class Scores(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = classifier

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: Any = None
        ) -> Any:
            types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            mask = _mask(attention_mask)
            return self.classifier(input_ids=input_ids, attention_mask=mask, **types).logits

    return Scores().eval()


def _words_module(setup: Setup) -> Any:
    """Return a torch module from ids and mask (B, L) to the weights (B, V) of the words.

    The largest value of a word is found before its logarithms, which do not change which one it is. So
    they are computed of V numbers for a text, not of L V.
    """
    import torch

    folder = setup.model.folder
    words = folder.sparse
    if words is None:
        raise CannotRunError("it weighs no words")
    summed, logarithms = words.pooling == "sum", words.logarithms
    most = folder.max_active_dims
    language = load_encoder(str(folder.transformer), opens="AutoModelForMaskedLM")

    def weights(logits: torch.Tensor) -> torch.Tensor:
        found = logits.float().relu()
        for _ in range(logarithms):
            found = found.log1p()
        return found

    class Words(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.language = language

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            mask = _mask(attention_mask)
            logits = self.language(input_ids=input_ids, attention_mask=mask).logits
            logits = logits.masked_fill(attention_mask[:, :, None] == 0, 0.0)
            found = weights(logits).sum(1) if summed else weights(logits.amax(1))
            if most is None:
                return found
            least = found.topk(most).values[:, -1:]
            return found * (found >= least)

    return Words().eval()


def _token_module(setup: Setup) -> Any:
    """Return a torch module from ids and mask (B, L) to a vector for each token (B, L, D)."""
    import torch

    folder = setup.model.folder
    modules = folder.multi_vector
    if modules is None:
        raise CannotRunError("it has one vector for a text")
    encoder, normalize = load_encoder(str(folder.transformer)), modules.normalize
    layers = _projections(setup)

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.layers = encoder, torch.nn.Sequential(*layers)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            mask = _mask(attention_mask)
            hidden = self.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
            found = self.layers(hidden)
            return torch.nn.functional.normalize(found, dim=-1) if normalize else found

    return Tokens().eval()


def _projections(setup: Setup) -> list[Any]:
    """Return the linear layers that a multi-vector model runs on each token."""
    import torch
    from safetensors.torch import load_file

    folder = setup.model.folder
    places = [(module.config, module.path) for module in folder.modules]
    if folder.multi_vector is not None and folder.multi_vector.inline:
        places = [({}, folder.transformer)]
    layers = []
    for config, place in places:
        activation = str(config.get("activation_function") or "Identity").rpartition(".")[2]
        file = place / "model.safetensors"
        if activation != "Identity" or not file.is_file():
            raise CannotRunError(
                f"its projection must be linear, in model.safetensors: {place.name} is not"
            )
        tensors = load_file(file)
        outputs, width = tensors["linear.weight"].shape
        layer = torch.nn.Linear(width, outputs, bias="linear.bias" in tensors)
        layer.load_state_dict(
            {name: tensors[f"linear.{name}"].float() for name in dict(layer.named_parameters())}
        )
        layers.append(layer.requires_grad_(False))
    return layers


_MODULES = {
    "embedder": pooled_module,
    "cross-encoder": _score_module,
    "sparse": _words_module,
    "multi-vector": _token_module,
}


def module_of(setup: Setup) -> Any:
    """Return a torch module from the model's inputs (B, L) to its output, for other engines to convert.

    Args:
        setup: see `Setup`.

    Returns:
        the module, in evaluation mode; it takes the tensors of `Model.inputs`.

    Raises:
        CannotRunError: transformers cannot load the model, or has no such module.
    """
    return _MODULES[setup.model.kind.name](setup)


def pool(hidden: Any, mask: Any, pooling: str) -> Any:
    """Return unit vectors (B, H) of token vectors (B, L, H).

    Args:
        hidden: token vectors.
        mask: (B, L), 1 for a token; None without padding.
        pooling: "cls" or "mean".
    """
    if pooling == "cls":
        pooled = hidden[:, 0]
    elif mask is None:
        pooled = hidden.mean(1)
    else:
        pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    return pooled / pooled.norm(dim=1, keepdim=True)


def example(names: Sequence[str] = ("input_ids", "attention_mask")) -> tuple[Any, ...]:
    """Return tensors of two texts to export with: one is padded, so that the export keeps the mask.

    Args:
        names: the inputs, as `Model.inputs` has them.
    """
    import torch

    mask = torch.ones((2, 8), dtype=torch.int64)
    mask[1, 5:] = 0
    ids = torch.ones_like(mask)
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(mask)}
    return tuple(given[name] for name in names)


def export_onnx(
    module: Any,
    path: Path,
    *,
    output: str,
    max_length: int,
    inputs: Sequence[str] = ("input_ids", "attention_mask"),
) -> None:
    """Export a module of ids and mask (B, L) as an ONNX file.

    Args:
        module: in evaluation mode.
        path: the file to write.
        output: name of the output.
        max_length: longest text, in tokens.
        inputs: names of the inputs.
    """
    import torch

    axes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("length", max=max_length)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            example(inputs),
            path,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=(axes,) * len(inputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


class ProgramEngine(PaddedEngine):
    """A program made from the model, which takes ids and mask (B, L) and returns unit vectors.

    Attributes:
        program: the program; set by the subclass.
    """

    program: Any

    def inputs(self, batch: PaddedBatch) -> Any:
        """Make tensors."""
        import torch

        return tuple(map(torch.from_numpy, batch.arrays(self._inputs).values()))

    def compute(self, inputs: Any) -> Vectors:
        """Run the program."""
        import torch

        with torch.no_grad():
            vectors: Vectors = self.program(*inputs).float().numpy()
        return vectors


def load_torch(setup: Setup, *, bf16: bool = False) -> PaddedEngine:
    """Load transformers in float32 or with autocast to bfloat16, for any kind of model."""
    engine = TorchEngine if setup.model.kind is EMBEDDER else TorchModuleEngine
    return engine(setup, bf16=bf16)


class TorchModuleEngine(ProgramEngine):
    """The module of a kind that has more than one vector for a text, or scores."""

    def __init__(self, setup: Setup, *, bf16: bool = False) -> None:
        """Load the model.

        Args:
            setup: see `Setup`.
            bf16: autocast to bfloat16.
        """
        import torch

        super().__init__(setup)
        torch.set_num_threads(setup.threads)
        self.program, self._bf16 = module_of(setup), bf16
        self.settings = {
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        }

    def compute(self, inputs: Any) -> Vectors:
        """Run the module."""
        import torch

        cast: AbstractContextManager[Any] = (
            torch.autocast("cpu", torch.bfloat16) if self._bf16 else nullcontext()
        )
        with torch.inference_mode(), cast:
            return super().compute(inputs)


class TorchEngine(PaddedEngine):
    """transformers as its users call it, without a mask if nothing is padded."""

    def __init__(self, setup: Setup, *, bf16: bool = False, compiled: bool = False) -> None:
        """Load the model.

        Args:
            setup: see `Setup`.
            bf16: autocast to bfloat16, the baseline of the published study.
            compiled: compile with torch.compile for dynamic lengths.
        """
        import torch

        super().__init__(setup)
        torch.set_num_threads(setup.threads)
        self._encoder = load_encoder(str(setup.model.folder.transformer))
        self.settings = {
            "threads": torch.get_num_threads(),
            "attention": self._encoder.config._attn_implementation,
            "capability": torch.backends.cpu.get_cpu_capability(),
        }
        self._pooling, self._bf16 = setup.model.pooling, bf16
        if compiled:
            self._encoder = torch.compile(self._encoder, dynamic=True)

    def inputs(self, batch: PaddedBatch) -> Any:
        """Make tensors."""
        import torch

        mask = None if batch.mask.all() else torch.from_numpy(batch.mask)
        return torch.from_numpy(batch.ids), mask

    def compute(self, inputs: Any) -> Vectors:
        """Encode and pool."""
        import torch

        ids, mask = inputs
        cast: AbstractContextManager[Any] = (
            torch.autocast("cpu", torch.bfloat16) if self._bf16 else nullcontext()
        )
        with torch.inference_mode(), cast:
            hidden = self._encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        with torch.inference_mode():
            vectors: Vectors = pool(hidden.float(), mask, self._pooling).numpy()
        return vectors


_FLOAT32 = Form("torch-float32", load_torch, PACKAGES, RUNS_ON, INSTALL, kinds=EVERY_KIND)
FORMS = (
    _FLOAT32,
    replace(_FLOAT32, name="torch-bf16", load=partial(load_torch, bf16=True)),
    Form(
        "torch-compile-bf16",
        partial(TorchEngine, bf16=True, compiled=True),
        PACKAGES,
        RUNS_ON,
        INSTALL,
        compiles=True,
    ),
)
