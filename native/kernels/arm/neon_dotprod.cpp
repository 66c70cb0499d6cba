// AArch64 with udot: Cortex-A76, Neoverse N1 (Graviton 2), Apple M1 and later.
//
// udot multiplies unsigned bytes alone. A weight w becomes w + 128 by flipping its highest bit, and 128 times the sum
// of the row is taken off at the end. The sums wrap around at 2^32 on the way; the last difference fits int32.
#include "kernels/arm/lanes_neon.h"
#include "kernels/shared/vector_kernels.h"

namespace quaver {
namespace {

struct Tile {
  static constexpr int rows = 6; // 6 x 4 sums, 4 of weights and 1 broadcast fill 29 of 32 registers

  template <int R, int W, class Fetch = Nothing>
  [[gnu::noinline]] static void run(const std::uint8_t *q, std::ptrdiff_t ldq, const std::int8_t *panel,
                                    std::ptrdiff_t strip, int depth, std::int32_t *sums, Fetch ahead = {}) {
    std::uint32_t shift[R];
    for (int r = 0; r < R; ++r)
      shift[r] = 128 * sum_of(q + r * ldq, depth);
    for (int column = 0; column < W; column += kStrip)
      multiply<R, W>(q, ldq, panel + column / kStrip * strip, depth / kGroup, shift, sums + column, ahead);
  }

  // depth is a multiple of 16.
  static std::uint32_t sum_of(const std::uint8_t *q, int depth) {
    uint32x4_t sum = vdupq_n_u32(0);
    for (int k = 0; k < depth; k += 16)
      sum = vdotq_u32(sum, vld1q_u8(q + k), vdupq_n_u8(1));
    return vaddvq_u32(sum);
  }

  // R rows x 16 outputs.
  template <int R, int W, class Fetch>
  [[gnu::noinline]] static void multiply(const std::uint8_t *q, std::ptrdiff_t ldq, const std::int8_t *panel,
                                         int groups, const std::uint32_t (&shift)[R], std::int32_t *sums,
                                         Fetch &ahead_of) {
    constexpr int vectors = kStrip / 4;
    Fetch ahead = ahead_of; // in registers
    uint32x4_t sum[R][vectors];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c)
        sum[r][c] = vdupq_n_u32(0);
    for (int g = 0; g < groups; ++g, panel += kStrip * kGroup, q += kGroup) {
      uint8x16_t weights[vectors];
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c)
        weights[c] = veorq_u8(vreinterpretq_u8_s8(vld1q_s8(panel + c * 16)), vdupq_n_u8(0x80));
      ahead.fetch_strip();
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        std::uint32_t bytes;
        __builtin_memcpy(&bytes, q + r * ldq, sizeof bytes);
        const uint8x16_t four = vreinterpretq_u8_u32(vdupq_n_u32(bytes));
#pragma GCC unroll 8
        for (int c = 0; c < vectors; ++c)
          sum[r][c] = vdotq_u32(sum[r][c], four, weights[c]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < vectors; ++c)
        vst1q_s32(sums + r * W + c * 4, vreinterpretq_s32_u32(vsubq_u32(sum[r][c], vdupq_n_u32(shift[r]))));
    ahead_of = ahead;
  }
};

} // namespace

constinit const KernelTable neon_dotprod_kernels = VectorKernels<Lanes, Tile>::table("neon_dotprod", 75, 25);

} // namespace quaver
