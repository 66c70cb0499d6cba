// Lanes that round to bfloat16: what the files of products of bfloat16 share.
#pragma once

#include "kernels/x86/flushed.h"
#include "kernels/x86/lanes_avx512.h"

namespace quaver {
namespace {

#if defined(QUAVER_EMULATE) || defined(QUAVER_EMULATE_PAIRS)

// As the instruction works. Why not SIMDe's: it has none.
inline std::uint16_t nearest_bfloat16(float v) {
  const auto bits = __builtin_bit_cast(std::uint32_t, flushed(v));
  const std::uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  return static_cast<std::uint16_t>((v != v ? bits | 0x400000u : rounded) >> 16); // NaN stays NaN
}

struct PairLanes : Lanes {
  static V store_nearest(std::uint16_t *p, V v) {
    float lanes[width];
    store(lanes, v);
    for (int i = 0; i < width; ++i) {
      p[i] = nearest_bfloat16(lanes[i]);
      lanes[i] = __builtin_bit_cast(float, std::uint32_t{p[i]} << 16);
    }
    return load(lanes);
  }
  static Sixteen eight_nearest(const float *p) {
    std::uint16_t q[8];
    for (int i = 0; i < 8; ++i)
      q[i] = nearest_bfloat16(p[i]);
    return _mm_loadu_si128(reinterpret_cast<const __m128i *>(q));
  }
  static void store_pairs(std::uint16_t *p, V first, V second) {
    float lanes[2][width];
    store(lanes[0], first);
    store(lanes[1], second);
    for (int i = 0; i < 2 * width; ++i)
      p[i] = nearest_bfloat16(lanes[i % 2][i / 2]);
  }
};

#else

struct PairLanes : Lanes {
  static __m512i nearest(V v) { return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v)); }

  // Sixteen bfloat16, and the same as float32.
  static V store_nearest(std::uint16_t *p, V v) {
    const auto q = (__m256i)_mm512_cvtneps_pbh(v);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), q);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(q), 16));
  }
  // Eight bfloat16.
  static Sixteen eight_nearest(const float *p) { return (__m128i)_mm256_cvtneps_pbh(_mm256_loadu_ps(p)); }
  // Sixteen pairs: one of `first`, one of `second`.
  static void store_pairs(std::uint16_t *p, V first, V second) {
    _mm512_storeu_si512(p, _mm512_or_si512(nearest(first), _mm512_slli_epi32(nearest(second), 16)));
  }
};

#endif

} // namespace
} // namespace quaver
