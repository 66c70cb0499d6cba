// Memory: arrays that grow, and blocks for packed weights.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "system/pages.h"

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
  // From this size on, memory is mapped from the system, where that is possible, and returned to it. It is zero without
  // being written, and the threads that use it fault its pages in side by side.
  static constexpr std::size_t kMapped = 4 << 20;

  static void *allocate(std::size_t bytes) {
    const bool mapped = kMapsPages && bytes >= kMapped;
    void *p = mapped ? map_pages(bytes) : take_aligned(64, bytes);
    if (p == nullptr)
      throw std::bad_alloc();
    if (!mapped)
      std::memset(p, 0, bytes);
    return p;
  }

  struct Free {
    std::size_t bytes = 0;
    void operator()(T *p) const {
      if (kMapsPages && bytes >= kMapped)
        unmap_pages(p, bytes);
      else
        give_aligned(p);
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
  template <class T> std::shared_ptr<T> take_array(std::size_t size) {
    return std::static_pointer_cast<T>(take(size * sizeof(T)));
  }

private:
  std::shared_ptr<char> block_;
  std::size_t size_ = 0, used_ = 0;
};

} // namespace quaver
