// AMX: Sapphire Rapids and later Xeons. tdpbusd multiplies 16 rows of 64 inputs with 16 outputs, 16,384 products.
//
// The panels are those of the other sets: 16 groups of a strip are a tile of weights. Everything but the products of
// bytes is that of AVX-512.
#include "kernels/shared/vector_kernels.h"
#include "kernels/x86/lanes_avx512.h"
#include "kernels/x86/tile_avx512.h"
#include "kernels/x86/tiles.h"

namespace quaver {
namespace {

constexpr int kTile = 16; // rows, and outputs

struct Tile {
  static constexpr int rows = 2 * kTile;
  static constexpr bool any_height = true; // the number of rows is an argument
  static constexpr int depth_step = 64;
  static constexpr int overread_rows = kTile - 1;
  // Rows that vpdpbusd multiplies no slower: a tile of one row takes as long as one of sixteen.
  static constexpr int few = 2;

  // Sums of all 16 rows of a tile are stored: `sums` has room for them.
  template <int W, class Fetch = Nothing>
  static void run(const std::uint8_t *q, std::ptrdiff_t ldq, int rows, const std::int8_t *panel, std::ptrdiff_t strip,
                  int depth, std::int32_t *sums, Fetch ahead = {}) {
    // Int4 groups may have 32 inputs, half the depth of a tile.
    const int tiled = depth % depth_step != 0 ? 0 : rows % kTile > few ? rows : rows / kTile * kTile;
    if (tiled > kTile)
      multiply_32<W>(q, ldq, panel, strip, depth, sums, ahead);
    else if (tiled > 0)
      multiply_16<W>(q, ldq, panel, strip, depth, sums, ahead);
    for (int r = tiled, height; r < rows; r += height) {
      height = tile_height(rows - r, VnniTile::rows);
      if (tiled == 0)
        multiply_few<W>(q + r * ldq, ldq, height, panel, strip, depth, sums + r * W, ahead);
      else
        multiply_few<W>(q + r * ldq, ldq, height, panel, strip, depth, sums + r * W, Nothing{});
    }
  }

  // 32 rows, two strips at a time: 4 tiles of sums, 2 of inputs and 2 of weights.
  template <int W, class Fetch>
  [[gnu::noinline]] static void multiply_32(const std::uint8_t *q, std::ptrdiff_t ldq, const std::int8_t *panel,
                                            std::ptrdiff_t strip, int depth, std::int32_t *sums, Fetch ahead) {
    constexpr int step = W * static_cast<int>(sizeof *sums), strips = W / kTile;
    const std::uint8_t *lower = q + kTile * ldq;
    for (int s = 0; s < strips; s += 2, panel += 2 * strip, sums += 2 * kTile) {
      zero_tile<0>();
      zero_tile<2>();
      if constexpr (strips > 1) {
        zero_tile<1>();
        zero_tile<3>();
      }
      for (int k = 0; k < depth; k += depth_step) {
        load_tile<4>(q + k, ldq);
        load_tile<6>(panel + k * kStrip, kStrip * kGroup);
        multiply_tiles<0, 4, 6>();
        load_tile<5>(lower + k, ldq);
        multiply_tiles<2, 5, 6>();
        if constexpr (strips > 1) {
          load_tile<7>(panel + strip + k * kStrip, kStrip * kGroup);
          multiply_tiles<1, 4, 7>();
          multiply_tiles<3, 5, 7>();
        }
        for (int i = 0; i < depth_step / kGroup / 2; ++i) // of the groups of these two of four strips
          ahead.fetch();
      }
      store_tile<0>(sums, step);
      store_tile<2>(sums + kTile * W, step);
      if constexpr (strips > 1) {
        store_tile<1>(sums + kTile, step);
        store_tile<3>(sums + kTile * W + kTile, step);
      }
    }
  }

  // 16 rows, up to four strips at a time: 4 tiles of sums, 1 of inputs and 3 of weights.
  template <int W, class Fetch>
  [[gnu::noinline]] static void multiply_16(const std::uint8_t *q, std::ptrdiff_t ldq, const std::int8_t *panel,
                                            std::ptrdiff_t strip, int depth, std::int32_t *sums, Fetch ahead) {
    constexpr int step = W * static_cast<int>(sizeof *sums), strips = W / kTile;
    zero_tile<0>();
    if constexpr (strips > 1)
      zero_tile<1>();
    if constexpr (strips > 2) {
      zero_tile<2>();
      zero_tile<3>();
    }
    for (int k = 0; k < depth; k += depth_step) {
      const std::int8_t *weights = panel + k * kStrip;
      load_tile<4>(q + k, ldq);
      load_tile<5>(weights, kStrip * kGroup);
      multiply_tiles<0, 4, 5>();
      if constexpr (strips > 1) {
        load_tile<6>(weights + strip, kStrip * kGroup);
        multiply_tiles<1, 4, 6>();
      }
      if constexpr (strips > 2) {
        load_tile<7>(weights + 2 * strip, kStrip * kGroup);
        multiply_tiles<2, 4, 7>();
        load_tile<5>(weights + 3 * strip, kStrip * kGroup);
        multiply_tiles<3, 4, 5>();
      }
      for (int i = 0; i < depth_step / kGroup; ++i)
        ahead.fetch();
    }
    store_tile<0>(sums, step);
    if constexpr (strips > 1)
      store_tile<1>(sums + kTile, step);
    if constexpr (strips > 2) {
      store_tile<2>(sums + 2 * kTile, step);
      store_tile<3>(sums + 3 * kTile, step);
    }
  }

  template <int W, int R = VnniTile::rows, class Fetch>
  static void multiply_few(const std::uint8_t *q, std::ptrdiff_t ldq, int rows, const std::int8_t *panel,
                           std::ptrdiff_t strip, int depth, std::int32_t *sums, Fetch ahead) {
    if (rows == R)
      VnniTile::run<R, W>(q, ldq, panel, strip, depth, sums, ahead);
    else if constexpr (R > 1)
      multiply_few<W, R - 1>(q, ldq, rows, panel, strip, depth, sums, ahead);
  }
};

// Of attention: the float scores of 16 rows and 512 keys stay in L1.
struct HeadTile : Tile {
  static constexpr int rows = kTile;
};

constexpr KernelTable table() {
  KernelTable t = VectorKernels<Lanes, Tile, HeadTile>::table("amx", 1000, 100, &avx512bf16_kernels);
  t.enter = configure_tiles;
  t.leave = release_tiles;
  return t;
}

} // namespace

constinit const KernelTable amx_kernels = table();

} // namespace quaver
