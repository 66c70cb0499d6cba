// Every AArch64 CPU: no dot product of bytes.
//
// A product u8 * s8 lies in -32640..32385 and fits int16, so bytes are widened, multiplied in int16 and added to int32
// in pairs: nothing saturates.
#include "kernels/arm/lanes_neon.h"
#include "kernels/shared/vector_kernels.h"

namespace quaver {
namespace {

struct Tile {
  static constexpr int rows = 3; // 3 x 8 sums, 2 of weights and 3 of inputs fill 29 of 32 registers

  template <int R, int W, class Fetch = Nothing>
  [[gnu::noinline]] static void run(const std::uint8_t *q, std::ptrdiff_t ldq, const std::int8_t *panel,
                                    std::ptrdiff_t strip, int depth, std::int32_t *sums, Fetch ahead = {}) {
    for (int column = 0; column < W; column += kStrip)
      multiply<R, W>(q, ldq, panel + column / kStrip * strip, depth / kGroup, sums + column, ahead);
  }

  // R rows x 16 outputs. A sum holds two outputs: inputs 0 and 1 of every group, then inputs 2 and 3.
  template <int R, int W, class Fetch>
  [[gnu::noinline]] static void multiply(const std::uint8_t *q, std::ptrdiff_t ldq, const std::int8_t *panel,
                                         int groups, std::int32_t *sums, Fetch &ahead_of) {
    constexpr int pairs = kStrip / 2;
    Fetch ahead = ahead_of; // in registers
    int32x4_t sum[R][pairs];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int p = 0; p < pairs; ++p)
        sum[r][p] = vdupq_n_s32(0);
    for (int g = 0; g < groups; ++g, panel += kStrip * kGroup, q += kGroup) {
      ahead.fetch_strip();
      int16x8_t four[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        std::uint32_t bytes;
        __builtin_memcpy(&bytes, q + r * ldq, sizeof bytes);
        four[r] = vreinterpretq_s16_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes))));
      }
#pragma GCC unroll 8
      for (int p = 0; p < pairs; ++p) {
        const int16x8_t weights = vmovl_s8(vld1_s8(panel + p * 2 * kGroup));
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
          sum[r][p] = vpadalq_s16(sum[r][p], vmulq_s16(four[r], weights));
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int p = 0; p < pairs; p += 2)
        vst1q_s32(sums + r * W + p * 2, vpaddq_s32(sum[r][p], sum[r][p + 1]));
    ahead_of = ahead;
  }
};

} // namespace

constinit const KernelTable neon_kernels = VectorKernels<Lanes, Tile>::table("neon", 25, 25);

} // namespace quaver
