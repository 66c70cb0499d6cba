#include "engine/linear.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/scratch.h"

namespace quaver {

Linear::Linear(const float *bias, int outputs, int inputs, const KernelTable &kernels)
    : outputs_(outputs), inputs_(inputs), kernels_(kernels), bias_(area(panels(), kPanel)) {
  std::memcpy(bias_.data(), bias, sizeof(float) * area(outputs, 1));
}

// --- Kinds that read float32 -----------------------------------------------------------------------------------------

LinearInput FloatInputLinear::read(const float *x, std::ptrdiff_t ldx, int rows, ResidualRows, InputRoom &) const {
  return {x, ldx, rows, {}, {}, nullptr};
}

void FloatInputLinear::prepare(const LinearInput &, int, int) const {}

Float32Linear::Float32Linear(const float *weight, const float *bias, int outputs, int inputs,
                             const KernelTable &kernels, WeightMemory &memory)
    : FloatInputLinear(bias, outputs, inputs, kernels),
      panels_(memory.take_array<float>(area(panels() * kPanel, inputs))) {
  for (int o = 0; o < outputs; ++o) {
    const float *row = weight + static_cast<std::ptrdiff_t>(o) * inputs;
    float *target = panels_.get() + static_cast<std::ptrdiff_t>(o / kStrip) * kStrip * inputs + o % kStrip;
    for (int k = 0; k < inputs; ++k)
      target[static_cast<std::ptrdiff_t>(k) * kStrip] = row[k];
  }
}

void Float32Linear::multiply(const LinearInput &input, int first_panel, int last_panel, float *y, std::ptrdiff_t ldy,
                             Activation act) const {
  kernels_.linear_float32(input.x, input.ldx, input.rows, view(), first_panel, last_panel, y, ldy, act);
}

std::size_t Float32Linear::bytes() const { return sizeof(float) * (area(panels() * kPanel, inputs_) + bias_.size()); }

namespace {

// Halves go to the even neighbor.
std::uint16_t nearest_bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

} // namespace

BFloat16Linear::BFloat16Linear(const float *weight, const float *scale, const float *bias, int outputs, int inputs,
                               const KernelTable &kernels, WeightMemory &memory)
    : FloatInputLinear(bias, outputs, inputs, kernels),
      panels_(memory.take_array<std::uint16_t>(area(panels() * kPanel, round_up(inputs, kPairStep)))),
      scale_(bias_.size()) {
  std::memcpy(scale_.data(), scale, sizeof(float) * area(outputs, 1));
  for (int o = 0; o < outputs; ++o) {
    const float *row = weight + static_cast<std::ptrdiff_t>(o) * inputs;
    std::uint16_t *target =
        panels_.get() + static_cast<std::ptrdiff_t>(o / kStrip) * kStrip * round_up(inputs, kPairStep) + o % kStrip * 2;
    for (int k = 0; k < inputs; ++k)
      target[static_cast<std::ptrdiff_t>(k / 2) * 2 * kStrip + k % 2] = nearest_bfloat16(row[k]);
  }
}

void BFloat16Linear::multiply(const LinearInput &input, int first_panel, int last_panel, float *y, std::ptrdiff_t ldy,
                              Activation act) const {
  kernels_.linear_bfloat16(input.x, input.ldx, input.rows, view(), first_panel, last_panel, y, ldy, act);
}

std::size_t BFloat16Linear::bytes() const {
  return sizeof(std::uint16_t) * area(panels() * kPanel, round_up(inputs_, kPairStep)) +
         sizeof(float) * (scale_.size() + bias_.size());
}

LinearInput PairLinear::read(const float *x, std::ptrdiff_t ldx, int rows, ResidualRows, InputRoom &room) const {
  return {x, ldx, rows, {}, {}, nullptr, room.pairs.resize(area(rows + kernels_.bfloat16->overread_rows, row_size()))};
}

void PairLinear::prepare(const LinearInput &input, int first, int last) const {
  kernels_.bfloat16->round_rows(input.x + first * input.ldx, input.ldx, last - first, inputs_,
                                input.pairs + first * row_size(), row_size());
}

void PairLinear::multiply(const LinearInput &input, int first_panel, int last_panel, float *y, std::ptrdiff_t ldy,
                          Activation act) const {
  kernels_.bfloat16->linear(input.pairs, row_size(), input.rows, view(), first_panel, last_panel, y, ldy, act);
}

// --- Kinds that read u8 ----------------------------------------------------------------------------------------------

namespace {

std::vector<int> padded_ends(const std::vector<int> &ends, int inputs, int apart) {
  std::vector<int> padded = ends.empty() ? std::vector{inputs} : ends;
  padded.back() = round_up(inputs, kDepthStep);
  if (apart > 0)
    padded.push_back(padded.back() + round_up(apart, kDepthStep));
  return padded;
}

} // namespace

ByteInputLinear::ByteInputLinear(const float *bias, InputRange range, const std::vector<int> &ends, bool sums,
                                 int outputs, int inputs, const KernelTable &kernels, const std::vector<int> &apart)
    : Linear(bias, outputs, inputs, kernels), range_(range),
      ends_(padded_ends(ends, inputs, static_cast<int>(apart.size()))), sums_(sums), apart_(apart) {}

LinearInput ByteInputLinear::read(const float *x, std::ptrdiff_t ldx, int rows, ResidualRows residuals,
                                  InputRoom &room) const {
  const int all = rows + residuals.rows;
  const std::ptrdiff_t ldq = depth();
  const std::size_t scales = area(all, groups());
  const RoundedRows rounded{room.q.resize(area(all + kernels_.overread_rows, ldq)),
                            ldq,
                            room.scale.resize(scales),
                            room.zero.resize(scales),
                            sums_ ? room.sums.resize(scales) : nullptr,
                            all};
  return {x, ldx, rows, residuals, rounded, room.lost.resize(area(residuals.rows, inputs_))};
}

void ByteInputLinear::prepare(const LinearInput &input, int first, int last) const {
  round(range_, input.x + first * input.ldx, input.ldx, last - first, input.rounded.from(first, 0, 0));
  for (int i = 0; i < input.residuals.rows; ++i) {
    const int row = input.residuals.of[i];
    if (row < first || row >= last)
      continue;
    const float *x = input.x + row * input.ldx;
    float *lost = input.lost + static_cast<std::ptrdiff_t>(i) * inputs_;
    for (int g = 0, c = 0; g < groups(); ++g) {
      const RoundedRows rounded = input.rounded.from(row, g, 0);
      for (; c < inputs_ && c < ends_[static_cast<std::size_t>(g)]; ++c)
        lost[c] = x[c] - rounded.scale[0] * static_cast<float>(rounded.q[c] - rounded.zero[0]);
    }
    if (!apart_.empty()) {
      const RoundedRows rounded = input.rounded.from(row, groups() - 1, ends_[ends_.size() - 2]);
      for (std::size_t i = 0; i < apart_.size(); ++i)
        lost[apart_[i]] = x[apart_[i]] - rounded.scale[0] * static_cast<float>(rounded.q[i] - rounded.zero[0]);
    }
    round({0.0f, 0}, lost, inputs_, 1, input.rounded.from(input.rows + i, 0, 0));
  }
}

// Quantize rows; inputs apart row by row, as they are gathered.
void ByteInputLinear::round(InputRange range, const float *x, std::ptrdiff_t ldx, int rows,
                            const RoundedRows &target) const {
  if (apart_.empty()) {
    round_parts(range, x, ldx, rows, target);
    return;
  }
  const int count = static_cast<int>(apart_.size()), place = ends_[ends_.size() - 2];
  float *others = scratch().others.resize(static_cast<std::size_t>(inputs_ + count)), *wide = others + inputs_;
  for (int r = 0; r < rows; ++r, x += ldx) {
    std::memcpy(others, x, sizeof(float) * static_cast<std::size_t>(inputs_));
    for (int i = 0; i < count; ++i) {
      wide[i] = x[apart_[static_cast<std::size_t>(i)]];
      others[apart_[static_cast<std::size_t>(i)]] = 0.0f;
    }
    round_parts(range, others, inputs_, 1, target.from(r, 0, 0));
    const RoundedRows to = target.from(r, groups() - 1, place);
    kernels_.quantize_rows(wide, count, 1, count, to.q, to.ldq, to.scale, to.zero);
  }
}

// Quantize rows group by group, with one range for all of them if there is one.
void ByteInputLinear::round_parts(InputRange range, const float *x, std::ptrdiff_t ldx, int rows,
                                  const RoundedRows &target) const {
  for (int g = 0, begin = 0; g < groups() - (apart_.empty() ? 0 : 1); ++g) {
    const int end = ends_[static_cast<std::size_t>(g)], columns = std::min(end, inputs_) - begin;
    const RoundedRows to = target.from(0, g, begin);
    if (range.scale > 0.0f)
      kernels_.quantize_rows_fixed(x + begin, ldx, rows, columns, range.scale, range.zero, to.q, to.ldq, to.scale,
                                   to.zero);
    else
      kernels_.quantize_rows(x + begin, ldx, rows, columns, to.q, to.ldq, to.scale, to.zero);
    if (to.sums != nullptr)
      kernels_.row_sums(to.q, to.ldq, rows, end - begin, to.zero, to.sums);
    begin = end;
  }
}

Int8Linear::Int8Linear(const std::int8_t *weight, const float *scale, const float *bias, InputRange range, int outputs,
                       int inputs, const KernelTable &kernels, WeightMemory &memory, const InputGroups &groups)
    : ByteInputLinear(bias, range, groups.ends, groups.centers != nullptr, outputs, inputs, kernels),
      panels_(memory.take_array<std::int8_t>(area(panels() * kPanel, depth()))), scale_(ends_.size() * bias_.size()),
      column_sums_(scale_.size()), shifts_(sums_ ? scale_.size() : 0) {
  const int side = kernels.group, count = this->groups();
  for (int o = 0; o < outputs; ++o) {
    const std::int8_t *row = weight + static_cast<std::ptrdiff_t>(o) * inputs;
    std::int8_t *target =
        panels_.get() + static_cast<std::ptrdiff_t>(o / kStrip) * kStrip * depth() + o % kStrip * side;
    int k = 0;
    for (; k + side <= inputs; k += side)
      std::memcpy(target + static_cast<std::ptrdiff_t>(k) * kStrip, row + k, static_cast<std::size_t>(side));
    if (k < inputs)
      std::memcpy(target + static_cast<std::ptrdiff_t>(k) * kStrip, row + k, static_cast<std::size_t>(inputs - k));
    k = 0;
    for (int g = 0; g < count; ++g) {
      const std::size_t from = area(o, count) + area(g, 1),
                        to = area(o / kPanel * count + g, kPanel) + area(o % kPanel, 1);
      std::int32_t sum = 0;
      for (; k < inputs && k < ends_[static_cast<std::size_t>(g)]; ++k)
        sum += row[k];
      scale_.data()[to] = scale[from];
      column_sums_.data()[to] = static_cast<float>(sum);
      if (sums_)
        shifts_.data()[to] = scale[from] * groups.centers[from];
    }
  }
}

Int8Weights Int8Linear::view() const {
  return {.panels = panels_.get(),
          .scale = scale_.data(),
          .column_sums = column_sums_.data(),
          .bias = bias_.data(),
          .depth = depth(),
          .groups = groups(),
          .ends = ends_.data(),
          .shifts = shifts_.data()};
}

void Int8Linear::multiply(const LinearInput &input, int first_panel, int last_panel, float *y, std::ptrdiff_t ldy,
                          Activation act) const {
  kernels_.linear_int8(input.rounded, input.rows, input.residuals, view(), first_panel, last_panel, y, ldy, act);
}

std::size_t Int8Linear::bytes() const {
  return bias_.size() * static_cast<std::size_t>(depth()) +
         sizeof(float) * (scale_.size() + column_sums_.size() + shifts_.size() + bias_.size());
}

Int4Linear::Int4Linear(const std::int8_t *weight, const float *scale, const float *bias, InputRange range, int group,
                       int outputs, int inputs, const KernelTable &kernels, WeightMemory &memory,
                       const std::vector<int> &ends, const InputsApart &apart)
    : ByteInputLinear(bias, range, ends, false, outputs, inputs, kernels, apart.columns), group_(group),
      weight_groups_((inputs + group - 1) / group), depth_(round_up(inputs, kDepthStep)),
      panels_(memory.take_array<std::uint8_t>(area(panels() * kPanel, depth_) / 2)),
      scale_(area(weight_groups_, panels() * kPanel)), weight_sums_(ends_.size() * bias_.size()) {
  const int side = kernels.group;
  if (!apart.columns.empty())
    wide_ = std::make_unique<const Int8Linear>(apart.weight, apart.scale, bias, InputRange{0.0f, 0}, outputs,
                                               static_cast<int>(apart.columns.size()), kernels, memory);
  for (int o = 0; o < outputs; ++o) {
    const std::int8_t *row = weight + static_cast<std::ptrdiff_t>(o) * inputs;
    std::uint8_t *strip = panels_.get() + static_cast<std::ptrdiff_t>(o / kStrip) * kStrip * depth_ / 2;
    for (int k = 0, part = 0; part < parts(); ++part) {
      double sum = 0.0;
      for (; k < inputs && k < ends_[static_cast<std::size_t>(part)]; ++k) {
        const int line = k / side, half = row[k] & 0x0f;
        strip[(static_cast<std::ptrdiff_t>(line / 2) * kStrip + o % kStrip) * side + k % side] |=
            static_cast<std::uint8_t>(line % 2 == 0 ? half : half << 4);
        sum += double{scale[area(o, weight_groups_) + area(k / group, 1)]} * row[k];
      }
      weight_sums_.data()[static_cast<std::size_t>(part) * bias_.size() + area(o, 1)] = static_cast<float>(sum);
    }
    for (int g = 0; g < weight_groups_; ++g)
      scale_.data()[area(g, panels() * kPanel) + area(o, 1)] = scale[area(o, weight_groups_) + area(g, 1)] / 16.0f;
  }
}

Int4Weights Int4Linear::view() const {
  return {.panels = panels_.get(),
          .scale = scale_.data(),
          .weight_sums = weight_sums_.data(),
          .bias = wide_ == nullptr ? bias_.data() : nullptr,
          .depth = depth_,
          .group = group_,
          .groups = weight_groups_,
          .outputs = panels() * kPanel,
          .parts = parts(),
          .ends = ends_.data()};
}

void Int4Linear::multiply(const LinearInput &input, int first_panel, int last_panel, float *y, std::ptrdiff_t ldy,
                          Activation act) const {
  if (wide_ != nullptr)
    kernels_.linear_int8(input.rounded.from(0, parts(), depth_), input.rows, input.residuals, wide_->view(),
                         first_panel, last_panel, y, ldy, Activation::none);
  kernels_.linear_int4(input.rounded, input.rows, input.residuals, view(), first_panel, last_panel, y, ldy, act);
}

std::size_t Int4Linear::bytes() const {
  return bias_.size() * static_cast<std::size_t>(depth_) / 2 +
         sizeof(float) * (scale_.size() + weight_sums_.size() + bias_.size()) + (wide_ == nullptr ? 0 : wide_->bytes());
}

} // namespace quaver
