#include "engine/memory.h"

#include <algorithm>

namespace quaver {
namespace {

constexpr std::size_t kHugePage = 2 << 20;
// The unused part of a block costs addresses, and memory up to the end of a huge page.
constexpr std::size_t kBlock = 16 * kHugePage;
// Smaller weights do not start a block of their own.
constexpr std::size_t kSmall = kHugePage / 16;

std::size_t up_to(std::size_t step, std::size_t bytes) { return (bytes + step - 1) / step * step; }

} // namespace

std::shared_ptr<void> WeightMemory::take(std::size_t bytes) {
  bytes = up_to(64, bytes);
  if (bytes > size_ - used_ && bytes < kSmall) {
    std::shared_ptr<void> apart(take_aligned(64, bytes), [](void *p) { give_aligned(p); });
    if (apart == nullptr)
      throw std::bad_alloc();
    std::memset(apart.get(), 0, bytes);
    return apart;
  }
  if (bytes > size_ - used_) {
    const std::size_t size = std::max(kBlock, up_to(kHugePage, bytes));
    void *block = take_aligned(kHugePage, size);
    if (block == nullptr)
      throw std::bad_alloc();
    prefer_huge_pages(block, size);
    block_ = {static_cast<char *>(block), [](void *p) { give_aligned(p); }};
    size_ = size;
    used_ = 0;
  }
  char *place = block_.get() + used_;
  used_ += bytes;
  std::memset(place, 0, bytes);
  return {block_, place};
}

} // namespace quaver
