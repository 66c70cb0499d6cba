// The float kernels, written once over a vector type, and the loops around the int8 tile.
//
// Each instruction set's file defines
//   struct Lanes   one vector of float32: width, V, load, store, ... (lanes_avx2.h shows the list)
//   struct Tile    `rows`, the height of its int8 tile, and run<R, W>(q, ldq, panel, depth, sums) for panels of W
//   columns
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

// 255 * 2^x for x <= 0, from a polynomial of degree 3 (relative error 1e-4): for weights that are rounded to eight
// bits.
template <class L> typename L::V short_exp2(typename L::V x) {
  x = L::max(x, L::set(-126.0f));
  const auto n = L::round(x);
  const auto f = L::sub(x, n);
  auto p = L::set(14.0687094f);
  p = L::fma(p, f, L::set(61.8657417f));
  p = L::fma(p, f, L::set(176.781555f));
  p = L::fma(p, f, L::set(254.981659f));
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

  // sums [rows][W] of a panel W columns wide; rows <= R.
  template <int W, int R = Tile::rows>
  static void sum_rows(const std::uint8_t *q, std::ptrdiff_t ldq, int rows, const std::int8_t *panel, int depth,
                       std::int32_t *sums) noexcept {
    if (rows == R) {
      Tile::template run<R, W>(q, ldq, panel, depth, sums);
    } else if constexpr (R > 1) {
      sum_rows<W, R - 1>(q, ldq, rows, panel, depth, sums);
    }
  }

  static void sum_int8(const std::uint8_t *q, std::ptrdiff_t ldq, int rows, const std::int8_t *panel, int depth,
                       std::int32_t *sums) noexcept {
    for (int r = 0; r < rows; r += Tile::rows)
      sum_rows<kPanel>(q + r * ldq, ldq, least(Tile::rows, rows - r), panel, depth, sums + r * kPanel);
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
        sum_rows<kPanel>(a.q + r * a.ldq, a.ldq, height, weights, w.depth, sums);
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

  // One row as s8 with 127 for its largest magnitude, in bytes whose highest bit is turned (value + 128).
  static float quantize_symmetric(const float *x, int cols, std::uint8_t *bytes) {
    V top = L::zero();
    int c = 0;
    for (; c + L::width <= cols; c += L::width)
      top = L::max(top, L::abs(L::load(x + c)));
    if (c < cols)
      top = L::max(top, L::abs(L::load_first(x + c, cols - c)));
    const float largest = L::greatest(top);
    const V factor = L::set(largest > 1e-30f ? 127.0f / largest : 0.0f);
    for (c = 0; c + L::width <= cols; c += L::width)
      L::store_u8(bytes + c, L::mul(L::load(x + c), factor), 128);
    if (c < cols)
      L::store_u8(bytes + c, L::mul(L::load_first(x + c, cols - c), factor), 128);
    return largest / 127.0f;
  }

  static constexpr std::uint32_t kTurned = 0x80808080u; // s8 = byte ^ 0x80

  static void pack_keys_int8(const AttentionHead &head, const Int8Head &packed) {
    const int d = head.head_size, depth = round_up(d, 32), padded = round_up(head.length, kPanel);
    std::uint8_t bytes[1024 + 64];
    for (int c = 0; c < depth; ++c)
      bytes[c] = 128;
    for (int j = 0; j < padded; ++j) {
      std::int8_t *target =
          packed.keys + static_cast<std::ptrdiff_t>(j / kPanel) * kPanel * depth + j % kPanel * kGroup;
      float scale = 0.0f;
      int sum = 0;
      if (j < head.length) {
        scale = quantize_symmetric(head.key + j * head.ld, d, bytes);
        for (int c = d; c < round_up(d, L::width); ++c)
          bytes[c] = 128;
        for (int c = 0; c < d; ++c)
          sum += bytes[c];
        sum -= 128 * d;
      }
      for (int c = 0; c < depth; c += kGroup) {
        std::uint32_t four;
        __builtin_memcpy(&four, bytes + c, sizeof four);
        four = j < head.length ? four ^ kTurned : 0u;
        __builtin_memcpy(target + static_cast<std::ptrdiff_t>(c) * kPanel, &four, sizeof four);
      }
      packed.key_scale[j] = scale;
      packed.key_sums[j] = static_cast<float>(sum);
    }
  }

  // One panel of values: columns [first, first + W) of the head, four tokens deep.
  template <int W>
  static void pack_values_int8(const AttentionHead &head, int first, std::int8_t *target, float *scale) {
    const int columns = least(W, head.head_size - first), padded = round_up(head.length, kPanel);
    const float *value = head.value + first;
    float largest[W] = {}, factor[W];
    for (int j = 0; j < head.length; ++j)
      for (int c = 0; c < columns; ++c) {
        const float v = value[j * head.ld + c], magnitude = v < 0.0f ? -v : v;
        largest[c] = magnitude > largest[c] ? magnitude : largest[c];
      }
    for (int c = 0; c < W; ++c) {
      scale[c] = largest[c] / 127.0f;
      factor[c] = largest[c] > 1e-30f ? 127.0f / largest[c] : 0.0f;
    }
    std::uint8_t bytes[kGroup][W];
    for (int j = 0; j < padded; j += kGroup, target += W * kGroup) {
      for (int i = 0; i < kGroup; ++i)
        quantize_columns<W>(j + i < head.length ? value + (j + i) * head.ld : nullptr, columns, factor, bytes[i]);
      for (int c = 0; c < W; ++c) {
        const std::uint32_t four =
            (static_cast<std::uint32_t>(bytes[0][c]) | static_cast<std::uint32_t>(bytes[1][c]) << 8 |
             static_cast<std::uint32_t>(bytes[2][c]) << 16 | static_cast<std::uint32_t>(bytes[3][c]) << 24) ^
            kTurned;
        __builtin_memcpy(target + c * kGroup, &four, sizeof four);
      }
    }
  }

  // One row of values with a factor for each column; null is a row of zeros.
  template <int W> static void quantize_columns(const float *x, int columns, const float *factor, std::uint8_t *bytes) {
    for (int c = 0; c < W; c += L::width) {
      V v = L::zero();
      if (x != nullptr && c + L::width <= columns)
        v = L::mul(L::load(x + c), L::load(factor + c));
      else if (x != nullptr && c < columns)
        v = L::mul(L::load_first(x + c, columns - c), L::load(factor + c));
      L::store_u8(bytes + c, v, 128);
    }
  }

  template <int W> static void pack_all_values(const AttentionHead &head, const Int8Head &packed) {
    const int padded = round_up(head.length, kPanel);
    for (int c = 0; c < head.head_size; c += W)
      pack_values_int8<W>(head, c, packed.values + static_cast<std::ptrdiff_t>(c) * padded, packed.value_scale + c);
  }

  static void pack_head(const AttentionHead &head, const Int8Head &packed) noexcept {
    quantize_rows(head.query, head.ld, head.length, head.head_size, packed.query, round_up(head.head_size, kDepthStep),
                  packed.query_scale, packed.query_zero);
    pack_keys_int8(head, packed);
    switch (value_width(head.head_size)) {
    case 16:
      return pack_all_values<16>(head, packed);
    case 32:
      return pack_all_values<32>(head, packed);
    default:
      return pack_all_values<64>(head, packed);
    }
  }

  // scores[r][j] = query . key / query_scale_r, for one tile of rows; highest[r] is the largest of a row.
  static void score_int8(const AttentionHead &head, const Int8Head &packed, int row, int rows, float *scores, int lds,
                         float *highest) {
    const int depth = round_up(head.head_size, 32), ldq = round_up(head.head_size, kDepthStep);
    alignas(64) std::int32_t sums[Tile::rows * kPanel];
    V top[Tile::rows];
    for (int r = 0; r < rows; ++r)
      top[r] = L::set(-3.0e38f);
    for (int j = 0; j < head.length; j += kPanel) {
      const int keys = least(kPanel, head.length - j);
      sum_rows<kPanel>(packed.query + row * ldq, ldq, rows, packed.keys + static_cast<std::ptrdiff_t>(j) * depth, depth,
                       sums);
      for (int r = 0; r < rows; ++r) {
        const V zero = L::set(-static_cast<float>(packed.query_zero[row + r]));
        for (int c = 0; c < keys; c += L::width) {
          const V sum = L::fma(zero, L::load(packed.key_sums + j + c), L::from_s32(sums + r * kPanel + c));
          const V score = L::mul(sum, L::load(packed.key_scale + j + c));
          L::store(scores + r * lds + j + c, score);
          top[r] = L::max(top[r], c + L::width <= keys ? score : L::first_or(score, keys - c, top[r]));
        }
      }
    }
    for (int r = 0; r < rows; ++r)
      highest[r] = L::greatest(top[r]);
  }

  // A row of scores to u8 weights, 255 for the highest; returns their sum. 2^x with three terms errs by 1e-4, a
  // fortieth of the step that rounding to eight bits makes.
  static float weigh_int8(const float *scores, int length, float highest, float query_scale, std::uint8_t *weights) {
    const V factor = L::set(query_scale), shift = L::set(-highest * query_scale);
    V total = L::zero();
    const int full = length / L::width * L::width;
    for (int j = 0; j < full; j += L::width) {
      const V e = L::round(short_exp2<L>(L::fma(L::load(scores + j), factor, shift)));
      total = L::add(total, e);
      L::store_u8(weights + j, e, 0);
    }
    if (full < length) {
      const V x = L::fma(L::load_first(scores + full, length - full), factor, shift);
      const V e = L::keep_first(L::round(short_exp2<L>(L::min(x, L::zero()))), length - full);
      total = L::add(total, e);
      L::store_u8(weights + full, e, 0);
    }
    for (int j = round_up(length, L::width); j < round_up(length, kPanel); ++j)
      weights[j] = 0;
    return L::sum(total);
  }

  template <int W>
  static void mix_values(const AttentionHead &head, const Int8Head &packed, const std::uint8_t *weights, int ldw,
                         int rows, const float *total, float *out, std::ptrdiff_t ldo) {
    const int padded = round_up(head.length, kPanel);
    alignas(64) std::int32_t sums[Tile::rows * W];
    for (int first = 0; first < head.head_size; first += W) {
      sum_rows<W>(weights, ldw, rows, packed.values + static_cast<std::ptrdiff_t>(first) * padded, padded, sums);
      const int columns = least(W, head.head_size - first);
      for (int r = 0; r < rows; ++r) {
        const V factor = L::set(1.0f / total[r]);
        for (int c = 0; c < columns; c += L::width) {
          const V v = L::mul(L::mul(L::from_s32(sums + r * W + c), L::load(packed.value_scale + first + c)), factor);
          if (c + L::width <= columns)
            L::store(out + r * ldo + first + c, v);
          else
            L::store_first(out + r * ldo + first + c, v, columns - c);
        }
      }
    }
  }

  static void attend_int8(const AttentionHead &head, const Int8Head &packed, int first_row, int last_row, float *scores,
                          float *out, std::ptrdiff_t ldo) noexcept {
    const int lds = round_up(head.length, kPanel);
    auto *weights = reinterpret_cast<std::uint8_t *>(scores + static_cast<std::ptrdiff_t>(Tile::rows) * lds);
    for (int row = first_row, rows; row < last_row; row += rows) {
      rows = tile_height(last_row - row);
      float highest[Tile::rows], total[Tile::rows];
      score_int8(head, packed, row, rows, scores, lds, highest);
      for (int r = 0; r < rows; ++r)
        total[r] =
            weigh_int8(scores + r * lds, head.length, highest[r], packed.query_scale[row + r], weights + r * lds);
      float *target = out + row * ldo;
      switch (value_width(head.head_size)) {
      case 16:
        mix_values<16>(head, packed, weights, lds, rows, total, target, ldo);
        break;
      case 32:
        mix_values<32>(head, packed, weights, lds, rows, total, target, ldo);
        break;
      default:
        mix_values<64>(head, packed, weights, lds, rows, total, target, ldo);
      }
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
    return {name,      quantize_rows, sum_int8,  linear_int8, linear_float32,
            pack_keys, attend,        pack_head, attend_int8, add_norm};
  }
};

} // namespace
} // namespace quaver
