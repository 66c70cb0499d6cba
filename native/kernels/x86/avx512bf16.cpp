// Products of bfloat16 with vdpbf16ps on zmm registers: Cooper Lake, Sapphire Rapids and later Xeons, Zen 4 and later.
//
// The instruction adds to each sum the product of the second numbers of two pairs, rounds it, and then that of the
// first ones: to nearest, halves to even, denormal numbers being zero, whatever MXCSR says (Intel's manual). So a sum
// has one order on all of these CPUs.
#include "kernels/shared/bfloat16.h"
#include "kernels/x86/lanes_avx512.h"
#include "kernels/x86/tile_avx512.h"

namespace quaver {
namespace {

#if defined(QUAVER_EMULATE) || defined(QUAVER_EMULATE_PAIRS)

// As the instructions work, MXCSR aside. Why not SIMDe's: it keeps denormal numbers and adds the first product first,
// and it has no rounding to bfloat16.
float flushed(float v) { return __builtin_fabsf(v) < 0x1p-126f ? __builtin_copysignf(0.0f, v) : v; }
float widened(std::uint32_t upper) { return flushed(__builtin_bit_cast(float, upper)); }

std::uint16_t nearest_bfloat16(float v) {
  const auto bits = __builtin_bit_cast(std::uint32_t, flushed(v));
  const std::uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  return static_cast<std::uint16_t>((v != v ? bits | 0x400000u : rounded) >> 16); // NaN stays NaN
}

// Not inlined: the tile has 24 of them, and several forms.
[[gnu::noinline]] void add_pairs(__m512 &sum, const __m512i &pairs, const __m512i &weights) {
  float sums[16];
  std::uint32_t a[16], b[16];
  _mm512_storeu_ps(sums, sum);
  _mm512_storeu_si512(a, pairs);
  _mm512_storeu_si512(b, weights);
  for (int i = 0; i < 16; ++i) {
    const float second =
        flushed(__builtin_fmaf(widened(a[i] & 0xffff0000u), widened(b[i] & 0xffff0000u), flushed(sums[i])));
    sums[i] = flushed(__builtin_fmaf(widened(a[i] << 16), widened(b[i] << 16), second));
  }
  sum = _mm512_loadu_ps(sums);
}

struct PairLanes : Lanes {
  static V store_nearest(std::uint16_t *p, V v) {
    float lanes[width];
    store(lanes, v);
    for (int i = 0; i < width; ++i) {
      p[i] = nearest_bfloat16(lanes[i]);
      lanes[i] = __builtin_bit_cast(float, std::uint32_t{p[i]} << 16);
    }
    return load(lanes);
  }
  static Sixteen eight_nearest(const float *p) {
    std::uint16_t q[8];
    for (int i = 0; i < 8; ++i)
      q[i] = nearest_bfloat16(p[i]);
    return _mm_loadu_si128(reinterpret_cast<const __m128i *>(q));
  }
  static void store_pairs(std::uint16_t *p, V first, V second) {
    float lanes[2][width];
    store(lanes[0], first);
    store(lanes[1], second);
    for (int i = 0; i < 2 * width; ++i)
      p[i] = nearest_bfloat16(lanes[i % 2][i / 2]);
  }
};

#else

// Why not the intrinsic: see tile_avx512.h.
inline void add_pairs(__m512 &sum, __m512i pairs, __m512i weights) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(pairs), "v"(weights));
}

struct PairLanes : Lanes {
  static __m512i nearest(V v) { return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v)); }

  // Sixteen bfloat16, and the same as float32.
  static V store_nearest(std::uint16_t *p, V v) {
    const auto q = (__m256i)_mm512_cvtneps_pbh(v);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), q);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(q), 16));
  }
  // Eight bfloat16.
  static Sixteen eight_nearest(const float *p) { return (__m128i)_mm256_cvtneps_pbh(_mm256_loadu_ps(p)); }
  // Sixteen pairs: one of `first`, one of `second`.
  static void store_pairs(std::uint16_t *p, V first, V second) {
    _mm512_storeu_si512(p, _mm512_or_si512(nearest(first), _mm512_slli_epi32(nearest(second), 16)));
  }
};

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
