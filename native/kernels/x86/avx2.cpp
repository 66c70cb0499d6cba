// AVX2 without a dot product of bytes.
//
// Why not vpmaddubsw: it adds two products u8 * s8 in int16 and saturates (2 * 255 * 127 > 32767). Here bytes are taken
// apart into even and odd int16 and multiplied with vpmaddwd, whose int32 sum of two products cannot overflow.
#include "kernels/shared/vector_kernels.h"
#include "kernels/x86/byte_pairs.h"
#include "kernels/x86/lanes_avx2.h"

namespace quaver {
namespace {

struct Tile {
  static constexpr int rows = 6;
  static constexpr int block = 256; // groups of K that are taken apart at a time: 12 KB on the stack

  using Pairs = BytePairs<rows, block>;

  // Why not the intrinsic: gcc 12 then adds the products of even and odd bytes to each other first, holds more of them
  // at a time than there are registers, and spills accumulators (0.78 of the peak instead of 0.93).
  static void add(__m256i &sum, __m256i product) { asm("vpaddd %1, %0, %0" : "+x"(sum) : "x"(product)); }

  template <int R>
  static void add_products(__m256i (&sum)[R][2], const std::int32_t *pair, __m256i left, __m256i right) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m256i a = _mm256_set1_epi32(pair[r * block]);
      add(sum[r][0], _mm256_madd_epi16(a, left));
      add(sum[r][1], _mm256_madd_epi16(a, right));
    }
  }

  // R rows x 16 outputs over `groups` groups, added to sums unless they are the first groups.
  template <int R, int W, class Fetch>
  [[gnu::noinline]] static void multiply(const Pairs &pairs, const std::int8_t *panel, int groups, bool first,
                                         std::int32_t *sums, Fetch &ahead_of) {
    Fetch ahead = ahead_of; // in registers
    __m256i sum[R][2];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < 2; ++c)
        sum[r][c] = _mm256_setzero_si256();
    if (!first)
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
        for (int c = 0; c < 2; ++c)
          sum[r][c] = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(sums + r * W + c * 8));
    for (int g = 0; g < groups; ++g, panel += kStrip * kGroup) {
      const __m256i left = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(panel));
      const __m256i right = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(panel + 32));
      ahead.fetch_strip();
      // Even bytes first, then odd ones: both at once need more registers than there are.
      add_products<R>(sum, &pairs.even[0][g], _mm256_srai_epi16(_mm256_slli_epi16(left, 8), 8),
                      _mm256_srai_epi16(_mm256_slli_epi16(right, 8), 8));
      add_products<R>(sum, &pairs.odd[0][g], _mm256_srai_epi16(left, 8), _mm256_srai_epi16(right, 8));
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int c = 0; c < 2; ++c)
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(sums + r * W + c * 8), sum[r][c]);
    ahead_of = ahead;
  }

  template <int R, int W, class Fetch = Nothing>
  [[gnu::noinline]] static void run(const std::uint8_t *q, std::ptrdiff_t ldq, const std::int8_t *panel,
                                    std::ptrdiff_t strip, int depth, std::int32_t *sums, Fetch ahead = {}) {
    Pairs pairs;
    for (int first = 0; first < depth / kGroup; first += block) {
      const int groups = quaver::least(block, depth / kGroup - first);
      pairs.fill<R>(q + first * kGroup, ldq, groups);
      for (int column = 0; column < W; column += kStrip)
        multiply<R, W>(pairs, panel + column / kStrip * strip + first * kStrip * kGroup, groups, first == 0,
                       sums + column, ahead);
    }
  }
};

} // namespace

constinit const KernelTable avx2_kernels = VectorKernels<Lanes, Tile>::table("avx2", 74, 50);

} // namespace quaver
