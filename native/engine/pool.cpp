// After the last layer: pool token vectors to one for each sequence, and run the head on it.
#include <algorithm>
#include <bit>
#include <cmath>

#include "engine/chunk.h"

namespace quaver {

int Encoder::outputs() const {
  for (auto step = head_.rbegin(); step != head_.rend(); ++step)
    if (step->dense)
      return step->dense->outputs();
  return spec_.hidden * static_cast<int>(spec_.pooling.size());
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

void Encoder::pool(const Chunk &chunk, const Sequence &sequence, Pooling pooling, float *vector) const {
  const int hidden = spec_.hidden;
  const float *x = chunk.input + sequence.row * chunk.ldx;
  if (pooling == Pooling::cls || pooling == Pooling::last) {
    std::copy_n(x + (pooling == Pooling::last ? sequence.length - 1 : 0) * chunk.ldx, hidden, vector);
    return;
  }
  std::copy_n(x, hidden, vector);
  for (int row = 1; row < sequence.length; ++row)
    for (int c = 0; c < hidden; ++c) {
      const float value = x[row * chunk.ldx + c];
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

// Every step computes a row from that row alone, so a vector's bits do not depend on the chunk.
void Encoder::finish(const Chunk &chunk, float *vectors) const {
  Activations &buffers = activations();
  const int rows = static_cast<int>(chunk.sequences.size());
  int columns = spec_.hidden * static_cast<int>(spec_.pooling.size());
  std::ptrdiff_t ld = round_up(columns, kPanel);
  float *x = buffers.pooled.resize(area(rows, ld));
  for (int r = 0; r < rows; ++r)
    for (std::size_t i = 0; i < spec_.pooling.size(); ++i)
      pool(chunk, chunk.sequences[static_cast<std::size_t>(r)], spec_.pooling[i],
           x + r * ld + static_cast<std::ptrdiff_t>(i) * spec_.hidden);
  for (const HeadStep &step : head_) {
    if (!step.dense) {
      kernels_.add_norm(x, ld, nullptr, 0, rows, columns, step.norm.gamma.data(), step.norm.beta.data(), step.eps, x,
                        ld);
      continue;
    }
    columns = step.dense->outputs();
    const std::ptrdiff_t ldy = round_up(columns, kPanel);
    float *y = buffers.head.resize(area(rows, ldy));
    kernels_.linear_float32(x, ld, rows, step.dense->float_view(), 0, step.dense->panels(), y, ldy, step.activation);
    std::swap(buffers.pooled, buffers.head);
    x = y;
    ld = ldy;
  }
  for (int r = 0; r < rows; ++r) {
    float *vector = vectors + static_cast<std::ptrdiff_t>(chunk.sequences[static_cast<std::size_t>(r)].index) * columns;
    std::copy_n(x + r * ld, columns, vector);
    if (!spec_.normalize)
      continue;
    double square = 0.0;
    for (int c = 0; c < columns; ++c)
      square += static_cast<double>(vector[c]) * vector[c];
    const float factor = static_cast<float>(1.0 / std::max(std::sqrt(square), 1e-12));
    for (int c = 0; c < columns; ++c)
      vector[c] *= factor;
  }
}

} // namespace quaver
