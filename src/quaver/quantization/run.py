"""`quantize`: write an int8 folder of a model."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from quaver.engine import agreed_pooling, check_pooling
from quaver.errors import (
    CalibrationError,
    InputError,
    QuantizationError,
    check_choice,
    check_range,
)
from quaver.models import (
    EncoderSpec,
    EncoderWeights,
    ModelFolder,
    TokenBatch,
    cross_encoder_spec,
    encoder_weights,
    is_quantized,
    module_tensors,
    multi_vector_spec,
    sparse_spec,
    split_tensors,
    weight_files,
    with_modules,
)
from quaver.quantization.calibration import CalibrationTexts, calibration_texts
from quaver.quantization.card import model_card
from quaver.quantization.convert import (
    INT4_GROUPS,
    ROUNDINGS,
    SCHEMES,
    Converted,
    ConvertedLayer,
    Recipe,
    Rounding,
    Scheme,
    convert,
    convert_calibrated,
    layer_name,
)
from quaver.quantization.folder import (
    WORD_FORMATS,
    Layers,
    Stored,
    Words,
    quantized_config,
    quantized_tensors,
    require_new,
    word_format,
    write_folder,
)
from quaver.quantization.input_ranges import OBSERVERS, Observer
from quaver.quantization.loss import Bounded, LossMeter, keep_within
from quaver.quantization.report import LayerReport, Precision, QuantizationReport

MAX_SAMPLES = 100_000
Progress = Callable[[str], object]


def quantize(
    source: str | Path,
    target: str | Path,
    *,
    scheme: Scheme = "dynamic",
    calibration: str | Path | Iterable[str] | None = None,
    samples: int = 128,
    column: str | None = None,
    rounding: Rounding | None = None,
    observer: Observer = "mse",
    strict: bool = False,
    max_loss: float | None = None,
    group_size: int = 32,
    words: Words | None = None,
    pooling: str | None = None,
    is_causal: bool | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    show_progress_bar: bool = False,
) -> QuantizationReport:
    """Write an embedding model, cross-encoder, sparse encoder or multi-vector model as an int8 or int4 folder.

    The folder loads with the class that opens the source (`Embedder`, `CrossEncoder`, `SparseEncoder`
    or `MultiVectorEncoder`), and with `transformers` and `sentence-transformers` where
    compressed-tensors is installed. It appears whole or not at all. The same model, text and arguments
    produce the same bytes. A masked language model without modules.json is a sparse encoder, unless
    `pooling` says how to pool its tokens.

    Args:
        source: local folder, or hub id, of a model in floats.
        target: the new folder; it must not exist.
        scheme: "dynamic" finds a range for each token's activations at run time; "static" has one
            range for each layer, found on calibration text. A layer whose squared error this
            would multiply by more than 4 keeps one range per token. "int4" is dynamic with weights in four
            bits: half the size, a larger loss.
        calibration: text: a .jsonl, .txt, .csv or .parquet file, a folder of documents, the id of a
            data set, or texts; a file or data set may be followed by ":" and a column. Needed for the
            static scheme, for "gptq" and for max_loss.
        samples: how many texts to use from it.
        column: the column of text.
        rounding: how weights are rounded: "nearest", or "gptq", which changes a layer's output on
            the text least. None is "gptq" if there is text.
        observer: how static ranges are found: "minmax", "percentile" or "mse".
        strict: use a single range for these layers, too.
        max_loss: the largest loss allowed on the samples, as a fraction: 0.003 is 0.3 %. The loss is
            1 - the mean cosine between int8 and float32 vectors, those of words or of tokens where the
            model has them; of a cross-encoder 1 - the correlation of its scores. The layers that cost
            most stay in float32 until the loss is within it.
        group_size: how many inputs share a scale in four bits: 32, 64 or 128.
        words: how the word embeddings are stored, "int8" (one scale for each row) or "float16". None is
            "int8", unless some of their features are so wide that the others would be lost; and "float16"
            for int4: transformers reads all quantized tensors of a folder alike.
        pooling: as for `Embedder.from_pretrained`, for a folder that does not say how to pool.
        is_causal: as for `Embedder.from_pretrained`; the new folder says it.
        revision: branch, tag or commit on the hub.
        local_files_only: never use the network.
        token: access token of the hub.
        show_progress_bar: show a bar on stderr.

    Returns:
        the report.

    Raises:
        InputError: an argument is invalid.
        ModelError: the source cannot be used; see the subclasses.
        CalibrationError: the text is missing, unreadable or too little.
        QuantizationError: the model is quantized already, the target exists, or cannot be written.
        ImportError: the calibration source needs a library that is not installed.
    """
    begin = time.perf_counter()
    recipe = _recipe(scheme, rounding, observer, strict, group_size, calibration is not None)
    if words is not None:
        check_choice("words", words, WORD_FORMATS)
    if (scheme, words) == ("int4", "int8"):
        raise InputError(
            "word embeddings of an int4 folder must be float16, since transformers reads all quantized tensors "
            "of a folder alike: got words='int8'; leave it out"
        )
    _check(samples, max_loss, pooling, recipe, calibration is not None)
    target = Path(target).expanduser()
    require_new(target)
    folder = ModelFolder.open_any(
        source,
        pooling=pooling,
        revision=revision,
        local_files_only=local_files_only,
        token=token,
        is_causal=is_causal,
    )
    if folder.static:
        raise QuantizationError(
            f"{folder.name} is a static model, a table without layers to quantize; use it as it is"
        )
    if folder.adapters is not None:
        raise QuantizationError(
            f"{folder.name} has an adapter for each task, which a folder in int8 has no place for; load it with "
            "Embedder.from_pretrained(..., task=...), which quantizes it while loading"
        )
    if is_quantized(folder.config):
        raise QuantizationError(
            f"{folder.name} is quantized already; quantize the model that it was made from"
        )
    spec = _spec(folder, pooling)
    if scheme == "int4":
        _check_groups(spec, folder.name, group_size)
    stored = split_tensors(spec, folder.tensors())
    weights = encoder_weights(spec, with_modules(stored, _module_tensors(folder, spec, stored)))
    if spec.shared_layers != (0, 0):
        raise QuantizationError(
            f"the layers of {folder.name} share weights, and each needs a rounding of its own; load it with "
            "Embedder.from_pretrained, which quantizes them while loading"
        )
    if words is None:
        words = "float16" if scheme == "int4" else word_format(weights.word)
    texts = None if calibration is None else calibration_texts(calibration, samples, column)
    if texts is not None:  # the calibration knows a layer by its identity
        weights = replace(weights, layers=tuple(weights.layers))
    with _bar(show_progress_bar, 4 * len(spec.layers)) as progress:
        converted, bounded = _converted(folder, spec, weights, recipe, texts, max_loss, progress)
    final = converted.quantized if bounded is None else bounded.weights
    written = Layers()
    source_bytes = sum(path.stat().st_size for path in weight_files(folder.transformer))

    def describe(tensors: Stored) -> tuple[Mapping[str, Any], str]:
        config = quantized_config(
            folder.config,
            replace(spec, head=()) if folder.modules else spec,
            final.wide,
            written,
            tensors,
        )
        card = model_card(
            name=target.name,
            source=folder.name,
            version=version("quaver"),
            recipe=recipe,
            calibration=texts,
            layers=_layers(written, converted, bounded),
            loss=None if bounded is None else bounded.loss,
            kind=folder.kind,
            in_transformers=spec.model_type != "new" and spec.family != "jina_bert",
        )
        return config, card

    size = write_folder(
        target,
        folder,
        quantized_tensors(stored, final, words, written),
        describe,
        names=stored,
        needed=source_bytes // 4,
    )
    layers = _layers(written, converted, bounded)
    return QuantizationReport(
        source=folder.name,
        target=str(target),
        scheme=scheme,
        rounding=recipe.rounding,
        observer=recipe.observer if scheme == "static" else None,
        calibration=None if texts is None else texts.name,
        samples=0 if texts is None else len(texts.texts),
        digest=None if texts is None else texts.digest,
        layers=layers,
        loss=None if bounded is None else bounded.loss,
        max_loss=max_loss,
        slowdown=None if bounded is None else bounded.slowdown,
        source_bytes=source_bytes,
        target_bytes=size,
        seconds=time.perf_counter() - begin,
        failed=() if texts is None else texts.failed,
    )


def _recipe(
    scheme: Scheme,
    rounding: Rounding | None,
    observer: Observer,
    strict: bool,
    group_size: int,
    text: bool,
) -> Recipe:
    check_choice("scheme", scheme, SCHEMES)
    check_choice("observer", observer, OBSERVERS)
    if rounding is None:
        rounding = "gptq" if text else "nearest"
    check_choice("rounding", rounding, ROUNDINGS)
    if group_size not in INT4_GROUPS:
        raise InputError(
            f"group_size must be one of {', '.join(map(str, INT4_GROUPS))}: got {group_size!r}"
        )
    return Recipe(scheme, rounding, observer, strict, group_size)


def _check_groups(spec: EncoderSpec, name: str, size: int) -> None:
    """Check that groups of inputs divide every layer: transformers reads no shorter last group."""
    layers = spec.layers
    for inputs in (
        spec.hidden_size,
        *(layer.query_width for layer in layers),
        *(layer.intermediate_size for layer in layers),
        *(layer.input_size for layer in layers),
    ):
        if inputs % size:
            advice = "take group_size=32" if inputs % 32 == 0 else "take the dynamic scheme"
            raise QuantizationError(
                f"with int4 the inputs of every layer must be a multiple of group_size={size}: {name} has a "
                f"layer of {inputs}; {advice}"
            )


def _check(
    samples: int, max_loss: float | None, pooling: str | None, recipe: Recipe, text: bool
) -> None:
    check_range("samples", samples, MAX_SAMPLES)
    if max_loss is not None and not 0 < max_loss < 1:
        raise InputError(f"max_loss must be between 0 and 1, as 0.003 for 0.3 %: got {max_loss!r}")
    if pooling is not None:
        check_pooling(pooling)
    wanted = {
        "the static scheme": recipe.scheme == "static",
        "rounding='gptq'": recipe.rounding == "gptq",
        "max_loss": max_loss is not None,
    }
    for what, needs in wanted.items():
        if needs and not text:
            raise CalibrationError(f"{what} needs calibration text; pass calibration=")


def _spec(folder: ModelFolder, pooling: str | None) -> EncoderSpec:
    if folder.is_cross_encoder:
        return cross_encoder_spec(folder)
    if folder.sparse is not None:
        return sparse_spec(folder)
    if folder.multi_vector is not None:
        return multi_vector_spec(folder)
    return folder.encoder_spec(pooling=agreed_pooling(folder, pooling))


def _module_tensors(
    folder: ModelFolder, spec: EncoderSpec, stored: Mapping[str, NDArray[Any]]
) -> Mapping[str, NDArray[Any]]:
    """Read the modules behind the encoder; an embedder is compared before its own."""
    read = folder.scores or folder.multi_vector is not None
    return module_tensors(folder, spec.pooled_size, stored) if read else {}


def _converted(
    folder: ModelFolder,
    spec: EncoderSpec,
    weights: EncoderWeights,
    recipe: Recipe,
    texts: CalibrationTexts | None,
    max_loss: float | None,
    progress: Progress,
) -> tuple[Converted, Bounded | None]:
    if texts is None:
        return convert(spec, weights, group=recipe.group_of_int4), None
    batch = _tokens(folder, spec, texts)
    converted = convert_calibrated(spec, weights, recipe, batch, progress)
    plain = replace(spec, normalize=False)
    meter = LossMeter(plain, weights, batch, kind=folder.kind)
    bound = 1.0 if max_loss is None else max_loss
    return converted, keep_within(meter, converted.exact, converted.quantized, bound, progress)


def _tokens(folder: ModelFolder, spec: EncoderSpec, texts: CalibrationTexts) -> TokenBatch:
    length = spec.length_within(folder.max_seq_length)
    tokenizer = folder.tokenizer(length, pooling=spec.pooling)
    tokenizer.require_vocabulary(spec.vocab_size)
    if not folder.is_cross_encoder:
        return tokenizer.encode(texts.texts)
    prompt = "" if folder.template is None else folder.template.working_prompt("")
    return tokenizer.encode_pairs([_pair(text) for text in texts.texts], prompt=prompt)


def _pair(text: str) -> tuple[str, str]:
    """Make a query and a document from a text: its first twelve words, and the whole text."""
    return " ".join(text.split()[:12]), text


def _layers(
    written: Layers, converted: Converted, bounded: Bounded | None
) -> tuple[LayerReport, ...]:
    shares = {} if bounded is None else bounded.shares
    reports = []
    for place, (parts, form) in written.stored.items():
        precision: Precision = "float32"
        if form is not None:
            precision = "int4" if form.bits == 4 else "static" if form.static else "dynamic"
        layer = converted.layers.get(place, ConvertedLayer(None))
        reports.append(
            LayerReport(
                layer_name(parts, place),
                precision,
                layer.error,
                layer.smoothing,
                shares.get(place),
            )
        )
    return tuple(reports)


@contextmanager
def _bar(shown: bool, layers: int) -> Iterator[Progress]:
    from tqdm import tqdm

    hidden = not shown or sys.stderr is None
    with tqdm(total=layers, unit="layer", file=sys.stderr, disable=hidden) as bar:

        def progress(step: str) -> None:
            bar.set_postfix_str(step)
            if bar.n < layers:
                bar.update()

        yield progress
