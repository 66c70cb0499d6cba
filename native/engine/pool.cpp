#include "engine/pool.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "engine/scratch.h"

namespace quaver {
namespace {

void pool(const Matrix &tokens, const Sequence &sequence, int hidden, Pooling pooling, float *vector) {
  const float *x = tokens.row(sequence.row);
  if (pooling == Pooling::cls || pooling == Pooling::last) {
    std::copy_n(x + (pooling == Pooling::last ? sequence.length - 1 : 0) * tokens.ld, hidden, vector);
    return;
  }
  std::copy_n(x, hidden, vector);
  for (int row = 1; row < sequence.length; ++row)
    for (int c = 0; c < hidden; ++c) {
      const float value = x[row * tokens.ld + c];
      vector[c] = pooling != Pooling::max                  ? vector[c] + value
                  : value > vector[c] || std::isnan(value) ? value // std::max would drop NaN
                                                           : vector[c];
    }
  if (pooling == Pooling::max)
    return;
  const auto length = static_cast<float>(sequence.length);
  const float share = 1.0f / (pooling == Pooling::mean ? length : std::sqrt(length));
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

} // namespace

// Every step computes a row from that row alone, so a vector's bits do not depend on the chunk.
void finish(const Model &model, const TokenVectors &tokens, float *vectors) {
  Activations &buffers = activations();
  const std::vector<Pooling> &poolings = model.geometry.pooling;
  const int rows = static_cast<int>(tokens.sequences.size()), hidden = model.geometry.hidden;
  int columns = hidden * static_cast<int>(poolings.size());
  std::ptrdiff_t ld = round_up(columns, kPanel);
  float *x = buffers.pooled.resize(area(rows, ld));
  for (int r = 0; r < rows; ++r)
    for (std::size_t i = 0; i < poolings.size(); ++i) {
      float *vector = x + r * ld + static_cast<std::ptrdiff_t>(i) * hidden;
      pool(tokens.rows, tokens.sequences[static_cast<std::size_t>(r)], hidden, poolings[i], vector);
      to_natural(model.order, vector);
    }
  for (const HeadStep &step : model.head) {
    if (step.dense == nullptr) {
      model.kernels.add_norm(x, ld, nullptr, 0, rows, columns, step.norm.view(), x, ld);
      continue;
    }
    columns = step.dense->outputs();
    const std::ptrdiff_t ldy = round_up(columns, kPanel);
    float *y = buffers.head.resize(area(rows, ldy));
    const LinearInput input = step.dense->read(x, ld, rows, {}, buffers.rounded);
    step.dense->prepare(input, 0, rows);
    step.dense->multiply(input, 0, step.dense->panels(), y, ldy, step.activation);
    std::swap(buffers.pooled, buffers.head);
    x = y;
    ld = ldy;
  }
  for (int r = 0; r < rows; ++r) {
    float *vector =
        vectors + static_cast<std::ptrdiff_t>(tokens.sequences[static_cast<std::size_t>(r)].index) * columns;
    std::copy_n(x + r * ld, columns, vector);
    if (model.geometry.normalize)
      normalize(vector, columns);
  }
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
