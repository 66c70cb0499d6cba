// Sixteen bytes in an xmm register: the part of Lanes that AVX2 and AVX-512 have in common.
#pragma once

#include "kernels/table.h"
#include "kernels/x86/intrinsics.h"

namespace quaver {
namespace {

struct SixteenBytes {
  using Sixteen = __m128i;

  static Sixteen no_bytes() { return _mm_setzero_si128(); }

  static std::int32_t sum_of_64(const std::uint8_t *p) {
    __m128i sum = _mm_setzero_si128(); // of each half
#pragma GCC unroll 4
    for (int i = 0; i < 64; i += 16)
      sum = _mm_add_epi64(sum,
                          _mm_sad_epu8(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p + i)), _mm_setzero_si128()));
    return _mm_cvtsi128_si32(_mm_add_epi64(sum, _mm_unpackhi_epi64(sum, sum)));
  }

  // Transpose four rows of four groups, four bytes each: the groups of one column become neighbors.
  static void store_groups(std::int8_t *target, const Sixteen (&rows)[kGroup]) {
    const __m128i low_left = _mm_unpacklo_epi32(rows[0], rows[1]), low_right = _mm_unpacklo_epi32(rows[2], rows[3]),
                  high_left = _mm_unpackhi_epi32(rows[0], rows[1]), high_right = _mm_unpackhi_epi32(rows[2], rows[3]);
    const __m128i columns[kGroup] = {_mm_unpacklo_epi64(low_left, low_right), _mm_unpackhi_epi64(low_left, low_right),
                                     _mm_unpacklo_epi64(high_left, high_right),
                                     _mm_unpackhi_epi64(high_left, high_right)};
    for (int i = 0; i < kGroup; ++i)
      _mm_storeu_si128(reinterpret_cast<__m128i *>(target + i * kStrip * kGroup), columns[i]);
  }
};

} // namespace
} // namespace quaver
