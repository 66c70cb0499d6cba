// Each instruction set's int8 kernels against that set's own multiply-add sequence in the same run, on one core.
//
//   kernels [seconds per case]        prints one JSON object; `make bench-kernels` builds and runs it
//
// "peak" is the instruction sequence of the tile with everything in registers: tdpbusd or vpdpbusd alone, or two
// vpmaddwd and two vpaddd for 32 products of AVX2, 64 of AVX-512. "sum" is sum_int8, "linear" the layer with its
// epilogue (dequantize, bias, GELU). A ratio is the median of pairs measured one after the other, so that a machine
// whose speed drifts drifts in both.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cpu.h"
#include "engine/linear.h"

using namespace quaver;

namespace {

constexpr long kLoops = 20000;

// Twelve independent accumulators hide the latency of every instruction used.
#define REPEAT12(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11)
#define REPEAT6(M) M(0) M(1) M(2) M(3) M(4) M(5)

double products_avx512vnni() {
#define STEP(i) "vpdpbusd %%zmm30, %%zmm31, %%zmm" #i "\n"
  for (long n = 0; n < kLoops; ++n)
    asm volatile(REPEAT12(STEP)::
                     : "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", "zmm8", "zmm9", "zmm10",
                       "zmm11");
#undef STEP
  return static_cast<double>(kLoops) * 12 * 64;
}

double products_avxvnni() {
#ifdef QUAVER_EVEX
#define VEX
#else
#define VEX "%{vex%} "
#endif
#define STEP(i) VEX "vpdpbusd %%ymm14, %%ymm15, %%ymm" #i "\n"
  for (long n = 0; n < kLoops; ++n)
    asm volatile(REPEAT12(STEP)::
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                       "xmm11");
#undef STEP
#undef VEX
  return static_cast<double>(kLoops) * 12 * 32;
}

double products_avx512() {
#define STEP(i)                                                                                                        \
  "vpmaddwd %%zmm14, %%zmm15, %%zmm12\n vpaddd %%zmm12, %%zmm" #i ", %%zmm" #i "\n"                                    \
  "vpmaddwd %%zmm14, %%zmm15, %%zmm13\n vpaddd %%zmm13, %%zmm" #i ", %%zmm" #i "\n"
  for (long n = 0; n < kLoops; ++n)
    asm volatile(REPEAT12(STEP)::
                     : "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", "zmm8", "zmm9", "zmm10", "zmm11",
                       "zmm12", "zmm13");
#undef STEP
  return static_cast<double>(kLoops) * 12 * 64;
}

double products_avx2() {
#define STEP(i)                                                                                                        \
  "vpmaddwd %%ymm14, %%ymm15, %%ymm12\n vpaddd %%ymm12, %%ymm" #i ", %%ymm" #i "\n"                                    \
  "vpmaddwd %%ymm14, %%ymm15, %%ymm13\n vpaddd %%ymm13, %%ymm" #i ", %%ymm" #i "\n"
  for (long n = 0; n < kLoops; ++n)
    asm volatile(REPEAT12(STEP)::
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                       "xmm12", "xmm13");
#undef STEP
  return static_cast<double>(kLoops) * 12 * 32;
}

// Four sums, as the tile of 32 x 32 has; the thread has entered, so the tiles are configured.
double products_amx() {
  for (long n = 0; n < kLoops / 16; ++n)
    asm volatile("tdpbusd %%tmm6, %%tmm4, %%tmm0\n tdpbusd %%tmm7, %%tmm4, %%tmm1\n"
                 "tdpbusd %%tmm6, %%tmm5, %%tmm2\n tdpbusd %%tmm7, %%tmm5, %%tmm3\n" ::);
  return static_cast<double>(kLoops / 16) * 4 * 16 * 64 * 16;
}

double seconds(const std::function<double()> &work, double *products) {
  const auto start = std::chrono::steady_clock::now();
  *products = work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

struct Result {
  double rate;  // products per second, median
  double ratio; // to the peak measured beside it, median
};

Result measure(const std::function<double()> &work, const std::function<double()> &peak, double budget) {
  std::vector<double> rates, ratios;
  double products = 0, spent = 0;
  work();
  while (spent < budget || rates.size() < 5) {
    const double p = seconds(peak, &products), peak_rate = products / p;
    const double s = seconds(work, &products), rate = products / s;
    rates.push_back(rate);
    ratios.push_back(rate / peak_rate);
    spent += p + s;
  }
  return {median(rates), median(ratios)};
}

void bench(const KernelTable &k, const std::function<double()> &peak, double budget, bool last) {
  constexpr int rows = 96;
  struct Shape {
    const char *name;
    int outputs, inputs;
  };
  const Shape shapes[] = {{"small qkv", 1152, 384},  {"small out", 384, 384},   {"small up", 1536, 384},
                          {"small down", 384, 1536}, {"base qkv", 2304, 768},   {"base down", 768, 3072},
                          {"large qkv", 3072, 1024}, {"large down", 1024, 4096}};
  std::mt19937 random(1);
  std::printf("  {\"isa\": \"%s\", \"peak_gmacs\": %.1f, \"shapes\": [\n", k.name,
              measure(peak, peak, budget).rate / 1e9);
  for (const Shape &shape : shapes) {
    const auto size = static_cast<std::size_t>(shape.outputs) * static_cast<std::size_t>(shape.inputs);
    std::vector<std::int8_t> weight(size);
    for (auto &w : weight)
      w = static_cast<std::int8_t>(random() % 255) - 127;
    std::vector<float> scale(static_cast<std::size_t>(shape.outputs), 1e-4f), bias(scale.size());
    WeightMemory memory;
    const Int8Linear linear(weight.data(), scale.data(), bias.data(), {0.0f, 0}, shape.outputs, shape.inputs, k,
                            memory);
    const Int8Weights view = linear.view();
    std::vector<std::uint8_t> q(static_cast<std::size_t>((rows + k.overread_rows) * shape.inputs));
    for (auto &v : q)
      v = static_cast<std::uint8_t>(random());
    std::vector<float> row_scale(rows, 0.01f), y(static_cast<std::size_t>(rows * shape.outputs));
    std::vector<std::int32_t> zero(rows, 100), sums(static_cast<std::size_t>(rows * kPanel));
    const double products = static_cast<double>(rows) * static_cast<double>(size);
    const Result sum = measure(
        [&] {
          for (int panel = 0; panel < linear.panels(); ++panel)
            k.sum_int8(q.data(), shape.inputs, rows,
                       view.panels + static_cast<std::ptrdiff_t>(panel) * kPanel * view.depth, view.depth, sums.data());
          return products;
        },
        peak, budget);
    const Result layer = measure(
        [&] {
          k.linear_int8({q.data(), shape.inputs, row_scale.data(), zero.data()}, rows, {}, view, 0, linear.panels(),
                        y.data(), shape.outputs,
                        shape.outputs > shape.inputs * 3 ? Activation::gelu : Activation::none);
          return products;
        },
        peak, budget);
    std::printf("    {\"shape\": \"%s\", \"outputs\": %d, \"inputs\": %d, \"rows\": %d, \"sum_gmacs\": %.1f, "
                "\"sum_of_peak\": %.3f, \"linear_gmacs\": %.1f, \"linear_of_peak\": %.3f}%s\n",
                shape.name, shape.outputs, shape.inputs, rows, sum.rate / 1e9, sum.ratio, layer.rate / 1e9, layer.ratio,
                &shape == &shapes[std::size(shapes) - 1] ? "" : ",");
    std::fflush(stdout);
  }
  std::printf("  ]}%s\n", last ? "" : ",");
}

} // namespace

int main(int argc, char **argv) {
  const double budget = argc > 1 ? std::atof(argv[1]) : 0.3;
  std::vector<std::pair<const KernelTable *, double (*)()>> work;
  for (const InstructionSet &set : instruction_sets()) {
    const std::string name = set.kernels->name;
    if (set.available && name != "scalar" && request_permission(*set.kernels).empty())
      work.emplace_back(set.kernels, name == "avx2"      ? products_avx2
                                     : name == "avxvnni" ? products_avxvnni
                                     : name == "amx"     ? products_amx
                                     : name == "avx512"  ? products_avx512
                                                         : products_avx512vnni);
  }
  std::printf("{\"cpu\": \"%s\", \"threads\": 1, \"kernels\": [\n", cpu_name().c_str());
  for (const auto &[kernels, peak] : work) {
    if (kernels->enter != nullptr)
      kernels->enter();
    bench(*kernels, peak, budget, kernels == work.back().first);
    if (kernels->leave != nullptr)
      kernels->leave();
  }
  std::printf("]}\n");
}
