// The int8 tile of AVX512-VNNI, for avx512vnni.cpp, and for what amx.cpp has too few rows or inputs for.
#pragma once

#include "kernels/x86/intrinsics.h"

namespace quaver {
namespace {

// sum += u[4i..4i+3] . s[4i..4i+3] in each 32-bit lane, u unsigned, s signed, no saturation.
// Why not the intrinsic: gcc 12 spills the 24 accumulators of the tile when they pass through it (half the speed).
inline void dot_bytes(__m512i &sum, __m512i u, __m512i s) {
#ifdef QUAVER_EMULATE
  sum = _mm512_dpbusd_epi32(sum, u, s);
#else
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(s));
#endif
}

struct VnniTile {
  static constexpr int rows = 6; // 6 x 4 sums, 4 of weights and 1 broadcast: 29 of 32 registers

  template <int R, int W, class Fetch = Nothing>
  [[gnu::noinline]] static void run(const std::uint8_t *q, std::ptrdiff_t ldq, const std::int8_t *panel,
                                    std::ptrdiff_t strip, int depth, std::int32_t *sums, Fetch ahead = {}) {
    __m512i sum[R][W / 16];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < W / 16; ++c)
        sum[r][c] = _mm512_setzero_si512();
    for (const std::int8_t *end = panel + depth * kStrip; panel != end; panel += kStrip * kGroup, q += kGroup) {
      __m512i weights[W / 16];
#pragma GCC unroll 8
      for (int c = 0; c < W / 16; ++c)
        weights[c] = _mm512_loadu_si512(panel + c * strip);
      ahead.fetch();
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        std::int32_t four;
        __builtin_memcpy(&four, q + r * ldq, sizeof four);
        const __m512i bytes = _mm512_set1_epi32(four);
#pragma GCC unroll 8
        for (int c = 0; c < W / 16; ++c)
          dot_bytes(sum[r][c], bytes, weights[c]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < W / 16; ++c)
        _mm512_storeu_si512(sums + r * W + c * 16, sum[r][c]);
  }
};

} // namespace
} // namespace quaver
