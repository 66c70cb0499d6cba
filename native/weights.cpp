#include "weights.h"

namespace quaver {

Linear::Linear(int outputs, int inputs)
    : outputs_(outputs), inputs_(inputs), bias_(static_cast<std::size_t>(round_up(outputs, kPanel))) {}

Linear Linear::int8(const std::int8_t *weight, const float *scale, const float *bias, int outputs, int inputs) {
  Linear w(outputs, inputs);
  const std::size_t padded = static_cast<std::size_t>(w.panels()) * kPanel;
  const int depth = round_up(inputs, kDepthStep);
  w.panels_.resize(padded * static_cast<std::size_t>(depth));
  w.scale_.resize(padded);
  w.column_sums_.resize(padded);
  std::memcpy(w.scale_.data(), scale, sizeof(float) * static_cast<std::size_t>(outputs));
  std::memcpy(w.bias_.data(), bias, sizeof(float) * static_cast<std::size_t>(outputs));
  for (int o = 0; o < outputs; ++o) {
    const std::int8_t *row = weight + static_cast<std::ptrdiff_t>(o) * inputs;
    std::int8_t *target =
        w.panels_.data() + static_cast<std::ptrdiff_t>(o / kStrip) * kStrip * depth + o % kStrip * kGroup;
    std::int32_t sum = 0;
    int k = 0;
    for (; k + kGroup <= inputs; k += kGroup)
      std::memcpy(target + static_cast<std::ptrdiff_t>(k) * kStrip, row + k, kGroup);
    if (k < inputs)
      std::memcpy(target + static_cast<std::ptrdiff_t>(k) * kStrip, row + k, static_cast<std::size_t>(inputs - k));
    for (k = 0; k < inputs; ++k)
      sum += row[k];
    w.column_sums_.data()[o] = static_cast<float>(sum);
  }
  return w;
}

Linear Linear::float32(const float *weight, const float *bias, int outputs, int inputs) {
  Linear w(outputs, inputs);
  w.float_panels_.resize(static_cast<std::size_t>(w.panels()) * kPanel * static_cast<std::size_t>(inputs));
  std::memcpy(w.bias_.data(), bias, sizeof(float) * static_cast<std::size_t>(outputs));
  for (int o = 0; o < outputs; ++o) {
    const float *row = weight + static_cast<std::ptrdiff_t>(o) * inputs;
    float *target = w.float_panels_.data() + static_cast<std::ptrdiff_t>(o / kPanel) * kPanel * inputs + o % kPanel;
    for (int k = 0; k < inputs; ++k)
      target[static_cast<std::ptrdiff_t>(k) * kPanel] = row[k];
  }
  return w;
}

Int8Linear Linear::int8_view() const {
  return {panels_.data(), scale_.data(), column_sums_.data(), bias_.data(), round_up(inputs_, kDepthStep)};
}

FloatLinear Linear::float_view() const { return {float_panels_.data(), bias_.data(), inputs_}; }

std::size_t Linear::bytes() const {
  return panels_.size() + sizeof(float) * (float_panels_.size() + scale_.size() + column_sums_.size() + bias_.size());
}

} // namespace quaver
