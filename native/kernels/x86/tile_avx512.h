// The tile of AVX-512 over lanes of four bytes: groups of four bytes, or pairs of bfloat16.
#pragma once

#include "kernels/x86/intrinsics.h"

namespace quaver {
namespace {

// sum += u[4i..4i+3] . s[4i..4i+3] in each 32-bit lane, u unsigned, s signed, no saturation.
// Why not the intrinsic: gcc 12 spills the 24 accumulators of the tile when they pass through it (half the speed).
struct ByteGroups {
  using Vector = __m512i;
  using Number = std::int32_t;
  static Vector zero() { return _mm512_setzero_si512(); }
  static void store(Number *p, Vector sum) { _mm512_storeu_si512(p, sum); }
  static void add(Vector &sum, __m512i u, __m512i s) {
#ifdef QUAVER_EMULATE
    sum = _mm512_dpbusd_epi32(sum, u, s);
#else
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(s));
#endif
  }
};

// Six rows and up to 64 outputs. A lane of a row is multiplied with the lane of each output, and what Product makes of
// them is added to a sum.
template <class Product> struct WideTile {
  using Vector = typename Product::Vector;
  using Number = typename Product::Number;
  static constexpr int rows = 6; // 6 x 4 sums, 4 of weights and 1 broadcast: 29 of 32 registers

  // `depth` is in bytes of a row.
  template <int R, int W, class Fetch = Nothing>
  [[gnu::noinline]] static void run(const std::uint8_t *q, std::ptrdiff_t ldq, const std::int8_t *panel,
                                    std::ptrdiff_t strip, int depth, Number *sums, Fetch ahead = {}) {
    Vector sum[R][W / 16];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < W / 16; ++c)
        sum[r][c] = Product::zero();
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
        const __m512i lanes = _mm512_set1_epi32(four);
#pragma GCC unroll 8
        for (int c = 0; c < W / 16; ++c)
          Product::add(sum[r][c], lanes, weights[c]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < W / 16; ++c)
        Product::store(sums + r * W + c * 16, sum[r][c]);
  }
};

using VnniTile = WideTile<ByteGroups>; // for avx512vnni.cpp, and for what amx.cpp has too few rows or inputs for

} // namespace
} // namespace quaver
