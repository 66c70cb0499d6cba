// AVX2 with vpdpbusd on ymm registers: Alder Lake and later laptops, Zen 5.
#include "kernels/shared/vector_kernels.h"
#include "kernels/x86/lanes_avx2.h"

namespace quaver {
namespace {

// sum += u[4i..4i+3] . s[4i..4i+3] in each 32-bit lane, u unsigned, s signed, no saturation.
// Why not the intrinsic: gcc 12 spills the accumulators of a 6 x 2 tile when they pass through it; the instruction as
// inline assembly keeps them in registers.
inline void dot_bytes(__m256i &sum, __m256i u, __m256i s) {
#ifdef QUAVER_EMULATE
  sum = _mm256_dpbusd_epi32(sum, u, s);
#elif defined(QUAVER_EVEX)
  asm("vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(u), "x"(s));
#else
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(u), "x"(s));
#endif
}

struct Tile {
  static constexpr int rows = 6;

  template <int R, int W, class Fetch = Nothing>
  [[gnu::noinline]] static void run(const std::uint8_t *q, std::ptrdiff_t ldq, const std::int8_t *panel,
                                    std::ptrdiff_t strip, int depth, std::int32_t *sums, Fetch ahead = {}) {
    for (int column = 0; column < W; column += kStrip)
      multiply<R, W>(q, ldq, panel + column / kStrip * strip, depth / kGroup, sums + column, ahead);
  }

  // R rows x 16 outputs.
  template <int R, int W, class Fetch>
  [[gnu::noinline]] static void multiply(const std::uint8_t *q, std::ptrdiff_t ldq, const std::int8_t *panel,
                                         int groups, std::int32_t *sums, Fetch &ahead_of) {
    Fetch ahead = ahead_of; // in registers
    __m256i sum[R][2];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
      sum[r][0] = sum[r][1] = _mm256_setzero_si256();
    for (int g = 0; g < groups; ++g, panel += kStrip * kGroup, q += kGroup) {
      const __m256i left = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(panel));
      const __m256i right = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(panel + 32));
      ahead.fetch_strip();
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const __m256i four = _mm256_castps_si256(_mm256_broadcast_ss(reinterpret_cast<const float *>(q + r * ldq)));
        dot_bytes(sum[r][0], four, left);
        dot_bytes(sum[r][1], four, right);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < 2; ++c)
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(sums + r * W + c * 8), sum[r][c]);
    ahead_of = ahead;
  }
};

} // namespace

constinit const KernelTable avxvnni_kernels = VectorKernels<Lanes, Tile>::table("avxvnni", 230, 50);

} // namespace quaver
