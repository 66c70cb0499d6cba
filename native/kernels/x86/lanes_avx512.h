// Sixteen float32 in a zmm register: what every file of AVX-512 kernels shares.
#pragma once

#include "kernels/x86/sixteen_bytes.h"

namespace quaver {
namespace {

struct Lanes : SixteenBytes {
  using V = __m512;
  static constexpr int width = 16;
  // The float tile: 6 x 4 sums, 4 columns and 1 broadcast fill 29 of 32 registers.
  static constexpr int float_rows = 6;
  static constexpr int float_columns = 4;
  static constexpr int chains = 2; // vectors whose outputs are computed side by side

  static V zero() { return _mm512_setzero_ps(); }
  static V set(float x) { return _mm512_set1_ps(x); }
  static V load(const float *p) { return _mm512_loadu_ps(p); }
  static void store(float *p, V v) { _mm512_storeu_ps(p, v); }

  static V add(V a, V b) { return _mm512_add_ps(a, b); }
  static V sub(V a, V b) { return _mm512_sub_ps(a, b); }
  static V mul(V a, V b) { return _mm512_mul_ps(a, b); }
  static V div(V a, V b) { return _mm512_div_ps(a, b); }
  static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  static V min(V a, V b) { return _mm512_min_ps(a, b); }
  static V max(V a, V b) { return _mm512_max_ps(a, b); }
  static V abs(V v) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff)));
  }
  static V round(V v) { return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static bool is_nan(V v) { return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q) != 0; } // any lane
  // No lower bound: scale() makes 0 of what is too small.
  static V above_smallest(V exponent) { return exponent; }
  // v * 2^n for whole n.
  static V scale(V v, V n) { return _mm512_scalef_ps(v, n); }

  // The first n lanes, 1 <= n < width; the others read nothing and are zero.
  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
#ifdef QUAVER_EMULATE
  // SIMDe's masked load and store touch all sixteen lanes in memory; the instructions do not.
  static V load_first(const float *p, int n) {
    float lanes[width] = {};
    for (int i = 0; i < n; ++i)
      lanes[i] = p[i];
    return load(lanes);
  }
  static void store_first(float *p, V v, int n) {
    float lanes[width];
    store(lanes, v);
    for (int i = 0; i < n; ++i)
      p[i] = lanes[i];
  }
#else
  static V load_first(const float *p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store_first(float *p, V v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
#endif
  static V keep_first(V v, int n) { return _mm512_maskz_mov_ps(first(n), v); }

  // v in the first n lanes, other in those after.
  static V first_or(V v, int n, V other) { return _mm512_mask_mov_ps(other, first(n), v); }

  static V from_s32(const std::int32_t *p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }

  // Sixteen pairs of bfloat16 as float32: the first of each, the second of each.
  static V first_of_pairs(const std::uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
  }
  static V second_of_pairs(const std::uint16_t *p) {
    const __m512i first = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), first));
  }

  static __m512i to_s32(V v) { return _mm512_cvtps_epi32(v); }
#ifdef QUAVER_EMULATE // SIMDe has no such narrowing
  static __m256i narrow(__m512i v) {
    const __m256i halves = _mm256_packs_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    return _mm256_permute4x64_epi64(halves, 0xd8);
  }
  static __m128i to_u8(__m512i v) {
    const __m256i words = narrow(v);
    return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }
  static __m128i to_s8(__m512i v) {
    const __m256i words = narrow(v);
    return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }
#else
  static __m128i to_u8(__m512i v) { return _mm512_cvtusepi32_epi8(_mm512_max_epi32(v, _mm512_setzero_si512())); }
  static __m128i to_s8(__m512i v) { return _mm512_cvtsepi32_epi8(v); }
#endif
  // Sixteen bytes from integers, clamped to 0..255.
  static void store_bytes(std::uint8_t *p, __m512i v) { _mm_storeu_si128(reinterpret_cast<__m128i *>(p), to_u8(v)); }
  // Sixteen bytes from integers >= 0, clamped to 255: the largest weight may be rounded to 256.
#ifdef QUAVER_EMULATE
  static void store_weights(std::uint8_t *p, __m512i v) { store_bytes(p, v); }
#else
  static void store_weights(std::uint8_t *p, __m512i v) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtusepi32_epi8(v));
  }
#endif
  // Sixteen bytes: the nearest integers to v, plus origin, clamped to 0..255.
  static void store_u8(std::uint8_t *p, V v, std::int32_t origin) {
    store_bytes(p, _mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(origin)));
  }

  // Sixteen s8: the nearest integers to p * factor.
  static Sixteen sixteen_s8(const float *p, V factor) { return to_s8(to_s32(mul(load(p), factor))); }
  // The nearest integers, in -128..127, of four vectors as s8 side by side: a0 b0 c0 d0 a1 ...
  static void store_fours(std::int8_t *p, V a, V b, V c, V d) {
    const __m512i byte = _mm512_set1_epi32(255);
    const __m512i low =
        _mm512_or_si512(_mm512_and_si512(to_s32(a), byte), _mm512_slli_epi32(_mm512_and_si512(to_s32(b), byte), 8));
    const __m512i high =
        _mm512_or_si512(_mm512_slli_epi32(_mm512_and_si512(to_s32(c), byte), 16), _mm512_slli_epi32(to_s32(d), 24));
    _mm512_storeu_si512(p, _mm512_or_si512(low, high));
  }

  static float sum(V v) {
    __m256 y = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }
  static float greatest(V v) {
    __m256 y = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
  }
  static float least(V v) { return -greatest(_mm512_sub_ps(zero(), v)); }

  static std::int32_t nearest(float x) { return _mm_cvtss_si32(_mm_set_ss(x)); }
  static float square_root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }
};

} // namespace
} // namespace quaver
