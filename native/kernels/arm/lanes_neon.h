// Four float32 in a 128-bit register: what every file of Arm kernels shares.
#pragma once

#include <arm_neon.h>

#include "kernels/table.h"

namespace quaver {
namespace {

struct Lanes {
  using V = float32x4_t;
  using Sixteen = int8x16_t;
  static constexpr int width = 4;
  // The float tile: 6 x 4 sums, 4 columns and 1 broadcast fill 29 of 32 registers.
  static constexpr int float_rows = 6;
  static constexpr int float_columns = 4;
  static constexpr int chains = 4; // vectors whose outputs are computed side by side

  static V zero() { return vdupq_n_f32(0.0f); }
  static V set(float x) { return vdupq_n_f32(x); }
  static V load(const float *p) { return vld1q_f32(p); }
  static void store(float *p, V v) { vst1q_f32(p, v); }

  static V add(V a, V b) { return vaddq_f32(a, b); }
  static V sub(V a, V b) { return vsubq_f32(a, b); }
  static V mul(V a, V b) { return vmulq_f32(a, b); }
  static V div(V a, V b) { return vdivq_f32(a, b); }
  static V fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
  // NaN in either operand gives NaN, which is all that the kernels ask.
  static V min(V a, V b) { return vminq_f32(a, b); }
  static V max(V a, V b) { return vmaxq_f32(a, b); }
  static V abs(V v) { return vabsq_f32(v); }
  static V round(V v) { return vrndnq_f32(v); }
  static bool is_nan(V v) { return vminvq_u32(vceqq_f32(v, v)) == 0; } // any lane
  static V power_of_two(V n) {
    const int32x4_t biased = vaddq_s32(to_s32(n), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(biased, 23));
  }

  static V above_smallest(V exponent) { return max(set(-126.0f), exponent); }
  // v * 2^n for whole n >= -126.
  static V scale(V v, V n) { return mul(v, power_of_two(n)); }

  // The first n lanes, 1 <= n < width; the others read nothing and are zero.
  static uint32x4_t first(int n) {
    constexpr std::uint32_t lanes[width] = {0, 1, 2, 3};
    return vcltq_u32(vld1q_u32(lanes), vdupq_n_u32(static_cast<std::uint32_t>(n)));
  }
  static V load_first(const float *p, int n) {
    V v = vld1q_lane_f32(p, zero(), 0);
    if (n > 1)
      v = vld1q_lane_f32(p + 1, v, 1);
    if (n > 2)
      v = vld1q_lane_f32(p + 2, v, 2);
    return v;
  }
  static void store_first(float *p, V v, int n) {
    vst1q_lane_f32(p, v, 0);
    if (n > 1)
      vst1q_lane_f32(p + 1, v, 1);
    if (n > 2)
      vst1q_lane_f32(p + 2, v, 2);
  }
  static V keep_first(V v, int n) { return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), first(n))); }

  // v in the first n lanes, other in those after.
  static V first_or(V v, int n, V other) { return vbslq_f32(first(n), v, other); }

  static V from_s32(const std::int32_t *p) { return vcvtq_f32_s32(vld1q_s32(p)); }
  static int32x4_t to_s32(V v) { return vcvtnq_s32_f32(v); }

  // Four pairs of bfloat16 as float32: the first of each, the second of each.
  static V first_of_pairs(const std::uint16_t *p) { return vreinterpretq_f32_u32(vshlq_n_u32(pairs_of(p), 16)); }
  static V second_of_pairs(const std::uint16_t *p) {
    return vreinterpretq_f32_u32(vandq_u32(pairs_of(p), vdupq_n_u32(0xffff0000u)));
  }
  static uint32x4_t pairs_of(const std::uint16_t *p) { return vreinterpretq_u32_u16(vld1q_u16(p)); }

  // Four bytes: the nearest integers to v, plus origin, clamped to 0..255.
  static void store_u8(std::uint8_t *p, V v, std::int32_t origin) {
    store_bytes(p, vaddq_s32(to_s32(v), vdupq_n_s32(origin)));
  }
  // Four bytes from integers, clamped to 0..255.
  static void store_bytes(std::uint8_t *p, int32x4_t v) {
    const int16x4_t words = vqmovn_s32(v);
    const std::uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(vqmovun_s16(vcombine_s16(words, words))), 0);
    __builtin_memcpy(p, &bytes, sizeof bytes);
  }
  static void store_weights(std::uint8_t *p, int32x4_t v) { store_bytes(p, v); }

  static Sixteen no_bytes() { return vdupq_n_s8(0); }
  static std::int32_t sum_of_64(const std::uint8_t *p) {
    std::int32_t sum = 0;
    for (int i = 0; i < 64; i += 16)
      sum += vaddlvq_u8(vld1q_u8(p + i));
    return sum;
  }
  // Sixteen s8: the nearest integers to p * factor.
  static Sixteen sixteen_s8(const float *p, V factor) {
    int16x4_t words[4];
    for (int i = 0; i < 4; ++i)
      words[i] = vqmovn_s32(to_s32(mul(load(p + i * width), factor)));
    return vcombine_s8(vqmovn_s16(vcombine_s16(words[0], words[1])), vqmovn_s16(vcombine_s16(words[2], words[3])));
  }
  // Transpose four rows of four groups, four bytes each: the groups of one column become neighbors.
  static void store_groups(std::int8_t *target, const Sixteen (&rows)[kGroup]) {
    const auto words = [&rows](int i) { return vreinterpretq_s32_s8(rows[i]); };
    const auto pairs = [](int32x4_t v) { return vreinterpretq_s64_s32(v); };
    const int64x2_t low_left = pairs(vzip1q_s32(words(0), words(1))), low_right = pairs(vzip1q_s32(words(2), words(3))),
                    high_left = pairs(vzip2q_s32(words(0), words(1))),
                    high_right = pairs(vzip2q_s32(words(2), words(3)));
    const int64x2_t columns[kGroup] = {vzip1q_s64(low_left, low_right), vzip2q_s64(low_left, low_right),
                                       vzip1q_s64(high_left, high_right), vzip2q_s64(high_left, high_right)};
    for (int i = 0; i < kGroup; ++i)
      vst1q_s8(target + i * kStrip * kGroup, vreinterpretq_s8_s64(columns[i]));
  }
  // The same for groups of eight, two in each row.
  static void store_groups_of_eight(std::int8_t *target, const Sixteen (&rows)[kGroup]) {
    for (int i = 0; i < kGroup; ++i) {
      vst1_s8(target + i * 8, vget_low_s8(rows[i]));
      vst1_s8(target + kStrip * 8 + i * 8, vget_high_s8(rows[i]));
    }
  }
  // Two lines of sixteen groups of four as one of groups of eight.
  static void join_lines(std::int8_t *target, const std::int8_t (&lines)[2][kStrip * kGroup]) {
    for (int i = 0; i < kStrip * kGroup; i += 16) {
      const int32x4_t near = vreinterpretq_s32_s8(vld1q_s8(lines[0] + i)),
                      far = vreinterpretq_s32_s8(vld1q_s8(lines[1] + i));
      vst1q_s8(target + 2 * i, vreinterpretq_s8_s32(vzip1q_s32(near, far)));
      vst1q_s8(target + 2 * i + 16, vreinterpretq_s8_s32(vzip2q_s32(near, far)));
    }
  }
  // The nearest integers, in -128..127, of four vectors as s8 side by side: a0 b0 c0 d0 a1 ...
  static void store_fours(std::int8_t *p, V a, V b, V c, V d) {
    const int32x4_t byte = vdupq_n_s32(255);
    const int32x4_t low = vorrq_s32(vandq_s32(to_s32(a), byte), vshlq_n_s32(vandq_s32(to_s32(b), byte), 8));
    const int32x4_t high = vorrq_s32(vshlq_n_s32(vandq_s32(to_s32(c), byte), 16), vshlq_n_s32(to_s32(d), 24));
    vst1q_s8(p, vreinterpretq_s8_s32(vorrq_s32(low, high)));
  }

  static float sum(V v) { return vaddvq_f32(v); }
  static float greatest(V v) { return vmaxvq_f32(v); }
  static float least(V v) { return vminvq_f32(v); }

  static std::int32_t nearest(float x) { return vcvtns_s32_f32(x); }
  static float square_root(float x) { return vget_lane_f32(vsqrt_f32(vdup_n_f32(x)), 0); }
};

} // namespace
} // namespace quaver
