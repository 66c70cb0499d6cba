// Weights packed for the kernels: a linear layer as panels, and the buffers they live in.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernels/table.h"

namespace quaver {

// A growing array of trivially copyable values on a cache line boundary. Growing forgets the contents.
template <class T> class Buffer {
public:
  Buffer() = default;
  explicit Buffer(std::size_t size) { resize(size); }
  Buffer(Buffer &&) noexcept = default;
  Buffer &operator=(Buffer &&) noexcept = default;

  T *data() { return data_.get(); }
  const T *data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  std::size_t bytes() const { return size_ * sizeof(T); }

  // At least `size` values; zeroed when freshly allocated.
  T *resize(std::size_t size) {
    if (size > size_) {
      const std::size_t bytes = (size * sizeof(T) + 63) / 64 * 64;
      data_.reset();
      size_ = 0;
      data_ = {static_cast<T *>(allocate(bytes)), Free{bytes}};
      size_ = size;
    }
    return data();
  }

private:
  // From this size on, memory is mapped from the system and returned to it. It is zero without being written, and the
  // threads that use it fault its pages in side by side.
  static constexpr std::size_t kMapped = 4 << 20;

  static void *allocate(std::size_t bytes) {
#if defined(__linux__)
    if (bytes >= kMapped) {
      void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (p == MAP_FAILED)
        throw std::bad_alloc();
      madvise(p, bytes, MADV_HUGEPAGE); // no effect where the system has none
      return p;
    }
#endif
    void *p = std::aligned_alloc(64, bytes);
    if (p == nullptr)
      throw std::bad_alloc();
    std::memset(p, 0, bytes);
    return p;
  }

  struct Free {
    std::size_t bytes = 0;
    void operator()(T *p) const {
#if defined(__linux__)
      if (bytes >= kMapped) {
        munmap(p, bytes);
        return;
      }
#endif
      std::free(p);
    }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t size_ = 0;
};

// Memory for packed weights: large blocks that the system can back with huge pages. A text reads all of a model's
// weights, and with small pages every 4 KB of them is one more address to look up.
class WeightMemory {
public:
  WeightMemory() = default;
  WeightMemory(WeightMemory &&other) noexcept
      : block_(std::move(other.block_)), size_(std::exchange(other.size_, 0)), used_(std::exchange(other.used_, 0)) {}

  // Zeroed, on a cache line boundary; freed with the last copy of the pointer.
  std::shared_ptr<void> take(std::size_t bytes);

private:
  std::shared_ptr<char> block_;
  std::size_t size_ = 0, used_ = 0;
};

// A fixed range of a layer's input: x ~ scale * (q - zero).
struct InputRange {
  float scale;       // > 0; 0 for a layer that finds the range of each row while running
  std::int32_t zero; // 0..255
};

// One linear layer y = x W^T + b, in int8 or in float32.
class Linear {
public:
  // weight s8 [outputs][inputs], scale f32 [outputs], bias f32 [outputs]; natural order, as on disk.
  // Packed for the kernels.
  static Linear int8(const std::int8_t *weight, const float *scale, const float *bias, int outputs, int inputs,
                     const KernelTable &kernels, WeightMemory &memory);
  // weight f32 [outputs][inputs], bias f32 [outputs].
  static Linear float32(const float *weight, const float *bias, int outputs, int inputs, WeightMemory &memory);

  // Quantize every row that the layer reads with one range, instead of each with its own.
  void fix_input(InputRange range) { input_ = range; }

  bool is_int8() const { return panels_ != nullptr; }
  InputRange input() const { return input_; }
  int inputs() const { return inputs_; }
  int outputs() const { return outputs_; }
  int panels() const { return round_up(outputs_, kPanel) / kPanel; }
  Int8Linear int8_view() const;
  FloatLinear float_view() const;
  std::size_t bytes() const;

private:
  Linear(int outputs, int inputs);

  int outputs_, inputs_;
  InputRange input_{0.0f, 0};
  std::shared_ptr<std::int8_t> panels_; // null in float32
  std::shared_ptr<float> float_panels_; // null in int8
  Buffer<float> scale_, column_sums_, bias_;
};

} // namespace quaver
