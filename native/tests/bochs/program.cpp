// The kernels of amx.cpp and amxbf16.cpp with real tile instructions, in Bochs, against the same files with portable
// tiles; and those of avx512bf16.cpp with its instructions against portable ones.
//
// Bochs 3.0 multiplies the weights of all four int8 products as if they were unsigned. The portable tiles of this
// program do the same, so results must be equal to the last bit. That proves configuration, packing, tails and the
// epilogues; the sign itself is the opcode's, which tests/engine/test_native_objects.py reads from the real build.
// Nothing of the C library is here: what the kernels need of it is below.
#include <initializer_list>

#include "kernels/table.h"

namespace quaver {
extern const KernelTable amx_portable_kernels;
extern const BFloat16Kernels amxbf16_portable_kernels, avx512bf16_portable_kernels;
} // namespace quaver

using namespace quaver;

namespace {

int checks = 0, failures = 0;

void put(char c) { asm volatile("outb %0, %1" : : "a"(c), "Nd"(static_cast<std::uint16_t>(0xe9))); }
void print(const char *text) {
  while (*text != 0)
    put(*text++);
}
void print(int n) {
  if (n >= 10)
    print(n / 10);
  put(static_cast<char>('0' + n % 10));
}

std::uint32_t state = 2463534242u;
std::uint32_t draw() {
  state ^= state << 13;
  state ^= state >> 17;
  state ^= state << 5;
  return state;
}
// Of variance near 1.
float draw_float() {
  float sum = 0.0f;
  for (int i = 0; i < 3; ++i)
    sum += static_cast<float>(static_cast<std::int32_t>(draw())) * 0x1p-31f;
  return sum;
}

void check_equal(const char *what, int a, int b, int c, const void *got, const void *expected, std::size_t size) {
  ++checks;
  if (__builtin_memcmp(got, expected, size) == 0 || ++failures > 20)
    return;
  print(what);
  for (const int n : {a, b, c}) {
    put(' ');
    print(n);
  }
  print(" differs\n");
}

constexpr int kMaxRows = 70, kMaxColumns = 384, kMaxOutputs = 128, kMaxTokens = 192;
const KernelTable &real = amx_kernels, &portable = amx_portable_kernels;

alignas(64) std::uint8_t q[(kMaxRows + 15) * kMaxColumns];
alignas(64) std::int8_t panels[kMaxColumns * kMaxOutputs];
alignas(64) std::int32_t sums[2][kMaxRows * kPanel];
alignas(64) float outputs[2][kMaxRows * kMaxOutputs];

void fill_bytes() {
  for (auto &v : q)
    v = static_cast<std::uint8_t>(draw());
  for (auto &v : panels)
    v = static_cast<std::int8_t>(draw());
}

void test_sums() {
  for (const int depth : {64, 128, 384})
    for (int rows = 1; rows <= kMaxRows; rows += rows < 36 ? 1 : 17) {
      fill_bytes();
      const bool plain = rows % 2 == 0; // weights without a sign have the true sum
      for (auto &v : panels)
        v = static_cast<std::int8_t>(plain ? v & 127 : v);
      real.sum_int8(q, depth, rows, panels, depth, sums[0]);
      portable.sum_int8(q, depth, rows, panels, depth, sums[1]);
      check_equal("sums", depth, rows, 0, sums[0], sums[1], sizeof(float) * static_cast<std::size_t>(rows * kPanel));
      for (int o = 0; plain && o < kPanel; ++o) {
        std::int32_t sum = 0;
        for (int k = 0; k < depth; ++k)
          sum += q[(rows - 1) * depth + k] *
                 panels[o / kStrip * kStrip * depth + k / kGroup * kStrip * kGroup + o % kStrip * kGroup + k % kGroup];
        check_equal("sum", depth, rows, o, &sums[0][(rows - 1) * kPanel + o], &sum, sizeof sum);
      }
    }
}

void test_linear() {
  static float scale[3 * kMaxRows], row_sums[3 * kMaxRows];
  static std::int32_t zero[3 * kMaxRows];
  constexpr int depth = kMaxColumns, ends[] = {64, 256, depth}, scales = depth / 32 * kMaxOutputs;
  static float weight_scale[scales], column_sums[scales], bias[kMaxOutputs], shifts[scales];
  constexpr std::int32_t of[] = {0, 1};
  for (int i = 0; i < 3 * kMaxRows; ++i) {
    scale[i] = 0.01f + 0.001f * static_cast<float>(draw() % 10);
    row_sums[i] = draw_float();
    zero[i] = static_cast<std::int32_t>(draw() % 256);
  }
  for (int i = 0; i < scales; ++i) {
    weight_scale[i] = 0.001f + 0.0001f * static_cast<float>(draw() % 10);
    column_sums[i] = 100.0f * draw_float();
    shifts[i] = 0.01f * draw_float();
    bias[i % kMaxOutputs] = draw_float();
  }
  for (const int rows : {1, 2, 3, 15, 16, 17, 19, 32, 35, 50, 66}) {
    const ResidualRows lost{rows >= 2 ? 2 : 0, of};
    fill_bytes();
    const Int8Rows a{q, depth, scale, zero, row_sums, kMaxRows};
    for (const Activation act : {Activation::none, Activation::gelu, Activation::silu})
      for (const int group : {0, 1, 32, 64, 128}) { // int8 with one scale, with three groups and shifts; int4
        const ResidualRows none{}, &residuals = act == Activation::none ? lost : none;
        const KernelTable *tables[] = {&real, &portable};
        for (int t = 0; t < 2; ++t)
          if (group < 2)
            tables[t]->linear_int8(a, rows, residuals,
                                   {panels, weight_scale, column_sums, bias, depth, group == 0 ? 1 : 3, ends,
                                    group == 0 ? nullptr : shifts},
                                   0, kMaxOutputs / kPanel, outputs[t], kMaxOutputs, act);
          else
            tables[t]->linear_int4(a, rows, residuals,
                                   {reinterpret_cast<const std::uint8_t *>(panels), weight_scale, column_sums, bias,
                                    depth, group, depth / group, kMaxOutputs},
                                   0, kMaxOutputs / kPanel, outputs[t], kMaxOutputs, act);
        check_equal("linear", rows, group, static_cast<int>(act), outputs[0], outputs[1],
                    sizeof(float) * static_cast<std::size_t>(rows * kMaxOutputs));
      }
  }
}

// Both tables pack; what they packed is compared as well.
struct Head {
  alignas(64) std::uint8_t query[(kMaxTokens + 15) * 128];
  alignas(64) float query_scale[kMaxTokens], key_scale[kMaxTokens], key_sums[kMaxTokens], value_scale[128],
      value_mean[128];
  alignas(64) std::int32_t query_zero[kMaxTokens];
  alignas(64) std::int8_t keys[kMaxTokens * 128], values[kMaxTokens * 128];
  alignas(64) float scores[kMaxTokens * 64], out[kMaxTokens * 128];

  Int8Head packed() {
    return {query, query_scale, query_zero, keys, key_scale, key_sums, values, value_scale, value_mean};
  }
};

void test_attention() {
  static float qkv[kMaxTokens * 3 * 96];
  static Head heads[2];
  for (auto &v : qkv)
    v = draw_float();
  for (const int d : {16, 32, 64, 96})
    for (const int length : {1, 5, 16, 17, 33, 64, 100, 130, 192})
      for (const int window : {kMaxLength, 20}) {
        const KernelTable *tables[] = {&real, &portable};
        for (int t = 0; t < 2; ++t) {
          AttentionHead head{qkv, qkv + d, qkv + 2 * d, 3 * d, length, d};
          head.behind = head.ahead = window;
          Head &h = heads[t];
          const KernelTable &k = *tables[t];
          k.quantize_rows(qkv, 3 * d, length, d, h.query, round_up(d, kDepthStep), h.query_scale, h.query_zero);
          k.pack_keys_int8(head, h.packed());
          k.pack_values_int8(head, h.packed());
          k.attend_int8(head, h.packed(), 0, length, h.scores, h.out, d);
        }
        check_equal("keys", d, length, window, heads[0].keys, heads[1].keys,
                    static_cast<std::size_t>(round_up(length, kStrip) * round_up(d, real.key_step)));
        check_equal("attention", d, length, window, heads[0].out, heads[1].out,
                    sizeof(float) * static_cast<std::size_t>(length * d));
      }
}

// Rounding, with every kind of number, layers of odd depths too, and attention.
void test_bfloat16(const BFloat16Kernels &ours, const BFloat16Kernels &emulated) {
  const BFloat16Kernels *kernels[] = {&ours, &emulated};
  constexpr int most = 192;
  alignas(64) static std::uint16_t weights[most * kMaxOutputs];
  static float rows[kMaxRows * most], scale[kMaxOutputs], bias[kMaxOutputs];
  alignas(64) static std::uint16_t pairs[2][(kMaxRows + 15) * most];
  __builtin_memset(pairs, 0, sizeof pairs); // the other kernels were here
  const auto anything = [](auto bits) {     // of all exponents, also those of denormal numbers, infinity and NaN
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(bits));
  };
  for (const int cols : {1, 7, 64, most})
    for (int round = 0; round < 20; ++round) {
      for (auto &v : rows)
        v = anything(round % 2 == 0 ? draw() : draw() & 0x80ffffffu);
      for (int t = 0; t < 2; ++t)
        kernels[t]->round_rows(rows, most, kMaxRows, cols, pairs[t], most);
      check_equal("rounding", cols, round, 0, pairs[0], pairs[1], sizeof pairs[0]);
    }
  for (int i = 0; i < kMaxOutputs; ++i) {
    scale[i] = draw_float();
    bias[i] = draw_float();
  }
  for (const int depth : {1, 2, 31, 64, most - 1, most})
    for (const int count : {1, 2, 5, 6, 7, 13, 16, 17, 33, kMaxRows})
      for (const Activation act : {Activation::none, Activation::gelu, Activation::silu})
        for (const float size : {1.0f, 0x1p-62f}) { // of products that are denormal numbers as well
          for (auto &v : rows)
            v = size * draw_float();
          kernels[0]->round_rows(rows, most, kMaxRows, depth, pairs[0], most);
          for (auto &v : weights)
            v = static_cast<std::uint16_t>(__builtin_bit_cast(std::uint32_t, size *draw_float()) >> 16);
          for (int o = 0, padded = round_up(depth, kPairStep); o < kMaxOutputs; ++o)
            for (int k = depth; k < padded; ++k)
              weights[o / kStrip * kStrip * padded + k / 2 * 2 * kStrip + o % kStrip * 2 + k % 2] = 0;
          for (int t = 0; t < 2; ++t)
            kernels[t]->linear(pairs[0], most, count, {weights, scale, bias, depth}, 0, kMaxOutputs / kPanel,
                               outputs[t], kMaxOutputs, act);
          check_equal("pairs", depth, count, static_cast<int>(act), outputs[0], outputs[1],
                      sizeof(float) * static_cast<std::size_t>(count * kMaxOutputs));
        }
  static float qkv[kMaxTokens * 3 * 96], scores[kMaxTokens * 24], out[2][kMaxTokens * 96];
  alignas(64) static std::uint16_t query[(kMaxTokens + 15) * 96], keys[2][kMaxTokens * 96], values[2][kMaxTokens * 128];
  for (auto &v : qkv)
    v = draw_float();
  for (const int d : {16, 32, 40, 64, 96})
    for (const int length : {1, 5, 16, 17, 33, 64, 100, 192})
      for (const int window : {kMaxLength, 20}) {
        for (int t = 0; t < 2; ++t) {
          AttentionHead head{qkv, qkv + d, qkv + 2 * d, 3 * d, length, d};
          head.behind = head.ahead = window;
          const BFloat16Head packed{query, keys[t], values[t]};
          kernels[t]->round_rows(qkv, 3 * d, length, d, query, round_up(d, kPairStep));
          kernels[t]->pack_keys(head, packed);
          kernels[t]->pack_values(head, packed);
          kernels[t]->attend(head, packed, 0, length, scores, out[t], d);
        }
        check_equal("packed pairs", d, length, window, keys[0], keys[1], sizeof keys[0]);
        check_equal("packed values", d, length, window, values[0], values[1], sizeof values[0]);
        check_equal("attention of pairs", d, length, window, out[0], out[1],
                    sizeof(float) * static_cast<std::size_t>(length * d));
      }
}

// --- Instruction counts ---------------------------------------------------------------------------------------------
// Bochs' time stamp counter grows by one with each instruction. The layers of BERT-base, over one text of 256 tokens.

std::uint64_t instructions() {
  std::uint32_t low, high;
  asm volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
  return std::uint64_t{high} << 32 | low;
}

constexpr int kTokens = 256, kHidden = 768, kWide = 3072, kHeadSize = 64;
constexpr int kBlocks[] = {0, 96, 176, kTokens}; // of rows, as the engine divides such a text
alignas(64) float x[kTokens * kWide], y[kTokens * kWide];
alignas(64) std::uint8_t wide_q[(kTokens + 15) * kWide];
alignas(64) std::int8_t weights[kWide * kHidden];
alignas(64) float many[5][8 * kWide];
alignas(64) std::int32_t zeros[8 * kTokens];

template <class Work> void count(const KernelTable &k, const char *what, Work &&work) {
  const std::uint64_t before = instructions();
  work();
  const std::uint64_t after = instructions();
  print("count ");
  print(k.name);
  print(" ");
  print(what);
  print(" ");
  print(static_cast<int>(after - before));
  print("\n");
}

void count_linear(const KernelTable &k, const char *what, int inputs, int outputs, int groups, bool shifts,
                  Activation act) {
  int ends[8];
  for (int g = 0; g < groups; ++g)
    ends[g] = groups == 2 ? (g == 0 ? 64 : inputs) : inputs / groups * (g + 1);
  const Int8Weights w{weights, many[2], many[3], many[4], inputs, groups, ends, shifts ? many[0] : nullptr};
  count(k, what, [&] {
    for (int b = 0; b < 3; ++b)
      k.linear_int8({wide_q + kBlocks[b] * inputs, inputs, many[0], zeros, many[1], kTokens},
                    kBlocks[b + 1] - kBlocks[b], {}, w, 0, outputs / kPanel, y + kBlocks[b] * outputs, outputs, act);
  });
}

void count_layer(const KernelTable &k) {
  for (auto &v : x)
    v = draw_float();
  for (auto &part : many)
    for (auto &v : part)
      v = 0.01f;
  count(k, "nothing", [] {});
  count_linear(k, "plain_qkv", kHidden, 3 * kHidden, 1, false, Activation::none);
  count_linear(k, "plain_out", kHidden, kHidden, 1, false, Activation::none);
  count_linear(k, "plain_up", kHidden, kWide, 1, false, Activation::gelu);
  count_linear(k, "plain_down", kWide, kHidden, 1, false, Activation::none);
  count_linear(k, "grouped_qkv", kHidden, 3 * kHidden, 2, true, Activation::none);
  count_linear(k, "grouped_out", kHidden, kHidden, 1, true, Activation::none);
  count_linear(k, "grouped_up", kHidden, kWide, 2, true, Activation::gelu);
  count_linear(k, "grouped_down", kWide, kHidden, 8, true, Activation::none);
  for (const bool wide : {false, true}) {
    const int columns = wide ? kWide : kHidden;
    count(k, wide ? "round_wide" : "round_hidden",
          [&] { k.quantize_rows(x, columns, kTokens, columns, wide_q, columns, many[0], zeros); });
    count(k, wide ? "row_sums_wide" : "row_sums_hidden",
          [&] { k.row_sums(wide_q, columns, kTokens, columns, zeros, many[1]); });
  }
  const NormWeights norm{NormKind::layer, many[2], many[3], 1e-12f};
  count(k, "norm", [&] { k.add_norm(x, kHidden, y, kHidden, kTokens, kHidden, norm, x, kHidden); });
  static Head big;
  static std::uint8_t query[(kTokens + 15) * kHeadSize];
  static std::int8_t keys[kTokens * kHeadSize], values[kTokens * kHeadSize];
  static float scores[kTokens * 32], scale[4 * kTokens];
  const AttentionHead head{x, x + kHeadSize, x + 2 * kHeadSize, 3 * kHidden, kTokens, kHeadSize};
  const Int8Head packed{query,  scale,           zeros,         keys, scale + kTokens, scale + 2 * kTokens,
                        values, big.value_scale, big.value_mean};
  count(k, "pack_head", [&] {
    k.quantize_rows(head.query, head.ld, kTokens, kHeadSize, query, kHeadSize, scale, zeros);
    k.pack_keys_int8(head, packed);
    k.pack_values_int8(head, packed);
  });
  count(k, "attend_head", [&] { k.attend_int8(head, packed, 0, kTokens, scores, y, kHidden); });
}

} // namespace

// What gcc calls without being asked.
extern "C" {
void *memset(void *to, int value, std::size_t size) {
  void *p = to;
  asm volatile("rep stosb" : "+D"(p), "+c"(size) : "a"(value) : "memory");
  return to;
}
void *memcpy(void *to, const void *from, std::size_t size) {
  void *p = to;
  asm volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(size) : : "memory");
  return to;
}
int memcmp(const void *a, const void *b, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i)
    if (const int difference = static_cast<const unsigned char *>(a)[i] - static_cast<const unsigned char *>(b)[i];
        difference != 0)
      return difference;
  return 0;
}

extern char begin_of_zeros[], end_of_zeros[];
[[gnu::section(".start")]] void start() {
  memset(begin_of_zeros, 0, static_cast<std::size_t>(end_of_zeros - begin_of_zeros));
  real.enter();
  portable.enter();
  test_sums();
  test_linear();
  test_attention();
  test_bfloat16(amxbf16_kernels, amxbf16_portable_kernels);
  test_bfloat16(avx512bf16_kernels, avx512bf16_portable_kernels);
  count_layer(real);
  portable.leave();
  real.leave();
  print("amx in Bochs: ");
  print(checks);
  print(" checks, ");
  print(failures);
  print(" failed\n");
}
}
