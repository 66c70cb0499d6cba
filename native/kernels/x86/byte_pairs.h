// Bytes taken apart into pairs of int16: what AVX2 and AVX-512 without a dot product of bytes multiply.
#pragma once

#include "kernels/table.h"
#include "kernels/x86/intrinsics.h"

namespace quaver {
namespace {

// Bytes 0, 2 and bytes 1, 3 of each group of four activations, ready to be broadcast: of `rows` rows and `block`
// groups.
template <int rows, int block> struct BytePairs {
  alignas(64) std::int32_t even[rows][block];
  alignas(64) std::int32_t odd[rows][block];

  // Of the first R rows, eight groups at a time: rows of q are padded, so the last eight may be behind depth.
  template <int R> void fill(const std::uint8_t *q, std::ptrdiff_t ldq, int groups) {
    static_assert(R <= rows && block % 8 == 0);
    const __m256i low = _mm256_set1_epi16(0x00ff);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
      for (int g = 0; g < groups; g += 8) {
        const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(q + r * ldq + g * kGroup));
        _mm256_store_si256(reinterpret_cast<__m256i *>(&even[r][g]), _mm256_and_si256(bytes, low));
        _mm256_store_si256(reinterpret_cast<__m256i *>(&odd[r][g]), _mm256_srli_epi16(bytes, 8));
      }
  }
};

} // namespace
} // namespace quaver
