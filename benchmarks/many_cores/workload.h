// The models and batches that are measured and simulated: the shapes of BGE with random weights in the form of
// precision="int8", and ids that do not matter.
#pragma once

#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "engine/encoder.h"

namespace quaver::many_cores {

struct Shape {
  const char *name;
  int hidden, heads, layers;
};
inline constexpr Shape kShapes[] = {{"small", 384, 12, 12}, {"base", 768, 12, 12}};
inline constexpr int kVocabulary = 64, kPositions = 512;

// The tables of an encoder; they outlive it.
struct Tables {
  std::vector<float> words, positions, types;
};

// The linear layers as src/quaver/engine/eight_bits.py makes them: the wide features have a range of their own in the
// inputs of `qkv` and `up`, those of `down` have eight; all weights but those of `out` are asymmetric.
enum class LinearPlace { qkv, out, up, down };

inline std::vector<int> group_ends(LinearPlace place, int inputs) {
  constexpr int wide = 64, parts = 8;
  if (place == LinearPlace::qkv || place == LinearPlace::up)
    return {wide, inputs};
  std::vector<int> ends;
  for (int part = 1; place == LinearPlace::down && part <= parts; ++part)
    ends.push_back(inputs / parts * part);
  return ends;
}

inline LinearPtr random_linear(LinearPlace place, int outputs, int inputs, const KernelTable &kernels,
                               WeightMemory &memory) {
  std::mt19937 random(1);
  std::vector<std::int8_t> weight(static_cast<std::size_t>(outputs) * static_cast<std::size_t>(inputs));
  for (auto &w : weight)
    w = static_cast<std::int8_t>(static_cast<int>(random() % 255) - 127);
  const std::vector<int> ends = group_ends(place, inputs);
  const std::vector<float> scale(static_cast<std::size_t>(outputs) * std::max(ends.size(), std::size_t{1}), 1e-3f),
      centers(scale.size(), 3.0f), bias(static_cast<std::size_t>(outputs), 0.01f);
  return std::make_unique<Int8Linear>(weight.data(), scale.data(), bias.data(), InputRange{0.0f, 0}, outputs, inputs,
                                      kernels, memory,
                                      InputGroups{ends, place == LinearPlace::out ? nullptr : centers.data()});
}

inline Norm plain_norm(int features) {
  const auto size = static_cast<std::size_t>(features);
  Norm norm{NormKind::layer, 1e-12f, Buffer<float>(size), Buffer<float>(size)};
  std::fill_n(norm.gamma.data(), size, 1.0f);
  return norm;
}

inline Model model_of(const Shape &shape, const KernelTable &kernels, Tables &tables) {
  const int hidden = shape.hidden;
  const auto fill = [&](std::vector<float> &table, int rows) {
    std::mt19937 random(2);
    std::normal_distribution<float> normal;
    table.resize(static_cast<std::size_t>(rows) * static_cast<std::size_t>(hidden));
    for (float &v : table)
      v = normal(random);
  };
  fill(tables.words, kVocabulary);
  fill(tables.positions, kPositions);
  fill(tables.types, 2);
  const LayerSpec spec{.heads = shape.heads,
                       .kv_heads = shape.heads,
                       .head_size = hidden / shape.heads,
                       .intermediate = 4 * hidden,
                       .behind = kMaxLength,
                       .ahead = kMaxLength,
                       .rotary = -1,
                       .attention = AttentionPrecision::int8,
                       .gate = Gate::none,
                       .activation = Activation::gelu};
  Model m{.kernels = kernels,
          .geometry = {hidden, kVocabulary, kPositions, 0, 2, 1.0f, {Pooling::cls}, true},
          .embeddings = {tables.words.data(), tables.positions.data(), tables.types.data(), plain_norm(hidden)}};
  WeightMemory memory;
  for (int l = 0; l < shape.layers; ++l)
    m.layers.push_back({.spec = spec,
                        .attention = {{}, {}, plain_norm(hidden)},
                        .feed_forward = {{}, {}, plain_norm(hidden)},
                        .qkv = random_linear(LinearPlace::qkv, spec.qkv_width(), hidden, kernels, memory),
                        .out = random_linear(LinearPlace::out, hidden, hidden, kernels, memory),
                        .up = random_linear(LinearPlace::up, 4 * hidden, hidden, kernels, memory),
                        .down = random_linear(LinearPlace::down, hidden, 4 * hidden, kernels, memory)});
  return m;
}

struct Batch {
  std::string name;
  std::vector<std::int32_t> ids, offsets{0};

  Batch(std::string name, const std::vector<int> &lengths) : name(std::move(name)) {
    for (const int length : lengths)
      offsets.push_back(offsets.back() + length);
    ids.resize(static_cast<std::size_t>(offsets.back()));
    for (std::size_t i = 0; i < ids.size(); ++i)
      ids[i] = static_cast<std::int32_t>(i % kVocabulary);
  }
  TokenBatch view() const {
    return {.ids = ids.data(),
            .type_ids = nullptr,
            .offsets = offsets.data(),
            .sequences = static_cast<int>(offsets.size()) - 1};
  }
};

// Lengths as passages have them: lognormal, mean 90, up to 512.
inline std::vector<int> ragged(int count) {
  std::mt19937 random(3);
  std::normal_distribution<double> normal;
  std::vector<int> lengths;
  for (int i = 0; i < count; ++i)
    lengths.push_back(std::clamp(static_cast<int>(std::exp(4.18 + 0.8 * normal(random))), 4, kPositions));
  lengths.front() = kPositions;
  return lengths;
}

inline std::vector<Batch> batches() {
  const auto same = [](int texts, int tokens) {
    return Batch(std::to_string(texts) + "x" + std::to_string(tokens),
                 std::vector<int>(static_cast<std::size_t>(texts), tokens));
  };
  return {same(1, 16),
          same(1, 128),
          same(1, 512),
          same(4, 64),
          same(32, 256),
          same(64, 256),
          same(128, 256),
          {"64 ragged", ragged(64)},
          {"256 ragged", ragged(256)}};
}

} // namespace quaver::many_cores
