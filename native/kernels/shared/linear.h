// Linear layers: quantization of rows, the loops around the int8 tile, the float tile, and the outputs from the sums.
#pragma once

#include "kernels/shared/vector_math.h"

namespace quaver {
namespace {

// Prefetches of a tile while it multiplies, some cache lines a step: the weights needed next, which the hardware does
// not predict. A step multiplies four lines, so one of them is a quarter of the next panel.
template <int kLines> struct Ahead {
  const std::int8_t *line;
  void fetch() {
    for (int i = 0; i < kLines; ++i)
      __builtin_prefetch(line + i * 64, 0, 2);
    line += kLines * 64;
  }
  // The same for a step of one strip, a quarter of that one. Asking for a line again costs less than counting steps.
  void fetch_strip() {
    __builtin_prefetch(line, 0, 2);
    line += kLines * 16;
  }
};
struct Nothing {
  void fetch() {}
  void fetch_strip() {}
};

// The quarters of the next panel, which the tiles of a panel share out, two at most for each, so that memory is asked
// for all the time. Other memory follows the last panel: a prefetch never faults.
struct Quarters {
  const std::int8_t *next;
  std::ptrdiff_t panel_bytes;
  int left = 4;

  // Of the next tile, where so many tiles are left.
  int asked(int tiles) const { return least((left + tiles - 1) / tiles, 2); }
  void take(int asked) {
    left -= asked;
    next += asked * panel_bytes / 4;
  }
};

// y[R][C vectors] = x[R][depth] * w[depth][C vectors]: one accumulator per element, one chain over depth. w is strips
// of 16 columns, `strip` floats apart: each is read from front to back, and no two rows of it share a place in L1.
template <class L, int R, int C, class Fetch>
void float_tile(const float *x, std::ptrdiff_t ldx, const float *w, std::ptrdiff_t strip, int depth, float *y,
                std::ptrdiff_t ldy, Fetch ahead) {
  const auto place = [strip](int c) { return c * L::width / kStrip * strip + c * L::width % kStrip; };
  typename L::V sum[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
      sum[r][c] = L::zero();
  for (int k = 0; k < depth; ++k, w += kStrip) {
    typename L::V column[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
      column[c] = L::load(w + place(c));
    if constexpr (C * L::width > kStrip)
      ahead.fetch();
    else
      ahead.fetch_strip();
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

// Rows of the next tile when `left` rows remain and a tile has at most `most`: full ones, and the last ones shared
// evenly (16 = 6 + 5 + 5, not 6 + 6 + 4).
inline int tile_height(int left, int most) {
  const int tiles = (left + most - 1) / most;
  return (left + tiles - 1) / tiles;
}

// The same for numbers of rows and of vectors of columns known only at run time, at most R and C. A narrow head has no
// others, and a single chain of multiply-adds would wait for itself.
template <class L, int C, int R = L::float_rows, class Fetch = Nothing>
void float_tile_of(int rows, const float *x, std::ptrdiff_t ldx, const float *w, std::ptrdiff_t strip, int depth,
                   float *y, std::ptrdiff_t ldy, Fetch ahead = {}) {
  if (rows == R)
    float_tile<L, R, C>(x, ldx, w, strip, depth, y, ldy, ahead);
  else if constexpr (R > 1)
    float_tile_of<L, C, R - 1>(rows, x, ldx, w, strip, depth, y, ldy, ahead);
}
template <class L, int C = L::float_columns>
void float_tile_of(int rows, int vectors, const float *x, std::ptrdiff_t ldx, const float *w, std::ptrdiff_t strip,
                   int depth, float *y, std::ptrdiff_t ldy) {
  if (vectors == C)
    float_tile_of<L, C>(rows, x, ldx, w, strip, depth, y, ldy);
  else if constexpr (C > 1)
    float_tile_of<L, C - 1>(rows, vectors, x, ldx, w, strip, depth, y, ldy);
}

// The float tile over bfloat16 panels: the same multiply-adds in the same order, two steps of depth for each pair.
template <class L, int R, int C>
void bfloat16_tile(const float *x, std::ptrdiff_t ldx, const std::uint16_t *panel, std::ptrdiff_t strip, int depth,
                   float *y, std::ptrdiff_t ldy) {
  using V = typename L::V;
  const auto place = [strip](int c) { return c * L::width / kStrip * strip + c * L::width % kStrip * 2; };
  V sum[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
      sum[r][c] = L::zero();
  for (int k = 0; k < depth; k += 2, panel += 2 * kStrip) {
    V column[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
      column[c] = L::first_of_pairs(panel + place(c));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const V value = L::set(x[r * ldx + k]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c)
        sum[r][c] = L::fma(value, column[c], sum[r][c]);
    }
    if (k + 1 == depth) // nothing is behind the last input of an odd depth
      break;
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
      column[c] = L::second_of_pairs(panel + place(c));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const V value = L::set(x[r * ldx + k + 1]);
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

// The same for a number of rows known only at run time, at most R.
template <class L, int C, int R = L::float_rows>
void bfloat16_tile_of(int rows, const float *x, std::ptrdiff_t ldx, const std::uint16_t *panel, std::ptrdiff_t strip,
                      int depth, float *y, std::ptrdiff_t ldy) {
  if (rows == R)
    bfloat16_tile<L, R, C>(x, ldx, panel, strip, depth, y, ldy);
  else if constexpr (R > 1)
    bfloat16_tile_of<L, C, R - 1>(rows, x, ldx, panel, strip, depth, y, ldy);
}

template <class L, class Tile> struct LinearKernels {
  using V = typename L::V;

  // Inputs of an output side by side in a panel.
  static constexpr int group = [] {
    if constexpr (requires { Tile::group; })
      return Tile::group;
    else
      return kGroup;
  }();

  // Whether one function of the tile takes any number of rows, and costs as much for a few as for all. Others have one
  // for each number.
  static constexpr bool any_height = requires { Tile::any_height; };
  static int height_of(int left) { return any_height ? least(Tile::rows, left) : tile_height(left, Tile::rows); }

  static void quantize_rows(const float *x, std::ptrdiff_t ldx, int rows, int cols, std::uint8_t *q, std::ptrdiff_t ldq,
                            float *scale, std::int32_t *zero) noexcept {
    const int full = cols / L::width * L::width;
    for (int r = 0; r < rows; ++r, x += ldx, q += ldq) {
      V low = L::zero(), high = L::zero(), seen = L::zero();
      for (int c = 0; c < full; c += L::width) {
        const V v = L::load(x + c);
        low = L::min(low, v);
        high = L::max(high, v);
        seen = watch<L>(seen, v);
      }
      if (full < cols) {
        const V v = L::load_first(x + full, cols - full);
        low = L::min(low, v);
        high = L::max(high, v);
        seen = watch<L>(seen, v);
      }
      if (L::is_nan(seen)) {
        scale[r] = __builtin_nanf("");
        zero[r] = 0;
        __builtin_memset(q, 0, static_cast<std::size_t>(round_up(cols, kDepthStep)));
        continue;
      }
      const float smallest = L::least(low), range = L::greatest(high) - smallest;
      // A range too small to divide by is a row of zeros for eight bits.
      const float step = range > 1e-30f ? range / 255.0f : 1.0f;
      const float inverse = range > 1e-30f ? 255.0f / range : 0.0f;
      const std::int32_t origin = L::nearest(-smallest * inverse);
      scale[r] = step;
      zero[r] = origin;
      round_row<false>(x, cols, L::set(inverse), origin, q, seen);
    }
  }

  // q = round(x * factor) + origin, and the padding. kHold for values not checked before: they may be far
  // outside of the range and must not leave int32 before they are clamped, and `seen` watches them.
  template <bool kHold>
  static void round_row(const float *x, int cols, V factor, std::int32_t origin, std::uint8_t *q, V &seen) {
    const auto scaled = [factor, &seen](V v) {
      if (kHold)
        seen = watch<L>(seen, v);
      v = L::mul(v, factor);
      return kHold ? L::max(L::min(v, L::set(512.0f)), L::set(-512.0f)) : v;
    };
    const int full = cols / L::width * L::width;
    int c = 0;
    for (; c < full; c += L::width)
      L::store_u8(q + c, scaled(L::load(x + c)), origin);
    if (full < cols) {
      std::uint8_t last[L::width];
      L::store_u8(last, scaled(L::load_first(x + full, cols - full)), origin);
      for (; c < cols; ++c)
        q[c] = last[c - full];
    }
    for (; c < round_up(cols, kDepthStep); ++c)
      q[c] = static_cast<std::uint8_t>(origin);
  }

  static void quantize_rows_fixed(const float *x, std::ptrdiff_t ldx, int rows, int cols, float step,
                                  std::int32_t origin, std::uint8_t *q, std::ptrdiff_t ldq, float *scale,
                                  std::int32_t *zero) noexcept {
    for (int r = 0; r < rows; ++r) {
      V seen = L::zero();
      round_row<true>(x + r * ldx, cols, L::set(1.0f / step), origin, q + r * ldq, seen);
      scale[r] = L::is_nan(seen) ? __builtin_nanf("") : step;
      zero[r] = origin;
    }
  }

  // sums [rows][W] over `depth` inputs of a panel W columns wide, whose strips are `strip` bytes apart; rows <= R.
  // There is room for the sums of Tile::rows rows.
  template <int W, int R = Tile::rows, class Fetch = Nothing>
  static void sum_rows(const std::uint8_t *q, std::ptrdiff_t ldq, int rows, const std::int8_t *panel,
                       std::ptrdiff_t strip, int depth, std::int32_t *sums, Fetch ahead = {}) noexcept {
    if constexpr (any_height) {
      Tile::template run<W>(q, ldq, rows, panel, strip, depth, sums, ahead);
    } else if (rows == R) {
      Tile::template run<R, W>(q, ldq, panel, strip, depth, sums, ahead);
    } else if constexpr (R > 1) {
      sum_rows<W, R - 1>(q, ldq, rows, panel, strip, depth, sums, ahead);
    }
  }

  // The same for 64 columns, while `asked` quarters as deep as these inputs are prefetched from `next` on.
  static void sum_rows(const std::uint8_t *q, std::ptrdiff_t ldq, int rows, const std::int8_t *panel,
                       std::ptrdiff_t strip, int depth, std::int32_t *sums, int asked,
                       const std::int8_t *next) noexcept {
    if (asked == 2)
      sum_rows<kPanel>(q, ldq, rows, panel, strip, depth, sums, Ahead<2>{next});
    else if (asked == 1)
      sum_rows<kPanel>(q, ldq, rows, panel, strip, depth, sums, Ahead<1>{next});
    else
      sum_rows<kPanel>(q, ldq, rows, panel, strip, depth, sums);
  }

  static void sum_int8(const std::uint8_t *q, std::ptrdiff_t ldq, int rows, const std::int8_t *panel, int depth,
                       std::int32_t *sums) noexcept {
    alignas(64) std::int32_t last[Tile::rows * kPanel]; // the caller has no room for all rows of a tile
    const std::ptrdiff_t strip = static_cast<std::ptrdiff_t>(depth) * kStrip;
    for (int r = 0; r < rows; r += Tile::rows) {
      const int height = least(Tile::rows, rows - r);
      sum_rows<kPanel>(q + r * ldq, ldq, height, panel, strip, depth, height == Tile::rows ? sums + r * kPanel : last);
      if (height < Tile::rows)
        __builtin_memcpy(sums + r * kPanel, last, sizeof *last * static_cast<std::size_t>(height * kPanel));
    }
  }

  // The tile leaves its sums in 64 columns on the stack (they stay in L1); this turns them into outputs. A few vectors
  // side by side: the polynomial of GELU is one long chain, and alone it would wait for itself.
  template <Activation kAct>
  static void dequantize(const Int8Rows &a, int first_row, int rows, const Int8Weights &w, int column,
                         const std::int32_t *sums, float *y, std::ptrdiff_t ldy, Activation act) {
    constexpr int side = L::chains;
    float zeros[Tile::rows];
    for (int r = 0; r < rows; ++r)
      zeros[r] = -static_cast<float>(a.zero[first_row + r]);
    for (int c = 0; c < kPanel; c += side * L::width) {
      V scale[side], column_sum[side], bias[side];
#pragma GCC unroll 4
      for (int i = 0; i < side; ++i) {
        const int at = column + c + i * L::width;
        scale[i] = L::load(w.scale + at);
        column_sum[i] = L::load(w.column_sums + at);
        bias[i] = L::load(w.bias + at);
      }
      for (int r = 0; r < rows; ++r) {
        const V zero = L::set(zeros[r]), row_scale = L::set(a.scale[first_row + r]);
#pragma GCC unroll 4
        for (int i = 0; i < side; ++i) {
          const V sum = L::fma(zero, column_sum[i], L::from_s32(sums + r * kPanel + c + i * L::width));
          const V value = L::fma(L::mul(sum, row_scale), scale[i], bias[i]);
          L::store(y + r * ldy + c + i * L::width, kAct == Activation::gelu   ? short_gelu<L>(value)
                                                   : kAct == Activation::none ? value
                                                                              : short_activate<L>(value, act));
        }
      }
    }
  }

  // Add the outputs of a residual row to those of its row.
  static void add_residual(float zero, float row_scale, const Int8Weights &w, int column, const std::int32_t *sums,
                           float *y) {
    for (int c = 0; c < kPanel; c += L::width) {
      const V sum = L::fma(L::set(-zero), L::load(w.column_sums + column + c), L::from_s32(sums + c));
      const V value = L::mul(L::mul(sum, L::set(row_scale)), L::load(w.scale + column + c));
      L::store(y + c, L::add(L::load(y + c), value));
    }
  }

  static void row_sums(const std::uint8_t *q, std::ptrdiff_t ldq, int rows, int depth, const std::int32_t *zero,
                       float *sums) noexcept {
    for (int r = 0; r < rows; ++r, q += ldq) {
      std::int32_t sum = 0;
      for (int k = 0; k < depth; k += 64)
        sum += L::sum_of_64(q + k);
      sums[r] = static_cast<float>(sum - depth * zero[r]);
    }
  }

  // Groups of inputs whose sums become part of an output at a time: 12 constants of a row stay in registers.
  static constexpr int group_block = 4;

  // Where 64 outputs of each row of a tile begin and go: start is a bias, zeros or what earlier groups made.
  struct TileRows {
    const float *start[Tile::rows];
    float *end[Tile::rows];
  };

  // What kGroups groups of inputs add to the outputs of a panel, in the order of the groups: end = act(start + ...).
  // The sums of a group are kPanel * Tile::rows after those of the one before it. Why not inline: with the loops around
  // it gcc 12 has too few registers for the constants and the addresses.
  template <int kGroups, bool kShifts, Activation kAct>
  [[gnu::noinline]] static void add_groups(const Int8Rows &a, int first_row, int rows, const Int8Weights &w, int group,
                                           int panel, const std::int32_t *sums, const TileRows &tile, Activation act) {
    const std::ptrdiff_t first = (static_cast<std::ptrdiff_t>(panel) * w.groups + group) * kPanel;
    const float *scale = w.scale + first, *column_sum = w.column_sums + first,
                *shift = kShifts ? w.shifts + first : nullptr;
    for (int r = 0; r < rows; ++r, sums += kPanel) {
      V zero[kGroups], row_scale[kGroups], center[kGroups];
#pragma GCC unroll 4
      for (int g = 0; g < kGroups; ++g) {
        const std::ptrdiff_t at = (group + g) * a.stride + first_row + r;
        zero[g] = L::set(-static_cast<float>(a.zero[at]));
        row_scale[g] = L::set(a.scale[at]);
        center[g] = kShifts ? L::set(a.scale[at] * a.sums[at]) : L::zero();
      }
      const float *start = tile.start[r];
      float *end = tile.end[r];
#pragma GCC unroll 1
      for (int c = 0; c < kPanel; c += L::width) {
        V value = L::load(start + c);
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; ++g) {
          const V sum =
              L::fma(zero[g], L::load(column_sum + g * kPanel + c), L::from_s32(sums + g * Tile::rows * kPanel + c));
          value = L::fma(L::mul(sum, row_scale[g]), L::load(scale + g * kPanel + c), value);
          if (kShifts)
            value = L::fma(center[g], L::load(shift + g * kPanel + c), value);
        }
        L::store(end + c, kAct == Activation::gelu   ? short_gelu<L>(value)
                          : kAct == Activation::none ? value
                                                     : short_activate<L>(value, act));
      }
    }
  }

  // The same for a number of groups known only at run time, at most kGroups.
  template <Activation kAct, int kGroups = group_block>
  static void add_groups_of(int groups, const Int8Rows &a, int first_row, int rows, const Int8Weights &w, int group,
                            int panel, const std::int32_t *sums, const TileRows &tile, Activation act) {
    if (groups == kGroups) {
      if (w.shifts != nullptr)
        add_groups<kGroups, true, kAct>(a, first_row, rows, w, group, panel, sums, tile, act);
      else
        add_groups<kGroups, false, kAct>(a, first_row, rows, w, group, panel, sums, tile, act);
    } else if constexpr (kGroups > 1) {
      add_groups_of<kAct, kGroups - 1>(groups, a, first_row, rows, w, group, panel, sums, tile, act);
    }
  }

  // y = act(totals) over a panel.
  static void finish_row(const float *totals, float *y, Activation act) {
    if (act == Activation::none)
      finish_row<Activation::none>(totals, y, act);
    else if (act == Activation::gelu)
      finish_row<Activation::gelu>(totals, y, act);
    else
      finish_row<Activation::relu>(totals, y, act);
  }
  template <Activation kAct> static void finish_row(const float *totals, float *y, Activation act) {
    for (int c = 0; c < kPanel; c += L::width) {
      const V value = L::load(totals + c);
      L::store(y + c, kAct == Activation::gelu   ? short_gelu<L>(value)
                      : kAct == Activation::none ? value
                                                 : short_activate<L>(value, act));
    }
  }

  // Groups of inputs, shifts. The sums of some groups become float together; totals [rows][64] hold what is between
  // these and the next ones. The first groups begin with the bias, the last ones finish the outputs.
  static void linear_int8_grouped(const Int8Rows &a, int rows, const ResidualRows &residuals, const Int8Weights &w,
                                  int first_panel, int last_panel, float *y, std::ptrdiff_t ldy,
                                  Activation act) noexcept {
    alignas(64) std::int32_t sums[group_block * Tile::rows * kPanel];
    alignas(64) float totals[Tile::rows * kPanel];
    alignas(64) static constexpr float zeros[kPanel] = {};
    const std::ptrdiff_t strip = static_cast<std::ptrdiff_t>(kStrip) * w.depth, panel_bytes = kPanel / kStrip * strip;
    const int all = rows + residuals.rows;
    for (int panel = first_panel; panel < last_panel; ++panel) {
      const std::int8_t *weights = w.panels + panel * panel_bytes;
      const int column = panel * kPanel;
      Quarters quarters{weights + panel_bytes, panel_bytes};
      for (int r = 0, height; r < all; r += height) {
        height = height_of(all - r);
        const int asked = quarters.asked((all - r + Tile::rows - 1) / Tile::rows);
        for (int g = 0, begin = 0, groups; g < w.groups; g += groups) {
          groups = least(group_block, w.groups - g);
          for (int i = 0, end; i < groups; ++i, begin = end) {
            end = w.groups == 1 ? w.depth : w.ends[g + i];
            const std::ptrdiff_t place = static_cast<std::ptrdiff_t>(begin) * kStrip;
            sum_rows(a.q + r * a.ldq + begin, a.ldq, height, weights + place, strip, end - begin,
                     sums + i * Tile::rows * kPanel, asked, quarters.next + asked * place);
          }
          const bool last = g + groups == w.groups;
          TileRows tile;
          for (int i = 0; i < height; ++i) {
            const bool own = r + i < rows;
            tile.start[i] = g > 0 ? totals + i * kPanel : own ? w.bias + column : zeros;
            tile.end[i] = last && own ? y + (r + i) * ldy + column : totals + i * kPanel;
          }
          if (!last || act == Activation::none)
            add_groups_of<Activation::none>(groups, a, r, height, w, g, panel, sums, tile, act);
          else if (act == Activation::gelu)
            add_groups_of<Activation::gelu>(groups, a, r, height, w, g, panel, sums, tile, act);
          else
            add_groups_of<Activation::relu>(groups, a, r, height, w, g, panel, sums, tile, act);
        }
        quarters.take(asked);
        for (int i = r < rows ? rows - r : 0; i < height; ++i) {
          float *out = y + residuals.of[r + i - rows] * ldy + column;
          for (int c = 0; c < kPanel; c += L::width)
            L::store(out + c, L::add(L::load(out + c), L::load(totals + i * kPanel + c)));
        }
      }
    }
  }

  static void linear_int8(const Int8Rows &a, int rows, const ResidualRows &residuals, const Int8Weights &w,
                          int first_panel, int last_panel, float *y, std::ptrdiff_t ldy, Activation act) noexcept {
    if (w.groups > 1 || w.shifts != nullptr) {
      linear_int8_grouped(a, rows, residuals, w, first_panel, last_panel, y, ldy, act);
      return;
    }
    alignas(64) std::int32_t sums[Tile::rows * kPanel];
    const std::ptrdiff_t strip = static_cast<std::ptrdiff_t>(kStrip) * w.depth, panel_bytes = kPanel / kStrip * strip;
    const int all = rows + residuals.rows;
    for (int panel = first_panel; panel < last_panel; ++panel) {
      const std::int8_t *weights = w.panels + panel * panel_bytes;
      const int column = panel * kPanel;
      Quarters quarters{weights + panel_bytes, panel_bytes};
      for (int r = 0, height; r < all; r += height) {
        height = height_of(all - r);
        const int asked = quarters.asked((all - r + Tile::rows - 1) / Tile::rows);
        sum_rows(a.q + r * a.ldq, a.ldq, height, weights, strip, w.depth, sums, asked, quarters.next);
        quarters.take(asked);
        const int own = least(height, rows - r);
        if (own > 0) {
          float *out = y + r * ldy + column;
          if (act == Activation::none)
            dequantize<Activation::none>(a, r, own, w, column, sums, out, ldy, act);
          else if (act == Activation::gelu)
            dequantize<Activation::gelu>(a, r, own, w, column, sums, out, ldy, act);
          else
            dequantize<Activation::relu>(a, r, own, w, column, sums, out, ldy, act);
        }
        for (int i = own < 0 ? 0 : own; i < height; ++i)
          add_residual(static_cast<float>(a.zero[r + i]), a.scale[r + i], w, column, sums + i * kPanel,
                       y + residuals.of[r + i - rows] * ldy + column);
      }
    }
  }

  // A block of a panel as an int8 panel, in sixteenths. The strips of the block are `inputs` deep, those of the panel
  // `depth`.
  static void unpack(const std::uint8_t *panel, int depth, int inputs, std::int8_t *block) {
    const std::ptrdiff_t line = kStrip * group;
    for (int strip = 0; strip < kPanel / kStrip; ++strip, panel += static_cast<std::ptrdiff_t>(kStrip) * depth / 2)
      for (const std::uint8_t *pair = panel; pair != panel + kStrip * inputs / 2; pair += line, block += 2 * line)
        for (int i = 0; i < line; ++i) {
          block[i] = static_cast<std::int8_t>(pair[i] << 4);
          block[line + i] = static_cast<std::int8_t>(pair[i] & 0xf0);
        }
  }

  // Weights in four bits are unpacked to a block in L1, once for all rows, and the int8 tile multiplies it group by
  // group. Why not in the tile: every six rows would unpack them again, and each of its three forms would have another
  // one.
  static void linear_int4(const Int8Rows &a, int rows, const ResidualRows &residuals, const Int4Weights &w,
                          int first_panel, int last_panel, float *y, std::ptrdiff_t ldy, Activation act) noexcept {
    alignas(64) std::int8_t block[kPanel * kInt4Block];
    alignas(64) std::int32_t sums[Tile::rows * kPanel];
    const int all = rows + residuals.rows;
    for (int panel = first_panel; panel < last_panel; ++panel) {
      const std::uint8_t *weights = w.panels + static_cast<std::ptrdiff_t>(panel) * kPanel * w.depth / 2;
      const int column = panel * kPanel;
      const auto output = [=, &residuals](int r) { return y + (r < rows ? r : residuals.of[r - rows]) * ldy + column; };
      for (int r = 0; r < all; ++r)
        for (int c = 0; c < kPanel; c += L::width) {
          V start = L::load(r < rows && w.bias != nullptr ? w.bias + column + c : output(r) + c);
          for (int p = 0; p < w.parts; ++p) {
            const std::ptrdiff_t at = p * a.stride + r;
            const V zero = L::set(-(a.scale[at] * static_cast<float>(a.zero[at])));
            start =
                L::fma(zero, L::load(w.weight_sums + p * static_cast<std::ptrdiff_t>(w.outputs) + column + c), start);
          }
          L::store(output(r) + c, start);
        }
      int part = 0;
      for (int begin = 0; begin < w.depth; begin += kInt4Block) {
        const int inputs = least(kInt4Block, w.depth - begin);
        unpack(weights + begin * kStrip / 2, w.depth, inputs, block);
        // Group by group, so that a residual row follows its row in each, whether one tile has both or not.
        for (int first = 0, last; first < inputs; first = last) {
          const int g = (begin + first) / w.group;
          last = g + 1 == w.groups ? inputs : first + w.group;
          if (part + 1 < w.parts && begin + first >= w.ends[part])
            ++part;
          const float *scale = w.scale + g * static_cast<std::ptrdiff_t>(w.outputs) + column;
          const float *row_scales = a.scale + part * a.stride;
          for (int r = 0, height; r < all; r += height) {
            height = height_of(all - r);
            sum_rows<kPanel>(a.q + r * a.ldq + begin + first, a.ldq, height, block + first * kStrip,
                             static_cast<std::ptrdiff_t>(inputs) * kStrip, last - first, sums);
            for (int i = 0; i < height; ++i) {
              float *out = output(r + i);
              const V row_scale = L::set(row_scales[r + i]);
              for (int c = 0; c < kPanel; c += L::width) {
                const V sum = L::mul(L::from_s32(sums + i * kPanel + c), row_scale);
                L::store(out + c, L::fma(sum, L::load(scale + c), L::load(out + c)));
              }
            }
          }
        }
      }
      for (int r = 0; r < rows && act != Activation::none; ++r)
        finish_row(output(r), output(r), act);
    }
  }

  // y = act(y + bias), of one tile.
  template <Activation kAct>
  static void finish_float(float *y, std::ptrdiff_t ldy, int rows, int columns, const float *bias, Activation act) {
    for (int r = 0; r < rows; ++r, y += ldy)
      for (int c = 0; c < columns; c += L::width) {
        const V value = L::add(L::load(y + c), L::load(bias + c));
        L::store(y + c, kAct == Activation::gelu   ? gelu<L>(value)
                        : kAct == Activation::none ? value
                                                   : activate<L>(value, act));
      }
  }

  static void linear_float32(const float *x, std::ptrdiff_t ldx, int rows, const FloatWeights &w, int first_panel,
                             int last_panel, float *y, std::ptrdiff_t ldy, Activation act) noexcept {
    constexpr int width = L::float_columns * L::width;
    static_assert(width % kStrip == 0 && kPanel % width == 0);
    const std::ptrdiff_t strip = static_cast<std::ptrdiff_t>(kStrip) * w.depth, tile = width / kStrip * strip;
    for (int column = first_panel * kPanel; column < last_panel * kPanel; column += width) {
      const float *weights = w.panels + column / kStrip * strip;
      for (int r = 0, height; r < rows; r += height) {
        height = tile_height(rows - r, L::float_rows);
        float *out = y + r * ldy + column;
        if (const int quarter = r / L::float_rows; quarter < 4) // the first tiles prefetch the next weights
          float_tile_of<L, L::float_columns>(
              height, x + r * ldx, ldx, weights, strip, w.depth, out, ldy,
              Ahead<1>{reinterpret_cast<const std::int8_t *>(weights + tile + quarter * tile / 4)});
        else
          float_tile_of<L, L::float_columns>(height, x + r * ldx, ldx, weights, strip, w.depth, out, ldy);
        if (act == Activation::none)
          finish_float<Activation::none>(out, ldy, height, width, w.bias + column, act);
        else if (act == Activation::gelu)
          finish_float<Activation::gelu>(out, ldy, height, width, w.bias + column, act);
        else
          finish_float<Activation::relu>(out, ldy, height, width, w.bias + column, act);
      }
    }
  }

  static void linear_bfloat16(const float *x, std::ptrdiff_t ldx, int rows, const BFloat16Weights &w, int first_panel,
                              int last_panel, float *y, std::ptrdiff_t ldy, Activation act) noexcept {
    constexpr int width = L::float_columns * L::width, strips = width / kStrip;
    static_assert(width % kStrip == 0 && kPanel % width == 0);
    const std::ptrdiff_t strip = static_cast<std::ptrdiff_t>(kStrip) * round_up(w.depth, kPairStep);
    const std::uint16_t *weights = w.panels + first_panel * (kPanel / kStrip) * strip;
    for (int panel = first_panel; panel < last_panel; ++panel) {
      const int column = panel * kPanel;
      for (int c = column; c < column + kPanel; c += width, weights += strips * strip)
        for (int r = 0, height; r < rows; r += height) {
          height = tile_height(rows - r, L::float_rows);
          bfloat16_tile_of<L, L::float_columns>(height, x + r * ldx, ldx, weights, strip, w.depth, y + r * ldy + c,
                                                ldy);
        }
      for (int r = 0; r < rows; ++r)
        for (int c = column; c < column + kPanel; c += L::width) {
          const V value = L::fma(L::load(y + r * ldy + c), L::load(w.scale + c), L::load(w.bias + c));
          L::store(y + r * ldy + c, activate<L>(value, act));
        }
    }
  }
};

} // namespace
} // namespace quaver
