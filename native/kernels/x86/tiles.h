// The tile registers of AMX: eight of 16 rows x 64 bytes, as instructions or as portable code.
//
// Why not the intrinsics of gcc: they do not tell the compiler that a tile is loaded from memory, which may then store
// what the tile reads after it was read.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/x86/flushed.h"

namespace quaver {

// What ldtilecfg reads: every tile has all of its rows and bytes, so no thread configures them twice.
struct TileConfig {
  std::uint8_t palette = 1, start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

#if defined(QUAVER_EMULATE) || defined(QUAVER_EMULATE_TILES)

// The registers of a thread, the same for all kernel files.
struct TileState {
  TileConfig config;
  alignas(64) std::uint8_t tile[8][16][64];
};
inline thread_local constinit TileState tile_state{.config = {.palette = 0}, .tile = {}};

#endif

namespace {

alignas(64) constexpr TileConfig kTileConfig{};

#if defined(QUAVER_EMULATE) || defined(QUAVER_EMULATE_TILES)

// As the instructions work; a tile of a thread that has not configured them is a fault here as well.
#ifdef QUAVER_UNSIGNED_TILES // of weights, as Bochs has it: see native/tests/bochs
using TileWeight = std::uint8_t;
#else
using TileWeight = std::int8_t;
#endif

inline void configure_tiles() noexcept { tile_state = {.config = kTileConfig, .tile = {}}; }
inline void release_tiles() noexcept { tile_state = {.config = {.palette = 0}, .tile = {}}; }

template <int N> std::uint8_t (&tile())[16][64] {
  if (tile_state.config.palette != 1)
    __builtin_trap();
  return tile_state.tile[N];
}
template <int N> void zero_tile() { __builtin_memset(tile<N>(), 0, sizeof tile<N>()); }
template <int N> void load_tile(const void *first, std::ptrdiff_t step) {
  zero_tile<N>();
  for (int r = 0; r < tile_state.config.rows[N]; ++r)
    __builtin_memcpy(tile<N>()[r], static_cast<const std::uint8_t *>(first) + r * step, tile_state.config.row_bytes[N]);
}
template <int N> void store_tile(void *first, std::ptrdiff_t step) {
  for (int r = 0; r < tile_state.config.rows[N]; ++r)
    __builtin_memcpy(static_cast<std::uint8_t *>(first) + r * step, tile<N>()[r], tile_state.config.row_bytes[N]);
}
template <int Sum, int Inputs, int Weights> const TileConfig &fitting_config() {
  const TileConfig &config = tile_state.config;
  if (config.rows[Sum] != config.rows[Inputs] || config.row_bytes[Inputs] / 4 != config.rows[Weights] ||
      config.row_bytes[Sum] != config.row_bytes[Weights])
    __builtin_trap();
  return config;
}
template <int Sum, int Bytes, int Weights> void multiply_bytes() {
  const TileConfig &config = fitting_config<Sum, Bytes, Weights>();
  const auto &bytes = tile<Bytes>();
  TileWeight weights[16][64];
  std::int32_t sums[16][16];
  __builtin_memcpy(weights, tile<Weights>(), sizeof weights);
  __builtin_memcpy(sums, tile<Sum>(), sizeof sums);
  for (int r = 0; r < config.rows[Sum]; ++r)
    for (int k = 0; k < config.rows[Weights]; ++k)
      for (int c = 0; c < config.row_bytes[Sum] / 4; ++c)
        for (int i = 0; i < 4; ++i)
          sums[r][c] += bytes[r][k * 4 + i] * weights[k][c * 4 + i];
  __builtin_memcpy(tile<Sum>(), sums, sizeof sums);
}
template <int Sum, int Inputs, int Weights> void multiply_pairs() {
  const TileConfig &config = fitting_config<Sum, Inputs, Weights>();
  std::uint32_t inputs[16][16], weights[16][16];
  float sums[16][16];
  __builtin_memcpy(inputs, tile<Inputs>(), sizeof inputs);
  __builtin_memcpy(weights, tile<Weights>(), sizeof weights);
  __builtin_memcpy(sums, tile<Sum>(), sizeof sums);
  for (int r = 0; r < config.rows[Sum]; ++r) {
    float first[16] = {}, second[16] = {};
    for (int k = 0; k < config.rows[Weights]; ++k)
      for (int c = 0; c < config.row_bytes[Sum] / 4; ++c) {
        first[c] = flushed_fma(widened(inputs[r][k] << 16), widened(weights[k][c] << 16), first[c]);
        second[c] = flushed_fma(widened(inputs[r][k] & 0xffff0000u), widened(weights[k][c] & 0xffff0000u), second[c]);
      }
    for (int c = 0; c < config.row_bytes[Sum] / 4; ++c)
      sums[r][c] = flushed(flushed(sums[r][c]) + flushed(first[c] + second[c]));
  }
  __builtin_memcpy(tile<Sum>(), sums, sizeof sums);
}

#else

inline void configure_tiles() noexcept { asm volatile("ldtilecfg %0" : : "m"(kTileConfig)); }
inline void release_tiles() noexcept { asm volatile("tilerelease"); }

template <int N> void zero_tile() { asm volatile("tilezero %%tmm%c0" : : "i"(N)); }
// 16 rows of 64 bytes, `step` bytes apart.
template <int N> void load_tile(const void *first, std::ptrdiff_t step) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(first), "r"(step), "i"(N) : "memory");
}
template <int N> void store_tile(void *first, std::ptrdiff_t step) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(first), "r"(step), "i"(N) : "memory");
}
// sum[r][c] += bytes[r][4k..4k+3] . weights[k][4c..4c+3] over 16 k: u8 times s8, no saturation.
template <int Sum, int Bytes, int Weights> void multiply_bytes() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(Bytes), "i"(Weights));
}
// The same for 16 pairs of bfloat16. The products of the first numbers of the pairs are added up from zero, those of
// the second numbers as well, each with one rounding; then the two sums, then the result to the tile's. To nearest,
// halves to even, denormal numbers being zero, whatever MXCSR says (Intel's manual).
template <int Sum, int Inputs, int Weights> void multiply_pairs() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(Inputs), "i"(Weights));
}

#endif

} // namespace
} // namespace quaver
