// A model: geometry and weights, packed for one instruction set. Made once and never changed.
#pragma once

#include <bit>
#include <optional>
#include <vector>

#include "engine/geometry.h"
#include "engine/linear.h"

namespace quaver {

struct Norm {
  NormKind kind = NormKind::none;
  float eps = 0.0f;
  Buffer<float> gamma, beta; // as many as the norm has features; beta of a LayerNorm alone

  bool empty() const { return kind == NormKind::none; }
  NormWeights view() const { return {kind, gamma.data(), beta.data(), eps}; }
};

// The norms of half a layer, x + f(x): sum(x + output(f(input(x)))). BERT has the sum's, ModernBERT and most decoders
// the input's, Gemma those of input and output.
struct Norms {
  Norm input, output, sum;
};

// What the embedding e of a token adds to a layer at its end: x += output(out(act(gate(x)) * norm(project(e)))).
struct LayerInput {
  LinearPtr project{}; // P x H; null for none
  Norm norm{};         // of P features
  LinearPtr gate{};    // P x H
  LinearPtr out{};     // H x P
  Norm output{};
};

struct Layer {
  LayerSpec spec;
  Norms attention{}, feed_forward{};
  LinearPtr qkv;  // (Hq + 2 Hkv) D x H; scores are in base two, see AttentionHead
  LinearPtr out;  // H x Hq D
  LinearPtr up;   // I x H, with a gate 2I x H
  LinearPtr down; // H x I
  // Of each head, before rotation.
  Norm query_norm{}, key_norm{}, value_norm{};
  // The projections of relative positions by the layer's query and key, 2S x D for each head; empty without them.
  // Position queries are scaled as the query is.
  std::vector<LinearPtr> position_queries{}, position_keys{};
  LayerInput input{};
  float scale = 1.0f; // what x is multiplied with at the end of the layer
};

// The caller owns the tables of a model (usually mapped from a file); they outlive it.

// Word embeddings as they are stored; a row is widened when a token is embedded.
struct WordTable {
  enum class Kind : std::int32_t { float32, float16, bfloat16, int8 } kind;
  const void *rows;             // [vocabulary][E]
  const float *scale = nullptr; // [vocabulary], of int8

  WordTable(const float *floats) : kind(Kind::float32), rows(floats) {}
  WordTable(Kind kind, const void *rows, const float *scale) : kind(kind), rows(rows), scale(scale) {}

  // out = factor * row `at`.
  void read(int at, int hidden, float factor, float *out) const {
    const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(at) * hidden;
    const auto widen = [=]<class T>(const T *stored, auto &&value) {
      for (int c = 0; c < hidden; ++c)
        out[c] = value(stored[first + c]) * factor;
    };
    switch (kind) {
    case Kind::float32:
      widen(static_cast<const float *>(rows), [](float v) { return v; });
      break;
    case Kind::float16:
      widen(static_cast<const std::uint16_t *>(rows), from_half);
      break;
    case Kind::bfloat16:
      widen(static_cast<const std::uint16_t *>(rows),
            [](std::uint16_t v) { return std::bit_cast<float>(static_cast<std::uint32_t>(v) << 16); });
      break;
    case Kind::int8:
      widen(static_cast<const std::int8_t *>(rows),
            [s = scale[at]](std::int8_t v) { return static_cast<float>(v) * s; });
      break;
    }
  }

  // Exact, subnormal numbers included.
  static float from_half(std::uint16_t v) {
    const std::uint32_t bits = static_cast<std::uint32_t>(v & 0x7fff) << 13;
    const float magnitude =
        (v & 0x7c00) == 0x7c00 ? std::bit_cast<float>(bits | 0x7f800000u) : std::bit_cast<float>(bits) * 0x1p112f;
    return (v & 0x8000) != 0 ? -magnitude : magnitude;
  }
};

struct Embeddings {
  WordTable word;
  const float *position;   // [positions][E], E = H without a projection; or null
  const float *token_type; // [token_types][E], or null
  Norm norm{};
  LinearPtr projection{}; // H x E, after the norm, in the order of the model; or null
};

// The order of the hidden dimension inside the model: feature c is feature order[c] of the tables and of pooled
// vectors, which keep the natural order. Empty for the natural order.
using FeatureOrder = std::vector<std::int32_t>; // [H], each of 0..H-1 once

// Tables of one rotary position embedding.
struct Rotary {
  const float *cosine, *sine; // [longest][D / 2]
};

// The bias added to a score for the distance of key and query, times log2(e): heads[h][j - i + reach - 1].
struct DistanceBias {
  const float *heads = nullptr; // [heads][2 * reach - 1], or null
  int reach = 0;                // at least longest
};

// Which relative position a query and a key have: rows[j - i + reach - 1], a row of a layer's position queries and
// keys. Falls with j - i.
struct RelativeRows {
  const std::int32_t *rows = nullptr; // [2 * reach - 1], in [0, 2S), or null
  int reach = 0;                      // longest
};

// A step of the head, which runs on pooled vectors, or on those of all tokens where words follow: a linear layer with
// its activation, or a norm.
struct HeadStep {
  LinearPtr dense;
  Activation activation;
  Norm norm; // where there is no dense layer
};

// A weight for each word of the vocabulary instead of a pooled vector.
struct Words {
  LinearPtr linear; // from a token's vector to logits; null for a model without
  WordPooling pooling;
};

struct Model {
  const KernelTable &kernels;
  Geometry geometry;
  Embeddings embeddings;
  FeatureOrder order{};
  std::vector<Rotary> rotary{};
  DistanceBias bias{};
  RelativeRows relative{};
  std::vector<Layer> layers{};
  Norm final_norm{}; // after the last layer
  std::vector<HeadStep> head{};
  Words words{};

  // Features of a vector: H for each pooling, or the outputs of the head's last dense layer, or of the words.
  int outputs() const;
  // Of the linear layers, packed.
  std::size_t weight_bytes() const;
};

} // namespace quaver
