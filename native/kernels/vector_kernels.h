// The float kernels, written once over a vector type, and the loops around the int8 tile.
//
// Each instruction set's file defines
//   struct Lanes   one vector of float32: width, V, load, store, ... (lanes_avx2.h shows the list)
//   struct Tile    `rows`, the height of its int8 tile, and run<R, W>(q, ldq, panel, depth, sums) for panels of W
//   columns
// and makes its table from VectorKernels<Lanes, Tile>. Everything is in an anonymous namespace: two files compiled with
// different flags must not share one instantiation, or the linker may keep the one that the CPU cannot run.
#pragma once

#include "vector_attention.h"

namespace quaver {
namespace {

template <class L, class Tile> struct VectorKernels : AttentionKernels<L, Tile> {
  using V = typename L::V;
  using Linear = LinearKernels<L, Tile>;
  using Attention = AttentionKernels<L, Tile>;

  static void add_norm(float *x, std::ptrdiff_t ldx, const float *y, std::ptrdiff_t ldy, int rows, int cols,
                       const float *gamma, const float *beta, float eps) noexcept {
    const int full = cols / L::width * L::width, rest = cols - full;
    for (int r = 0; r < rows; ++r, x += ldx) {
      V sum = L::zero();
      for (int c = 0; c < full; c += L::width) {
        V v = L::load(x + c);
        if (y != nullptr) {
          v = L::add(v, L::load(y + c));
          L::store(x + c, v);
        }
        sum = L::add(sum, v);
      }
      if (rest > 0) {
        V v = L::load_first(x + full, rest);
        if (y != nullptr) {
          v = L::add(v, L::load_first(y + full, rest));
          L::store_first(x + full, v, rest);
        }
        sum = L::add(sum, v);
      }
      const V mean = L::set(L::sum(sum) / static_cast<float>(cols));
      V square = L::zero();
      for (int c = 0; c < full; c += L::width) {
        const V v = L::sub(L::load(x + c), mean);
        square = L::fma(v, v, square);
      }
      if (rest > 0) {
        const V v = L::keep_first(L::sub(L::load_first(x + full, rest), mean), rest);
        square = L::fma(v, v, square);
      }
      const V factor = L::set(1.0f / L::square_root(L::sum(square) / static_cast<float>(cols) + eps));
      for (int c = 0; c < full; c += L::width) {
        const V v = L::mul(L::sub(L::load(x + c), mean), factor);
        L::store(x + c, L::fma(v, L::load(gamma + c), L::load(beta + c)));
      }
      if (rest > 0) {
        const V v = L::mul(L::sub(L::load_first(x + full, rest), mean), factor);
        L::store_first(x + full, L::fma(v, L::load_first(gamma + full, rest), L::load_first(beta + full, rest)), rest);
      }
      if (y != nullptr)
        y += ldy;
    }
  }

  static constexpr KernelTable table(const char *name) {
    return {name,
            Linear::quantize_rows,
            Linear::quantize_rows_fixed,
            Linear::sum_int8,
            Linear::linear_int8,
            Linear::linear_float32,
            Attention::pack_keys,
            Attention::attend,
            Attention::pack_head,
            Attention::attend_int8,
            add_norm};
  }
};

} // namespace
} // namespace quaver
