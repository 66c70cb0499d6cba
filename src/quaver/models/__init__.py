"""Model folders: download, configuration files, tokenizer, prompts and weights."""

from __future__ import annotations

from quaver.models.encoder_weights import (
    EncoderWeights,
    LayersOnDemand,
    LayerWeights,
    NormWeights,
    StoredTable,
)
from quaver.models.families.registry import (
    FAMILIES,
    classifier_spec,
    encoder_spec,
    encoder_weights,
    masked_lm_spec,
    split_tensors,
)
from quaver.models.files import mismatch_in_words
from quaver.models.folder import ModelFolder, kind_of_model
from quaver.models.geometry import (
    MAX_LENGTH,
    POOLINGS,
    Activation,
    EncoderSpec,
    LayerSpec,
    Llama3Scaling,
    RelativePositions,
    Rotary,
    YarnScaling,
)
from quaver.models.head import DenseStep, HeadActivation, HeadStep, WordHead
from quaver.models.hub import find_folder
from quaver.models.linear import (
    InputRange,
    Linear,
    LinearPart,
    LinearWeights,
    QuantizedLinear,
    dequantized,
    equal_groups,
    packed_int4,
    quantize_rows,
    quantize_weight,
    ranges_of_inputs,
    rounded_rows,
)
from quaver.models.modules import (
    cross_encoder_spec,
    model_tensors,
    module_steps,
    module_tensors,
    with_modules,
    word_ids,
)
from quaver.models.order import gathered, reordered
from quaver.models.positions import relative_rows, rotary_tables
from quaver.models.prompts import (
    checked_prompts,
    choose_prompt,
    document_prompt,
    query_prompt,
    with_prompt,
)
from quaver.models.quantization_config import (
    OWN_SECTION,
    StoredForm,
    is_quantized,
    quantization_config,
    wide_features,
)
from quaver.models.static import (
    StaticSpec,
    StaticWeights,
    WordTable,
    static_model,
    static_tokenizer,
    word_table,
)
from quaver.models.token_modules import MultiVectorModules, QueryExpansion
from quaver.models.tokenizer import MAX_TOKENS, LocatedTokens, TokenBatch, Tokenizer
from quaver.models.weights_file import WEIGHTS_FILE, WEIGHTS_INDEX, release_pages, weight_files

__all__ = [
    "FAMILIES",
    "MAX_LENGTH",
    "MAX_TOKENS",
    "OWN_SECTION",
    "POOLINGS",
    "WEIGHTS_FILE",
    "WEIGHTS_INDEX",
    "Activation",
    "DenseStep",
    "EncoderSpec",
    "EncoderWeights",
    "HeadActivation",
    "HeadStep",
    "InputRange",
    "LayerSpec",
    "LayerWeights",
    "LayersOnDemand",
    "Linear",
    "LinearPart",
    "LinearWeights",
    "Llama3Scaling",
    "LocatedTokens",
    "ModelFolder",
    "MultiVectorModules",
    "NormWeights",
    "QuantizedLinear",
    "QueryExpansion",
    "RelativePositions",
    "Rotary",
    "StaticSpec",
    "StaticWeights",
    "StoredForm",
    "StoredTable",
    "TokenBatch",
    "Tokenizer",
    "WordHead",
    "WordTable",
    "YarnScaling",
    "checked_prompts",
    "choose_prompt",
    "classifier_spec",
    "cross_encoder_spec",
    "dequantized",
    "document_prompt",
    "encoder_spec",
    "encoder_weights",
    "equal_groups",
    "find_folder",
    "gathered",
    "is_quantized",
    "kind_of_model",
    "masked_lm_spec",
    "mismatch_in_words",
    "model_tensors",
    "module_steps",
    "module_tensors",
    "packed_int4",
    "quantization_config",
    "quantize_rows",
    "quantize_weight",
    "query_prompt",
    "ranges_of_inputs",
    "relative_rows",
    "release_pages",
    "reordered",
    "rotary_tables",
    "rounded_rows",
    "split_tensors",
    "static_model",
    "static_tokenizer",
    "weight_files",
    "wide_features",
    "with_modules",
    "with_prompt",
    "word_ids",
    "word_table",
]
