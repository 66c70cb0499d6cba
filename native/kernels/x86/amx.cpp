// AMX: Sapphire Rapids and later Xeons. tdpbusd multiplies 16 rows of 64 inputs with 16 outputs, 16,384 products.
//
// The panels are those of the other sets: 16 groups of a strip are a tile of weights. Everything but the products of
// bytes is that of AVX-512.
#include "kernels/shared/vector_kernels.h"
#include "kernels/x86/lanes_avx512.h"
#include "kernels/x86/tile_amx.h"
#include "kernels/x86/tile_avx512.h"

namespace quaver {
namespace {

struct Bytes {
  using Number = std::int32_t;
  template <int Sum, int Inputs, int Weights> static void multiply() { multiply_bytes<Sum, Inputs, Weights>(); }
};

struct Tile {
  using Blocks = TileBlocks<Bytes>;
  static constexpr int kTile = Blocks::height;
  static constexpr int rows = 2 * kTile;
  static constexpr bool any_height = true; // the number of rows is an argument
  static constexpr int depth_step = Blocks::step_bytes;
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
      Blocks::multiply_32<W>(q, ldq, panel, strip, depth, sums, ahead);
    else if (tiled > 0)
      Blocks::multiply_16<W>(q, ldq, panel, strip, depth, sums, ahead);
    for (int r = tiled, height; r < rows; r += height) {
      height = tile_height(rows - r, VnniTile::rows);
      if (tiled == 0)
        multiply_few<W>(q + r * ldq, ldq, height, panel, strip, depth, sums + r * W, ahead);
      else
        multiply_few<W>(q + r * ldq, ldq, height, panel, strip, depth, sums + r * W, Nothing{});
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
  KernelTable t = VectorKernels<Lanes, Tile, HeadTile>::table("amx", 1000, 100, &amxbf16_kernels);
  t.enter = configure_tiles;
  t.leave = release_tiles;
  return t;
}

} // namespace

constinit const KernelTable amx_kernels = table();

} // namespace quaver
