// Eight float32 in a ymm register: what avx2.cpp and avxvnni.cpp share.
#pragma once

#include "kernels/x86/sixteen_bytes.h"

namespace quaver {
namespace {

struct Lanes : SixteenBytes {
  using V = __m256;
  static constexpr int width = 8;
  // The float tile: 6 x 2 sums, 2 columns and 1 broadcast fill 15 of 16 registers.
  static constexpr int float_rows = 6;
  static constexpr int float_columns = 2;
  static constexpr int chains = 1; // vectors whose outputs are computed side by side: more spill

  static V zero() { return _mm256_setzero_ps(); }
  static V set(float x) { return _mm256_set1_ps(x); }
  static V load(const float *p) { return _mm256_loadu_ps(p); }
  static void store(float *p, V v) { _mm256_storeu_ps(p, v); }

  static V add(V a, V b) { return _mm256_add_ps(a, b); }
  static V sub(V a, V b) { return _mm256_sub_ps(a, b); }
  static V mul(V a, V b) { return _mm256_mul_ps(a, b); }
  static V div(V a, V b) { return _mm256_div_ps(a, b); }
  static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  static V min(V a, V b) { return _mm256_min_ps(a, b); }
  static V max(V a, V b) { return _mm256_max_ps(a, b); }
  static V abs(V v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
  static V round(V v) { return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static bool is_nan(V v) { return _mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)) != 0; } // any lane
  static V power_of_two(V n) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
  }

  static V above_smallest(V exponent) { return max(set(-126.0f), exponent); }
  // v * 2^n for whole n >= -126.
  static V scale(V v, V n) { return mul(v, power_of_two(n)); }

  // The first n lanes, 1 <= n < width; the others read nothing and are zero.
  static __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static V load_first(const float *p, int n) { return _mm256_maskload_ps(p, first(n)); }
  static void store_first(float *p, V v, int n) { _mm256_maskstore_ps(p, first(n), v); }
  static V keep_first(V v, int n) { return _mm256_and_ps(v, _mm256_castsi256_ps(first(n))); }

  // v in the first n lanes, other in those after.
  static V first_or(V v, int n, V other) { return _mm256_blendv_ps(other, v, _mm256_castsi256_ps(first(n))); }

  static V from_s32(const std::int32_t *p) {
    return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
  }

  // Eight pairs of bfloat16 as float32: the first of each, the second of each.
  static V first_of_pairs(const std::uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)), 16));
  }
  static V second_of_pairs(const std::uint16_t *p) {
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p));
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }

  // Eight bytes: the nearest integers to v, plus origin, clamped to 0..255.
  static void store_u8(std::uint8_t *p, V v, std::int32_t origin) {
    store_bytes(p, _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(origin)));
  }

  static __m256i to_s32(V v) { return _mm256_cvtps_epi32(v); }
  // Eight bytes from integers, clamped to 0..255.
  static void store_bytes(std::uint8_t *p, __m256i v) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i *>(p), _mm_packus_epi16(words, words));
  }

  // Sixteen s8: the nearest integers to p * factor.
  static Sixteen sixteen_s8(const float *p, V factor) {
    const __m256i halves = _mm256_packs_epi32(to_s32(mul(load(p), factor)), to_s32(mul(load(p + width), factor)));
    const __m256i words = _mm256_permute4x64_epi64(halves, 0xd8);
    return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }
  // The nearest integers, in -128..127, of four vectors as s8 side by side: a0 b0 c0 d0 a1 ...
  static void store_fours(std::int8_t *p, V a, V b, V c, V d) {
    const __m256i byte = _mm256_set1_epi32(255);
    const __m256i low =
        _mm256_or_si256(_mm256_and_si256(to_s32(a), byte), _mm256_slli_epi32(_mm256_and_si256(to_s32(b), byte), 8));
    const __m256i high =
        _mm256_or_si256(_mm256_slli_epi32(_mm256_and_si256(to_s32(c), byte), 16), _mm256_slli_epi32(to_s32(d), 24));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm256_or_si256(low, high));
  }

  static void store_weights(std::uint8_t *p, __m256i v) { store_bytes(p, v); }

  static float sum(V v) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }
  static float greatest(V v) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
  }
  static float least(V v) { return -greatest(_mm256_sub_ps(zero(), v)); }

  static std::int32_t nearest(float x) { return _mm_cvtss_si32(_mm_set_ss(x)); }
  static float square_root(float x) { return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x))); }
};

} // namespace
} // namespace quaver
