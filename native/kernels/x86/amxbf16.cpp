// AMX with bfloat16: Sapphire Rapids and later Xeons. tdpbf16ps multiplies 16 rows of 32 inputs with 16 outputs, 8,192
// products.
//
// The panels are those of AVX512-BF16: 16 pairs of a strip are a tile of weights. Rounding and what follows the sums
// are the same code. The order of a sum is another one (tiles.h), so a single row goes through tiles as well: its bits
// are those that it has beside others.
#include "kernels/shared/bfloat16.h"
#include "kernels/x86/lanes_avx512bf16.h"
#include "kernels/x86/tile_amx.h"

namespace quaver {
namespace {

struct Pairs {
  using Number = float;
  template <int Sum, int Inputs, int Weights> static void multiply() { multiply_pairs<Sum, Inputs, Weights>(); }
};

struct Tile {
  using Blocks = TileBlocks<Pairs>;
  static constexpr int rows = 2 * Blocks::height;
  static constexpr bool any_height = true;
  static constexpr int depth_step = Blocks::step_bytes / static_cast<int>(sizeof(std::uint16_t));
  static constexpr int overread_rows = Blocks::height - 1;

  template <int W, class Fetch>
  static void run(const std::uint16_t *q, std::ptrdiff_t ldq, int rows, const std::uint16_t *panel,
                  std::ptrdiff_t strip, int depth, float *sums, Fetch ahead) {
    constexpr int size = sizeof *q;
    const auto *bytes = reinterpret_cast<const std::uint8_t *>(q);
    const auto *weights = reinterpret_cast<const std::int8_t *>(panel);
    if (rows > Blocks::height)
      Blocks::multiply_32<W>(bytes, size * ldq, weights, size * strip, size * round_up(depth, depth_step), sums, ahead);
    else
      Blocks::multiply_16<W>(bytes, size * ldq, weights, size * strip, size * round_up(depth, depth_step), sums, ahead);
  }
};

// Of attention: the float scores of 16 rows and 512 keys stay in L1.
struct HeadTile : Tile {
  static constexpr int rows = Blocks::height;
};

} // namespace

constinit const BFloat16Kernels amxbf16_kernels = BFloat16Loops<PairLanes, Tile, HeadTile>::table("amxbf16", 500);

} // namespace quaver
