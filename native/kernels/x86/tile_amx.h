// Blocks of AMX's tiles: groups of four bytes, or pairs of bfloat16. Rows and lines of a strip are 64 bytes either way.
#pragma once

#include "kernels/table.h"
#include "kernels/x86/tiles.h"

namespace quaver {
namespace {

// What Product multiplies is added to Number, in 32 bits. `depth` is in bytes of a row, `strip` in bytes. Sums of all
// 16 or 32 rows are stored.
template <class Product> struct TileBlocks {
  using Number = typename Product::Number;
  static constexpr int height = 16;     // of a tile: rows, and outputs
  static constexpr int step_bytes = 64; // of a row

  // 32 rows, two strips at a time: 4 tiles of sums, 2 of inputs and 2 of weights.
  template <int W, class Fetch>
  [[gnu::noinline]] static void multiply_32(const std::uint8_t *q, std::ptrdiff_t ldq, const std::int8_t *panel,
                                            std::ptrdiff_t strip, int depth, Number *sums, Fetch ahead) {
    constexpr int step = W * static_cast<int>(sizeof *sums), strips = W / height;
    const std::uint8_t *lower = q + height * ldq;
    for (int s = 0; s < strips; s += 2, panel += 2 * strip, sums += 2 * height) {
      zero_tile<0>();
      zero_tile<2>();
      if constexpr (strips > 1) {
        zero_tile<1>();
        zero_tile<3>();
      }
      for (int k = 0; k < depth; k += step_bytes) {
        load_tile<4>(q + k, ldq);
        load_tile<6>(panel + k * kStrip, kStrip * kGroup);
        Product::template multiply<0, 4, 6>();
        load_tile<5>(lower + k, ldq);
        Product::template multiply<2, 5, 6>();
        if constexpr (strips > 1) {
          load_tile<7>(panel + strip + k * kStrip, kStrip * kGroup);
          Product::template multiply<1, 4, 7>();
          Product::template multiply<3, 5, 7>();
        }
        for (int i = 0; i < step_bytes / kGroup / 2; ++i) // of the groups of these two of four strips
          ahead.fetch();
      }
      store_tile<0>(sums, step);
      store_tile<2>(sums + height * W, step);
      if constexpr (strips > 1) {
        store_tile<1>(sums + height, step);
        store_tile<3>(sums + height * W + height, step);
      }
    }
  }

  // 16 rows, up to four strips at a time: 4 tiles of sums, 1 of inputs and 3 of weights.
  template <int W, class Fetch>
  [[gnu::noinline]] static void multiply_16(const std::uint8_t *q, std::ptrdiff_t ldq, const std::int8_t *panel,
                                            std::ptrdiff_t strip, int depth, Number *sums, Fetch ahead) {
    constexpr int step = W * static_cast<int>(sizeof *sums), strips = W / height;
    zero_tile<0>();
    if constexpr (strips > 1)
      zero_tile<1>();
    if constexpr (strips > 2) {
      zero_tile<2>();
      zero_tile<3>();
    }
    for (int k = 0; k < depth; k += step_bytes) {
      const std::int8_t *weights = panel + k * kStrip;
      load_tile<4>(q + k, ldq);
      load_tile<5>(weights, kStrip * kGroup);
      Product::template multiply<0, 4, 5>();
      if constexpr (strips > 1) {
        load_tile<6>(weights + strip, kStrip * kGroup);
        Product::template multiply<1, 4, 6>();
      }
      if constexpr (strips > 2) {
        load_tile<7>(weights + 2 * strip, kStrip * kGroup);
        Product::template multiply<2, 4, 7>();
        load_tile<5>(weights + 3 * strip, kStrip * kGroup);
        Product::template multiply<3, 4, 5>();
      }
      for (int i = 0; i < step_bytes / kGroup; ++i)
        ahead.fetch();
    }
    store_tile<0>(sums, step);
    if constexpr (strips > 1)
      store_tile<1>(sums + height, step);
    if constexpr (strips > 2) {
      store_tile<2>(sums + 2 * height, step);
      store_tile<3>(sums + 3 * height, step);
    }
  }
};

} // namespace
} // namespace quaver
