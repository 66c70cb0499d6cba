#include "engine/pool.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "engine/scratch.h"

namespace quaver {
namespace {

// Rows of a chunk that make one vector.
struct Part {
  int row, rows;
  int place; // of the vector in the batch
};

std::vector<Part> parts_of(const TokenBatch &batch, const Sequences &sequences) {
  std::vector<Part> parts;
  for (const Sequence &s : sequences) {
    if (batch.spans == nullptr) {
      parts.push_back({s.row, s.length, s.index});
      continue;
    }
    for (int i = batch.span_offsets[s.index]; i < batch.span_offsets[s.index + 1]; ++i)
      parts.push_back({s.row + batch.spans[2 * i], batch.spans[2 * i + 1] - batch.spans[2 * i], i});
  }
  return parts;
}

void pool(const Matrix &tokens, const Part &part, int hidden, Pooling pooling, float *vector) {
  const float *x = tokens.row(part.row);
  if (pooling == Pooling::cls || pooling == Pooling::last) {
    std::copy_n(x + (pooling == Pooling::last ? part.rows - 1 : 0) * tokens.ld, hidden, vector);
    return;
  }
  std::copy_n(x, hidden, vector);
  for (int row = 1; row < part.rows; ++row)
    for (int c = 0; c < hidden; ++c) {
      const float weight = pooling == Pooling::weighted ? static_cast<float>(row + 1) : 1.0f;
      const float value = weight * x[row * tokens.ld + c];
      vector[c] = pooling != Pooling::max                  ? vector[c] + value
                  : value > vector[c] || std::isnan(value) ? value // std::max would drop NaN
                                                           : vector[c];
    }
  if (pooling == Pooling::max)
    return;
  const auto length = static_cast<float>(part.rows);
  const float total = pooling == Pooling::weighted ? length * (length + 1.0f) / 2.0f : length;
  const float share = 1.0f / (pooling == Pooling::mean_sqrt ? std::sqrt(length) : total);
  for (int c = 0; c < hidden; ++c)
    vector[c] *= share;
}

void to_natural(const FeatureOrder &order, float *vector) {
  float *ordered = scratch().natural.resize(order.size());
  std::copy_n(vector, order.size(), ordered);
  for (std::size_t c = 0; c < order.size(); ++c)
    vector[order[c]] = ordered[c];
}

void normalize(float *vector, int columns) {
  double square = 0.0;
  for (int c = 0; c < columns; ++c)
    square += static_cast<double>(vector[c]) * vector[c];
  const float factor = static_cast<float>(1.0 / std::max(std::sqrt(square), 1e-12));
  for (int c = 0; c < columns; ++c)
    vector[c] *= factor;
}

struct Block {
  float *x;
  std::ptrdiff_t ld;
  int columns;
};

// The vectors of some parts, pooled and through the head, in the scratch of this thread. Every step computes a row from
// that row alone, so a vector's bits do not depend on the chunk.
Block through_head(const Model &model, const Matrix &tokens, const Part *parts, int rows) {
  const std::vector<Pooling> &poolings = model.geometry.pooling;
  const int hidden = model.geometry.hidden;
  Scratch &s = scratch();
  Block block{nullptr, 0, hidden * static_cast<int>(poolings.size())};
  block.ld = round_up(block.columns, kPanel);
  block.x = s.pooled.resize(area(rows, block.ld));
  for (int r = 0; r < rows; ++r)
    for (std::size_t i = 0; i < poolings.size(); ++i) {
      float *vector = block.x + r * block.ld + static_cast<std::ptrdiff_t>(i) * hidden;
      pool(tokens, parts[r], hidden, poolings[i], vector);
      to_natural(model.order, vector);
    }
  for (const HeadStep &step : model.head) {
    if (step.dense == nullptr) {
      model.kernels.add_norm(block.x, block.ld, nullptr, 0, rows, block.columns, step.norm.view(), block.x, block.ld);
      continue;
    }
    const std::ptrdiff_t ldy = round_up(step.dense->outputs(), kPanel);
    float *y = s.stepped.resize(area(rows, ldy));
    const LinearInput input = step.dense->read(block.x, block.ld, rows, {}, s.input);
    step.dense->prepare(input, 0, rows);
    step.dense->multiply(input, 0, step.dense->panels(), y, ldy, step.activation);
    std::swap(s.pooled, s.stepped);
    block = {y, ldy, step.dense->outputs()};
  }
  return block;
}

// Panels of words whose logits are computed at a time, and tokens: both fit the caches with what they are computed
// from.
constexpr int kWordPanels = 2, kWordRows = 256;

float weight_of(float logit, const WordPooling &pooling) {
  const float once = std::log1p(logit);
  return pooling.logarithms == 2 ? std::log1p(once) : once;
}

// Take the logits y f32 [rows][ld] of `columns` words and of the tokens from `first` on into the weights of their
// sequences.
void collect(const Sequences &sequences, int first, int rows, const float *y, std::ptrdiff_t ld, int columns,
             const WordPooling &pooling, float *weights, int words) {
  for (const Sequence &s : sequences) {
    const int begin = std::max(s.row, first), end = std::min(s.row + s.length, first + rows);
    float *weight = weights + static_cast<std::ptrdiff_t>(s.index) * words;
    for (int row = begin; row < end; ++row) {
      const float *logits = y + (row - first) * ld;
      if (!pooling.sum)
        for (int c = 0; c < columns; ++c)
          weight[c] = logits[c] > weight[c] || std::isnan(logits[c]) ? logits[c] : weight[c];
      else
        for (int c = 0; c < columns; ++c)
          if (!(logits[c] <= 0.0f))
            weight[c] += weight_of(logits[c], pooling);
    }
  }
}

// The logits of all tokens and words are never in memory at once: a block of them is taken into the weights of its
// sequences before the next one is computed.
void weigh_words(const Model &model, const TokenVectors &tokens, Team team, float *weights) {
  const Words &words = model.words;
  const Sequences &sequences = tokens.sequences;
  const int all = sequences.back().row + sequences.back().length, outputs = words.linear->outputs();
  for (const Sequence &s : sequences)
    std::fill_n(weights + static_cast<std::ptrdiff_t>(s.index) * outputs, outputs, 0.0f);
  Activations &buffers = activations();
  const std::ptrdiff_t ld = round_up(words.linear->inputs(), kPanel);
  for (int first = 0; first < all; first += kWordRows) {
    const int rows = std::min(kWordRows, all - first);
    float *x = buffers.tokens.resize(area(rows, ld));
    const LinearInput input = words.linear->read(x, ld, rows, {}, buffers.rounded);
    team.each_block(rows, [&](int begin, int end) {
      std::vector<Part> parts;
      for (int row = begin; row < end; ++row)
        parts.push_back({first + row, 1, 0});
      const Block block = through_head(model, tokens.rows, parts.data(), end - begin);
      for (int row = begin; row < end; ++row)
        std::copy_n(block.x + (row - begin) * block.ld, ld, x + row * ld);
      words.linear->prepare(input, begin, end);
    });
    const int panels = words.linear->panels();
    team.each((panels + kWordPanels - 1) / kWordPanels, [&](int i) {
      const int panel = i * kWordPanels, last = std::min(panel + kWordPanels, panels), word = panel * kPanel;
      const int columns = std::min(last * kPanel, outputs) - word;
      constexpr std::ptrdiff_t width = kWordPanels * kPanel;
      // A panel is written at its place in a row of all words, of which only these columns are there.
      float *y = scratch().logits.resize(area(rows, width)) - word;
      words.linear->multiply(input, panel, last, y, width, Activation::none);
      collect(sequences, first, rows, y + word, width, columns, words.pooling, weights + word, outputs);
      if (words.pooling.sum || first + rows < all)
        return;
      for (const Sequence &s : sequences) {
        float *weight = weights + static_cast<std::ptrdiff_t>(s.index) * outputs + word;
        for (int c = 0; c < columns; ++c)
          if (weight[c] != 0.0f)
            weight[c] = weight_of(weight[c], words.pooling);
      }
    });
  }
}

} // namespace

void finish(const Model &model, const TokenBatch &batch, const TokenVectors &tokens, Team team, float *vectors) {
  if (model.words.linear != nullptr) {
    weigh_words(model, tokens, team, vectors);
    return;
  }
  const std::vector<Part> parts = parts_of(batch, tokens.sequences);
  if (parts.empty())
    return;
  team.each_block(static_cast<int>(parts.size()), [&](int first, int last) {
    const Block block = through_head(model, tokens.rows, &parts[static_cast<std::size_t>(first)], last - first);
    for (int r = first; r < last; ++r) {
      float *vector = vectors + static_cast<std::ptrdiff_t>(parts[static_cast<std::size_t>(r)].place) * block.columns;
      std::copy_n(block.x + (r - first) * block.ld, block.columns, vector);
      if (model.geometry.normalize)
        normalize(vector, block.columns);
    }
  });
}

int first_not_finite(const float *vectors, int rows, int columns) {
  constexpr std::uint32_t magnitude = 0x7fffffff, infinity = 0x7f800000;
  for (int r = 0; r < rows; ++r, vectors += columns) {
    std::uint32_t largest = 0;
    for (int c = 0; c < columns; ++c)
      largest = std::max(largest, std::bit_cast<std::uint32_t>(vectors[c]) & magnitude);
    if (largest >= infinity)
      return r;
  }
  return -1;
}

} // namespace quaver
