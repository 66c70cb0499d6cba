// AArch64 with bfmmla: Neoverse V1 and N2 (Graviton 3 and 4, Axion, Cobalt), Apple M2 and later.
//
// The instruction multiplies two rows of four bfloat16 with two outputs of four: 16 products. The panels are two inputs
// deep, as AVX512-BF16 reads them; two lines of a strip are joined in registers. It adds a pair of products, then that
// sum to the one before, then the same for the other pair, each rounded to odd, denormal numbers being zero, whatever
// FPCR says (without the extended behavior of FEAT_EBF16, which no thread here switches on).
#include "kernels/arm/lanes_neon.h"
#include "kernels/shared/bfloat16.h"

namespace quaver {
namespace {

struct PairLanes : Lanes {
  // Powers of two below the smallest normal number are zero: the weight of a hidden key, however small, would change
  // the last bit of a sum that is rounded to odd.
  static V above_smallest(V exponent) { return max(set(-127.0f), exponent); }

  // Conversion keeps denormal numbers, unlike products.
  static V flushed(V v) {
    const uint32x4_t bits = vreinterpretq_u32_f32(v), sign = vandq_u32(bits, vdupq_n_u32(0x80000000u));
    return vreinterpretq_f32_u32(vbslq_u32(vcaltq_f32(v, set(0x1p-126f)), sign, bits));
  }
  static uint16x4_t nearest(V v) { return vreinterpret_u16_bf16(vcvt_bf16_f32(flushed(v))); }

  // Four bfloat16, and the same as float32.
  static V store_nearest(std::uint16_t *p, V v) {
    const uint16x4_t q = nearest(v);
    vst1_u16(p, q);
    return vreinterpretq_f32_u32(vshll_n_u16(q, 16));
  }
  // Eight bfloat16.
  static Sixteen eight_nearest(const float *p) {
    return vreinterpretq_s8_u16(vcombine_u16(nearest(load(p)), nearest(load(p + width))));
  }
  // Four pairs: one of `first`, one of `second`.
  static void store_pairs(std::uint16_t *p, V first, V second) { vst2_u16(p, {{nearest(first), nearest(second)}}); }
};

struct Tile {
  static constexpr int rows = 6; // 3 pairs x 8 sums, 3 of inputs, 2 of weights and 2 joined fill 31 of 32 registers
  static constexpr int depth_step = 4;

  template <int R, int W, class Fetch>
  [[gnu::noinline]] static void run(const std::uint16_t *q, std::ptrdiff_t ldq, const std::uint16_t *panel,
                                    std::ptrdiff_t strip, int depth, float *sums, Fetch ahead) {
    const int steps = round_up(depth, depth_step) / depth_step;
    for (int column = 0; column < W; column += kStrip)
      multiply<R, W>(q, ldq, panel + column / kStrip * strip, steps, sums + column, ahead);
  }

  // R rows x 16 outputs. A sum holds two rows of two outputs. With an odd number of rows the last one is paired with
  // itself, which costs nothing that matters.
  template <int R, int W, class Fetch>
  [[gnu::noinline]] static void multiply(const std::uint16_t *q, std::ptrdiff_t ldq, const std::uint16_t *panel,
                                         int steps, float *sums, Fetch &ahead_of) {
    constexpr int pairs = (R + 1) / 2, doubles = kStrip / 2, line = 2 * kStrip;
    Fetch ahead = ahead_of; // in registers
    float32x4_t sum[pairs][doubles];
#pragma GCC unroll 8
    for (int p = 0; p < pairs; ++p)
#pragma GCC unroll 8
      for (int d = 0; d < doubles; ++d)
        sum[p][d] = vdupq_n_f32(0.0f);
    for (int s = 0; s < steps; ++s, panel += 2 * line, q += depth_step) {
      bfloat16x8_t inputs[pairs];
#pragma GCC unroll 8
      for (int p = 0; p < pairs; ++p)
        inputs[p] = vreinterpretq_bf16_u16(
            vcombine_u16(vld1_u16(q + 2 * p * ldq), vld1_u16(q + (2 * p + 1 < R ? 2 * p + 1 : 2 * p) * ldq)));
      ahead.fetch_strip();
      ahead.fetch_strip();
#pragma GCC unroll 8
      for (int d = 0; d < doubles; d += 2) {
        const uint32x4_t near = vreinterpretq_u32_u16(vld1q_u16(panel + d * 4)),
                         far = vreinterpretq_u32_u16(vld1q_u16(panel + line + d * 4));
        const bfloat16x8_t low = vreinterpretq_bf16_u32(vzip1q_u32(near, far)),
                           high = vreinterpretq_bf16_u32(vzip2q_u32(near, far));
#pragma GCC unroll 8
        for (int p = 0; p < pairs; ++p) {
          sum[p][d] = vbfmmlaq_f32(sum[p][d], inputs[p], low);
          sum[p][d + 1] = vbfmmlaq_f32(sum[p][d + 1], inputs[p], high);
        }
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < pairs; ++p)
#pragma GCC unroll 8
      for (int d = 0; d < doubles; d += 2) {
        const float64x2_t low = vreinterpretq_f64_f32(sum[p][d]), high = vreinterpretq_f64_f32(sum[p][d + 1]);
        vst1q_f32(sums + 2 * p * W + d * 2, vreinterpretq_f32_f64(vzip1q_f64(low, high)));
        if (2 * p + 1 < R)
          vst1q_f32(sums + (2 * p + 1) * W + d * 2, vreinterpretq_f32_f64(vzip2q_f64(low, high)));
      }
    ahead_of = ahead;
  }
};

} // namespace

constinit const BFloat16Kernels neon_bf16_kernels = BFloat16Loops<PairLanes, Tile>::table("neon_bf16", 75);

} // namespace quaver
