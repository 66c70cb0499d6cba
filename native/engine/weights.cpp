#include "engine/weights.h"

#include <algorithm>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace quaver {
namespace {

constexpr std::size_t kHugePage = 2 << 20;
// The unused part of a block costs addresses, and memory up to the end of a huge page.
constexpr std::size_t kBlock = 16 * kHugePage;
// Smaller weights do not start a block of their own.
constexpr std::size_t kSmall = kHugePage / 16;

std::size_t up_to(std::size_t step, std::size_t bytes) { return (bytes + step - 1) / step * step; }

template <class T> std::shared_ptr<T> take(WeightMemory &memory, std::size_t size) {
  return std::static_pointer_cast<T>(memory.take(size * sizeof(T)));
}

} // namespace

std::shared_ptr<void> WeightMemory::take(std::size_t bytes) {
  bytes = up_to(64, bytes);
  if (bytes > size_ - used_ && bytes < kSmall) {
    std::shared_ptr<void> apart(std::aligned_alloc(64, bytes), [](void *p) { std::free(p); });
    if (apart == nullptr)
      throw std::bad_alloc();
    std::memset(apart.get(), 0, bytes);
    return apart;
  }
  if (bytes > size_ - used_) {
    const std::size_t size = std::max(kBlock, up_to(kHugePage, bytes));
    void *block = std::aligned_alloc(kHugePage, size);
    if (block == nullptr)
      throw std::bad_alloc();
#if defined(__linux__)
    madvise(block, size, MADV_HUGEPAGE); // no effect where the system has none
#endif
    block_ = {static_cast<char *>(block), [](void *p) { std::free(p); }};
    size_ = size;
    used_ = 0;
  }
  char *place = block_.get() + used_;
  used_ += bytes;
  std::memset(place, 0, bytes);
  return {block_, place};
}

Linear::Linear(int outputs, int inputs)
    : outputs_(outputs), inputs_(inputs), bias_(static_cast<std::size_t>(round_up(outputs, kPanel))) {}

Linear Linear::int8(const std::int8_t *weight, const float *scale, const float *bias, int outputs, int inputs,
                    const KernelTable &kernels, WeightMemory &memory) {
  Linear w(outputs, inputs);
  const std::size_t padded = static_cast<std::size_t>(w.panels()) * kPanel;
  const int depth = round_up(inputs, kDepthStep), group = kernels.group;
  w.panels_ = take<std::int8_t>(memory, padded * static_cast<std::size_t>(depth));
  w.scale_.resize(padded);
  w.column_sums_.resize(padded);
  std::memcpy(w.scale_.data(), scale, sizeof(float) * static_cast<std::size_t>(outputs));
  std::memcpy(w.bias_.data(), bias, sizeof(float) * static_cast<std::size_t>(outputs));
  for (int o = 0; o < outputs; ++o) {
    const std::int8_t *row = weight + static_cast<std::ptrdiff_t>(o) * inputs;
    std::int8_t *target =
        w.panels_.get() + static_cast<std::ptrdiff_t>(o / kStrip) * kStrip * depth + o % kStrip * group;
    std::int32_t sum = 0;
    int k = 0;
    for (; k + group <= inputs; k += group)
      std::memcpy(target + static_cast<std::ptrdiff_t>(k) * kStrip, row + k, static_cast<std::size_t>(group));
    if (k < inputs)
      std::memcpy(target + static_cast<std::ptrdiff_t>(k) * kStrip, row + k, static_cast<std::size_t>(inputs - k));
    for (k = 0; k < inputs; ++k)
      sum += row[k];
    w.column_sums_.data()[o] = static_cast<float>(sum);
  }
  return w;
}

Linear Linear::float32(const float *weight, const float *bias, int outputs, int inputs, WeightMemory &memory) {
  Linear w(outputs, inputs);
  w.float_panels_ =
      take<float>(memory, static_cast<std::size_t>(w.panels()) * kPanel * static_cast<std::size_t>(inputs));
  std::memcpy(w.bias_.data(), bias, sizeof(float) * static_cast<std::size_t>(outputs));
  for (int o = 0; o < outputs; ++o) {
    const float *row = weight + static_cast<std::ptrdiff_t>(o) * inputs;
    float *target = w.float_panels_.get() + static_cast<std::ptrdiff_t>(o / kPanel) * kPanel * inputs + o % kPanel;
    for (int k = 0; k < inputs; ++k)
      target[static_cast<std::ptrdiff_t>(k) * kPanel] = row[k];
  }
  return w;
}

Int8Linear Linear::int8_view() const {
  return {panels_.get(), scale_.data(), column_sums_.data(), bias_.data(), round_up(inputs_, kDepthStep)};
}

FloatLinear Linear::float_view() const { return {float_panels_.get(), bias_.data(), inputs_}; }

std::size_t Linear::bytes() const {
  const std::size_t values = static_cast<std::size_t>(panels()) * kPanel * static_cast<std::size_t>(inputs_);
  const std::size_t padded = scale_.size() * static_cast<std::size_t>(round_up(inputs_, kDepthStep));
  return (is_int8() ? padded : values * sizeof(float)) +
         sizeof(float) * (scale_.size() + column_sums_.size() + bias_.size());
}

} // namespace quaver
