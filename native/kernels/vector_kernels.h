// The float kernels, written once over a vector type, and the loops around the int8 tile.
//
// Each instruction set's file defines
//   struct Lanes   one vector of float32: width, V, load, store, ... (lanes_avx2.h shows the list)
//   struct Tile    `rows`, the height of its int8 tile, and run<R>(q, ldq, panel, depth, sums)
// and makes its table from VectorKernels<Lanes, Tile>. Everything is in an anonymous namespace: two files compiled with
// different flags must not share one instantiation, or the linker may keep the one that the CPU cannot run.
#pragma once

#include "../kernels.h"

namespace quaver {
namespace {

inline int least(int a, int b) { return a < b ? a : b; }

// 2^x for x <= 126, from a polynomial of degree 6 on [-1/2, 1/2] (Chebyshev fit, relative error 3e-9 before rounding).
// Below -126 it stays at 2^-126: a term of a softmax that is smaller than that is nothing.
template <class L> typename L::V exp2(typename L::V x) {
  x = L::max(x, L::set(-126.0f));
  const auto n = L::round(x);
  const auto f = L::sub(x, n);
  auto p = L::set(0x1.446c7ep-13f);
  p = L::fma(p, f, L::set(0x1.5f48c8p-10f));
  p = L::fma(p, f, L::set(0x1.3b29d8p-7f));
  p = L::fma(p, f, L::set(0x1.c6aeccp-5f));
  p = L::fma(p, f, L::set(0x1.ebfbe0p-3f));
  p = L::fma(p, f, L::set(0x1.62e430p-1f));
  p = L::fma(p, f, L::set(1.0f));
  return L::mul(p, L::power_of_two(n));
}

// x * Phi(x) with the error function of Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7), arranged so that both
// signs share one form: gelu(x) = max(x, 0) - |x| / 2 * erfc(|x| / sqrt(2)).
template <class L> typename L::V gelu(typename L::V x) {
  const auto z = L::mul(L::abs(x), L::set(0.70710678f));
  const auto t = L::div(L::set(1.0f), L::fma(z, L::set(0.3275911f), L::set(1.0f)));
  auto p = L::set(1.061405429f);
  p = L::fma(p, t, L::set(-1.453152027f));
  p = L::fma(p, t, L::set(1.421413741f));
  p = L::fma(p, t, L::set(-0.284496736f));
  p = L::fma(p, t, L::set(0.254829592f));
  const auto tail = L::mul(L::mul(p, t), exp2<L>(L::mul(L::mul(z, z), L::set(-1.44269504f))));
  return L::fma(L::mul(L::abs(x), L::set(-0.5f)), tail, L::max(x, L::zero()));
}

// x / (1 + e^-x); with x scaled inside the exponential it also serves the tanh form of GELU.
template <class L> typename L::V gated(typename L::V x, typename L::V inside) {
  const auto e = exp2<L>(L::min(L::mul(inside, L::set(-1.44269504f)), L::set(126.0f)));
  return L::div(x, L::add(L::set(1.0f), e));
}

template <class L> typename L::V activate(typename L::V x, Activation act) {
  switch (act) {
  case Activation::gelu:
    return gelu<L>(x);
  case Activation::gelu_tanh: {
    const auto cube = L::mul(L::mul(x, x), L::mul(x, L::set(0.044715f)));
    return gated<L>(x, L::mul(L::add(x, cube), L::set(1.59576912f)));
  }
  case Activation::silu:
    return gated<L>(x, x);
  case Activation::relu:
    return L::max(x, L::zero());
  case Activation::none:
    break;
  }
  return x;
}

// y[R][C vectors] = x[R][depth] * w[depth][C vectors]: one accumulator per element, one chain over depth.
template <class L, int R, int C>
void float_tile(const float *x, std::ptrdiff_t ldx, const float *w, std::ptrdiff_t ldw, int depth, float *y,
                std::ptrdiff_t ldy) {
  typename L::V sum[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
      sum[r][c] = L::zero();
  for (int k = 0; k < depth; ++k) {
    typename L::V column[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
      column[c] = L::load(w + k * ldw + c * L::width);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const auto value = L::set(x[r * ldx + k]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c)
        sum[r][c] = L::fma(value, column[c], sum[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
      L::store(y + r * ldy + c * L::width, sum[r][c]);
}

// The same for up to L::float_rows rows and any number of columns; a last part of a vector is read and written masked.
template <class L>
void float_rows(const float *x, std::ptrdiff_t ldx, int rows, const float *w, std::ptrdiff_t ldw, int depth,
                int columns, float *y, std::ptrdiff_t ldy) {
  constexpr int wide = L::float_columns;
  int c = 0;
  for (; c + wide * L::width <= columns; c += wide * L::width) {
    int r = 0;
    for (; r + L::float_rows <= rows; r += L::float_rows)
      float_tile<L, L::float_rows, wide>(x + r * ldx, ldx, w + c, ldw, depth, y + r * ldy + c, ldy);
    for (; r + 2 <= rows; r += 2)
      float_tile<L, 2, wide>(x + r * ldx, ldx, w + c, ldw, depth, y + r * ldy + c, ldy);
    if (r < rows)
      float_tile<L, 1, wide>(x + r * ldx, ldx, w + c, ldw, depth, y + r * ldy + c, ldy);
  }
  for (; c + L::width <= columns; c += L::width)
    for (int r = 0; r < rows; ++r)
      float_tile<L, 1, 1>(x + r * ldx, ldx, w + c, ldw, depth, y + r * ldy + c, ldy);
  if (c == columns)
    return;
  const int rest = columns - c;
  for (int r = 0; r < rows; ++r) {
    auto sum = L::zero();
    for (int k = 0; k < depth; ++k)
      sum = L::fma(L::set(x[r * ldx + k]), L::load_first(w + k * ldw + c, rest), sum);
    L::store_first(y + r * ldy + c, sum, rest);
  }
}

template <class L, class Tile> struct VectorKernels {
  using V = typename L::V;

  static void quantize_rows(const float *x, std::ptrdiff_t ldx, int rows, int cols, std::uint8_t *q, std::ptrdiff_t ldq,
                            float *scale, std::int32_t *zero) noexcept {
    const int full = cols / L::width * L::width;
    for (int r = 0; r < rows; ++r, x += ldx, q += ldq) {
      V low = L::zero(), high = L::zero();
      for (int c = 0; c < full; c += L::width) {
        const V v = L::load(x + c);
        low = L::min(low, v);
        high = L::max(high, v);
      }
      if (full < cols) {
        const V v = L::load_first(x + full, cols - full);
        low = L::min(low, v);
        high = L::max(high, v);
      }
      const float smallest = L::least(low), range = L::greatest(high) - smallest;
      // A range too small to divide by is a row of zeros for eight bits.
      const float step = range > 1e-30f ? range / 255.0f : 1.0f;
      const float inverse = range > 1e-30f ? 255.0f / range : 0.0f;
      const std::int32_t origin = L::nearest(-smallest * inverse);
      scale[r] = step;
      zero[r] = origin;
      const V factor = L::set(inverse);
      int c = 0;
      for (; c < full; c += L::width)
        L::store_u8(q + c, L::mul(L::load(x + c), factor), origin);
      if (full < cols) {
        std::uint8_t last[L::width];
        L::store_u8(last, L::mul(L::load_first(x + full, cols - full), factor), origin);
        for (; c < cols; ++c)
          q[c] = last[c - full];
      }
      for (; c < round_up(cols, kDepthStep); ++c)
        q[c] = static_cast<std::uint8_t>(origin);
    }
  }

  template <int R>
  static void sum_rows(const std::uint8_t *q, std::ptrdiff_t ldq, int rows, const std::int8_t *panel, int depth,
                       std::int32_t *sums) noexcept {
    if (rows == R) {
      Tile::template run<R>(q, ldq, panel, depth, sums);
    } else if constexpr (R > 1) {
      sum_rows<R - 1>(q, ldq, rows, panel, depth, sums);
    }
  }

  static void sum_int8(const std::uint8_t *q, std::ptrdiff_t ldq, int rows, const std::int8_t *panel, int depth,
                       std::int32_t *sums) noexcept {
    for (int r = 0; r < rows; r += Tile::rows)
      sum_rows<Tile::rows>(q + r * ldq, ldq, least(Tile::rows, rows - r), panel, depth, sums + r * kPanel);
  }

  // The tile leaves its sums in 64 columns on the stack (they stay in L1); this turns them into outputs.
  static void dequantize(const Int8Rows &a, int first_row, int rows, const Int8Linear &w, int column,
                         const std::int32_t *sums, float *y, std::ptrdiff_t ldy, Activation act) {
    for (int c = 0; c < kPanel; c += L::width) {
      const V scale = L::load(w.scale + column + c), column_sum = L::load(w.column_sums + column + c),
              bias = L::load(w.bias + column + c);
      for (int r = 0; r < rows; ++r) {
        const V zero = L::set(-static_cast<float>(a.zero[first_row + r]));
        const V sum = L::fma(zero, column_sum, L::from_s32(sums + r * kPanel + c));
        const V value = L::fma(L::mul(sum, L::set(a.scale[first_row + r])), scale, bias);
        L::store(y + r * ldy + c, activate<L>(value, act));
      }
    }
  }

  static void linear_int8(const Int8Rows &a, int rows, const Int8Linear &w, int first_panel, int last_panel, float *y,
                          std::ptrdiff_t ldy, Activation act) noexcept {
    alignas(64) std::int32_t sums[Tile::rows * kPanel];
    for (int panel = first_panel; panel < last_panel; ++panel) {
      const std::int8_t *weights = w.panels + static_cast<std::ptrdiff_t>(panel) * kPanel * w.depth;
      for (int r = 0, height; r < rows; r += height) {
        height = tile_height(rows - r);
        sum_rows<Tile::rows>(a.q + r * a.ldq, a.ldq, height, weights, w.depth, sums);
        dequantize(a, r, height, w, panel * kPanel, sums, y + r * ldy + panel * kPanel, ldy, act);
      }
    }
  }

  // Rows of the next tile: full ones, and the last two shared evenly (16 = 6 + 5 + 5, not 6 + 6 + 4).
  static int tile_height(int left) {
    const int tiles = (left + Tile::rows - 1) / Tile::rows;
    return (left + tiles - 1) / tiles;
  }

  static void linear_float32(const float *x, std::ptrdiff_t ldx, int rows, const FloatLinear &w, int first_panel,
                             int last_panel, float *y, std::ptrdiff_t ldy, Activation act) noexcept {
    for (int panel = first_panel; panel < last_panel; ++panel) {
      const float *weights = w.panels + static_cast<std::ptrdiff_t>(panel) * kPanel * w.depth;
      const int column = panel * kPanel;
      float_rows<L>(x, ldx, rows, weights, kPanel, w.depth, kPanel, y + column, ldy);
      for (int r = 0; r < rows; ++r)
        for (int c = column; c < column + kPanel; c += L::width)
          L::store(y + r * ldy + c, activate<L>(L::add(L::load(y + r * ldy + c), L::load(w.bias + c)), act));
    }
  }

  static void pack_keys(const AttentionHead &head, float *packed) noexcept {
    const int d = head.head_size;
    for (int first = 0; first < head.length; first += kPanel, packed += kPanel * d) {
      const int keys = least(kPanel, head.length - first);
      for (int j = 0; j < kPanel; ++j)
        for (int c = 0; c < d; ++c)
          packed[c * kPanel + j] = j < keys ? head.key[(first + j) * head.ld + c] : 0.0f;
    }
  }

  // Turns a row of scores into weights of a softmax that are not yet divided by their sum; returns the sum's inverse.
  static float exponentials(float *scores, int length) {
    const int full = length / L::width * L::width, rest = length - full;
    float top = scores[0];
    for (int j = full; j < length; ++j)
      top = top < scores[j] ? scores[j] : top;
    V highest = L::set(top);
    for (int j = 0; j < full; j += L::width)
      highest = L::max(highest, L::load(scores + j));
    const V shift = L::set(L::greatest(highest));
    V sum = L::zero();
    for (int j = 0; j < full; j += L::width) {
      const V e = exp2<L>(L::sub(L::load(scores + j), shift));
      L::store(scores + j, e);
      sum = L::add(sum, e);
    }
    if (rest > 0) {
      const V e = L::keep_first(exp2<L>(L::sub(L::load_first(scores + full, rest), shift)), rest);
      L::store_first(scores + full, e, rest);
      sum = L::add(sum, e);
    }
    return 1.0f / L::sum(sum);
  }

  static void attend(const AttentionHead &head, const float *packed_keys, int first_row, int last_row, float *scores,
                     float *out, std::ptrdiff_t ldo) noexcept {
    const int width = round_up(head.length, kPanel), d = head.head_size;
    for (int row = first_row; row < last_row; row += L::float_rows) {
      const int rows = least(L::float_rows, last_row - row);
      for (int j = 0; j < width; j += kPanel)
        float_rows<L>(head.query + row * head.ld, head.ld, rows, packed_keys + static_cast<std::ptrdiff_t>(j) * d,
                      kPanel, d, kPanel, scores + j, width);
      float inverse[L::float_rows];
      for (int r = 0; r < rows; ++r)
        inverse[r] = exponentials(scores + static_cast<std::ptrdiff_t>(r) * width, head.length);
      float *target = out + row * ldo;
      float_rows<L>(scores, width, rows, head.value, head.ld, head.length, d, target, ldo);
      for (int r = 0; r < rows; ++r)
        scale_row(target + r * ldo, d, inverse[r]);
    }
  }

  static void scale_row(float *x, int columns, float factor) {
    int c = 0;
    for (; c + L::width <= columns; c += L::width)
      L::store(x + c, L::mul(L::load(x + c), L::set(factor)));
    if (c < columns)
      L::store_first(x + c, L::mul(L::load_first(x + c, columns - c), L::set(factor)), columns - c);
  }

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
    return {name, quantize_rows, sum_int8, linear_int8, linear_float32, pack_keys, attend, add_norm};
  }
};

} // namespace
} // namespace quaver
