// Products of bfloat16: the loops around a tile of pairs, for linear layers and for attention.
//
// Each file of BFloat16Kernels defines
//   struct Lanes   what shared/vector_kernels.h lists, and store_nearest, eight_nearest and store_pairs, which round to
//   bfloat16 (avx512bf16.cpp)
//   struct Tile    `rows`, its height, and run<R, W>(q, ldq, panel, strip, depth, sums) for R rows of pairs and panels
//   of W columns whose strips are `strip` numbers apart; with `any_height` run<W>(q, ldq, rows, panel, ...) instead,
//   which stores the sums of Tile::rows rows, with `depth_step` and `overread_rows` (amxbf16.cpp)
// and makes its table from BFloat16Loops<Lanes, Tile, HeadTile>, HeadTile being a tile of another height for attention.
#pragma once

#include "kernels/shared/attention.h"

namespace quaver {
namespace {

template <class L, class Tile, class HeadTile = Tile> struct BFloat16Loops {
  using V = typename L::V;
  using Attention = AttentionKernels<L, HeadTile>;
  static constexpr int eight = 8; // bfloat16 in sixteen bytes
  static constexpr int score_bytes = HeadTile::rows * static_cast<int>(sizeof(float) + sizeof(std::uint16_t));
  static constexpr bool any_height = requires { Tile::any_height; };
  // Inputs that a tile multiplies at a time: it reads what follows the last one, zeros, up to a multiple of them.
  static constexpr int depth_step = [] {
    if constexpr (requires { Tile::depth_step; })
      return Tile::depth_step;
    else
      return 2;
  }();
  static constexpr int overread_rows = [] {
    if constexpr (requires { Tile::overread_rows; })
      return Tile::overread_rows;
    else
      return 0;
  }();
  static_assert(kPairStep % depth_step == 0);
  static_assert(kPairStep % L::width == 0 && kPairStep % eight == 0 && kStrip % L::width == 0);

  static void round_rows(const float *x, std::ptrdiff_t ldx, int rows, int cols, std::uint16_t *q,
                         std::ptrdiff_t ldq) noexcept {
    for (int r = 0; r < rows; ++r, x += ldx, q += ldq) {
      int c = 0;
      for (; c + L::width <= cols; c += L::width)
        L::store_nearest(q + c, L::load(x + c));
      for (; c < round_up(cols, kPairStep); c += L::width)
        L::store_nearest(q + c, Attention::load_columns(x, cols, c));
    }
  }

  static int height_of(int left, int most) { return any_height ? least(most, left) : tile_height(left, most); }

  // sums [rows][W] over `depth` inputs, rounded up to depth_step, of a panel W columns wide; rows <= R.
  template <int W, int R = Tile::rows, class Fetch = Nothing>
  static void sum_rows(const std::uint16_t *q, std::ptrdiff_t ldq, int rows, const std::uint16_t *panel,
                       std::ptrdiff_t strip, int depth, float *sums, Fetch ahead = {}) {
    if constexpr (any_height)
      Tile::template run<W>(q, ldq, rows, panel, strip, depth, sums, ahead);
    else if (rows == R)
      Tile::template run<R, W>(q, ldq, panel, strip, depth, sums, ahead);
    else if constexpr (R > 1)
      sum_rows<W, R - 1>(q, ldq, rows, panel, strip, depth, sums, ahead);
  }

  // The same for 64, 32 or 16 columns.
  static void sum_columns(int width, const std::uint16_t *q, std::ptrdiff_t ldq, int rows, const std::uint16_t *strips,
                          std::ptrdiff_t strip, int depth, float *sums) {
    if (width == kPanel)
      sum_rows<kPanel>(q, ldq, rows, strips, strip, depth, sums);
    else if (width == 2 * kStrip)
      sum_rows<2 * kStrip>(q, ldq, rows, strips, strip, depth, sums);
    else
      sum_rows<kStrip>(q, ldq, rows, strips, strip, depth, sums);
  }

  // The sums of a tile are turned into outputs. The activations are those of float32: a short form would err as much as
  // rounding does.
  template <Activation kAct>
  static void finish(const float *sums, int rows, const BFloat16Weights &w, int column, float *y, std::ptrdiff_t ldy,
                     Activation act) {
    constexpr int side = L::chains;
    for (int c = 0; c < kPanel; c += side * L::width) {
      V scale[side], bias[side];
#pragma GCC unroll 4
      for (int i = 0; i < side; ++i) {
        scale[i] = L::load(w.scale + column + c + i * L::width);
        bias[i] = L::load(w.bias + column + c + i * L::width);
      }
      for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int i = 0; i < side; ++i) {
          const V value = L::fma(L::load(sums + r * kPanel + c + i * L::width), scale[i], bias[i]);
          L::store(y + r * ldy + c + i * L::width, kAct == Activation::gelu   ? gelu<L>(value)
                                                   : kAct == Activation::none ? value
                                                                              : activate<L>(value, act));
        }
    }
  }

  static void linear(const std::uint16_t *q, std::ptrdiff_t ldq, int rows, const BFloat16Weights &w, int first_panel,
                     int last_panel, float *y, std::ptrdiff_t ldy, Activation act) noexcept {
    alignas(64) float sums[Tile::rows * kPanel];
    const std::ptrdiff_t strip = static_cast<std::ptrdiff_t>(kStrip) * round_up(w.depth, kPairStep),
                         size = kPanel / kStrip * strip;
    for (int panel = first_panel; panel < last_panel; ++panel) {
      const std::uint16_t *weights = w.panels + panel * size;
      const int column = panel * kPanel;
      Quarters quarters{reinterpret_cast<const std::int8_t *>(weights + size), 2 * size};
      for (int r = 0, height; r < rows; r += height) {
        height = height_of(rows - r, Tile::rows);
        const int asked = quarters.asked((rows - r + Tile::rows - 1) / Tile::rows);
        if (asked == 2)
          sum_rows<kPanel>(q + r * ldq, ldq, height, weights, strip, w.depth, sums, Ahead<2>{quarters.next});
        else if (asked == 1)
          sum_rows<kPanel>(q + r * ldq, ldq, height, weights, strip, w.depth, sums, Ahead<1>{quarters.next});
        else
          sum_rows<kPanel>(q + r * ldq, ldq, height, weights, strip, w.depth, sums);
        quarters.take(asked);
        float *out = y + r * ldy + column;
        if (act == Activation::none)
          finish<Activation::none>(sums, height, w, column, out, ldy, act);
        else if (act == Activation::gelu)
          finish<Activation::gelu>(sums, height, w, column, out, ldy, act);
        else
          finish<Activation::relu>(sums, height, w, column, out, ldy, act);
      }
    }
  }

  // Eight bfloat16 of a row that has `columns` floats; zero behind the last.
  static typename L::Sixteen eight_of(const float *row, int columns) {
    if (columns >= eight)
      return L::eight_nearest(row);
    float last[eight] = {};
    for (int c = 0; c < columns; ++c)
      last[c] = row[c];
    return L::eight_nearest(last);
  }

  // Keys are a linear layer with one output per token.
  static void pack_keys(const AttentionHead &head, const BFloat16Head &packed) noexcept {
    const int d = head.head_size, depth = round_up(d, kPairStep), padded = round_up(head.length, kStrip);
    for (int j = 0; j < padded; j += kGroup) {
      std::uint16_t *target = packed.keys + static_cast<std::ptrdiff_t>(j / kStrip) * kStrip * depth + j % kStrip * 2;
      for (int c = 0; c < depth; c += eight, target += eight * kStrip) {
        typename L::Sixteen rows[kGroup];
        for (int i = 0; i < kGroup; ++i)
          rows[i] = j + i < head.length && c < d ? eight_of(head.key + (j + i) * head.ld + c, d - c) : L::no_bytes();
        L::store_groups(reinterpret_cast<std::int8_t *>(target), rows);
      }
    }
  }

  // Values are one with an output per feature, two tokens deep.
  static void pack_values(const AttentionHead &head, const BFloat16Head &packed) noexcept {
    const int padded = round_up(head.length, kPairStep),
              columns = round_up(head.head_size, value_width(head.head_size));
    std::uint16_t *target = packed.values;
    for (int first = 0; first < columns; first += kStrip)
      for (int j = 0; j < padded; j += 2)
        for (int c = 0; c < kStrip; c += L::width, target += 2 * L::width) {
          V token[2];
          for (int i = 0; i < 2; ++i)
            token[i] = j + i < head.length
                           ? Attention::load_columns(head.value + (j + i) * head.ld + first, head.head_size - first, c)
                           : L::zero();
          L::store_pairs(target, token[0], token[1]);
        }
  }

  // Scores of one tile of rows and the keys [first, seen); highest[r] is the largest of a row.
  static void score(const AttentionHead &head, const BFloat16Head &packed, int row, int rows, int first, int seen,
                    float *scores, int lds, float *highest) {
    const int depth = round_up(head.head_size, kPairStep);
    const std::ptrdiff_t strip = static_cast<std::ptrdiff_t>(kStrip) * depth;
    alignas(64) float sums[HeadTile::rows * kPanel];
    V top[HeadTile::rows];
    for (int r = 0; r < rows; ++r)
      top[r] = L::set(-kLargest);
    for (int j = first, width; j < seen; j += width) {
      const int strips = (seen - j + kStrip - 1) / kStrip;
      width = strips >= 4 ? kPanel : strips >= 2 ? 2 * kStrip : kStrip;
      const int keys = least(width, seen - j);
      sum_columns(width, packed.query + static_cast<std::ptrdiff_t>(row) * depth, depth, rows,
                  packed.keys + static_cast<std::ptrdiff_t>(j) * depth, strip, depth, sums);
      for (int r = 0; r < rows; ++r)
        for (int c = 0; c < keys; c += L::width) {
          const V v = L::load(sums + r * width + c);
          L::store(scores + r * lds + j + c, v);
          top[r] = L::max(top[r], c + L::width <= keys ? v : L::first_or(v, keys - c, top[r]));
        }
    }
    for (int r = 0; r < rows; ++r)
      highest[r] = L::greatest(top[r]);
  }

  // A row of scores to weights, zero from `keys` up to `padded`; returns their sum after rounding, so that rounding
  // adds no weight and takes none. The error of the short power, 1e-4, is a twentieth of the step of rounding.
  static float weigh(const float *scores, int keys, int padded, float highest, std::uint16_t *weights) {
    const V shift = L::set(highest);
    V total = L::zero();
    const int full = keys / L::width * L::width;
    for (int j = 0; j < full; j += L::width)
      total = L::add(total, L::store_nearest(weights + j, short_exp2<L>(L::sub(L::load(scores + j), shift))));
    if (full < keys) {
      const V x = L::min(L::zero(), L::sub(L::load_first(scores + full, keys - full), shift));
      total = L::add(total, L::store_nearest(weights + full, L::keep_first(short_exp2<L>(x), keys - full)));
    }
    for (int j = round_up(keys, L::width); j < padded; j += L::width)
      L::store_nearest(weights + j, L::zero());
    return L::sum(total);
  }

  // The weights of the keys [first_key, seen) times their values.
  static void mix(const AttentionHead &head, const BFloat16Head &packed, const std::uint16_t *weights, int ldw,
                  int rows, int first_key, int seen, const float *total, float *out, std::ptrdiff_t ldo) {
    const int padded = round_up(head.length, kPairStep), width = value_width(head.head_size);
    const std::ptrdiff_t strip = static_cast<std::ptrdiff_t>(kStrip) * padded;
    alignas(64) float sums[HeadTile::rows * kPanel];
    for (int first = 0; first < head.head_size; first += width) {
      sum_columns(width, weights + first_key, ldw, rows,
                  packed.values + static_cast<std::ptrdiff_t>(first) * padded + first_key * kStrip, strip,
                  seen - first_key, sums);
      const int columns = least(width, head.head_size - first);
      for (int r = 0; r < rows; ++r)
        Attention::scale_row(sums + r * width, columns, 1.0f / total[r], out + r * ldo + first);
    }
  }

  static void attend(const AttentionHead &head, const BFloat16Head &packed, int first_row, int last_row, float *scores,
                     float *out, std::ptrdiff_t ldo) noexcept {
    const int lds = round_up(head.length, kPanel);
    auto *weights = reinterpret_cast<std::uint16_t *>(scores + static_cast<std::ptrdiff_t>(HeadTile::rows) * lds);
    // Steps of depth begin at the same keys whichever rows are together, so that sums have the same order.
    constexpr int key_step = depth_step > kStrip ? depth_step : kStrip;
    for (int row = first_row, rows; row < last_row; row += rows) {
      rows = height_of(last_row - row, HeadTile::rows);
      const int first = Attention::seen_from(head, row, key_step), seen = Attention::seen_until(head, row + rows - 1);
      float highest[HeadTile::rows], total[HeadTile::rows];
      score(head, packed, row, rows, first, seen, scores, lds, highest);
      for (int r = 0; r < rows && Attention::is_placed(head); ++r)
        highest[r] = Attention::place(head, row + r, first, scores + r * lds, 1.0f);
      for (int r = 0; r < rows; ++r)
        total[r] = weigh(scores + r * lds + first, Attention::seen_until(head, row + r) - first,
                         round_up(seen - first, depth_step), highest[r], weights + r * lds + first);
      mix(head, packed, weights, lds, rows, first, seen, total, out + row * ldo, ldo);
    }
  }

  static constexpr BFloat16Kernels table(const char *name, int rate) {
    return {.name = name,
            .overread_rows = overread_rows,
            .score_bytes = score_bytes,
            .rate = rate,
            .round_rows = round_rows,
            .linear = linear,
            .pack_keys = pack_keys,
            .pack_values = pack_values,
            .attend = attend};
  }
};

} // namespace
} // namespace quaver
