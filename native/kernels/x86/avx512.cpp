// AVX-512 without a dot product of bytes: Skylake and Cannon Lake.
//
// As avx2.cpp, on registers twice as wide. On Intel, vpmaddwd and vpaddd of ymm registers share three ports and those
// of zmm registers two, so the peak is 32 products a cycle instead of 24.
#include "kernels/shared/vector_kernels.h"
#include "kernels/x86/byte_pairs.h"
#include "kernels/x86/lanes_avx512.h"

namespace quaver {
namespace {

struct Tile {
  static constexpr int rows = 6;
  static constexpr int block = 256; // groups of K that are taken apart at a time: 12 KB on the stack

  using Pairs = BytePairs<rows, block>;

  // Why not the intrinsic: see avx2.cpp.
  static void add(__m512i &sum, __m512i product) {
#ifdef QUAVER_EMULATE
    sum = _mm512_add_epi32(sum, product);
#else
    asm("vpaddd %1, %0, %0" : "+v"(sum) : "v"(product));
#endif
  }

  template <int R, int C>
  static void add_products(__m512i (&sum)[R][C], const std::int32_t *pair, const __m512i (&weights)[C]) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512i a = _mm512_set1_epi32(pair[r * block]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c)
        add(sum[r][c], _mm512_madd_epi16(a, weights[c]));
    }
  }

  // R rows x C strips over `groups` groups, added to sums unless they are the first groups.
  template <int R, int C, int W, class Fetch>
  [[gnu::noinline]] static void multiply(const Pairs &pairs, const std::int8_t *panel, std::ptrdiff_t strip, int groups,
                                         bool first, std::int32_t *sums, Fetch &ahead_of) {
    Fetch ahead = ahead_of; // in registers
    __m512i sum[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c)
        sum[r][c] = first ? _mm512_setzero_si512() : _mm512_loadu_si512(sums + r * W + c * kStrip);
    for (int g = 0; g < groups; ++g, panel += kStrip * kGroup) {
      __m512i weights[C], half[C];
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) {
        weights[c] = _mm512_loadu_si512(panel + c * strip);
        half[c] = _mm512_srai_epi16(_mm512_slli_epi16(weights[c], 8), 8);
        ahead.fetch_strip();
      }
      add_products<R, C>(sum, &pairs.even[0][g], half);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c)
        half[c] = _mm512_srai_epi16(weights[c], 8);
      add_products<R, C>(sum, &pairs.odd[0][g], half);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c)
        _mm512_storeu_si512(sums + r * W + c * kStrip, sum[r][c]);
    ahead_of = ahead;
  }

  template <int R, int W, class Fetch = Nothing>
  [[gnu::noinline]] static void run(const std::uint8_t *q, std::ptrdiff_t ldq, const std::int8_t *panel,
                                    std::ptrdiff_t strip, int depth, std::int32_t *sums, Fetch ahead = {}) {
    constexpr int strips = W > kStrip ? 2 : 1;
    Pairs pairs;
    for (int first = 0; first < depth / kGroup; first += block) {
      const int groups = quaver::least(block, depth / kGroup - first);
      pairs.fill<R>(q + first * kGroup, ldq, groups);
      for (int column = 0; column < W; column += strips * kStrip)
        multiply<R, strips, W>(pairs, panel + column / kStrip * strip + first * kStrip * kGroup, strip, groups,
                               first == 0, sums + column, ahead);
    }
  }
};

} // namespace

constinit const KernelTable avx512_kernels = VectorKernels<Lanes, Tile>::table("avx512", 100, 100);

} // namespace quaver
