// AArch64 with usmmla: Neoverse V1 and N2 (Graviton 3 and 4, Axion, Cobalt), Apple M2 and later.
//
// The instruction multiplies two rows of eight unsigned bytes with two outputs of eight signed ones: 32 products, twice
// as many as a dot product. So groups are eight inputs deep in this table's panels: 16 bytes are two outputs.
#include "kernels/arm/lanes_neon.h"
#include "kernels/shared/vector_kernels.h"

namespace quaver {
namespace {

struct Tile {
  static constexpr int rows = 6; // 3 pairs x 8 sums, 3 of inputs and 2 of weights fill 29 of 32 registers
  static constexpr int group = 8;

  template <int R, int W, class Fetch = Nothing>
  [[gnu::noinline]] static void run(const std::uint8_t *q, std::ptrdiff_t ldq, const std::int8_t *panel,
                                    std::ptrdiff_t strip, int depth, std::int32_t *sums, Fetch ahead = {}) {
    for (int column = 0; column < W; column += kStrip)
      multiply<R, W>(q, ldq, panel + column / kStrip * strip, depth / group, sums + column, ahead);
  }

  // R rows x 16 outputs. A sum holds two rows of two outputs. With an odd number of rows the last one is paired with
  // itself, which costs nothing that matters.
  template <int R, int W, class Fetch>
  [[gnu::noinline]] static void multiply(const std::uint8_t *q, std::ptrdiff_t ldq, const std::int8_t *panel,
                                         int groups, std::int32_t *sums, Fetch &ahead_of) {
    constexpr int pairs = (R + 1) / 2, doubles = kStrip / 2;
    Fetch ahead = ahead_of; // in registers
    int32x4_t sum[pairs][doubles];
#pragma GCC unroll 8
    for (int p = 0; p < pairs; ++p)
#pragma GCC unroll 8
      for (int d = 0; d < doubles; ++d)
        sum[p][d] = vdupq_n_s32(0);
    for (int g = 0; g < groups; ++g, panel += kStrip * group, q += group) {
      uint8x16_t inputs[pairs];
#pragma GCC unroll 8
      for (int p = 0; p < pairs; ++p)
        inputs[p] = vcombine_u8(vld1_u8(q + 2 * p * ldq), vld1_u8(q + (2 * p + 1 < R ? 2 * p + 1 : 2 * p) * ldq));
      ahead.fetch_strip();
      ahead.fetch_strip();
#pragma GCC unroll 8
      for (int d = 0; d < doubles; ++d) {
        const int8x16_t weights = vld1q_s8(panel + d * 2 * group);
#pragma GCC unroll 8
        for (int p = 0; p < pairs; ++p)
          sum[p][d] = vusmmlaq_s32(sum[p][d], inputs[p], weights);
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < pairs; ++p)
#pragma GCC unroll 8
      for (int d = 0; d < doubles; d += 2) {
        const int64x2_t low = vreinterpretq_s64_s32(sum[p][d]), high = vreinterpretq_s64_s32(sum[p][d + 1]);
        vst1q_s32(sums + 2 * p * W + d * 2, vreinterpretq_s32_s64(vzip1q_s64(low, high)));
        if (2 * p + 1 < R)
          vst1q_s32(sums + (2 * p + 1) * W + d * 2, vreinterpretq_s32_s64(vzip2q_s64(low, high)));
      }
    ahead_of = ahead;
  }
};

} // namespace

constinit const KernelTable neon_i8mm_kernels =
    VectorKernels<Lanes, Tile>::table("neon_i8mm", 150, 25, &neon_bf16_kernels);

} // namespace quaver
