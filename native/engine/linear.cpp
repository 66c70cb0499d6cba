#include "engine/linear.h"

#include <cstring>

namespace quaver {
namespace {

std::size_t area(int a, std::ptrdiff_t b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); }

} // namespace

Linear::Linear(const float *bias, int outputs, int inputs, const KernelTable &kernels)
    : outputs_(outputs), inputs_(inputs), kernels_(kernels), bias_(area(panels(), kPanel)) {
  std::memcpy(bias_.data(), bias, sizeof(float) * area(outputs, 1));
}

// --- float32 ---------------------------------------------------------------------------------------------------------

Float32Linear::Float32Linear(const float *weight, const float *bias, int outputs, int inputs,
                             const KernelTable &kernels, WeightMemory &memory)
    : Linear(bias, outputs, inputs, kernels), panels_(memory.take_array<float>(area(panels() * kPanel, inputs))) {
  for (int o = 0; o < outputs; ++o) {
    const float *row = weight + static_cast<std::ptrdiff_t>(o) * inputs;
    float *target = panels_.get() + static_cast<std::ptrdiff_t>(o / kPanel) * kPanel * inputs + o % kPanel;
    for (int k = 0; k < inputs; ++k)
      target[static_cast<std::ptrdiff_t>(k) * kPanel] = row[k];
  }
}

LinearInput Float32Linear::read(const float *x, std::ptrdiff_t ldx, int rows, ResidualRows, InputRoom &) const {
  return {x, ldx, rows, {}, {}, nullptr};
}

void Float32Linear::prepare(const LinearInput &, int, int) const {}

void Float32Linear::multiply(const LinearInput &input, int first_panel, int last_panel, float *y, std::ptrdiff_t ldy,
                             Activation act) const {
  kernels_.linear_float32(input.x, input.ldx, input.rows, view(), first_panel, last_panel, y, ldy, act);
}

std::size_t Float32Linear::bytes() const { return sizeof(float) * (area(panels() * kPanel, inputs_) + bias_.size()); }

// --- int8 ------------------------------------------------------------------------------------------------------------

Int8Linear::Int8Linear(const std::int8_t *weight, const float *scale, const float *bias, InputRange range, int outputs,
                       int inputs, const KernelTable &kernels, WeightMemory &memory)
    : Linear(bias, outputs, inputs, kernels), range_(range),
      panels_(memory.take_array<std::int8_t>(area(panels() * kPanel, round_up(inputs, kDepthStep)))),
      scale_(bias_.size()), column_sums_(bias_.size()) {
  const int depth = round_up(inputs, kDepthStep), group = kernels.group;
  std::memcpy(scale_.data(), scale, sizeof(float) * area(outputs, 1));
  for (int o = 0; o < outputs; ++o) {
    const std::int8_t *row = weight + static_cast<std::ptrdiff_t>(o) * inputs;
    std::int8_t *target = panels_.get() + static_cast<std::ptrdiff_t>(o / kStrip) * kStrip * depth + o % kStrip * group;
    std::int32_t sum = 0;
    int k = 0;
    for (; k + group <= inputs; k += group)
      std::memcpy(target + static_cast<std::ptrdiff_t>(k) * kStrip, row + k, static_cast<std::size_t>(group));
    if (k < inputs)
      std::memcpy(target + static_cast<std::ptrdiff_t>(k) * kStrip, row + k, static_cast<std::size_t>(inputs - k));
    for (k = 0; k < inputs; ++k)
      sum += row[k];
    column_sums_.data()[o] = static_cast<float>(sum);
  }
}

LinearInput Int8Linear::read(const float *x, std::ptrdiff_t ldx, int rows, ResidualRows residuals,
                             InputRoom &room) const {
  const int all = rows + residuals.rows;
  const std::ptrdiff_t ldq = round_up(inputs_, kDepthStep);
  const RoundedRows rounded{room.q.resize(area(all + kernels_.overread_rows, ldq)), ldq,
                            room.scale.resize(area(all, 1)), room.zero.resize(area(all, 1))};
  return {x, ldx, rows, residuals, rounded, room.lost.resize(area(residuals.rows, inputs_))};
}

void Int8Linear::prepare(const LinearInput &input, int first, int last) const {
  round(range_, input.x + first * input.ldx, input.ldx, last - first, input.rounded.from(first));
  for (int i = 0; i < input.residuals.rows; ++i) {
    const int row = input.residuals.of[i];
    if (row < first || row >= last)
      continue;
    const float *x = input.x + row * input.ldx;
    const RoundedRows rounded = input.rounded.from(row);
    float *lost = input.lost + static_cast<std::ptrdiff_t>(i) * inputs_;
    for (int c = 0; c < inputs_; ++c)
      lost[c] = x[c] - rounded.scale[0] * static_cast<float>(rounded.q[c] - rounded.zero[0]);
    round({0.0f, 0}, lost, inputs_, 1, input.rounded.from(input.rows + i));
  }
}

// Quantize rows, with one range for all of them if there is one.
void Int8Linear::round(InputRange range, const float *x, std::ptrdiff_t ldx, int rows,
                       const RoundedRows &target) const {
  if (range.scale > 0.0f)
    kernels_.quantize_rows_fixed(x, ldx, rows, inputs_, range.scale, range.zero, target.q, target.ldq, target.scale,
                                 target.zero);
  else
    kernels_.quantize_rows(x, ldx, rows, inputs_, target.q, target.ldq, target.scale, target.zero);
}

void Int8Linear::multiply(const LinearInput &input, int first_panel, int last_panel, float *y, std::ptrdiff_t ldy,
                          Activation act) const {
  kernels_.linear_int8(input.rounded, input.rows, input.residuals, view(), first_panel, last_panel, y, ldy, act);
}

std::size_t Int8Linear::bytes() const {
  return scale_.size() * static_cast<std::size_t>(round_up(inputs_, kDepthStep)) +
         sizeof(float) * (scale_.size() + column_sums_.size() + bias_.size());
}

} // namespace quaver
