// Attention of one head of one sequence, in float32 and in eight bits.
#pragma once

#include "kernels/shared/linear.h"

namespace quaver {
namespace {

template <class L, class Tile> struct AttentionKernels : LinearKernels<L, Tile> {
  using V = typename L::V;
  using Linear = LinearKernels<L, Tile>;
  // Scratch for each key: rows of float scores for `attend`; for `attend_int8` rows of float scores, then of bytes.
  static constexpr int score_bytes = L::float_rows * 4 > Tile::rows * 5 ? L::float_rows * 4 : Tile::rows * 5;
  // Inputs that a tile multiplies at a time. A deep one reads what follows the features of a key and the weights of the
  // last keys: zeros.
  static constexpr int depth_step = [] {
    if constexpr (requires { Tile::depth_step; })
      return Tile::depth_step;
    else
      return kStrip;
  }();
  static constexpr int key_step = depth_step > 32 ? depth_step : 32;
  static constexpr float kHidden = 1000.0f; // powers of two between a row's highest score and a hidden one

  static void pack_keys(const AttentionHead &head, float *packed) noexcept {
    const int d = head.head_size;
    for (int first = 0; first < head.length; first += kStrip, packed += kStrip * d) {
      const int keys = least(kStrip, head.length - first);
      for (int j = 0; j < kStrip; ++j)
        for (int c = 0; c < d; ++c)
          packed[c * kStrip + j] = j < keys ? head.key[(first + j) * head.ld + c] : 0.0f;
    }
  }

  static void pack_values(const AttentionHead &head, float *packed) noexcept {
    for (int first = 0; first < head.head_size; first += kStrip) {
      const int columns = least(kStrip, head.head_size - first);
      for (int j = 0; j < head.length; ++j, packed += kStrip)
        for (int c = 0; c < kStrip; c += L::width)
          L::store(packed + c, load_columns(head.value + j * head.ld + first, columns, c));
    }
  }

  static float highest_of(const float *scores, int length) {
    const int full = length / L::width * L::width;
    float top = scores[0];
    for (int j = full; j < length; ++j)
      top = top < scores[j] ? scores[j] : top;
    V highest = L::set(top);
    for (int j = 0; j < full; j += L::width)
      highest = L::max(highest, L::load(scores + j));
    return L::greatest(highest);
  }

  // Turn a row of scores into the weights of a softmax, not yet divided by their sum; return the inverse of the sum.
  static float exponentials(float *scores, int length, float highest) {
    const int full = length / L::width * L::width, tail = length - full;
    const V shift = L::set(highest);
    V sum = L::zero();
    for (int j = 0; j < full; j += L::width) {
      const V e = exp2<L>(L::sub(L::load(scores + j), shift));
      L::store(scores + j, e);
      sum = L::add(sum, e);
    }
    if (tail > 0) {
      const V e = L::keep_first(exp2<L>(L::sub(L::load_first(scores + full, tail), shift)), tail);
      L::store_first(scores + full, e, tail);
      sum = L::add(sum, e);
    }
    return 1.0f / L::sum(sum);
  }

  // Add the bias of each key to a row of scores and hide the keys that the row does not see, from `first` up to
  // `computed`; return the largest score. Scores are score / scale.
  static float place(const AttentionHead &head, int row, int first, float *scores, float scale) {
    const int begin = seen_from(head, row, 1), keys = seen_until(head, row);
    hide(first, begin, -kLargest, scores);
    V top = L::set(-kLargest);
    const float *bias = head.bias == nullptr ? nullptr : head.bias + row * head.bias_step;
    const V inverse = L::set(1.0f / scale);
    const int full = keys / L::width * L::width, tail = keys - full;
    for (int j = first; j < full; j += L::width) {
      V v = L::load(scores + j);
      if (bias != nullptr) {
        v = L::fma(L::load(bias + j), inverse, v);
        L::store(scores + j, v);
      }
      top = L::max(top, v);
    }
    if (tail > 0) {
      V v = L::load_first(scores + full, tail);
      if (bias != nullptr) {
        v = L::fma(L::load_first(bias + full, tail), inverse, v);
        L::store_first(scores + full, v, tail);
      }
      top = L::max(top, L::first_or(v, tail, top));
    }
    const float highest = L::greatest(top), magnitude = highest < 0.0f ? -highest : highest;
    // So far below the highest score that the softmax weight is zero at any scale. Not infinity: times 0 it is NaN.
    const float far = kHidden / scale;
    const float hidden = highest - (far > magnitude ? far : magnitude);
    hide(first, begin, hidden, scores);
    hide(keys, computed(head, keys), hidden, scores);
    return highest;
  }

  static void hide(int begin, int end, float score, float *scores) {
    for (int j = begin; j < end; ++j)
      scores[j] = score;
  }

  // A row sees the keys [seen_from, seen_until). Nothing is computed of keys that no row of a tile sees, apart from
  // those before the first in its step of keys, and a row gives the others of its tile no weight at all.
  static int seen_from(const AttentionHead &head, int row, int step) {
    return row > head.behind ? (row - head.behind) / step * step : 0;
  }
  static int seen_until(const AttentionHead &head, int row) { return least(row + head.ahead + 1, head.length); }
  // The last vector is computed whole, unless it is the last of all keys.
  static int computed(const AttentionHead &head, int keys) { return least(round_up(keys, L::width), head.length); }

  static bool is_placed(const AttentionHead &head) {
    return head.bias != nullptr || head.behind < head.length - 1 || head.ahead < head.length - 1;
  }

  static void attend(const AttentionHead &head, const float *packed_keys, const float *packed_values, int first_row,
                     int last_row, float *scores, float *out, std::ptrdiff_t ldo) noexcept {
    constexpr int most = L::float_columns, chunk = most * L::width;
    const int width = round_up(head.length, kPanel), d = head.head_size;
    const auto vectors = [](int columns) { return least(most, (columns + L::width - 1) / L::width); };
    alignas(64) float mixed[L::float_rows * chunk];
    for (int row = first_row, rows; row < last_row; row += rows) {
      rows = tile_height(last_row - row, L::float_rows);
      const int first = seen_from(head, row, kStrip), keys = seen_until(head, row + rows - 1);
      for (int j = first; j < keys; j += chunk)
        float_tile_of<L>(rows, vectors(keys - j), head.query + row * head.ld, head.ld,
                         packed_keys + static_cast<std::ptrdiff_t>(j) * d, kStrip * static_cast<std::ptrdiff_t>(d), d,
                         scores + j, width);
      float highest[L::float_rows], inverse[L::float_rows];
      for (int r = 0; r < rows && is_placed(head); ++r)
        place(head, row + r, first, scores + static_cast<std::ptrdiff_t>(r) * width, 1.0f);
      // Of all rows at first: the exponentials of a row then need not wait for its highest score.
      for (int r = 0; r < rows; ++r)
        highest[r] =
            highest_of(scores + static_cast<std::ptrdiff_t>(r) * width + first, seen_until(head, row + r) - first);
      for (int r = 0; r < rows; ++r) {
        float *of_row = scores + static_cast<std::ptrdiff_t>(r) * width;
        const int own = seen_until(head, row + r);
        inverse[r] = exponentials(of_row + first, own - first, highest[r]);
        for (int j = own; j < keys; ++j)
          of_row[j] = 0.0f;
      }
      for (int c = 0; c < d; c += chunk) {
        const int columns = least(chunk, d - c);
        float_tile_of<L>(rows, vectors(columns), scores + first, width,
                         packed_values + static_cast<std::ptrdiff_t>(c) * head.length + first * kStrip,
                         kStrip * static_cast<std::ptrdiff_t>(head.length), keys - first, mixed, chunk);
        for (int r = 0; r < rows; ++r)
          scale_row(mixed + r * chunk, columns, inverse[r], out + (row + r) * ldo + c);
      }
    }
  }

  // The largest magnitude of a row.
  static float reach(const float *x, int cols, V &seen) {
    V top = L::zero();
    int c = 0;
    for (; c + L::width <= cols; c += L::width) {
      const V v = L::load(x + c);
      top = L::max(top, L::abs(v));
      seen = watch<L>(seen, v);
    }
    if (c < cols) {
      const V v = L::load_first(x + c, cols - c);
      top = L::max(top, L::abs(v));
      seen = watch<L>(seen, v);
    }
    return L::greatest(top);
  }

  static void pack_keys_int8(const AttentionHead &head, const Int8Head &packed) noexcept {
    const int d = head.head_size, depth = round_up(d, key_step), padded = round_up(head.length, kStrip);
    V seen = L::zero();
    for (int j = 0; j < padded; j += kGroup) {
      V factor[kGroup];
      for (int i = 0; i < kGroup; ++i) {
        const float largest = j + i < head.length ? reach(head.key + (j + i) * head.ld, d, seen) : 0.0f;
        packed.key_scale[j + i] = largest / 127.0f;
        factor[i] = L::set(largest > 1e-30f ? 127.0f / largest : 0.0f);
      }
      std::int8_t *target =
          packed.keys + static_cast<std::ptrdiff_t>(j / kStrip) * kStrip * depth + j % kStrip * Linear::group;
      for (int c = 0; c < depth; c += kStrip, target += kStrip * kStrip) {
        typename L::Sixteen rows[kGroup];
        for (int i = 0; i < kGroup; ++i)
          rows[i] = j + i < head.length && c < d ? sixteen_of(head.key + (j + i) * head.ld + c, d - c, factor[i])
                                                 : L::no_bytes();
        if constexpr (Linear::group == kGroup)
          L::store_groups(target, rows);
        else
          L::store_groups_of_eight(target, rows);
      }
    }
    sum_keys(packed, padded, depth);
    if (L::is_nan(seen)) // a key that is not finite spoils all: no window may hide it
      for (int j = 0; j < padded; ++j)
        packed.key_scale[j] = __builtin_nanf("");
  }

  // Sixteen s8 of a row that has `columns` of them; zero behind the last.
  static typename L::Sixteen sixteen_of(const float *row, int columns, V factor) {
    if (columns >= kStrip)
      return L::sixteen_s8(row, factor);
    float last[kStrip] = {};
    for (int c = 0; c < columns; ++c)
      last[c] = row[c];
    return L::sixteen_s8(last, factor);
  }

  // Keys are a linear layer: multiplied by a row of ones, each is its sum.
  static void sum_keys(const Int8Head &packed, int keys, int depth) {
    alignas(64) std::uint8_t ones[kMaxHead];
    __builtin_memset(ones, 1, static_cast<std::size_t>(round_up(depth, kDepthStep)));
    alignas(64) std::int32_t sums[kPanel];
    for (int j = 0, width; j < keys; j += width) {
      width = keys - j >= kPanel ? kPanel : keys - j >= 2 * kStrip ? 2 * kStrip : kStrip;
      sum_columns(width, ones, 0, 1, packed.keys + static_cast<std::ptrdiff_t>(j) * depth, depth, depth, sums);
      for (int c = 0; c < width; c += L::width)
        L::store(packed.key_sums + j + c, L::from_s32(sums + c));
    }
  }

  // One strip of values: columns [first, first + 16) of the head, a group of tokens deep.
  static void pack_value_strip(const AttentionHead &head, int first, std::int8_t *target, float *scale, float *mean) {
    constexpr int vectors = kStrip / L::width;
    const int columns = least(kStrip, head.head_size - first), padded = round_up(head.length, kStrip);
    const float *value = head.value + first;
    V low[vectors], high[vectors], centre[vectors], factor[vectors];
    for (int i = 0; i < vectors; ++i) {
      low[i] = high[i] = load_columns(value, columns, i * L::width);
      centre[i] = L::zero();
    }
    for (int j = 0; j < head.length; ++j)
      for (int i = 0; i < vectors; ++i) {
        const V v = load_columns(value + j * head.ld, columns, i * L::width);
        centre[i] = L::add(centre[i], v);
        low[i] = L::min(low[i], v);
        high[i] = L::max(high[i], v);
      }
    for (int i = 0; i < vectors; ++i) {
      centre[i] = L::mul(centre[i], L::set(1.0f / static_cast<float>(head.length)));
      L::store(mean + i * L::width, centre[i]);
      const V top = L::max(L::abs(L::sub(high[i], centre[i])), L::abs(L::sub(low[i], centre[i])));
      float lanes[L::width];
      L::store(lanes, top);
      for (int c = 0; c < L::width; ++c) {
        scale[i * L::width + c] = lanes[c] / 127.0f;
        lanes[c] = lanes[c] > 1e-30f ? 127.0f / lanes[c] : 0.0f;
      }
      factor[i] = L::load(lanes);
    }
    const auto store_four = [&](int j, std::int8_t *line) {
      for (int i = 0; i < vectors; ++i) {
        V v[kGroup];
        for (int g = 0; g < kGroup; ++g)
          v[g] =
              j + g < head.length
                  ? L::mul(L::sub(load_columns(value + (j + g) * head.ld, columns, i * L::width), centre[i]), factor[i])
                  : L::zero();
        L::store_fours(line + i * L::width * kGroup, v[0], v[1], v[2], v[3]);
      }
    };
    for (int j = 0; j < padded; j += Linear::group, target += kStrip * Linear::group)
      if constexpr (Linear::group == kGroup) {
        store_four(j, target);
      } else {
        alignas(64) std::int8_t lines[2][kStrip * kGroup];
        store_four(j, lines[0]);
        store_four(j + kGroup, lines[1]);
        L::join_lines(target, lines);
      }
  }

  // A vector from column c of a row that has `columns` of them; zero behind the last.
  static V load_columns(const float *row, int columns, int c) {
    return c + L::width <= columns ? L::load(row + c) : c < columns ? L::load_first(row + c, columns - c) : L::zero();
  }

  static void pack_values_int8(const AttentionHead &head, const Int8Head &packed) noexcept {
    const int padded = round_up(head.length, kStrip), columns = round_up(head.head_size, value_width(head.head_size));
    for (int c = 0; c < columns; c += kStrip)
      pack_value_strip(head, c, packed.values + static_cast<std::ptrdiff_t>(c) * padded, packed.value_scale + c,
                       packed.value_mean + c);
  }

  // sums [rows][width] of `width` columns, 16, 32 or 64, over the first `depth` inputs of strips of `all` inputs.
  static void sum_columns(int width, const std::uint8_t *q, std::ptrdiff_t ldq, int rows, const std::int8_t *strips,
                          int all, int depth, std::int32_t *sums) {
    const std::ptrdiff_t strip = static_cast<std::ptrdiff_t>(all) * kStrip;
    if (width == kPanel)
      Linear::template sum_rows<kPanel>(q, ldq, rows, strips, strip, depth, sums);
    else if (width == 2 * kStrip)
      Linear::template sum_rows<2 * kStrip>(q, ldq, rows, strips, strip, depth, sums);
    else
      Linear::template sum_rows<kStrip>(q, ldq, rows, strips, strip, depth, sums);
  }

  // scores[r][j] = query . key / query_scale_r, for one tile of rows and the keys [first, seen); highest[r] is the
  // largest of a row.
  static void score_int8(const AttentionHead &head, const Int8Head &packed, int row, int rows, int first, int seen,
                         float *scores, int lds, float *highest) {
    const int depth = round_up(head.head_size, key_step), ldq = round_up(head.head_size, kDepthStep);
    alignas(64) std::int32_t sums[Tile::rows * kPanel];
    V top[Tile::rows];
    for (int r = 0; r < rows; ++r)
      top[r] = L::set(-3.0e38f);
    for (int j = first, width; j < seen; j += width) {
      const int strips = (seen - j + kStrip - 1) / kStrip;
      width = strips >= 4 ? kPanel : strips >= 2 ? 2 * kStrip : kStrip;
      const int keys = least(width, seen - j);
      sum_columns(width, packed.query + row * ldq, ldq, rows, packed.keys + static_cast<std::ptrdiff_t>(j) * depth,
                  depth, depth, sums);
      for (int r = 0; r < rows; ++r) {
        const V zero = L::set(-static_cast<float>(packed.query_zero[row + r]));
        for (int c = 0; c < keys; c += L::width) {
          const V sum = L::fma(zero, L::load(packed.key_sums + j + c), L::from_s32(sums + r * width + c));
          const V score = L::mul(sum, L::load(packed.key_scale + j + c));
          L::store(scores + r * lds + j + c, score);
          top[r] = L::max(top[r], c + L::width <= keys ? score : L::first_or(score, keys - c, top[r]));
        }
      }
    }
    for (int r = 0; r < rows; ++r)
      highest[r] = L::greatest(top[r]);
  }

  // A row of scores to u8 weights, 255 for the highest; returns their sum before rounding. 2^x with three terms errs by
  // 1e-4, a fortieth of the step that rounding to eight bits makes.
  static float weigh_int8(const float *scores, int keys, int padded, float highest, float query_scale,
                          std::uint8_t *weights) {
    const float shift = -highest * query_scale;
    return shift <= kFar && shift >= -kFar ? weigh_near(scores, keys, padded, shift, query_scale, weights)
                                           : weigh_far(scores, keys, padded, highest, query_scale, weights);
  }
  static float weigh_near(const float *scores, int keys, int padded, float shift, float query_scale,
                          std::uint8_t *weights) {
    return weigh(scores, keys, padded, weights,
                 [factor = L::set(query_scale), move = L::set(shift)](V score) { return L::fma(score, factor, move); });
  }
  // The product of a score this large errs by more than rounding weights does; differences of scores do not.
  static constexpr float kFar = 4096.0f;
  static float weigh_far(const float *scores, int keys, int padded, float highest, float query_scale,
                         std::uint8_t *weights) {
    return weigh(scores, keys, padded, weights, [factor = L::set(query_scale), top = L::set(highest)](V score) {
      return L::mul(L::sub(score, top), factor);
    });
  }
  // Weights of `keys` keys, and zeros up to `padded`.
  template <class Exponent>
  static float weigh(const float *scores, int keys, int padded, std::uint8_t *weights, Exponent exponent) {
    V total = L::zero();
    const int full = keys / L::width * L::width;
    for (int j = 0; j < full; j += L::width) {
      const V weight = short_exp2<L>(exponent(L::load(scores + j)));
      total = L::add(total, weight);
      L::store_weights(weights + j, L::to_s32(weight));
    }
    if (full < keys) {
      const V x = L::min(L::zero(), exponent(L::load_first(scores + full, keys - full)));
      const V weight = L::keep_first(short_exp2<L>(x), keys - full);
      total = L::add(total, weight);
      L::store_weights(weights + full, L::to_s32(weight));
    }
    for (int j = round_up(keys, L::width); j < padded; ++j)
      weights[j] = 0;
    return L::sum(total);
  }

  // The weights of the keys [first_key, seen) times their values.
  static void mix_values(const AttentionHead &head, const Int8Head &packed, const std::uint8_t *weights, int ldw,
                         int rows, int first_key, int seen, const float *total, float *out, std::ptrdiff_t ldo) {
    const int padded = round_up(head.length, kStrip), width = value_width(head.head_size);
    alignas(64) std::int32_t sums[Tile::rows * kPanel];
    for (int first = 0; first < head.head_size; first += width) {
      sum_columns(width, weights + first_key, ldw, rows,
                  packed.values + static_cast<std::ptrdiff_t>(first) * padded + first_key * kStrip, padded,
                  round_up(seen, depth_step) - first_key, sums);
      const int columns = least(width, head.head_size - first);
      for (int r = 0; r < rows; ++r) {
        const V factor = L::set(1.0f / total[r]);
        for (int c = 0; c < columns; c += L::width) {
          const V scaled = L::mul(L::from_s32(sums + r * width + c), L::load(packed.value_scale + first + c));
          const V v = L::fma(scaled, factor, L::load(packed.value_mean + first + c));
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
      rows = Linear::height_of(last_row - row);
      // A tile reads weights from here on, 32 at a time or more.
      const int first = seen_from(head, row, key_step), seen = seen_until(head, row + rows - 1);
      float highest[Tile::rows], total[Tile::rows];
      score_int8(head, packed, row, rows, first, seen, scores, lds, highest);
      for (int r = 0; r < rows && is_placed(head); ++r)
        highest[r] = place(head, row + r, first, scores + r * lds, packed.query_scale[row + r]);
      for (int r = 0; r < rows; ++r)
        total[r] = weigh_int8(scores + r * lds + first, computed(head, seen_until(head, row + r)) - first,
                              round_up(seen, kPanel) - first, highest[r], packed.query_scale[row + r],
                              weights + r * lds + first);
      mix_values(head, packed, weights, lds, rows, first, seen, total, out + row * ldo, ldo);
    }
  }

  static void scale_row(const float *x, int columns, float factor, float *out) {
    int c = 0;
    for (; c + L::width <= columns; c += L::width)
      L::store(out + c, L::mul(L::load(x + c), L::set(factor)));
    if (c < columns)
      L::store_first(out + c, L::mul(L::load_first(x + c, columns - c), L::set(factor)), columns - c);
  }
};

} // namespace
} // namespace quaver
