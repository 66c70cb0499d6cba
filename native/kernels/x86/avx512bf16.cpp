// Products of bfloat16 with vdpbf16ps on zmm registers: Cooper Lake, Sapphire Rapids and later Xeons, Zen 4 and later.
//
// The instruction adds to each sum the product of the second numbers of two pairs, rounds it, and then that of the
// first ones: to nearest, halves to even, denormal numbers being zero, whatever MXCSR says (Intel's manual). So a sum
// has one order on all of these CPUs.
#include "kernels/shared/bfloat16.h"
#include "kernels/x86/lanes_avx512bf16.h"
#include "kernels/x86/tile_avx512.h"

namespace quaver {
namespace {

#if defined(QUAVER_EMULATE) || defined(QUAVER_EMULATE_PAIRS)

// As the instruction works, MXCSR aside. Why not SIMDe's: it keeps denormal numbers and adds the first product first.
// Not inlined: the tile has 24 of them, and several forms.
[[gnu::noinline]] void add_pairs(__m512 &sum, const __m512i &pairs, const __m512i &weights) {
  float sums[16];
  std::uint32_t a[16], b[16];
  _mm512_storeu_ps(sums, sum);
  _mm512_storeu_si512(a, pairs);
  _mm512_storeu_si512(b, weights);
  for (int i = 0; i < 16; ++i) {
    const float second = flushed_fma(widened(a[i] & 0xffff0000u), widened(b[i] & 0xffff0000u), flushed(sums[i]));
    sums[i] = flushed_fma(widened(a[i] << 16), widened(b[i] << 16), second);
  }
  sum = _mm512_loadu_ps(sums);
}

#else

// Why not the intrinsic: see tile_avx512.h.
inline void add_pairs(__m512 &sum, __m512i pairs, __m512i weights) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(pairs), "v"(weights));
}

#endif

struct Pairs {
  using Vector = __m512;
  using Number = float;
  static Vector zero() { return _mm512_setzero_ps(); }
  static void store(Number *p, Vector sum) { _mm512_storeu_ps(p, sum); }
  static void add(Vector &sum, __m512i pairs, __m512i weights) { add_pairs(sum, pairs, weights); }
};

struct Tile {
  static constexpr int rows = WideTile<Pairs>::rows;

  template <int R, int W, class Fetch>
  static void run(const std::uint16_t *q, std::ptrdiff_t ldq, const std::uint16_t *panel, std::ptrdiff_t strip,
                  int depth, float *sums, Fetch ahead) {
    constexpr int size = sizeof *q;
    WideTile<Pairs>::run<R, W>(reinterpret_cast<const std::uint8_t *>(q), size * ldq,
                               reinterpret_cast<const std::int8_t *>(panel), size * strip, size * round_up(depth, 2),
                               sums, ahead);
  }
};

} // namespace

constinit const BFloat16Kernels avx512bf16_kernels = BFloat16Loops<PairLanes, Tile>::table("avx512bf16", 200);

} // namespace quaver
