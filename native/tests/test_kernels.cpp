// Each kernel of each available instruction set against the scalar one, over awkward sizes and extreme values. Buffers
// end at guard pages. Integers must be equal; floats have a tolerance with its reason.
#include <algorithm>
#include <cmath>
#include <utility>

#include "check.h"
#include "engine/linear.h"

using namespace quaver;
using namespace quaver::testing;

namespace {

const int kSizes[] = {1, 2, 3, 5, 7, 15, 16, 17, 31, 33, 63, 64, 65, 127, 384};

std::size_t area(int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); }

// Where strips hold the weight of output o and input k.
std::size_t at_strip(const KernelTable &table, int o, int k, int depth) {
  return area(o / kStrip * depth + k / table.group * table.group, kStrip) + area(o % kStrip, table.group) +
         area(k % table.group, 1);
}

double activation(double x, Activation act) {
  switch (act) {
  case Activation::gelu:
    return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
  case Activation::gelu_tanh:
    return std::abs(x) > 1e10 ? std::max(x, 0.0)
                              : 0.5 * x * (1.0 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
  case Activation::silu:
    return x / (1.0 + std::exp(-x));
  case Activation::relu:
    return std::max(x, 0.0);
  case Activation::tanh:
    return std::tanh(x);
  case Activation::none:
    break;
  }
  return x;
}

// One head of a sequence, with room for all that both kinds of attention pack.
struct Head {
  Head(const KernelTable &k, int tokens, int features)
      : length(tokens), head_size(features), qkv(area(tokens, 3 * features)),
        float_keys(area(round_up(tokens, kStrip), features)), float_values(area(tokens, round_up(features, kStrip))),
        scores(static_cast<std::size_t>(score_floats(k, tokens))), query_scale(area(tokens, 1)),
        key_scale(area(round_up(tokens, kPanel), 1)), key_sums(key_scale.size()),
        value_scale(area(round_up(features, value_width(features)), 1)), value_mean(value_scale.size()),
        query_zero(area(tokens, 1)), query(area(tokens + k.overread_rows, round_up(features, kDepthStep))),
        keys(area(round_up(tokens, kPanel), round_up(features, k.key_step))),
        values(area(round_up(tokens, kPanel), round_up(features, value_width(features)))) {}

  float *row(int part, int token) { return qkv.data() + (3 * token + part) * head_size; }
  AttentionHead view() {
    return {row(0, 0), row(1, 0), row(2, 0), 3 * head_size, length, head_size, bias, bias_step, behind, ahead};
  }
  Int8Head packed() {
    return {query.data(),    query_scale.data(), query_zero.data(),  keys.data(),      key_scale.data(),
            key_sums.data(), values.data(),      value_scale.data(), value_mean.data()};
  }
  // `step` rows at a time; 0 for all.
  std::vector<float> attend(const KernelTable &k, bool int8, int step = 0) {
    Guarded<float> out(area(length, head_size));
    if (int8) {
      k.quantize_rows(row(0, 0), 3 * head_size, length, head_size, query.data(), round_up(head_size, kDepthStep),
                      query_scale.data(), query_zero.data());
      k.pack_keys_int8(view(), packed());
      k.pack_values_int8(view(), packed());
    } else {
      k.pack_keys(view(), float_keys.data());
      k.pack_values(view(), float_values.data());
    }
    for (int first = 0, last; first < length; first = last) {
      last = step == 0 ? length : std::min(first + step, length);
      if (int8)
        k.attend_int8(view(), packed(), first, last, scores.data(), out.data(), head_size);
      else
        k.attend(view(), float_keys.data(), float_values.data(), first, last, scores.data(), out.data(), head_size);
    }
    return {out.begin(), out.end()};
  }

  int length, head_size, behind = kMaxLength, ahead = kMaxLength;
  const float *bias = nullptr;
  std::ptrdiff_t bias_step = 0;
  Guarded<float> qkv, float_keys, float_values, scores, query_scale, key_scale, key_sums, value_scale, value_mean;
  Guarded<std::int32_t> query_zero;
  Guarded<std::uint8_t> query;
  Guarded<std::int8_t> keys, values;
};

// Sums of bytes: equal to the last bit, also where every product has the largest magnitude.
void test_sums(const KernelTable &k) {
  for (const int depth : {64, 128, 384, 1088, 1536}) {
    for (const int rows : {1, 2, 3, 4, 5, 6, 7, 13, 16, 17, 18, 19, 31, 32, 34, 70}) {
      for (int extreme = 0; extreme < 4; ++extreme) {
        const auto d = static_cast<std::size_t>(depth), r = static_cast<std::size_t>(rows);
        Guarded<std::uint8_t> q((r + area(k.overread_rows, 1)) * d);
        Guarded<std::int8_t> panel(d * kPanel),
            oracle(panel.size()); // the same weights as the scalar kernel packs them
        fill_integers(q, 0, 255);
        fill_integers(panel, -127, 127);
        if (extreme == 1 || extreme == 2)
          std::fill(q.begin(), q.end(), std::uint8_t{255});
        if (extreme == 1)
          std::fill(panel.begin(), panel.end(), std::int8_t{127});
        if (extreme == 2)
          std::fill(panel.begin(), panel.end(), std::int8_t{-127});
        Guarded<std::int32_t> got(r * kPanel), expected(r * kPanel);
        for (int o = 0; o < kPanel; ++o)
          for (int i = 0; i < depth; ++i)
            oracle[at_strip(scalar_kernels, o, i, depth)] = panel[at_strip(k, o, i, depth)];
        k.sum_int8(q.data(), depth, rows, panel.data(), depth, got.data());
        scalar_kernels.sum_int8(q.data(), depth, rows, oracle.data(), depth, expected.data());
        for (std::size_t i = 0; i < expected.size(); ++i)
          CHECK(got[i] == expected[i], "%s rows %d depth %d at %zu: %d, not %d", k.name, rows, depth, i, got[i],
                expected[i]);
        for (const int row : {0, rows - 1})
          for (int o = 0; o < kPanel; ++o) {
            std::int64_t sum = 0;
            for (int i = 0; i < depth; ++i)
              sum += std::int64_t{q[area(row, depth) + area(i, 1)]} * panel[at_strip(k, o, i, depth)];
            CHECK(got[area(row, kPanel) + area(o, 1)] == sum, "%s rows %d depth %d output %d: %d", k.name, rows, depth,
                  o, got[area(row, kPanel) + area(o, 1)]);
          }
      }
    }
  }
}

void test_quantize(const KernelTable &k) {
  for (const int cols : kSizes) {
    const int padded = round_up(cols, kDepthStep), rows = 9;
    Guarded<float> x(static_cast<std::size_t>(rows * cols));
    fill_normal(x, 3.0f);
    const auto row = [&](int r) { return x.data() + r * cols; };
    std::fill(row(1), row(2), 0.0f);   // zeros
    std::fill(row(2), row(3), 1e-38f); // too small to divide by
    std::fill(row(3), row(4), 1e30f);  // huge, one-sided
    std::fill(row(4), row(5), -2.5f);  // negative only
    for (float *v = row(5); v != row(6); ++v)
      *v = std::abs(*v) + 7.0f; // far from zero
    row(6)[0] = 1000.0f;        // an outlier
    Guarded<std::uint8_t> got(static_cast<std::size_t>(rows * padded)), expected(got.size());
    std::vector<float> scale(rows), expected_scale(rows);
    std::vector<std::int32_t> zero(rows), expected_zero(rows);
    k.quantize_rows(x.data(), cols, rows, cols, got.data(), padded, scale.data(), zero.data());
    scalar_kernels.quantize_rows(x.data(), cols, rows, cols, expected.data(), padded, expected_scale.data(),
                                 expected_zero.data());
    for (int r = 0; r < rows; ++r) {
      const auto i = static_cast<std::size_t>(r);
      CHECK(scale[i] == expected_scale[i] && zero[i] == expected_zero[i], "%s cols %d row %d", k.name, cols, r);
      CHECK(scale[i] > 0.0f && zero[i] >= 0 && zero[i] <= 255, "%s cols %d row %d", k.name, cols, r);
      for (int c = 0; c < padded; ++c) {
        const auto at = static_cast<std::size_t>(r * padded + c);
        CHECK(got[at] == expected[at], "%s cols %d row %d col %d: %d, not %d", k.name, cols, r, c, got[at],
              expected[at]);
      }
      for (int c = 0; c < cols; ++c) {
        // Half a step from rounding the value, half a step from rounding the zero point.
        const float back = scale[i] * static_cast<float>(got[static_cast<std::size_t>(r * padded + c)] - zero[i]);
        CHECK(std::abs(back - row(r)[c]) <= 1.001f * scale[i], "%s cols %d row %d: %g for %g", k.name, cols, r,
              static_cast<double>(back), static_cast<double>(row(r)[c]));
      }
    }
  }
}

// Rounding of float arithmetic in another order: a few units in the last place of the largest term.
void check_close(const char *what, const KernelTable &k, const float *got, const float *expected, std::size_t size,
                 float tolerance) {
  if (&k == &scalar_kernels) // the oracle has its formulas
    return;
  for (std::size_t i = 0; i < size; ++i)
    CHECK(std::abs(got[i] - expected[i]) <= tolerance * (1.0f + std::abs(expected[i])), "%s %s at %zu: %.9g, not %.9g",
          k.name, what, i, static_cast<double>(got[i]), static_cast<double>(expected[i]));
}

const Activation kActivations[] = {Activation::none, Activation::gelu, Activation::gelu_tanh,
                                   Activation::relu, Activation::silu, Activation::tanh};

// A fixed scale and zero: values outside of the range become its edge, however far out they are.
void test_quantize_fixed(const KernelTable &k) {
  for (const int cols : kSizes) {
    const int rows = 3, ldq = round_up(cols, kDepthStep);
    Guarded<float> x(static_cast<std::size_t>(rows * cols));
    fill_normal(x, 3.0f);
    x[0] = 3e38f;
    x[static_cast<std::size_t>(cols)] = -3e38f;
    for (const std::int32_t zero : {0, 1, 117, 255}) {
      Guarded<std::uint8_t> got(static_cast<std::size_t>(rows * ldq)), expected(got.size());
      Guarded<float> scales(rows);
      Guarded<std::int32_t> zeros(rows);
      scalar_kernels.quantize_rows_fixed(x.data(), cols, rows, cols, 0.0371f, zero, expected.data(), ldq, scales.data(),
                                         zeros.data());
      k.quantize_rows_fixed(x.data(), cols, rows, cols, 0.0371f, zero, got.data(), ldq, scales.data(), zeros.data());
      CHECK(std::equal(got.begin(), got.end(), expected.begin()), "%s cols %d zero %d", k.name, cols, zero);
      for (const float scale : scales)
        CHECK(scale == 0.0371f, "%s cols %d: %g", k.name, cols, static_cast<double>(scale));
      CHECK(std::count(zeros.begin(), zeros.end(), zero) == rows, "%s cols %d zero %d", k.name, cols, zero);
      for (int r = 0; r < rows; ++r)
        for (int c = 0; c < cols; ++c) {
          const double n = std::nearbyint(double{x[static_cast<std::size_t>(r * cols + c)]} / 0.0371) + zero;
          const double q = expected[static_cast<std::size_t>(r * ldq + c)];
          CHECK(std::abs(q - std::min(std::max(n, 0.0), 255.0)) <= 1.0, "definition %d %d: %g", r, c, q);
        }
      CHECK(expected[0] == 255 && expected[static_cast<std::size_t>(ldq)] == 0, "edges %d", zero);
    }
  }
}

void test_linear_int8(const KernelTable &k) {
  for (const int inputs : {1, 17, 64, 65, 384}) {
    for (const int outputs : {1, 63, 64, 65, 200}) {
      for (const int rows : {1, 5, 6, 7, 16, 35}) {
        if (left_out())
          continue;
        const auto in = static_cast<std::size_t>(inputs), out = static_cast<std::size_t>(outputs);
        Guarded<std::int8_t> weight(in * out);
        Guarded<float> scale(out), bias(out), x(static_cast<std::size_t>(rows) * in);
        fill_integers(weight, -127, 127);
        fill_normal(bias, 1.0f);
        fill_normal(x, 2.0f);
        for (float &s : scale)
          s = 0.001f + 0.01f * static_cast<float>(generator() % 100) / 100.0f;
        WeightMemory memory;
        const Int8Linear w(weight.data(), scale.data(), bias.data(), {0.0f, 0}, outputs, inputs, k, memory),
            oracle(weight.data(), scale.data(), bias.data(), {0.0f, 0}, outputs, inputs, scalar_kernels, memory);
        const int ldq = round_up(inputs, kDepthStep), ldy = round_up(outputs, kPanel);
        std::vector<std::uint8_t> q(area(rows + k.overread_rows, ldq));
        std::vector<float> row_scale(static_cast<std::size_t>(rows));
        std::vector<std::int32_t> zero(static_cast<std::size_t>(rows));
        scalar_kernels.quantize_rows(x.data(), inputs, rows, inputs, q.data(), ldq, row_scale.data(), zero.data());
        const Int8Rows a{q.data(), ldq, row_scale.data(), zero.data()};
        for (const Activation act : kActivations) {
          Guarded<float> got(static_cast<std::size_t>(rows * ldy)), expected(got.size());
          k.linear_int8(a, rows, {}, w.view(), 0, w.panels(), got.data(), ldy, act);
          scalar_kernels.linear_int8(a, rows, {}, oracle.view(), 0, w.panels(), expected.data(), ldy, act);
          // An activation of an output that will be rounded to eight bits is a polynomial, see short_activate.
          const float tolerance = act == Activation::silu                                   ? 6e-4f
                                  : act == Activation::gelu || act == Activation::gelu_tanh ? 4e-4f
                                                                                            : 2e-5f;
          check_close("linear_int8", k, got.data(), expected.data(), expected.size(), tolerance);
        }
        // The scalar kernel against the definition, in double precision.
        std::vector<float> y(static_cast<std::size_t>(rows * ldy));
        scalar_kernels.linear_int8(a, rows, {}, oracle.view(), 0, w.panels(), y.data(), ldy, Activation::none);
        for (int r = 0; r < rows; ++r)
          for (int o = 0; o < outputs; ++o) {
            double sum = bias[static_cast<std::size_t>(o)];
            for (int i = 0; i < inputs; ++i)
              sum += double{row_scale[static_cast<std::size_t>(r)]} *
                     (q[static_cast<std::size_t>(r * ldq + i)] - zero[static_cast<std::size_t>(r)]) *
                     double{scale[static_cast<std::size_t>(o)]} * weight[static_cast<std::size_t>(o * inputs + i)];
            CHECK(std::abs(sum - double{y[static_cast<std::size_t>(r * ldy + o)]}) < 2e-5 * (1.0 + std::abs(sum)),
                  "definition %d %d", r, o);
          }
      }
    }
  }
}

void test_row_sums(const KernelTable &k) {
  for (const int depth : {64, 128, 1088, kMaxDepth})
    for (int extreme = 0; extreme < 3; ++extreme) {
      const int rows = 3, ldq = depth + 5;
      Guarded<std::uint8_t> q(area(rows, ldq) - 5);
      Guarded<std::int32_t> zero(area(rows, 1));
      Guarded<float> got(area(rows, 1));
      fill_integers(q, extreme == 1 ? 255 : 0, extreme == 2 ? 0 : 255);
      fill_integers(zero, extreme == 2 ? 255 : 0, extreme == 1 ? 0 : 255);
      k.row_sums(q.data(), ldq, rows, depth, zero.data(), got.data());
      for (int r = 0; r < rows; ++r) {
        std::int64_t sum = 0;
        for (int i = 0; i < depth; ++i)
          sum += q[area(r, ldq) + area(i, 1)] - zero[area(r, 1)];
        CHECK(double{got[area(r, 1)]} == static_cast<double>(sum), "%s depth %d row %d: %g, not %lld", k.name, depth, r,
              double{got[area(r, 1)]}, static_cast<long long>(sum));
      }
    }
}

// Groups of inputs and centers of weights, through the kind that packs them and prepares its input: against the
// definition in double, with what rounding lost of two rows. Rows and weights of the first group are much wider.
void test_grouped_linear(const KernelTable &k) {
  const std::vector<std::vector<int>> endings[] = {
      {{}, {17}},      {{}, {64, 100}},           {{}, {64, 128, 192}},
      {{}, {64, 384}}, {{}, {64, 128, 192, 256}}, {{}, {64, 128, 192, 256, 320, 384, 448, 512, 530}}};
  for (const auto &both : endings)
    for (const std::vector<int> &ends : both)
      for (const bool centered : {false, true})
        for (const int outputs : {1, 64, 130})
          for (const int rows : {1, 5, 7, 40}) {
            if (left_out())
              continue;
            const int inputs = both[1].back(), groups = ends.empty() ? 1 : static_cast<int>(ends.size());
            const auto group_of = [&](int i) {
              int g = 0;
              while (g + 1 < groups && i >= ends[static_cast<std::size_t>(g)])
                ++g;
              return g;
            };
            Guarded<std::int8_t> weight(area(outputs, inputs));
            Guarded<float> scale(area(outputs, groups)), centers(scale.size()), bias(area(outputs, 1)),
                x(area(rows, inputs));
            fill_integers(weight, -128, 127);
            fill_normal(centers, 40.0f);
            fill_normal(bias, 1.0f);
            fill_normal(x, 2.0f);
            for (float &v : scale)
              v = 0.001f + 0.0001f * static_cast<float>(generator() % 100);
            for (int r = 0; r < rows; ++r)
              for (int i = 0; i < std::min(inputs, 64); ++i)
                x[area(r, inputs) + area(i, 1)] *= 30.0f;
            WeightMemory memory;
            const Int8Linear w(weight.data(), scale.data(), bias.data(), {0.0f, 0}, outputs, inputs, k, memory,
                               {ends, centered ? centers.data() : nullptr});
            const std::int32_t of[] = {0, rows - 1};
            const int residuals = std::min(rows, 2), ldy = w.panels() * kPanel;
            InputRoom room;
            const LinearInput input = w.read(x.data(), inputs, rows, {residuals, of}, room);
            for (int r = 0; r < rows; r += 3)
              w.prepare(input, r, std::min(r + 3, rows));
            for (const Activation act : {Activation::none, Activation::gelu, Activation::silu}) {
              const LinearInput all = act == Activation::none ? input : w.read(x.data(), inputs, rows, {}, room);
              w.prepare(all, 0, rows);
              const RoundedRows &q = all.rounded;
              Guarded<float> got(area(rows, ldy));
              w.multiply(all, 0, w.panels(), got.data(), ldy, act);
              for (int r = 0; r < rows; ++r)
                for (int o = 0; o < outputs; ++o) {
                  double sum = double{bias[area(o, 1)]}, most = std::abs(sum);
                  for (int source = r; source < rows + all.residuals.rows; ++source) {
                    if (source != r && (source < rows || of[source - rows] != r))
                      continue;
                    for (int i = 0; i < inputs; ++i) {
                      const std::size_t g = area(group_of(i), 1),
                                        at = g * static_cast<std::size_t>(q.stride) + area(source, 1);
                      const std::size_t place = area(o, groups) + g;
                      const double row = double{q.scale[at]} * (q.q[source * q.ldq + i] - q.zero[at]);
                      const double v = double{scale[place]} * (weight[area(o, inputs) + area(i, 1)] +
                                                               (centered ? double{centers[place]} : 0.0));
                      sum += row * v;
                      most += std::abs(row * v);
                    }
                  }
                  const double expected = activation(sum, act), is = double{got[area(r, ldy) + area(o, 1)]};
                  const double bound = 2e-6 * most + (act == Activation::none ? 0.0 : 6e-4);
                  CHECK(std::abs(is - expected) <= bound,
                        "%s: %d groups, %d centered, %d x %d, row %d of %d, output %d: %.9g, not %.9g", k.name, groups,
                        int{centered}, outputs, inputs, r, rows, o, is, expected);
                }
              if (act == Activation::none && ends.empty() && centered) { // centers of zero change no bit
                const Int8Linear plain(weight.data(), scale.data(), bias.data(), {0.0f, 0}, outputs, inputs, k, memory);
                std::vector<float> zeros(scale.size());
                const Int8Linear zero(weight.data(), scale.data(), bias.data(), {0.0f, 0}, outputs, inputs, k, memory,
                                      {{}, zeros.data()});
                Guarded<float> one(got.size()), other(got.size());
                plain.multiply(all, 0, plain.panels(), one.data(), ldy, act);
                zero.multiply(all, 0, zero.panels(), other.data(), ldy, act);
                CHECK(std::memcmp(one.data(), other.data(), one.size() * sizeof(float)) == 0, "%s: centers of zero",
                      k.name);
              }
            }
          }
}

// Weights in four bits, through the kind that packs them: against the definition in double over the bytes of the rows.
// Where scales are 1, every sum is a whole number below 2^24: equal on every instruction set.
void test_linear_int4(const KernelTable &k) {
  for (const int inputs : {1, 33, 97, 130, 320})
    for (const int group : {32, 64, 128})
      for (const int outputs : {1, 130})
        for (const int rows : {1, 7, 25})
          for (const bool exact : {false, true}) {
            if (left_out())
              continue;
            const int groups = (inputs + group - 1) / group, residuals = exact ? 0 : std::min(rows, 2);
            const int all = rows + residuals, ldq = round_up(inputs, kDepthStep);
            Guarded<std::int8_t> weight(area(outputs, inputs));
            Guarded<float> scale(area(outputs, groups)), bias(area(outputs, 1)), row_scale(area(all, 1));
            Guarded<std::uint8_t> q(area(all + k.overread_rows, ldq));
            Guarded<std::int32_t> zero(area(all, 1)), of(area(residuals, 1));
            fill_integers(weight, -8, 7);
            fill_integers(q, 0, 255);
            fill_integers(zero, 0, 255);
            fill_normal(bias, 1.0f);
            std::fill(scale.begin(), scale.end(), 1.0f);
            std::fill(row_scale.begin(), row_scale.end(), 1.0f);
            if (exact) {
              std::fill(bias.begin(), bias.end(), 3.0f);
              std::fill(weight.begin(), weight.begin() + inputs, std::int8_t{-8}); // the largest sums there are
              std::fill(q.begin(), q.begin() + ldq, std::uint8_t{255});
            } else {
              for (float &s : scale)
                s = 0.001f + 0.0001f * static_cast<float>(generator() % 100);
              for (float &s : row_scale)
                s = 0.01f + 0.001f * static_cast<float>(generator() % 100);
              for (int i = 0; i < residuals; ++i)
                of[area(i, 1)] = i * (rows - 1);
            }
            WeightMemory memory;
            const Int4Linear w(weight.data(), scale.data(), bias.data(), {0.0f, 0}, group, outputs, inputs, k, memory);
            const int ldy = w.panels() * kPanel;
            const Int8Rows a{q.data(), ldq, row_scale.data(), zero.data()};
            const auto output = [&](int row, int o, double &most) {
              double sum = 0.0;
              for (int i = 0; i < inputs; ++i) {
                const double v = double{scale[area(o, groups) + area(i / group, 1)]} *
                                 weight[area(o, inputs) + area(i, 1)] * double{row_scale[area(row, 1)]};
                sum += v * (q[area(row, ldq) + area(i, 1)] - zero[area(row, 1)]);
                most += std::abs(v) * (q[area(row, ldq) + area(i, 1)] + zero[area(row, 1)]);
              }
              return sum;
            };
            for (const Activation act : {Activation::none, Activation::gelu, Activation::silu}) {
              if (act != Activation::none && (exact || inputs != 320))
                continue;
              const ResidualRows lost = act == Activation::none ? ResidualRows{residuals, of.data()} : ResidualRows{};
              Guarded<float> got(area(rows, ldy)), alone(got.size());
              k.linear_int4(a, rows, lost, w.view(), 0, w.panels(), got.data(), ldy, act);
              for (int r = 0; r < rows; ++r)
                for (int o = 0; o < outputs; ++o) {
                  double sum = double{bias[area(o, 1)]}, most = std::abs(sum);
                  sum += output(r, o, most);
                  for (int i = 0; i < lost.rows; ++i)
                    if (lost.of[i] == r)
                      sum += output(rows + i, o, most);
                  const double expected = activation(sum, act), is = double{got[area(r, ldy) + area(o, 1)]};
                  const double bound = exact ? 0.0 : 1e-6 * most + (act == Activation::none ? 0.0 : 6e-4);
                  CHECK(std::abs(is - expected) <= bound,
                        "%s: groups of %d, %d x %d, row %d of %d, output %d, activation %d: %.9g, not %.9g", k.name,
                        group, outputs, inputs, r, rows, o, static_cast<int>(act), is, expected);
                }
              for (int i = 0; i < lost.rows; ++i) { // a row with its residual row, both in one tile
                std::vector<std::uint8_t> both(q.data() + lost.of[i] * ldq, q.data() + (lost.of[i] + 1) * ldq);
                both.insert(both.end(), q.data() + (rows + i) * ldq, q.data() + (rows + i + 1) * ldq);
                both.resize(area(2 + k.overread_rows, ldq));
                const float scales[] = {row_scale[area(lost.of[i], 1)], row_scale[area(rows + i, 1)]};
                const std::int32_t zeros[] = {zero[area(lost.of[i], 1)], zero[area(rows + i, 1)]}, first = 0;
                k.linear_int4({both.data(), ldq, scales, zeros}, 1, {1, &first}, w.view(), 0, w.panels(), alone.data(),
                              ldy, act);
                CHECK(std::memcmp(got.data() + lost.of[i] * ldy, alone.data(), area(ldy, 1) * sizeof(float)) == 0,
                      "%s: groups of %d, %d x %d, row %d with its residual row", k.name, group, outputs, inputs,
                      lost.of[i]);
              }
              if (lost.rows > 0)
                continue;
              for (int r = 0; r < rows; ++r) // row by row, panel by panel
                for (int panel = 0; panel < w.panels(); ++panel)
                  k.linear_int4({q.data() + r * ldq, ldq, row_scale.data() + r, zero.data() + r}, 1, {}, w.view(),
                                panel, panel + 1, alone.data() + r * ldy, ldy, act);
              CHECK(std::memcmp(got.data(), alone.data(), got.size() * sizeof(float)) == 0,
                    "%s: groups of %d, %d x %d, %d rows alone", k.name, group, outputs, inputs, rows);
            }
          }
}

// Ranges of inputs and inputs apart, through the kind that quantizes them: against the rows and weights in double.
// Values apart are a hundred times as wide as the others, which must lose nothing by it.
void test_int4_ranges(const KernelTable &k) {
  constexpr int inputs = 320, outputs = 70, rows = 9, group = 32, groups = inputs / group;
  for (const bool ranges : {false, true})
    for (const bool apart : {false, true}) {
      Guarded<std::int8_t> weight(area(outputs, inputs)), eight(area(outputs, 64));
      Guarded<float> scale(area(outputs, groups)), wide_scale(area(outputs, 1)), bias(area(outputs, 1)),
          x(area(rows, inputs));
      fill_integers(weight, -8, 7);
      fill_integers(eight, -127, 127);
      fill_normal(bias, 1.0f);
      fill_normal(x, 1.0f);
      for (float &s : scale)
        s = 0.001f + 0.0001f * static_cast<float>(generator() % 100);
      std::fill(wide_scale.begin(), wide_scale.end(), 1e-4f);
      InputsApart wide;
      if (apart) {
        wide = {{}, eight.data(), wide_scale.data()};
        for (int i = 0; i < 64; ++i)
          wide.columns.push_back((i * 5 + 3) % inputs);
        for (const int c : wide.columns) {
          for (int o = 0; o < outputs; ++o)
            weight[area(o, inputs) + area(c, 1)] = 0;
          for (int r = 0; r < rows; ++r)
            x[area(r, inputs) + area(c, 1)] *= 100.0f;
        }
      }
      WeightMemory memory;
      const Int4Linear w(weight.data(), scale.data(), bias.data(), {0.0f, 0}, group, outputs, inputs, k, memory,
                         ranges ? std::vector{64, 192, inputs} : std::vector<int>{}, wide);
      const int ldy = w.panels() * kPanel;
      const std::int32_t first = 2;
      InputRoom room, room_of_one;
      const LinearInput input = w.read(x.data(), inputs, rows, {1, &first}, room);
      w.prepare(input, 0, rows);
      Guarded<float> got(area(rows, ldy)), alone(area(1, ldy));
      w.multiply(input, 0, w.panels(), got.data(), ldy, Activation::none);
      for (int r = 0; r < rows; ++r) {
        for (int o = 0; o < outputs; ++o) {
          double sum = double{bias[area(o, 1)]}, most = 0.0;
          for (int c = 0; c < inputs; ++c) {
            double v = double{scale[area(o, groups) + area(c / group, 1)]} * weight[area(o, inputs) + area(c, 1)];
            double bound = 4.0; // of the values that share a range
            for (int i = 0; apart && i < 64; ++i)
              if (wide.columns[area(i, 1)] == c) {
                v = double{wide_scale[area(o, 1)]} * eight[area(o, 64) + area(i, 1)];
                bound = 400.0;
              }
            sum += v * double{x[area(r, inputs) + area(c, 1)]};
            most += std::abs(v) * bound / 255.0;
          }
          const double is = double{got[area(r, ldy) + area(o, 1)]};
          CHECK(std::abs(is - sum) <= most * (r == first ? 0.02 : 1.0) + 1e-4,
                "%s: ranges %d, apart %d, row %d, output %d: %.9g, not %.9g", k.name, ranges, apart, r, o, is, sum);
        }
        const std::int32_t itself = 0;
        const LinearInput one = w.read(x.data() + r * inputs, inputs, 1,
                                       r == first ? ResidualRows{1, &itself} : ResidualRows{}, room_of_one);
        w.prepare(one, 0, 1);
        w.multiply(one, 0, w.panels(), alone.data(), ldy, Activation::none);
        CHECK(std::memcmp(got.data() + r * ldy, alone.data(), area(ldy, 1) * sizeof(float)) == 0,
              "%s: ranges %d, apart %d, row %d alone", k.name, ranges, apart, r);
      }
    }
}

// Residual rows: their outputs without bias are added to those of their rows.
void test_residual_rows(const KernelTable &k) {
  constexpr int inputs = 100, outputs = 130;
  std::vector<std::int8_t> weight(inputs * outputs);
  std::vector<float> scale(outputs, 0.01f), bias(outputs);
  fill_integers(weight, -127, 127);
  fill_normal(bias, 1.0f);
  WeightMemory memory;
  const Int8Linear w(weight.data(), scale.data(), bias.data(), {0.0f, 0}, outputs, inputs, k, memory),
      packed_by_oracle(weight.data(), scale.data(), bias.data(), {0.0f, 0}, outputs, inputs, scalar_kernels, memory);
  const int ldq = round_up(inputs, kDepthStep), ldy = w.panels() * kPanel;
  for (const int rows : {1, 4, 6, 13})
    for (const int residuals : {1, 2, 7}) {
      if (residuals > rows)
        continue;
      const int all = rows + residuals;
      Guarded<std::uint8_t> q(area(all + k.overread_rows, ldq));
      Guarded<float> row_scale(area(all, 1)), got(area(rows, ldy)), oracle(got.size());
      Guarded<std::int32_t> zero(area(all, 1)), of(area(residuals, 1));
      fill_integers(q, 0, 255);
      fill_integers(zero, 0, 255);
      for (std::size_t i = 0; i < row_scale.size(); ++i)
        row_scale[i] = 0.01f * static_cast<float>(i + 1);
      for (int i = 0; i < residuals; ++i)
        of[area(i, 1)] = (rows - 1) * (residuals - i) / residuals; // falling, from the last row
      const Int8Rows a{q.data(), ldq, row_scale.data(), zero.data()};
      k.linear_int8(a, rows, {residuals, of.data()}, w.view(), 0, w.panels(), got.data(), ldy, Activation::none);
      scalar_kernels.linear_int8(a, rows, {residuals, of.data()}, packed_by_oracle.view(), 0, w.panels(), oracle.data(),
                                 ldy, Activation::none);
      for (int r = 0; r < rows; ++r)
        for (int o = 0; o < outputs; ++o) {
          const auto output = [&](int row) {
            double sum = 0.0;
            for (int i = 0; i < inputs; ++i)
              sum += (q[area(row, ldq) + area(i, 1)] - zero[area(row, 1)]) * weight[area(o, inputs) + area(i, 1)];
            return sum * double{row_scale[area(row, 1)]} * double{scale[area(o, 1)]};
          };
          double expected = output(r) + double{bias[area(o, 1)]}, largest = std::abs(expected);
          for (int i = 0; i < residuals; ++i)
            if (of[area(i, 1)] == r) {
              expected += output(rows + i);
              largest = std::max({largest, std::abs(output(rows + i)), std::abs(expected)});
            }
          // A few roundings of the largest term.
          for (const float y : {got[area(r, ldy) + area(o, 1)], oracle[area(r, ldy) + area(o, 1)]})
            CHECK(std::abs(expected - double{y}) <= 1e-6 * (1.0 + largest),
                  "%s: %d rows, %d residual rows, %d %d: %g, "
                  "not %g",
                  k.name, rows, residuals, r, o, double{y}, expected);
        }
    }
}

// Memory taken is zeroed, aligned to cache lines, separate, and outlives its source.
void test_weight_memory() {
  std::vector<std::shared_ptr<void>> taken;
  const std::size_t sizes[] = {1, 63, 64, 65, 40 << 20, 20 << 20, 20 << 20, 5};
  {
    WeightMemory memory;
    for (const std::size_t size : sizes) {
      taken.push_back(memory.take(size));
      const auto *bytes = static_cast<const unsigned char *>(taken.back().get());
      CHECK(reinterpret_cast<std::uintptr_t>(bytes) % 64 == 0, "%zu bytes off a line", size);
      CHECK(std::all_of(bytes, bytes + size, [](unsigned char byte) { return byte == 0; }), "%zu bytes", size);
      std::memset(taken.back().get(), static_cast<int>(taken.size()), size);
    }
  }
  WeightMemory first;
  first.take(1 << 20);
  WeightMemory second = std::move(first); // goes on, and what it was moved from begins anew
  CHECK(first.take(1 << 20) != second.take(1 << 20), "the same bytes twice");
  for (std::size_t i = 0; i < taken.size(); ++i) {
    const auto *bytes = static_cast<const unsigned char *>(taken[i].get());
    CHECK(std::all_of(bytes, bytes + sizes[i], [i](unsigned char byte) { return byte == i + 1; }), "part %zu", i);
  }
}

void test_linear_float32(const KernelTable &k) {
  for (const int inputs : kSizes) {
    for (const int outputs : {1, 64, 65}) {
      const int rows = 13;
      const auto in = static_cast<std::size_t>(inputs), out = static_cast<std::size_t>(outputs);
      Guarded<float> weight(in * out), bias(out), x(rows * in);
      fill_normal(weight, 0.2f);
      fill_normal(bias, 1.0f);
      fill_normal(x, 1.0f);
      WeightMemory memory;
      const Float32Linear w(weight.data(), bias.data(), outputs, inputs, k, memory);
      const int ldy = round_up(outputs, kPanel);
      for (const Activation act : kActivations) {
        Guarded<float> got(static_cast<std::size_t>(rows * ldy)), expected(got.size());
        k.linear_float32(x.data(), inputs, rows, w.view(), 0, w.panels(), got.data(), ldy, act);
        scalar_kernels.linear_float32(x.data(), inputs, rows, w.view(), 0, w.panels(), expected.data(), ldy, act);
        check_close("linear_float32", k, got.data(), expected.data(), expected.size(), 1e-5f);
        for (int r = 0; r < rows; ++r)
          for (int o = 0; o < outputs; ++o) {
            double sum = double{bias[area(o, 1)]};
            for (int i = 0; i < inputs; ++i)
              sum += double{x[area(r, inputs) + area(i, 1)]} * double{weight[area(o, inputs) + area(i, 1)]};
            const double is = double{got[area(r, ldy) + area(o, 1)]}, by_formula = activation(sum, act);
            // Some hundred roundings of a sum of about one, and the error of the activation.
            CHECK(std::abs(is - by_formula) <= 1e-5 * (1.0 + std::abs(sum)),
                  "%s inputs %d activation %d: %.9g, not %.9g", k.name, inputs, static_cast<int>(act), is, by_formula);
          }
      }
    }
  }
}

// The bfloat16 neighbor of a number that is nearest, the even one of two.
float nearest_bfloat16(float v) {
  std::uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  float below, above;
  const std::uint32_t low = bits & 0xffff0000u, high = low + 0x10000u; // towards zero, away from it
  std::memcpy(&below, &low, sizeof low);
  std::memcpy(&above, &high, sizeof high);
  const double down = std::abs(double{v} - double{below}), up = std::abs(double{above} - double{v});
  return down < up || (down == up && (low >> 16) % 2 == 0) ? below : above;
}

// Weights in bfloat16: the bits of float32 layers with the same weights, whatever rows and panels are asked for.
void test_linear_bfloat16(const KernelTable &k) {
  for (const int inputs : kSizes)
    for (const int outputs : {1, 64, 130})
      for (const int rows : {1, 2, 5, 6, 13}) {
        if (left_out())
          continue;
        Guarded<float> weight(area(outputs, inputs)), rounded(weight.size()), bias(area(outputs, 1)),
            x(area(rows, inputs));
        fill_normal(weight, 0.2f);
        fill_normal(bias, 1.0f);
        fill_normal(x, 1.0f);
        weight[0] = 1.00390625f; // halfway between two neighbors
        weight[weight.size() - 1] = -1.01171875f;
        weight[weight.size() / 2] = 1e-40f; // a denormal number
        for (std::size_t i = 0; i < weight.size(); ++i)
          rounded[i] = nearest_bfloat16(weight[i]);
        WeightMemory memory;
        const std::vector<float> ones(bias.size(), 1.0f);
        const BFloat16Linear small(weight.data(), ones.data(), bias.data(), outputs, inputs, k, memory);
        const Float32Linear wide(rounded.data(), bias.data(), outputs, inputs, k, memory);
        const int panels = wide.panels(), ldy = panels * kPanel;
        CHECK(small.bytes() < wide.bytes() || inputs < 2 * kPairStep, "%s: %zu bytes of %zu", k.name, small.bytes(),
              wide.bytes());
        for (const Activation act : kActivations) {
          Guarded<float> got(area(rows, ldy)), expected(got.size());
          k.linear_float32(x.data(), inputs, rows, wide.view(), 0, panels, expected.data(), ldy, act);
          for (int panel = 0; panel < panels; panel += 2)
            k.linear_bfloat16(x.data(), inputs, rows, small.view(), panel, std::min(panel + 2, panels), got.data(), ldy,
                              act);
          CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) == 0,
                "%s %d rows, %d x %d, activation %d", k.name, rows, outputs, inputs, static_cast<int>(act));
        }
        // Scales, each once rounded: a power of two changes nothing else.
        std::vector<float> scale(bias.size()), halved(bias.size());
        for (std::size_t o = 0; o < scale.size(); ++o) {
          scale[o] = o % 2 == 0 ? 0.5f : 1.0f;
          halved[o] = bias[o] * scale[o];
        }
        const BFloat16Linear scaled(weight.data(), scale.data(), halved.data(), outputs, inputs, k, memory);
        Guarded<float> got(area(rows, ldy)), expected(got.size());
        k.linear_bfloat16(x.data(), inputs, rows, small.view(), 0, panels, expected.data(), ldy, Activation::none);
        k.linear_bfloat16(x.data(), inputs, rows, scaled.view(), 0, panels, got.data(), ldy, Activation::none);
        for (int r = 0; r < rows; ++r)
          for (int o = 0; o < outputs; ++o)
            CHECK(got[area(r, ldy) + area(o, 1)] == expected[area(r, ldy) + area(o, 1)] * scale[area(o, 1)],
                  "%s: scale of output %d", k.name, o);
      }
}

// Activations of single values over the whole line, where their tails and signs are.
void test_activations(const KernelTable &k) {
  const float zero_bias[kPanel] = {};
  std::vector<float> identity(kPanel * kPanel);
  for (int i = 0; i < kPanel; ++i)
    identity[static_cast<std::size_t>(i * kPanel + i)] = 1.0f;
  WeightMemory memory;
  const Float32Linear w(identity.data(), zero_bias, kPanel, kPanel, k, memory);
  std::vector<float> x;
  for (float v = -40.0f; v < 40.0f; v += 0.0625f)
    x.push_back(v);
  for (const float v : {0.0f, -0.0f, 1e-30f, -1e-30f, 1e4f, -1e4f, 3e37f, -3e37f})
    x.push_back(v);
  x.resize((x.size() + kPanel - 1) / kPanel * kPanel);
  const int rows = static_cast<int>(x.size()) / kPanel;
  std::vector<float> got(x.size());
  for (const Activation act : kActivations) {
    k.linear_float32(x.data(), kPanel, rows, w.view(), 0, 1, got.data(), kPanel, act);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double v = x[i];
      const double expected = activation(v, act);
      CHECK(std::abs(got[i] - expected) <= 1e-6 * std::max(1.0, std::abs(v)), "%s activation %d of %g: %g, not %g",
            k.name, static_cast<int>(act), v, static_cast<double>(got[i]), expected);
    }
  }
}

const int kHeadSizes[] = {1,  2,  3,  7,  8,  9,  15, 16, 17, 20, 24, 31,  32,  33,  40, 47,
                          48, 49, 56, 63, 64, 65, 72, 80, 95, 96, 97, 100, 112, 127, 128};

// The keys and the values of a head in strips, a copy.
void test_pack_float32(const KernelTable &k) {
  for (const int length : {1, 5, 16, 17, 63, 64, 65, 130})
    for (const int d : {1, 7, 16, 20, 33, 64, 80}) {
      Head head(k, length, d);
      fill_normal(head.qkv, 1.0f);
      k.pack_keys(head.view(), head.float_keys.data());
      for (int j = 0; j < round_up(length, kStrip); ++j)
        for (int c = 0; c < d; ++c) {
          const float got = head.float_keys[area(j / kStrip * kStrip, d) + area(c, kStrip) + area(j % kStrip, 1)];
          CHECK(got == (j < length ? head.row(1, j)[c] : 0.0f), "%s length %d head size %d key %d: %g", k.name, length,
                d, j, double{got});
        }
      k.pack_values(head.view(), head.float_values.data());
      for (int j = 0; j < length; ++j)
        for (int c = 0; c < round_up(d, kStrip); ++c) {
          const float got =
              head.float_values[area(c / kStrip * kStrip, length) + area(j, kStrip) + area(c % kStrip, 1)];
          CHECK(got == (c < d ? head.row(2, j)[c] : 0.0f), "%s length %d head size %d value %d: %g", k.name, length, d,
                j, double{got});
        }
    }
}

// Keys and values in eight bits: the same integers as the oracle's, and near what was packed.
void test_pack_int8(const KernelTable &k) {
  for (const int length : {1, 3, 4, 15, 16, 17, 33, 70})
    for (const int d : kHeadSizes)
      for (const float extreme : {1.0f, 1e-25f, 1e30f}) {
        if (left_out())
          continue;
        Head head(k, length, d), oracle(k, length, d);
        fill_normal(head.qkv, extreme);
        std::fill(head.row(1, length / 2), head.row(1, length / 2) + d, 0.0f); // a key of zeros
        for (int j = 0; j < length; ++j)
          head.row(2, j)[d / 2] = -2.5f * extreme; // a feature that is the same everywhere
        std::copy(head.qkv.begin(), head.qkv.end(), oracle.qkv.begin());
        k.pack_keys_int8(head.view(), head.packed());
        k.pack_values_int8(head.view(), head.packed());
        scalar_kernels.pack_keys_int8(oracle.view(), oracle.packed());
        scalar_kernels.pack_values_int8(oracle.view(), oracle.packed());
        const int padded = round_up(length, kStrip), depth = round_up(d, k.key_step);
        const auto same = [&](const char *what, const auto &got, const auto &expected, std::size_t count) {
          const auto at =
              std::mismatch(got.begin(), got.begin() + static_cast<std::ptrdiff_t>(count), expected.begin());
          CHECK(at.first == got.begin() + static_cast<std::ptrdiff_t>(count),
                "%s %s length %d head size %d at %td: %g, "
                "not %g",
                k.name, what, length, d, at.first - got.begin(), static_cast<double>(*at.first),
                static_cast<double>(*at.second));
        };
        for (int j = 0; j < padded; ++j)
          for (int c = 0; c < depth; ++c) {
            const int q = head.keys[at_strip(k, j, c, depth)], features = round_up(d, scalar_kernels.key_step);
            const int expected = c < features ? oracle.keys[at_strip(scalar_kernels, j, c, features)] : 0;
            CHECK(q == expected, "%s key %d %d: %d, not %d", k.name, j, c, q, expected);
          }
        same("key scale", head.key_scale, oracle.key_scale, area(padded, 1));
        same("key sums", head.key_sums, oracle.key_sums, area(padded, 1));
        for (int c = 0; c < round_up(d, value_width(d)); ++c)
          for (int j = 0; j < padded; ++j) {
            const int q = head.values[at_strip(k, c, j, padded)],
                      expected = oracle.values[at_strip(scalar_kernels, c, j, padded)];
            CHECK(q == expected, "%s value %d %d: %d, not %d", k.name, j, c, q, expected);
          }
        same("value scale", head.value_scale, oracle.value_scale, area(round_up(d, value_width(d)), 1));
        same("value mean", head.value_mean, oracle.value_mean, area(round_up(d, value_width(d)), 1));
        for (int j = 0; j < padded; ++j) {
          double sum = 0.0;
          for (int c = 0; c < depth; ++c) {
            const int q = head.keys[at_strip(k, j, c, depth)];
            const double scale = double{head.key_scale[area(j, 1)]};
            const double is = j < length && c < d ? double{head.row(1, j)[c]} : 0.0;
            // Half a step; the factor 127 / largest is rounded.
            CHECK(std::abs(q * scale - is) <= 0.501 * scale, "%s key %d %d: %g, not %g", k.name, j, c, q * scale, is);
            sum += q;
          }
          CHECK(double{head.key_sums[area(j, 1)]} == sum, "%s key sum %d", k.name, j);
        }
        for (int c = 0; c < d; ++c) {
          double mean = 0.0, largest = 0.0;
          for (int j = 0; j < length; ++j) {
            mean += double{head.row(2, j)[c]} / length;
            largest = std::max(largest, std::abs(double{head.row(2, j)[c]}));
          }
          const double scale = double{head.value_scale[area(c, 1)]}, centre = double{head.value_mean[area(c, 1)]};
          CHECK(std::abs(centre - mean) <= 1e-6 * largest, "%s mean %d: %g, not %g", k.name, c, centre, mean);
          for (int j = 0; j < length; ++j) {
            const double is = double{head.row(2, j)[c]}, back = head.values[at_strip(k, c, j, padded)] * scale + centre;
            CHECK(std::abs(back - is) <= 0.501 * scale + 2e-7 * largest, "%s value %d %d: %g, not %g", k.name, j, c,
                  back, is);
          }
        }
      }
}

// Attention against the contract in double: in float32, or from what was packed in eight bits.
void check_attention(const KernelTable &k, Head &head, bool int8, const char *what) {
  const auto got = head.attend(k, int8);
  const AttentionHead view = head.view();
  const int length = head.length, d = head.head_size, padded = round_up(length, kStrip);
  const double tolerance = 5e-5; // of float32 scores of some hundreds, in the exponent of two
  for (int r = 0; r < length; ++r) {
    std::vector<double> weight(area(length, 1));
    double top = -INFINITY, total = 0.0;
    for (int j = 0; j < length; ++j) {
      double score = 0.0;
      for (int c = 0; c < d; ++c)
        score += int8
                     ? double(head.query[area(r, round_up(d, kDepthStep)) + area(c, 1)] - head.query_zero[area(r, 1)]) *
                           head.keys[at_strip(k, j, c, round_up(d, k.key_step))]
                     : double{head.row(0, r)[c]} * double{head.row(1, j)[c]};
      if (int8)
        score *= double{head.query_scale[area(r, 1)]} * double{head.key_scale[area(j, 1)]};
      if (view.bias != nullptr)
        score += double{view.bias[r * view.bias_step + j]};
      if (r - j > view.behind || j - r > view.ahead)
        score = -INFINITY;
      weight[area(j, 1)] = score;
      top = std::max(top, score);
    }
    double unsure = 0.0; // weights that may be rounded to either side: 2^x has a relative error of 1e-4
    for (double &w : weight) {
      w = std::exp2(w - top) * (int8 ? 255.0 : 1.0);
      total += w;
      if (int8) {
        unsure += std::abs(w - std::floor(w) - 0.5) < 0.04 ? 1.0 : 0.0;
        w = std::nearbyint(w);
      }
    }
    for (int c = 0; c < d; ++c) {
      double sum = 0.0, largest = 0.0, expected = 0.0, most = 0.0;
      for (int j = 0; j < length; ++j) {
        const double value = int8 ? double(head.values[at_strip(k, c, j, padded)]) : double{head.row(2, j)[c]};
        sum += weight[area(j, 1)] * value;
        largest = std::max(largest, std::abs(value));
      }
      if (int8) {
        const double scale = double{head.value_scale[area(c, 1)]}, mean = double{head.value_mean[area(c, 1)]};
        expected = sum * scale / total + mean;
        most = scale * largest * (3e-4 + unsure / total) + 1e-6 * (std::abs(mean) + std::abs(expected));
      } else {
        expected = sum / total;
        most = tolerance * (largest + std::abs(expected));
      }
      const double is = double{got[area(r, d) + area(c, 1)]};
      CHECK(std::abs(is - expected) <= most, "%s %s %s length %d head size %d row %d column %d: %.9g, not %.9g", k.name,
            what, int8 ? "int8" : "float32", length, d, r, c, is, expected);
    }
  }
  // A row's bits do not depend on the rows computed with it.
  const auto pieces = head.attend(k, int8, 1);
  CHECK(std::memcmp(got.data(), pieces.data(), got.size() * sizeof(float)) == 0, "%s %s length %d head size %d", k.name,
        what, length, d);
}

void test_attention(const KernelTable &k) {
  const auto check = [&k](int length, int d) {
    for (const bool int8 : {false, true}) {
      Head head(k, length, d);
      fill_normal(head.qkv, 0.7f);
      head.row(0, 0)[0] = 40.0f;                                             // one query that looks at one key
      std::fill(head.row(2, length - 1), head.row(2, length - 1) + d, 0.0f); // a token whose value is zero
      check_attention(k, head, int8, "plain");
    }
  };
  for (const int d : kHeadSizes)
    for (const int length : {1, 5, 17, 65})
      check(length, d);
  for (const int length : kSizes)
    for (const int d : {20, 32, 80})
      check(length, d);
}

// Of a causal head no score behind the diagonal is computed: what rows write of their scratch is that of a text that
// ends with their panel of keys. The scalar table computes them all.
void test_work_ends_at_the_diagonal(const KernelTable &k) {
  constexpr int length = 512, block = 32;
  constexpr float untouched = 12345.0f;
  if (&k == &scalar_kernels)
    return;
  for (const int d : {32, 128})
    for (const bool int8 : {false, true}) {
      Head head(k, length, d);
      fill_normal(head.qkv, 0.7f);
      head.ahead = 0;
      head.attend(k, int8); // packs
      std::vector<float> out(area(length, d));
      for (int first = 0; first < length; first += block) {
        std::fill(head.scores.begin(), head.scores.end(), untouched);
        if (int8)
          k.attend_int8(head.view(), head.packed(), first, first + block, head.scores.data(), out.data(), d);
        else
          k.attend(head.view(), head.float_keys.data(), head.float_values.data(), first, first + block,
                   head.scores.data(), out.data(), d);
        const auto written =
            std::count_if(head.scores.begin(), head.scores.end(), [](float s) { return s != untouched; });
        CHECK(written > 0 && written <= score_floats(k, first + block), "%s %s head size %d rows from %d: %td floats",
              k.name, int8 ? "int8" : "float32", d, first, written);
      }
    }
}

// How far a row sees back and ahead: everything, windows, causal ones.
constexpr int kReaches[][2] = {{kMaxLength, kMaxLength}, {1, 1}, {3, 3}, {16, 16}, {40, 40}, {200, 200},
                               {kMaxLength, 0},          {0, 0}, {3, 0}, {40, 0},  {5, 40},  {kMaxLength, 9}};

// Windows and causal masks; biases in an array for each row and for the distance alone (step -1); both together.
void test_placed_attention(const KernelTable &k) {
  for (const int length : {1, 2, 16, 17, 65, 100})
    for (const int d : {7, 32, 64})
      for (const auto &[behind, ahead] : kReaches)
        for (const int bias : {0, 1, 2}) {
          if (left_out())
            continue;
          Head head(k, length, d);
          fill_normal(head.qkv, 0.7f);
          std::vector<float> values(bias == 1 ? area(length, length + 3) : area(2 * length - 1, 1));
          fill_normal(values, 2.0f);
          head.behind = behind;
          head.ahead = ahead;
          if (bias > 0) {
            head.bias = bias == 1 ? values.data() : values.data() + length - 1;
            head.bias_step = bias == 1 ? length + 3 : -1;
          }
          for (const bool int8 : {false, true})
            check_attention(k, head, int8, bias == 0 ? "reach" : bias == 1 ? "bias of rows" : "bias of distance");
        }
}

// Two tokens whose scores differ by x and whose values are 1 and -1: the output is (1 - 2^-x) / (1 + 2^-x), apart from
// rounding the smaller weight to a 255th; what that loses or wins goes to the mean of the values, 0. Everything else is
// exact in eight bits here, apart from 2^-x itself (1e-4).
void test_weights_int8(const KernelTable &k) {
  for (float x = 0.0f; x < 12.0f; x += 0.03f) {
    Head head(k, 2, 1);
    const float qkv[6] = {x, 1.0f, 1.0f, x, 0.0f, -1.0f};
    std::copy_n(qkv, 6, head.qkv.begin());
    const auto out = head.attend(k, true);
    const float small = std::exp2(-x), expected = (1.0f - small) / (1.0f + small);
    CHECK(std::abs(out[0] - expected) < 0.0042f && out[0] == out[1], "%s x %g: %g, not %g", k.name,
          static_cast<double>(x), static_cast<double>(out[0]), static_cast<double>(expected));
    const float weight = std::nearbyint(255.0f * small), rounded = (255.0f - weight) / (255.0f + 255.0f * small);
    const bool near_half = std::abs(255.0f * small - std::floor(255.0f * small) - 0.5f) < 0.05f;
    CHECK(near_half || std::abs(out[0] - rounded) < 2e-4f, "%s x %g: %g, not %g", k.name, static_cast<double>(x),
          static_cast<double>(out[0]), static_cast<double>(rounded));
  }
}

// A row sees the keys of its window alone, with the bias of each, whatever the size of the scores: queries may be
// so small that a score is 1e30 of their steps. Against the scalar float32 kernel.
void test_window_and_bias(const KernelTable &k) {
  for (const int length : {5, 17, 64, 100})
    for (const auto &[behind, ahead] :
         {std::pair{kMaxLength, kMaxLength}, {1, 1}, {3, 3}, {40, 40}, {kMaxLength, 0}, {9, 0}})
      for (const float size : {1.0f, 3e-29f})
        for (const bool biased : {false, true}) {
          if (left_out())
            continue;
          Head head(k, length, 16);
          fill_normal(head.qkv, 0.7f);
          for (int token = 0; token < length; ++token)
            for (int c = 0; c < head.head_size; ++c) {
              head.row(0, token)[c] *= size;
              head.row(1, token)[c] /= size;
            }
          std::vector<float> bias(static_cast<std::size_t>(2 * length - 1));
          fill_normal(bias, 2.0f);
          head.behind = behind;
          head.ahead = ahead;
          if (biased) {
            head.bias = bias.data() + length - 1;
            head.bias_step = -1;
          }
          const auto exact = head.attend(scalar_kernels, false), got = head.attend(k, false),
                     rounded = head.attend(k, true);
          check_close("window", k, got.data(), exact.data(), exact.size(), 2e-5f);
          float top = 0.0f;
          for (int token = 0; token < length; ++token)
            for (int c = 0; c < head.head_size; ++c)
              top = std::max(top, std::abs(head.row(2, token)[c]));
          for (std::size_t i = 0; i < exact.size(); ++i) // as in test_attention_int8
            CHECK(std::abs(rounded[i] - exact[i]) <= 0.08f * top,
                  "%s length %d reach %d, %d size %g at %zu: %g, not %g", k.name, length, behind, ahead,
                  static_cast<double>(size), i, static_cast<double>(rounded[i]), static_cast<double>(exact[i]));
        }
}

// Scores far beyond 2^16, where their products round to whole powers of two: the highest takes all of the weight.
void test_large_scores(const KernelTable &k) {
  for (const float size : {3e2f, 1e3f, 3e3f, 1e4f, 1e6f})
    for (const int length : {2, 16, 33, 70}) {
      Head head(k, length, 32);
      fill_normal(head.qkv, 1.0f);
      for (int token = 0; token < length; ++token)
        for (int c = 0; c < head.head_size; ++c) {
          // Powers of two on the diagonal: token t looks at key t by a wide margin, also after rounding to eight bits.
          head.row(0, token)[c] =
              c == token % head.head_size ? size * (1.0f + 0.01f * static_cast<float>(token)) : 0.0f;
          head.row(1, token)[c] = c == token % head.head_size ? size * (1.0f + 0.3f * static_cast<float>(token)) : 0.0f;
        }
      const auto got = head.attend(k, true);
      for (int token = 0; token < length; ++token) {
        int seen = token; // the last of the keys on this token's feature is the largest
        while (seen + head.head_size < length)
          seen += head.head_size;
        for (int c = 0; c < head.head_size; ++c) {
          const float value = head.row(2, seen)[c], is = got[area(token, head.head_size) + static_cast<std::size_t>(c)];
          CHECK(std::abs(is - value) < 0.05f, "%s size %g length %d token %d: %g, not %g", k.name,
                static_cast<double>(size), length, token, static_cast<double>(is), static_cast<double>(value));
        }
      }
    }
}

const float kNotFinite[] = {NAN, -NAN, INFINITY, -INFINITY};

bool all_nan(const float *x, int size) {
  return std::all_of(x, x + size, [](float v) { return std::isnan(v); });
}
bool none_finite(const float *x, int size) {
  return std::none_of(x, x + size, [](float v) { return std::isfinite(v); });
}
bool all_finite(const float *x, int size) {
  return std::all_of(x, x + size, [](float v) { return std::isfinite(v); });
}

// A row that is not finite becomes NaN, also in eight bits; the rows beside it do not change.
void test_not_finite_rows(const KernelTable &k) {
  constexpr int rows = 3;
  for (const int cols : kSizes)
    for (const float bad : kNotFinite)
      for (const int place : {0, cols / 2, cols - 1}) {
        const int ldq = round_up(cols, kDepthStep);
        Guarded<float> x(static_cast<std::size_t>(rows * cols)), scale(rows);
        Guarded<std::uint8_t> q(static_cast<std::size_t>(rows * ldq));
        Guarded<std::int32_t> zero(rows);
        fill_normal(x, 1.0f);
        x[static_cast<std::size_t>(cols + place)] = bad;
        const auto check = [&](const char *what) {
          CHECK(std::isfinite(scale[0]) && std::isnan(scale[1]) && std::isfinite(scale[2]) && zero[1] >= 0 &&
                    zero[1] <= 255,
                "%s %s cols %d place %d: %g", k.name, what, cols, place, static_cast<double>(scale[1]));
        };
        k.quantize_rows(x.data(), cols, rows, cols, q.data(), ldq, scale.data(), zero.data());
        check("quantize_rows");
        k.quantize_rows_fixed(x.data(), cols, rows, cols, 0.1f, 7, q.data(), ldq, scale.data(), zero.data());
        check("quantize_rows_fixed");
        Guarded<float> gamma(static_cast<std::size_t>(cols)), beta(gamma.size());
        fill_normal(gamma, 1.0f);
        fill_normal(beta, 1.0f);
        for (const NormKind kind : {NormKind::layer, NormKind::rms}) {
          Guarded<float> y(x.size());
          std::copy(x.begin(), x.end(), y.begin());
          k.add_norm(y.data(), cols, nullptr, 0, rows, cols, {kind, gamma.data(), beta.data(), 1e-5f}, y.data(), cols);
          CHECK(all_finite(y.data(), cols) && all_nan(y.data() + cols, cols) && all_finite(y.data() + 2 * cols, cols),
                "%s add_norm kind %d cols %d place %d", k.name, static_cast<int>(kind), cols, place);
        }
      }
  // Finite values whose variance is not.
  for (const NormKind kind : {NormKind::layer, NormKind::rms}) {
    float huge[64], gamma[64], beta[64];
    for (int c = 0; c < 64; ++c) {
      huge[c] = c % 2 == 0 ? 1e25f : -1e25f;
      gamma[c] = beta[c] = 1.0f;
    }
    k.add_norm(huge, 64, nullptr, 0, 1, 64, {kind, gamma, beta, 1e-5f}, huge, 64);
    CHECK(all_nan(huge, 64), "%s kind %d: %g", k.name, static_cast<int>(kind), static_cast<double>(huge[0]));
  }
}

void test_not_finite_linear(const KernelTable &k) {
  constexpr int inputs = 70, outputs = 65, rows = 3, ldq = 128, ldy = 128;
  std::vector<std::int8_t> small(inputs * outputs);
  std::vector<float> weight(inputs * outputs), bias(outputs), scale(outputs, 0.01f), x(rows * inputs);
  fill_integers(small, -127, 127);
  fill_normal(weight, 0.1f);
  fill_normal(bias, 1.0f);
  WeightMemory memory;
  const Int8Linear i(small.data(), scale.data(), bias.data(), {0.0f, 0}, outputs, inputs, k, memory);
  std::vector<std::int8_t> halves(small);
  for (std::int8_t &v : halves)
    v = static_cast<std::int8_t>(v >> 4);
  const Int4Linear four(halves.data(), scale.data(), bias.data(), {0.0f, 0}, 128, outputs, inputs, k, memory);
  const Float32Linear f(weight.data(), bias.data(), outputs, inputs, k, memory);
  const BFloat16Linear b(weight.data(), scale.data(), bias.data(), outputs, inputs, k, memory);
  std::vector<std::uint8_t> q(area(rows + k.overread_rows, ldq));
  std::vector<float> row_scale(rows), y(rows * ldy);
  std::vector<std::int32_t> zero(rows);
  for (const Activation act : kActivations) {
    fill_normal(x, 1.0f);
    x[inputs + 9] = NAN;
    const auto check = [&](const char *what) {
      CHECK(all_finite(y.data(), outputs) && all_nan(y.data() + ldy, outputs) &&
                all_finite(y.data() + 2 * ldy, outputs),
            "%s %s activation %d", k.name, what, static_cast<int>(act));
    };
    k.quantize_rows(x.data(), inputs, rows, inputs, q.data(), ldq, row_scale.data(), zero.data());
    k.linear_int8({q.data(), ldq, row_scale.data(), zero.data()}, rows, {}, i.view(), 0, 2, y.data(), ldy, act);
    check("linear_int8");
    k.linear_int4({q.data(), ldq, row_scale.data(), zero.data()}, rows, {}, four.view(), 0, 2, y.data(), ldy, act);
    check("linear_int4");
    k.linear_float32(x.data(), inputs, rows, f.view(), 0, 2, y.data(), ldy, act);
    check("linear_float32");
    k.linear_bfloat16(x.data(), inputs, rows, b.view(), 0, 2, y.data(), ldy, act);
    check("linear_bfloat16");
    std::vector<float> both(2 * inputs, 0.5f); // a gate of 70 columns
    both[3] = both[inputs + 20] = NAN;
    for (const bool last : {false, true}) {
      std::vector<float> gated = both;
      k.gate(gated.data(), 2 * inputs, 1, inputs, last, act, true);
      CHECK(std::isnan(gated[3]) && std::isnan(gated[20]) && all_finite(gated.data() + 21, inputs - 21),
            "%s gate activation %d", k.name, static_cast<int>(act));
    }
  }
}

// One value of query, key or value that is not finite: no row that sees it is finite.
void test_not_finite_attention(const KernelTable &k) {
  for (const int length : {1, 3, 16, 33, 70})
    for (const int head_size : {7, 32, 80})
      for (const bool int8 : {false, true})
        for (const int part : {0, 1, 2})
          for (const float bad : kNotFinite) {
            if (left_out())
              continue;
            const int token = length / 2, place = head_size / 3;
            Head head(k, length, head_size);
            fill_normal(head.qkv, 0.7f);
            head.row(part, token)[place] = bad;
            const auto got = head.attend(k, int8);
            for (int row = 0; row < length; ++row) {
              const float *out = got.data() + row * head_size;
              const bool sees = part != 0 || row == token;
              // An infinite score may be minus infinity in float32: no weight, as it should be.
              if (!int8 && part != 2 && std::isinf(bad))
                continue;
              CHECK(!sees       ? all_finite(out, head_size)
                    : part == 2 ? none_finite(out + place, 1)
                                : all_nan(out, head_size),
                    "%s %s length %d head size %d part %d row %d: %g", k.name, int8 ? "int8" : "float32", length,
                    head_size, part, row, static_cast<double>(out[place]));
            }
          }
}

// x + y and its norm, of every kind, with and without y and a place of its own for the output.
void test_add_norm(const KernelTable &k) {
  for (const int cols : kSizes)
    for (const float extreme : {2.0f, 1e-12f, 1e15f})
      for (const bool with_y : {true, false})
        for (const NormKind kind : {NormKind::none, NormKind::layer, NormKind::rms})
          for (const bool in_place : {true, false}) {
            const int rows = 5;
            Guarded<float> x(area(rows, cols)), y(x.size()), apart(x.size()), gamma(area(cols, 1)), beta(gamma.size());
            fill_normal(x, extreme);
            fill_normal(y, extreme);
            fill_normal(gamma, 1.0f);
            fill_normal(beta, 1.0f);
            std::vector<double> sum(x.begin(), x.end());
            if (with_y)
              for (std::size_t i = 0; i < sum.size(); ++i)
                sum[i] = double{x[i] + y[i]}; // x is rounded to float32
            float *out = in_place ? x.data() : apart.data();
            k.add_norm(x.data(), cols, with_y ? y.data() : nullptr, cols, rows, cols,
                       {kind, gamma.data(), beta.data(), 1e-12f}, out, cols);
            for (int r = 0; r < rows; ++r) {
              const double *v = sum.data() + r * cols;
              double mean = 0.0, variance = double{1e-12f}, largest = 0.0;
              for (int c = 0; c < cols; ++c) {
                mean += kind == NormKind::rms ? 0.0 : v[c] / cols;
                largest = std::max(largest, std::abs(v[c]));
              }
              for (int c = 0; c < cols; ++c)
                variance += (v[c] - mean) * (v[c] - mean) / cols;
              // The mean is off by some 2^-24 of the largest value, and so is every difference from it. The variance is
              // off by twice that, relative to the spread.
              const double spread = std::sqrt(variance), off = 4e-7 * largest / spread;
              for (int c = 0; c < cols; ++c) {
                const double normed = (v[c] - mean) / spread, g = double{gamma[area(c, 1)]};
                const double shift = kind == NormKind::rms ? 0.0 : double{beta[area(c, 1)]};
                const double expected = kind == NormKind::none ? v[c] : normed * g + shift;
                const double is = double{out[area(r, cols) + area(c, 1)]};
                const double most =
                    kind == NormKind::none
                        ? 0.0
                        : (off * (1.0 + 2.0 * std::abs(normed)) + 2e-6) * std::abs(g) + 2e-7 * std::abs(expected);
                CHECK(std::abs(is - expected) <= most, "%s cols %d extreme %g row %d col %d: %.9g, not %.9g", k.name,
                      cols, double{extreme}, r, c, is, expected);
                if (!in_place)
                  CHECK(double{x[area(r, cols) + area(c, 1)]} == v[c], "%s cols %d: x", k.name, cols);
              }
            }
          }
}

void test_gate(const KernelTable &k, bool rounded) {
  for (const int cols : kSizes)
    for (const bool last : {false, true})
      for (const Activation act : kActivations) {
        const int rows = 3, ldx = 2 * cols + 3;
        Guarded<float> x(area(rows, ldx) - 3);
        fill_normal(x, 3.0f);
        x[0] = x[area(ldx + cols, 1)] = 80.0f; // where the tails of the activations are
        x[area(cols, 1)] = x[area(ldx, 1)] = -80.0f;
        const std::vector<float> before(x.begin(), x.end());
        k.gate(x.data(), ldx, rows, cols, last, act, rounded);
        for (int r = 0; r < rows; ++r)
          for (int c = 0; c < 2 * cols; ++c) {
            const auto at = area(r, ldx) + area(c, 1);
            if (c >= cols) {
              CHECK(x[at] == before[at], "%s cols %d: the second half is left alone", k.name, cols);
              continue;
            }
            const double first = double{before[at]}, second = double{before[at + area(cols, 1)]};
            const double expected = last ? first * activation(second, act) : activation(first, act) * second;
            const double scale =
                std::max(1.0, std::abs(last ? second : first)) * std::max(1.0, std::abs(last ? first : second));
            // The activations err by some 1e-6 of their argument, or by 5e-4 in their short forms.
            CHECK(std::abs(double{x[at]} - expected) <= (rounded ? 5e-4 : 1e-6) * scale,
                  "%s cols %d last %d activation %d at %d %d: %.9g, "
                  "not %.9g",
                  k.name, cols, last, static_cast<int>(act), r, c, double{x[at]}, expected);
          }
      }
}

// The short forms over the whole line, with nothing beside them in a product.
void test_short_activations(const KernelTable &k) {
  std::vector<float> x;
  for (float v = -40.0f; v < 40.0f; v += 0.03125f)
    x.push_back(v);
  const std::size_t cols = x.size();
  x.resize(2 * cols, 1.0f);
  for (const Activation act : kActivations) {
    std::vector<float> got = x;
    k.gate(got.data(), static_cast<std::ptrdiff_t>(2 * cols), 1, static_cast<int>(cols), false, act, true);
    const double most = act == Activation::silu                                   ? 4.9e-4
                        : act == Activation::gelu || act == Activation::gelu_tanh ? 1.7e-4
                                                                                  : 1e-5;
    for (std::size_t i = 0; i < cols; ++i)
      CHECK(std::abs(double{got[i]} - activation(double{x[i]}, act)) <= most, "%s activation %d of %g: %g", k.name,
            static_cast<int>(act), double{x[i]}, double{got[i]});
  }
}

void test_rotate(const KernelTable &k) {
  for (const int d : {2, 4, 6, 14, 16, 18, 30, 32, 34, 48, 62, 64, 66, 80, 96, 126, 128})
    for (const int heads : {1, 3}) {
      const int rows = 4, half = d / 2, ldx = heads * d + 5;
      Guarded<float> x(area(rows, ldx) - 5), cosine(area(rows, half)), sine(cosine.size());
      fill_normal(x, 2.0f);
      for (std::size_t i = 0; i < cosine.size(); ++i) {
        const float angle = 0.37f * static_cast<float>(i);
        cosine[i] = std::cos(angle);
        sine[i] = std::sin(angle);
      }
      const std::vector<float> before(x.begin(), x.end());
      k.rotate(x.data(), ldx, rows, heads, d, cosine.data(), sine.data());
      for (int r = 0; r < rows; ++r)
        for (int column = 0; column < heads * d; ++column) {
          const int c = column % d, pair = c < half ? column + half : column - half;
          const double own = double{before[area(r, ldx) + area(column, 1)]},
                       other = double{before[area(r, ldx) + area(pair, 1)]},
                       cos = double{cosine[area(r, half) + area(c % half, 1)]},
                       sin = double{sine[area(r, half) + area(c % half, 1)]};
          const double expected = c < half ? own * cos - other * sin : own * cos + other * sin;
          const double is = double{x[area(r, ldx) + area(column, 1)]};
          // Two products and a sum, each rounded once.
          CHECK(std::abs(is - expected) <= 2e-7 * (std::abs(own) + std::abs(other)),
                "%s head size %d row %d column %d: "
                "%.9g, not %.9g",
                k.name, d, r, column, is, expected);
        }
    }
}

// The engine provides the memory that a table asks for.
void test_table(const KernelTable &k) {
  CHECK(k.alignment >= 1 && kAlignment % k.alignment == 0, "%s alignment %d", k.name, k.alignment);
  CHECK(k.key_step >= 1 && kDepthStep % k.key_step == 0, "%s keys %d", k.name, k.key_step);
  CHECK(k.tile_rows >= 1 && k.overread_rows >= 0 && k.group >= 1 && kDepthStep % k.group == 0, "%s", k.name);
  CHECK(k.score_bytes >= static_cast<int>(sizeof(float)), "%s scratch %d", k.name, k.score_bytes);
  CHECK(score_floats(k, 65) * 4 >= 128 * k.score_bytes, "%s scratch of 65 keys", k.name);
}

// A row's bits do not depend on how many rows there are.
void test_rows_alone(const KernelTable &k) {
  const int inputs = 384, outputs = 192, rows = 29;
  std::vector<float> weight(inputs * outputs), bias(outputs), x(rows * inputs);
  std::vector<std::int8_t> small(inputs * outputs);
  std::vector<float> scale(outputs, 0.01f);
  fill_normal(weight, 0.1f);
  fill_normal(bias, 1.0f);
  fill_normal(x, 1.0f);
  fill_integers(small, -127, 127);
  WeightMemory memory;
  const Float32Linear f(weight.data(), bias.data(), outputs, inputs, k, memory);
  const Int8Linear i(small.data(), scale.data(), bias.data(), {0.0f, 0}, outputs, inputs, k, memory);
  std::vector<std::uint8_t> q(area(rows + k.overread_rows, inputs));
  std::vector<float> row_scale(rows), together(rows * outputs), alone(rows * outputs);
  std::vector<std::int32_t> zero(rows);
  k.quantize_rows(x.data(), inputs, rows, inputs, q.data(), inputs, row_scale.data(), zero.data());
  const auto same = [&](const char *what) {
    CHECK(std::memcmp(together.data(), alone.data(), together.size() * sizeof(float)) == 0, "%s %s", k.name, what);
  };
  k.linear_int8({q.data(), inputs, row_scale.data(), zero.data()}, rows, {}, i.view(), 0, 3, together.data(), outputs,
                Activation::gelu);
  for (int r = 0; r < rows; ++r)
    k.linear_int8({q.data() + r * inputs, inputs, row_scale.data() + r, zero.data() + r}, 1, {}, i.view(), 0, 3,
                  alone.data() + r * outputs, outputs, Activation::gelu);
  same("linear_int8");
  std::vector<float> scales(outputs * 5), centers(scales.size());
  fill_normal(scales, 0.01f);
  fill_normal(centers, 9.0f);
  const Int8Linear grouped(small.data(), scales.data(), bias.data(), {0.0f, 0}, outputs, inputs, k, memory,
                           {{64, 128, 192, 256, 384}, centers.data()});
  InputRoom room, room_alone;
  const LinearInput all = grouped.read(x.data(), inputs, rows, {}, room);
  grouped.prepare(all, 0, rows);
  grouped.multiply(all, 0, 3, together.data(), outputs, Activation::gelu);
  for (int r = 0; r < rows; ++r) {
    const LinearInput one = grouped.read(x.data() + r * inputs, inputs, 1, {}, room_alone);
    grouped.prepare(one, 0, 1);
    grouped.multiply(one, 0, 3, alone.data() + r * outputs, outputs, Activation::gelu);
  }
  same("linear_int8 in groups");
  k.linear_float32(x.data(), inputs, rows, f.view(), 0, 3, together.data(), outputs, Activation::gelu);
  for (int r = 0; r < rows; ++r)
    k.linear_float32(x.data() + r * inputs, inputs, 1, f.view(), 0, 3, alone.data() + r * outputs, outputs,
                     Activation::gelu);
  same("linear_float32");
}

// --- Products of bfloat16 --------------------------------------------------------------------------------------------

constexpr double kUnit = 0x1p-24, kUnitBFloat16 = 0x1p-8; // largest relative error of a rounding

// That of the roundings within a sum, which Arm rounds to odd: not to the nearest number, but to one of its neighbors.
double unit_of(const BFloat16Kernels &b) { return std::strcmp(b.name, "neon_bf16") == 0 ? 2.0 * kUnit : kUnit; }

float flushed(float v) { return std::abs(v) < 0x1p-126f ? std::copysign(0.0f, v) : v; }

// What the instructions make of a number: denormal ones are zero, those beyond the largest infinite.
float rounded_bfloat16(float v) {
  return std::abs(v) >= 0x1.ffp127f ? std::copysign(INFINITY, v) : flushed(nearest_bfloat16(flushed(v)));
}

float widened(std::uint16_t v) {
  const std::uint32_t bits = std::uint32_t{v} << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

void test_round_rows(const BFloat16Kernels &b) {
  const float special[] = {0.0f,          -0.0f,           1.0f,           1.00390625f, -1.01171875f,   1.0039063f,
                           1e-38f,        1.17549421e-38f, 1.1754944e-38f, -1e-40f,     3.38953139e38f, 3.3895e38f,
                           3.4028235e38f, -3.4028235e38f,  INFINITY};
  for (const int cols : kSizes) {
    const int rows = 3, ldx = cols + 1, ldq = round_up(cols, kPairStep);
    Guarded<float> x(area(rows, ldx) - 1);
    Guarded<std::uint16_t> q(area(rows, ldq));
    fill_normal(x, 1.0f);
    for (std::size_t i = 0; i < x.size() && i < std::size(special); ++i)
      x[x.size() - 1 - i] = special[i];
    std::fill(q.begin(), q.end(), std::uint16_t{7});
    b.round_rows(x.data(), ldx, rows, cols, q.data(), ldq);
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < ldq; ++c) {
        const float is = widened(q[area(r, ldq) + area(c, 1)]),
                    expected = c < cols ? rounded_bfloat16(x[area(r, ldx) + area(c, 1)]) : 0.0f;
        CHECK(is == expected && std::signbit(is) == std::signbit(expected), "%s cols %d at %d %d: %g, not %g", b.name,
              cols, r, c, double{is}, double{expected});
      }
    x[0] = NAN;
    b.round_rows(x.data(), ldx, rows, cols, q.data(), ldq);
    CHECK(std::isnan(widened(q[0])), "%s cols %d: NaN became %g", b.name, cols, double{widened(q[0])});
  }
  // A payload that is in the lower half alone.
  const std::uint32_t low = 0x7f800001u;
  float quiet;
  std::memcpy(&quiet, &low, sizeof quiet);
  std::uint16_t q[kPairStep];
  b.round_rows(&quiet, 1, 1, 1, q, kPairStep);
  CHECK(std::isnan(widened(q[0])), "%s: %g", b.name, double{widened(q[0])});
}

// Rows and weights as a layer rounds them, in its order.
struct PairProducts {
  PairProducts(const Guarded<float> &x, const Guarded<float> &weight, int inputs) : inputs(inputs) {
    for (const float v : x)
      rows.push_back(rounded_bfloat16(v));
    for (const float v : weight)
      weights.push_back(rounded_bfloat16(v));
  }

  // Rounded as vdpbf16ps does: after the second product of a pair, and after the first.
  float in_order(int row, int output) const {
    float sum = 0.0f;
    for (int k = 0; k < inputs; k += 2)
      for (const int i : {k + 1, k})
        if (i < inputs)
          sum = add(row, output, i, sum);
    return sum;
  }

  // As tdpbf16ps does: the first and the second products of 16 pairs apart, then these two sums, then the sum before.
  float in_tiles(int row, int output) const {
    float sum = 0.0f;
    for (int k = 0; k < inputs; k += 32) {
      float half[2] = {};
      for (int i = k; i < std::min(k + 32, inputs); ++i)
        half[i % 2] = add(row, output, i, half[i % 2]);
      sum = flushed(sum + flushed(half[0] + half[1]));
    }
    return sum;
  }

  float add(int row, int output, int i, float sum) const {
    return flushed(std::fma(rows[area(row, inputs) + area(i, 1)], weights[area(output, inputs) + area(i, 1)], sum));
  }

  // The sum, and that of magnitudes.
  std::pair<double, double> exact(int row, int output) const {
    double sum = 0.0, size = 0.0;
    for (int i = 0; i < inputs; ++i) {
      const double product =
          double{rows[area(row, inputs) + area(i, 1)]} * double{weights[area(output, inputs) + area(i, 1)]};
      sum += product;
      size += std::abs(product);
    }
    return {sum, size};
  }

  std::vector<float> rows, weights;
  const int inputs;
};

void test_bfloat16_linear(const KernelTable &k, const BFloat16Kernels &b) {
  for (const int inputs : kSizes)
    for (const int outputs : {1, 64, 130})
      for (const int rows : {1, 2, 5, 6, 13, 16, 17, 35}) {
        if (rows > 13 && (outputs != 130 || b.overread_rows == 0)) // numbers that only tiles tell apart
          continue;
        Guarded<float> weight(area(outputs, inputs)), scale(area(outputs, 1)), bias(scale.size()),
            x(area(rows, inputs));
        fill_normal(weight, 0.2f);
        fill_normal(scale, 1.0f);
        fill_normal(bias, 1.0f);
        fill_normal(x, 1.0f);
        weight[weight.size() / 2] = 1e-40f; // a denormal number, and a product that is one
        weight[0] = x[0] = 0x1p-70f;
        WeightMemory memory;
        const PairLinear layer(weight.data(), scale.data(), bias.data(), outputs, inputs, k, memory);
        const PairProducts products(x, weight, inputs);
        const int ldq = round_up(inputs, kPairStep), panels = layer.panels(), ldy = panels * kPanel;
        Guarded<std::uint16_t> q(area(rows + b.overread_rows, ldq));
        std::fill(q.begin(), q.end(), std::uint16_t{0x7fc0}); // the rows behind are NaN
        b.round_rows(x.data(), inputs, rows, inputs, q.data(), ldq);
        for (const Activation act : kActivations) {
          Guarded<float> got(area(rows, ldy));
          for (int panel = 0; panel < panels; panel += 2)
            b.linear(q.data(), ldq, rows, layer.view(), panel, std::min(panel + 2, panels), got.data(), ldy, act);
          for (int r = 0; r < rows; ++r)
            for (int o = 0; o < outputs; ++o) {
              const float is = got[area(r, ldy) + area(o, 1)];
              const double s = double{scale[area(o, 1)]}, add = double{bias[area(o, 1)]};
              const auto [sum, size] = products.exact(r, o);
              const double value = s * sum + add;
              // Each input is added with one rounding, and a sum below the smallest normal number is lost.
              double most = std::abs(s) * (inputs * (unit_of(b) * size + 0x1p-126)) + 2.0 * kUnit * std::abs(value);
              if (act != Activation::none) // see test_linear_float32
                most += 1e-5 * (1.0 + std::abs(value));
              CHECK(std::abs(double{is} - activation(value, act)) <= most,
                    "%s %d rows, %d x %d, activation %d: %.9g, not %.9g", b.name, rows, outputs, inputs,
                    static_cast<int>(act), double{is}, activation(value, act));
              if (const bool tiles = std::strcmp(b.name, "amxbf16") == 0;
                  act == Activation::none && (tiles || std::strcmp(b.name, "avx512bf16") == 0))
                CHECK(is == std::fma(tiles ? products.in_tiles(r, o) : products.in_order(r, o), scale[area(o, 1)],
                                     bias[area(o, 1)]),
                      "%s %d rows, %d x %d: another order", b.name, rows, outputs, inputs);
            }
        }
      }
}

// A row's bits do not depend on the others; one that is not finite becomes NaN alone.
void test_bfloat16_rows(const KernelTable &k, const BFloat16Kernels &b) {
  const int inputs = 385, outputs = 192, rows = 50, ldq = round_up(inputs, kPairStep);
  std::vector<float> weight(area(outputs, inputs)), scale(outputs, 0.5f), bias(outputs), x(area(rows, inputs)),
      together(area(rows, outputs)), alone(outputs);
  fill_normal(weight, 0.1f);
  fill_normal(bias, 1.0f);
  fill_normal(x, 1.0f);
  WeightMemory memory;
  const PairLinear layer(weight.data(), scale.data(), bias.data(), outputs, inputs, k, memory);
  std::vector<std::uint16_t> q(area(rows + b.overread_rows, ldq));
  for (const float bad : {0.0f, NAN, INFINITY, -INFINITY}) {
    if (bad != 0.0f)
      x[area(3, inputs) + 9] = bad;
    b.round_rows(x.data(), inputs, rows, inputs, q.data(), ldq);
    for (const Activation act : kActivations) {
      b.linear(q.data(), ldq, rows, layer.view(), 0, 3, together.data(), outputs, act);
      for (int r = 0; r < rows; ++r) {
        b.linear(q.data() + r * ldq, ldq, 1, layer.view(), 0, 3, alone.data(), outputs, act);
        CHECK(std::memcmp(alone.data(), together.data() + r * outputs, alone.size() * sizeof(float)) == 0,
              "%s activation %d row %d", b.name, static_cast<int>(act), r);
        if (act == Activation::none)
          CHECK(bad != 0.0f && r == 3 ? none_finite(alone.data(), outputs) : all_finite(alone.data(), outputs),
                "%s row %d beside %g", b.name, r, double{bad});
      }
    }
  }
}

std::vector<float> attend_bfloat16(const BFloat16Kernels &b, Head &head, int step = 0) {
  const int d = head.head_size, ldq = round_up(d, kPairStep);
  Guarded<std::uint16_t> query(area(head.length + b.overread_rows, ldq)),
      keys(area(round_up(head.length, kStrip), ldq)),
      values(area(round_up(head.length, kPairStep), round_up(d, value_width(d))));
  Guarded<float> scores(static_cast<std::size_t>(score_floats(b, head.length))), out(area(head.length, d));
  const BFloat16Head packed{query.data(), keys.data(), values.data()};
  const AttentionHead view = head.view();
  b.round_rows(view.query, view.ld, head.length, d, query.data(), ldq);
  b.pack_keys(view, packed);
  b.pack_values(view, packed);
  for (int first = 0, last; first < head.length; first = last) {
    last = step == 0 ? head.length : std::min(first + step, head.length);
    b.attend(view, packed, first, last, scores.data(), out.data(), d);
  }
  return {out.begin(), out.end()};
}

// Against the formula in double, of rounded queries, keys and values.
void check_attention_bfloat16(const BFloat16Kernels &b, Head &head) {
  const int d = head.head_size;
  const auto got = attend_bfloat16(b, head);
  for (const int step : {1, 7})
    CHECK(attend_bfloat16(b, head, step) == got, "%s length %d head size %d: %d rows at a time", b.name, head.length, d,
          step);
  const auto rounded = [&](int part, int token, int c) { return double{rounded_bfloat16(head.row(part, token)[c])}; };
  for (int row = 0; row < head.length; ++row) {
    std::vector<double> weights;
    double total = 0.0, top = -1e300, off = 0.0;
    const int first = std::max(0, row - head.behind), last = std::min(head.length, row + head.ahead + 1);
    for (int j = first; j < last; ++j) {
      double score = 0.0, size = 0.0;
      for (int c = 0; c < d; ++c) {
        score += rounded(0, row, c) * rounded(1, j, c);
        size += std::abs(rounded(0, row, c) * rounded(1, j, c));
      }
      const double added = head.bias == nullptr ? 0.0 : double{head.bias[row * head.bias_step + j]};
      size += std::abs(score) + 2.0 * std::abs(added);
      score += added;
      weights.push_back(score);
      top = std::max(top, score);
      off = std::max(off, (d + 2) * unit_of(b) * size);
    }
    for (double &w : weights)
      total += w = std::exp2(w - top);
    // A weight errs by rounding, the short power and its score, relative to itself; the sum of the rounded ones
    // divides.
    const double error = kUnitBFloat16 + 1.1e-4 + 1.4 * off;
    for (int c = 0; c < d; ++c) {
      double mixed = 0.0, spread = 0.0, size = 0.0;
      for (int j = first; j < last; ++j)
        mixed += weights[area(j - first, 1)] * rounded(2, j, c) / total;
      for (int j = first; j < last; ++j) {
        spread += weights[area(j - first, 1)] * std::abs(rounded(2, j, c) - mixed) / total;
        size += weights[area(j - first, 1)] * std::abs(rounded(2, j, c)) / total;
      }
      const double is = double{got[area(row, d) + area(c, 1)]};
      const double most = error / (1.0 - error) * spread + (last - first + 4) * unit_of(b) * size + 1e-30;
      CHECK(std::abs(is - mixed) <= most, "%s length %d head size %d row %d at %d: %.9g, not %.9g (%.2g)", b.name,
            head.length, d, row, c, is, mixed, most);
    }
  }
}

void test_bfloat16_attention(const KernelTable &k, const BFloat16Kernels &b) {
  for (const int length : {1, 2, 3, 5, 6, 7, 16, 17, 33, 64, 70, 130})
    for (const int head_size : {1, 7, 16, 32, 40, 64, 80, 128}) {
      if (length > 33 && head_size % 32 != 0 && head_size != 7)
        continue;
      Head head(k, length, head_size);
      fill_normal(head.qkv, 1.0f);
      check_attention_bfloat16(b, head);
      head.ahead = 0; // causal, then a window, then with a bias for each distance
      check_attention_bfloat16(b, head);
      head.behind = head.ahead = 5;
      check_attention_bfloat16(b, head);
      std::vector<float> bias(area(2 * length, 1));
      fill_normal(bias, 3.0f);
      head.bias = bias.data() + length;
      head.bias_step = -1;
      check_attention_bfloat16(b, head);
      head.behind = head.ahead = kMaxLength;
      check_attention_bfloat16(b, head);
      head.bias = nullptr;
      for (const int part : {0, 1, 2})
        for (const float bad : kNotFinite) {
          float &value = head.row(part, length / 2)[head_size / 3];
          const float before = std::exchange(value, bad);
          const auto got = attend_bfloat16(b, head);
          value = before;
          // An infinite score may be minus infinity: no weight, as it should be.
          for (int row = 0; row < length && (part == 2 || std::isnan(bad)); ++row) {
            const float *out = got.data() + row * head_size;
            CHECK(part == 0 && row != length / 2 ? all_finite(out, head_size)
                  : part == 2                    ? none_finite(out + head_size / 3, 1)
                                                 : all_nan(out, head_size),
                  "%s length %d head size %d part %d row %d: %g", b.name, length, head_size, part, row,
                  double{out[head_size / 3]});
          }
        }
    }
}

} // namespace

int main(int argc, char **argv) {
  const auto tables = available_kernels(argc, argv);
  if (!tables.empty())
    test_weight_memory();
  for (const KernelTable *k : tables) {
    const int before = checks;
    if (k->enter != nullptr)
      k->enter();
    test_table(*k);
    test_sums(*k);
    test_quantize(*k);
    test_quantize_fixed(*k);
    test_linear_int8(*k);
    test_row_sums(*k);
    test_grouped_linear(*k);
    test_linear_int4(*k);
    test_int4_ranges(*k);
    test_residual_rows(*k);
    test_linear_float32(*k);
    test_linear_bfloat16(*k);
    test_activations(*k);
    test_pack_float32(*k);
    test_pack_int8(*k);
    test_attention(*k);
    test_placed_attention(*k);
    test_work_ends_at_the_diagonal(*k);
    test_weights_int8(*k);
    test_window_and_bias(*k);
    test_large_scores(*k);
    test_not_finite_rows(*k);
    test_not_finite_linear(*k);
    test_not_finite_attention(*k);
    test_add_norm(*k);
    test_gate(*k, false);
    test_gate(*k, true);
    test_short_activations(*k);
    test_rotate(*k);
    test_rows_alone(*k);
    if (const BFloat16Kernels *b = bfloat16_kernels(*k); b != nullptr) {
      CHECK(b->score_bytes >= static_cast<int>(sizeof(float)), "%s scratch %d", b->name, b->score_bytes);
      test_round_rows(*b);
      test_bfloat16_linear(*k, *b);
      test_bfloat16_rows(*k, *b);
      test_bfloat16_attention(*k, *b);
    }
    if (k->leave != nullptr)
      k->leave();
    std::printf("%s: %d checks\n", k->name, checks - before);
  }
  return report("kernels");
}
