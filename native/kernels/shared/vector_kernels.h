// The float kernels, written once over a vector type, and the loops around the int8 tile.
//
// Each instruction set's file defines
//   struct Lanes   one vector of float32: width, V, load, store, ... (lanes_avx2.h shows the list)
//   struct Tile    `rows`, the height of its int8 tile, and run<R, W>(q, ldq, panel, strip, depth, sums) for
//   panels of W columns whose strips are `strip` bytes apart; or any_height, depth_step, overread_rows and run<W> with
//   the number of rows as an argument (amx.cpp); `group` where groups are not of four (neon_i8mm.cpp); and another one
//   for attention where that needs fewer rows
// and makes its table from VectorKernels<Lanes, Tile>. Everything is in an anonymous namespace: two files compiled with
// different flags must not share one instantiation, or the linker may keep the one that the CPU cannot run.
#pragma once

#include "kernels/shared/attention.h"

namespace quaver {
namespace {

template <class L, class Tile, class HeadTile = Tile> struct VectorKernels : AttentionKernels<L, HeadTile> {
  using V = typename L::V;
  using Linear = LinearKernels<L, Tile>;
  using Attention = AttentionKernels<L, HeadTile>;

  static void add_norm(float *x, std::ptrdiff_t ldx, const float *y, std::ptrdiff_t ldy, int rows, int cols,
                       const NormWeights &norm, float *out, std::ptrdiff_t ldo) noexcept {
    for (int r = 0; r < rows; ++r, x += ldx, out += ldo) {
      if (norm.kind == NormKind::rms) {
        rms_norm(x, y, cols, norm, out);
      } else {
        const float sum = add_row(x, y, cols);
        if (norm.kind == NormKind::layer)
          layer_norm(x, sum / static_cast<float>(cols), cols, norm, out);
        else
          copy_row(x, cols, out);
      }
      if (y != nullptr)
        y += ldy;
    }
  }

  // x += y; return the sum.
  static float add_row(float *x, const float *y, int cols) {
    const int full = cols / L::width * L::width, tail = cols - full;
    V sum = L::zero();
    for (int c = 0; c < full; c += L::width) {
      V v = L::load(x + c);
      if (y != nullptr) {
        v = L::add(v, L::load(y + c));
        L::store(x + c, v);
      }
      sum = L::add(sum, v);
    }
    if (tail > 0) {
      V v = L::load_first(x + full, tail);
      if (y != nullptr) {
        v = L::add(v, L::load_first(y + full, tail));
        L::store_first(x + full, v, tail);
      }
      sum = L::add(sum, v);
    }
    return L::sum(sum);
  }

  // One over the root. Infinity would make a row of beta from any values at all.
  static V inverse_root(float variance) {
    return L::set(variance <= kLargest ? 1.0f / L::square_root(variance) : __builtin_nanf(""));
  }

  static void layer_norm(const float *x, float mean_of_row, int cols, const NormWeights &norm, float *out) {
    const int full = cols / L::width * L::width, tail = cols - full;
    const V mean = L::set(mean_of_row);
    V square = L::zero();
    for (int c = 0; c < full; c += L::width) {
      const V v = L::sub(L::load(x + c), mean);
      square = L::fma(v, v, square);
    }
    if (tail > 0) {
      const V v = L::keep_first(L::sub(L::load_first(x + full, tail), mean), tail);
      square = L::fma(v, v, square);
    }
    const V factor = inverse_root(L::sum(square) / static_cast<float>(cols) + norm.eps);
    for (int c = 0; c < full; c += L::width) {
      const V v = L::mul(L::sub(L::load(x + c), mean), factor);
      L::store(out + c, L::fma(v, L::load(norm.gamma + c), L::load(norm.beta + c)));
    }
    if (tail > 0) {
      const V v = L::mul(L::sub(L::load_first(x + full, tail), mean), factor);
      L::store_first(out + full,
                     L::fma(v, L::load_first(norm.gamma + full, tail), L::load_first(norm.beta + full, tail)), tail);
    }
  }

  // The sum of squares needs no mean, so it is taken while y is added.
  static void rms_norm(float *x, const float *y, int cols, const NormWeights &norm, float *out) {
    const int full = cols / L::width * L::width, tail = cols - full;
    V square = L::zero();
    for (int c = 0; c < full; c += L::width) {
      V v = L::load(x + c);
      if (y != nullptr) {
        v = L::add(v, L::load(y + c));
        L::store(x + c, v);
      }
      square = L::fma(v, v, square);
    }
    if (tail > 0) {
      V v = L::load_first(x + full, tail);
      if (y != nullptr) {
        v = L::add(v, L::load_first(y + full, tail));
        L::store_first(x + full, v, tail);
      }
      square = L::fma(v, v, square);
    }
    const V factor = inverse_root(L::sum(square) / static_cast<float>(cols) + norm.eps);
    for (int c = 0; c < full; c += L::width)
      L::store(out + c, L::mul(L::mul(L::load(x + c), factor), L::load(norm.gamma + c)));
    if (tail > 0)
      L::store_first(out + full,
                     L::mul(L::mul(L::load_first(x + full, tail), factor), L::load_first(norm.gamma + full, tail)),
                     tail);
  }

  static void copy_row(const float *x, int cols, float *out) {
    if (out == x)
      return;
    int c = 0;
    for (; c + L::width <= cols; c += L::width)
      L::store(out + c, L::load(x + c));
    if (c < cols)
      L::store_first(out + c, L::load_first(x + c, cols - c), cols - c);
  }

  static void gate(float *x, std::ptrdiff_t ldx, int rows, int cols, bool last, Activation act, bool rounded) noexcept {
    const auto run = [=](auto activation) {
      const int gated = last ? cols : 0, other = cols - gated;
      float *of_row = x;
      for (int r = 0; r < rows; ++r, of_row += ldx) {
        int c = 0;
        for (; c + L::width <= cols; c += L::width)
          L::store(of_row + c, L::mul(activation(L::load(of_row + gated + c)), L::load(of_row + other + c)));
        if (c < cols) {
          const int tail = cols - c;
          const V v = activation(L::load_first(of_row + gated + c, tail));
          L::store_first(of_row + c, L::mul(v, L::load_first(of_row + other + c, tail)), tail);
        }
      }
    };
    // A loop of its own for each: the constants stay in registers.
    if (act == Activation::gelu)
      rounded ? run([](V v) { return short_gelu<L>(v); }) : run([](V v) { return gelu<L>(v); });
    else if (act == Activation::gelu_tanh)
      rounded ? run([](V v) { return short_gelu_tanh<L>(v); })
              : run([](V v) { return activate<L>(v, Activation::gelu_tanh); });
    else if (act == Activation::silu)
      rounded ? run([](V v) { return short_silu<L>(v); }) : run([](V v) { return gated<L>(v, v); });
    else
      run([act](V v) { return activate<L>(v, act); });
  }

  static void rotate(float *x, std::ptrdiff_t ldx, int rows, int heads, int head_size, const float *cosine,
                     const float *sine) noexcept {
    const int half = head_size / 2, full = half / L::width * L::width, tail = half - full;
    for (int r = 0; r < rows; ++r, x += ldx, cosine += half, sine += half)
      for (int h = 0; h < heads; ++h) {
        float *first = x + h * head_size, *second = first + half;
        for (int c = 0; c < full; c += L::width) {
          const V a = L::load(first + c), b = L::load(second + c), cos = L::load(cosine + c), sin = L::load(sine + c);
          L::store(first + c, L::sub(L::mul(a, cos), L::mul(b, sin)));
          L::store(second + c, L::fma(b, cos, L::mul(a, sin)));
        }
        if (tail > 0) {
          const V a = L::load_first(first + full, tail), b = L::load_first(second + full, tail),
                  cos = L::load_first(cosine + full, tail), sin = L::load_first(sine + full, tail);
          L::store_first(first + full, L::sub(L::mul(a, cos), L::mul(b, sin)), tail);
          L::store_first(second + full, L::fma(b, cos, L::mul(a, sin)), tail);
        }
      }
  }

  static constexpr int overread_rows = [] {
    if constexpr (requires { Tile::overread_rows; })
      return Tile::overread_rows;
    else
      return 0;
  }();

  static constexpr KernelTable table(const char *name, int int8_rate, int float32_rate,
                                     const BFloat16Kernels *bfloat16 = nullptr) {
    return {.name = name,
            .alignment = static_cast<int>(sizeof(V)),
            .tile_rows = Tile::rows,
            .overread_rows = overread_rows,
            .group = Linear::group,
            .key_step = Attention::key_step,
            .score_bytes = Attention::score_bytes,
            .int8_rate = int8_rate,
            .float32_rate = float32_rate,
            .bfloat16 = bfloat16,
            .enter = nullptr,
            .leave = nullptr,
            .quantize_rows = Linear::quantize_rows,
            .quantize_rows_fixed = Linear::quantize_rows_fixed,
            .sum_int8 = Linear::sum_int8,
            .row_sums = Linear::row_sums,
            .linear_int8 = Linear::linear_int8,
            .linear_int4 = Linear::linear_int4,
            .linear_float32 = Linear::linear_float32,
            .linear_bfloat16 = Linear::linear_bfloat16,
            .pack_keys = Attention::pack_keys,
            .pack_values = Attention::pack_values,
            .attend = Attention::attend,
            .pack_keys_int8 = Attention::pack_keys_int8,
            .pack_values_int8 = Attention::pack_values_int8,
            .attend_int8 = Attention::attend_int8,
            .add_norm = add_norm,
            .gate = gate,
            .rotate = rotate};
  }
  static_assert(sizeof(V) <= kAlignment);
};

} // namespace
} // namespace quaver
