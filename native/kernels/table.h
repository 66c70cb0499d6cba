// The hot functions of the encoder, one table of them for each instruction set.
//
// Letters, the same everywhere in Quaver:
//   T  tokens in a batch         N  sequences          H  hidden size
//   K  input features of a linear layer                O  output features of a linear layer
//   D  features of one attention head
//
// Layouts
//   activations   float32, row-major, one row per token, leading dimension in elements
//   int8 rows     u8 [rows][K'], K' = K rounded up to 64; the bytes behind K hold anything, their weights are zero
//   int8 panels   s8 [O'/16][K'/4][16][4]: strips of 16 outputs side by side, four inputs deep; a panel is four strips.
//                 One 64-byte load is 16 outputs for AVX-512, one 32-byte load 8 outputs for AVX2; AMX reads 16 groups
//                 as a tile (stride 64 bytes), and Arm's dot product uses the same groups of four. Arm's usmmla reads
//                 groups of eight, [O'/16][K'/8][16][8]: a table says how deep its groups are, here and below.
//   float panels  f32 [O'/16][K][16]: strips of 16 outputs
//   bfloat16 rows u16 [rows][K+], K+ = K rounded up to 32, zero behind K
//   bfloat16 panels  u16 [O'/16][K+/2][16][2], zero behind K: strips of 16 outputs as above, two inputs deep. A 32-bit
//                 lane is a pair of inputs of one output, as AVX512-BF16 and AMX read them (Arm's bfmmla after joining
//                 two lines); the first of a pair becomes float32 by a shift, the second by a mask.
//   int4 panels   u8 [O'/16][K'/8][16][4]: two lines of an int8 panel in one. The lower halves of the bytes are the
//                 weights of the line that comes first, the upper halves those of the next, in two's complement.
//   O' = O rounded up to 64, K' = K rounded up to 64; the padding is zero.
//
// Overflow: a sum of K' products u8 * s8 is at most 255 * 127 * K' in magnitude. K' <= 65536 stays below 2^31. Nothing
// may saturate on the way: the int32 sums are the same numbers on every instruction set.
//
// Bits: every function computes a row from that row alone, in an order that does not depend on the number of rows. So a
// text's vector has the same bits alone or in any batch. Kernel files are compiled with -ffp-contract=off: a
// multiply-add is fused where the source says so and nowhere else.
//
// NaN and infinity: a row that holds one becomes NaN, never a number that looks sound. Eight bits cannot hold NaN, so
// the row's scale becomes NaN, and with it everything computed from the row.
//
// Contract: noexcept, no allocation, no threads, no locale, no errno. Pointers are valid for what the layouts above
// describe, and vector loads never touch a byte outside of it. The caller has checked the arguments.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/instruction_sets.h"

namespace quaver {

inline constexpr int kPanel = 64;        // outputs in a panel
inline constexpr int kStrip = 16;        // outputs in a strip of an int8 panel
inline constexpr int kGroup = 4;         // inputs in one 32-bit lane, what every table but one packs
inline constexpr int kDepthStep = 64;    // K is padded to this
inline constexpr int kPairStep = 32;     // inputs in bfloat16 are padded to this
inline constexpr int kInt4Block = 128;   // inputs of a panel that are unpacked at a time, the largest int4 group
inline constexpr int kMaxDepth = 65536;  // see Overflow
inline constexpr int kMaxHead = 1024;    // features of one attention head; a packed key fits the stack
inline constexpr int kMaxLength = 65536; // tokens of a sequence: a sum of weights times values stays below 2^31 as well
inline constexpr int kAlignment = 64;    // bytes; packed weights and scratch begin at a multiple of it

static constexpr int round_up(int value, int step) { return (value + step - 1) / step * step; }

enum class Activation : std::int32_t { none, gelu, gelu_tanh, relu, silu, tanh };

enum class NormKind : std::int32_t {
  none,  // v
  layer, // (v - mean) / sqrt(variance + eps) * gamma + beta
  rms,   // v / sqrt(mean of squares + eps) * gamma
};

struct NormWeights {
  NormKind kind = NormKind::none;
  const float *gamma = nullptr; // [cols]
  const float *beta = nullptr;  // [cols], of a LayerNorm
  float eps = 0.0f;
};

// Rows quantized with one scale and one zero point per token, and for each group of inputs where a layer has several:
// x ~ scale * (q - zero).
struct Int8Rows {
  const std::uint8_t *q;       // [rows][ldq]
  std::ptrdiff_t ldq;          // bytes, >= K'
  const float *scale;          // [groups][stride], > 0, or NaN for a row that was not finite
  const std::int32_t *zero;    // [groups][stride], 0..255
  const float *sums = nullptr; // [groups][stride], of q - zero over the group; for weights with shifts
  std::ptrdiff_t stride = 0;   // at least rows, where there are several groups
};

// Rows that follow the others and hold what quantization lost of some of them. The output of residual row i is added to
// that of row of[i].
struct ResidualRows {
  int rows;               // 0 for none
  const std::int32_t *of; // [rows]
};

// A linear layer with one scale per output, and for each group of its inputs where there are several: w ~ scale * q, or
// scale * q + shift.
struct Int8Weights {
  const std::int8_t *panels; // int8 panels
  const float *scale;        // [O'/64][groups][64]
  const float *column_sums;  // the same, sum of a group's s8 weights, exact in float32 for K' <= 131072
  const float *bias;         // [O']
  int depth;                 // K'
  int groups = 1;
  const int *ends = nullptr;     // [groups], where they end: multiples of 64, the last is K'; null for one group
  const float *shifts = nullptr; // as the scales, or null
};

// A linear layer in four bits, with one scale per output and `group` inputs: w ~ scale * q, q in -8..7. The last group
// goes on to K', where the weights are zero. Rows have a scale of their own for each of `parts` ranges of inputs.
struct Int4Weights {
  const std::uint8_t *panels; // int4 panels
  const float *scale;         // [groups][O'], of 16 q: half a byte is multiplied as the upper one
  const float *weight_sums;   // [parts][O'], sum of the w of an output
  const float *bias;          // [O'], or null to add to what y has
  int depth;                  // K'
  int group;                  // divides kInt4Block
  int groups;
  int outputs; // O'
  int parts = 1;
  const int *ends = nullptr; // [parts], where they end: multiples of `group`, the last K'; null for one
};

struct FloatWeights {
  const float *panels; // float panels
  const float *bias;   // [O']
  int depth;           // K
};

struct BFloat16Weights {
  const std::uint16_t *panels; // bfloat16 panels
  const float *scale;          // [O'], what a sum is multiplied with: a factor in the weights would be rounded
  const float *bias;           // [O']
  int depth;                   // K
};

// One head of one sequence: rows of query, key and value are `ld` floats apart.
struct AttentionHead {
  const float *query; // [length][D], already multiplied by log2(e) and the scale of scores, as often 1 / sqrt(D)
  const float *key;   // [length][D]
  const float *value; // [length][D]
  std::ptrdiff_t ld;
  int length;    // tokens in the sequence, >= 1
  int head_size; // D
  // What is added to the score of row r and key j: bias[r * bias_step + j], times log2(e); null adds nothing. A bias
  // that depends on the distance alone is one array with step -1.
  const float *bias = nullptr;
  std::ptrdiff_t bias_step = 0;
  // Row r sees the keys j with r - behind <= j <= r + ahead; kMaxLength for all.
  int behind = kMaxLength, ahead = kMaxLength;
};

// One head of one sequence in eight bits. The encoder owns the memory. `quantize_rows` fills the query,
// `pack_keys_int8` and `pack_values_int8` fill the others, `attend_int8` reads everything.
//   L' = length rounded up to 16        D' = D rounded up to key_step        W = value_width(D)
// Keys are a linear layer with one output per token, values one with an output per feature: the same tiles serve both.
// What follows the last key is read and ignored: it may be zero or another key.
struct Int8Head {
  std::uint8_t *query;      // [length][ldq], ldq = D rounded up to 64; one scale and zero point per token
  float *query_scale;       // [length]
  std::int32_t *query_zero; // [length]
  std::int8_t *keys;        // int8 panels [L'/16][D'/4][16][4], zero behind the last key; one scale per token
  float *key_scale;         // [L']
  float *key_sums;          // [L'], sum of a key's s8 values
  std::int8_t *values;      // strips [W'/16][L'/4][16][4], less their mean, zero behind the last; one scale per feature
  float *value_scale;       // [W'], W' = D rounded up to W
  float *value_mean;        // [W'], over the sequence
};

// One head of one sequence in bfloat16; as Int8Head, without scales.
//   L', L+ = length rounded up to 16, 32        D+ = D rounded up to 32        W' = D rounded up to value_width(D)
struct BFloat16Head {
  std::uint16_t *query;  // bfloat16 rows [length][D+]
  std::uint16_t *keys;   // strips [L'/16][D+/2][16][2], zero behind the last feature and the last key
  std::uint16_t *values; // strips [W'/16][L+/2][16][2], zero behind the last feature and the last token
};

// Columns of a panel of values: a narrow head does not pay for 64 of them.
static constexpr int value_width(int head_size) { return head_size <= 16 ? 16 : head_size <= 32 ? 32 : 64; }

// Products of bfloat16 with bfloat16, where a CPU has instructions for them; sums are float32. They go with the tables
// of some instruction sets, and a CPU may have such a set without them.
//
// What is rounded to bfloat16 goes to the nearest, halves to the even neighbor; denormal numbers become zero. Every
// product is exact, and a sum adds them in an order of its own instruction set that does not depend on the number of
// rows.
struct BFloat16Kernels {
  const char *name;  // as kernels/instruction_sets.h lists it
  int overread_rows; // as in KernelTable, of bfloat16 rows
  int score_bytes;   // the same, of `attend`
  int rate;          // the same, of `linear`

  // Round rows to bfloat16. NaN stays NaN, and what is larger than every bfloat16 becomes infinite.
  //   x f32 [rows][ldx], q bfloat16 rows [rows][ldq], ldq >= cols rounded up to 32: all of these are written
  void (*round_rows)(const float *x, std::ptrdiff_t ldx, int rows, int cols, std::uint16_t *q,
                     std::ptrdiff_t ldq) noexcept;

  // y[r][o] = act(scale[o] * sum over k of q[r][k] * w[k][o] + bias[o]) for the outputs of panels [first_panel,
  // last_panel).
  //   q bfloat16 rows [rows][ldq], y f32 [rows][ldy], ldy >= O'; all 64 columns of a panel are written
  void (*linear)(const std::uint16_t *q, std::ptrdiff_t ldq, int rows, const BFloat16Weights &w, int first_panel,
                 int last_panel, float *y, std::ptrdiff_t ldy, Activation act) noexcept;

  // Round the keys of one head, each from that key alone; its values.
  void (*pack_keys)(const AttentionHead &head, const BFloat16Head &packed) noexcept;
  void (*pack_values)(const AttentionHead &head, const BFloat16Head &packed) noexcept;

  // As KernelTable::attend, in bfloat16: scores of rounded queries and keys; their softmax in float32; its weights
  // rounded, times rounded values, divided by the sum of the rounded weights. Reads packed.query of the rows
  // [first_row, last_row) alone.
  //   scores is scratch of score_floats(kernels, length)
  void (*attend)(const AttentionHead &head, const BFloat16Head &packed, int first_row, int last_row, float *scores,
                 float *out, std::ptrdiff_t ldo) noexcept;
};

struct KernelTable {
  // As kernels/instruction_sets.h lists it, or "scalar".
  const char *name;

  // What the instruction set asks of memory.
  int alignment;     // bytes, of panels, packed heads and scratch; at most kAlignment
  int tile_rows;     // rows of int8 inputs that a tile multiplies at a time
  int overread_rows; // rows behind the last one that a tile may read: buffers of int8 rows have room for them
  int group;         // inputs of one output side by side in an int8 panel
  int key_step;      // features of an int8 key are rounded up to this
  int score_bytes;   // scratch of `attend` and `attend_int8`, for each key; keys count up to a multiple of kPanel

  // Products that a core makes in a nanosecond in a large layer. What threads gain is weighed against their hand-overs
  // with it; wrong by a factor of two costs little. (kernels.md says where each number comes from.)
  int int8_rate, float32_rate;

  // Products of bfloat16 that go with this set where the CPU has them, too (see cpu.h); null for none.
  const BFloat16Kernels *bfloat16;

  // Called by a thread before the first and after the last of a series of calls to the functions below; null for
  // nothing. A thread leaves before it sleeps, too. (AMX configures its tiles here, and releases them.)
  void (*enter)() noexcept;
  void (*leave)() noexcept;

  // q = clamp(round(x / scale) + zero, 0, 255), with scale = (max - min) / 255 over the row and 0, zero = round(-min /
  // scale). A row of zeros gets scale 1 and zero 0, one that is not finite scale NaN and zero 0. Columns [cols,
  // round_up(cols, 64)) of q are written with the zero point.
  //   x f32 [rows][ldx], q u8 [rows][ldq], scale f32 [rows], zero s32 [rows]
  void (*quantize_rows)(const float *x, std::ptrdiff_t ldx, int rows, int cols, std::uint8_t *q, std::ptrdiff_t ldq,
                        float *scale, std::int32_t *zero) noexcept;

  // q = clamp(round(x / step) + origin, 0, 255) with one step > 0 and one origin in 0..255 for all rows; padding, scale
  // and zero as above.
  void (*quantize_rows_fixed)(const float *x, std::ptrdiff_t ldx, int rows, int cols, float step, std::int32_t origin,
                              std::uint8_t *q, std::ptrdiff_t ldq, float *scale, std::int32_t *zero) noexcept;

  // sums[r][o] = sum over k of q[r][k] * panel[o/16][k/4][o%16][k%4], exact int32. One panel.
  //   sums s32 [rows][64]
  void (*sum_int8)(const std::uint8_t *q, std::ptrdiff_t ldq, int rows, const std::int8_t *panel, int depth,
                   std::int32_t *sums) noexcept;

  // sums[r] = sum over k < depth of q[r][k] - zero[r], exact in float32; depth is a multiple of 64.
  void (*row_sums)(const std::uint8_t *q, std::ptrdiff_t ldq, int rows, int depth, const std::int32_t *zero,
                   float *sums) noexcept;

  // y[r][o] = act(scale_r * scale_o * (sums[r][o] - zero_r * column_sums[o]) + bias[o]) for the outputs of panels
  // [first_panel, last_panel), act in a short form: what follows rounds to eight bits as well. With several groups of
  // inputs the product is summed over them; shifts add scale_r * row_sums[r] * shift_o of each group. Then the outputs
  // of the residual rows are added, without bias: those of row rows + i to y[residuals.of[i]]. With residual rows the
  // activation is none.
  //   a [rows + residuals.rows], y f32 [rows][ldy], ldy >= O'; all 64 columns of a panel are written
  void (*linear_int8)(const Int8Rows &a, int rows, const ResidualRows &residuals, const Int8Weights &w, int first_panel,
                      int last_panel, float *y, std::ptrdiff_t ldy, Activation act) noexcept;

  // The same for weights in four bits: y[r][o] = act(sum over the groups g of scale_rp * scale_go * sums_g[r][o] +
  // bias[o]
  // - sum over the parts p of scale_rp * zero_rp * weight_sums_p[o]), p the part of g.
  void (*linear_int4)(const Int8Rows &a, int rows, const ResidualRows &residuals, const Int4Weights &w, int first_panel,
                      int last_panel, float *y, std::ptrdiff_t ldy, Activation act) noexcept;

  // y[r][o] = act(sum over k of x[r][k] * w[k][o] + bias[o]), one fused multiply-add chain over k = 0, 1, 2, ...
  void (*linear_float32)(const float *x, std::ptrdiff_t ldx, int rows, const FloatWeights &w, int first_panel,
                         int last_panel, float *y, std::ptrdiff_t ldy, Activation act) noexcept;

  // y[r][o] = act(scale[o] * sum + bias[o]) with weights that are widened to float32, which is exact. Where the scale
  // is 1, the bits are those of linear_float32 with the widened weights.
  void (*linear_bfloat16)(const float *x, std::ptrdiff_t ldx, int rows, const BFloat16Weights &w, int first_panel,
                          int last_panel, float *y, std::ptrdiff_t ldy, Activation act) noexcept;

  // Repack the keys of one head for `attend`: packed f32 [L'/16][D][16], L' = length rounded up to 16, zero behind the
  // last key.
  void (*pack_keys)(const AttentionHead &head, float *packed) noexcept;

  // Repack the values of one head for `attend`: packed f32 [D'/16][length][16], D' = D rounded up to 16, zero behind
  // the last feature.
  void (*pack_values)(const AttentionHead &head, float *packed) noexcept;

  // out[r][c] = sum over j of p[r][j] * value[j][c], p = softmax over j of query[r] . key[j] (in base two, see query),
  // for the rows [first_row, last_row) of the sequence.
  //   packed_keys from pack_keys, packed_values from pack_values; scores is scratch of score_floats(table, length); out
  //   f32 [length][ldo]
  void (*attend)(const AttentionHead &head, const float *packed_keys, const float *packed_values, int first_row,
                 int last_row, float *scores, float *out, std::ptrdiff_t ldo) noexcept;

  // Quantize the keys of one head to s8, with one scale per token. A key is packed from that key alone, except that one
  // that is not finite turns every scale into NaN.
  void (*pack_keys_int8)(const AttentionHead &head, const Int8Head &packed) noexcept;

  // Quantize the values of one head, less their mean over the sequence, to s8 with one scale per feature.
  void (*pack_values_int8)(const AttentionHead &head, const Int8Head &packed) noexcept;

  // The same as attend, in eight bits: scores from u8 queries and s8 keys, their softmax as u8 with 255 for the row's
  // largest, times s8 values, divided by the sum of the weights before rounding, plus the values' mean: weight lost by
  // rounding goes to the mean, not to the large weights. Reads packed.query of the rows [first_row, last_row) alone.
  //   scores is scratch of score_floats(table, length)
  void (*attend_int8)(const AttentionHead &head, const Int8Head &packed, int first_row, int last_row, float *scores,
                      float *out, std::ptrdiff_t ldo) noexcept;

  // x[r] += y[r], y may be null; out[r] = norm(x[r]). Squares beyond float32 make the row NaN. out may be x.
  //   x f32 [rows][ldx], y f32 [rows][ldy], out f32 [rows][ldo]
  void (*add_norm)(float *x, std::ptrdiff_t ldx, const float *y, std::ptrdiff_t ldy, int rows, int cols,
                   const NormWeights &norm, float *out, std::ptrdiff_t ldo) noexcept;

  // x[r][c] = act(x[r][c]) * x[r][cols + c] for c in [0, cols); `last`: x[r][c] * act(x[r][cols + c]). `rounded`: the
  // results will be rounded to eight bits, so a short form of act is enough.
  //   x f32 [rows][ldx], ldx >= 2 * cols
  void (*gate)(float *x, std::ptrdiff_t ldx, int rows, int cols, bool last, Activation act, bool rounded) noexcept;

  // Rotate each of the `heads` heads of a row by the row's angles: (a, b) to (a cos - b sin, b cos + a sin), a in the
  // first half of the head and b in the second.
  //   x f32 [rows][ldx], head h at column h * D; cosine, sine f32 [rows][D / 2]; D even
  void (*rotate)(float *x, std::ptrdiff_t ldx, int rows, int heads, int head_size, const float *cosine,
                 const float *sine) noexcept;
};

// Floats of scratch that `attend` and `attend_int8` of a table need for a sequence of this length.
static constexpr std::ptrdiff_t score_floats(const auto &table, int length) {
  constexpr auto size = static_cast<std::ptrdiff_t>(sizeof(float));
  return (static_cast<std::ptrdiff_t>(table.score_bytes) * round_up(length, kPanel) + size - 1) / size;
}

// One table per kernel file. Only cpu.cpp names them, and a set that goes with products of bfloat16 names these;
// everything else asks cpu.h for one.
extern const KernelTable scalar_kernels;
#define QUAVER_DECLARE(name, features) extern const KernelTable name##_kernels;
QUAVER_INSTRUCTION_SETS(QUAVER_DECLARE)
#undef QUAVER_DECLARE
#define QUAVER_DECLARE(name, features) extern const BFloat16Kernels name##_kernels;
QUAVER_BFLOAT16_SETS(QUAVER_DECLARE)
#undef QUAVER_DECLARE

} // namespace quaver
