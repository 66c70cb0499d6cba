// Each kernel of each available instruction set against the scalar one, over awkward sizes and extreme values. Buffers
// end at guard pages. Integers must be equal; floats have a tolerance with its reason.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "weights.h"

using namespace quaver;
using namespace quaver::testing;

namespace {

const int kSizes[] = {1, 2, 3, 5, 7, 15, 16, 17, 31, 33, 63, 64, 65, 127, 384};

// Sums of bytes: equal to the last bit, also where every product has the largest magnitude.
void test_sums(const KernelTable &k) {
  for (const int depth : {64, 128, 384, 1088, 1536}) {
    for (const int rows : {1, 2, 3, 4, 5, 6, 7, 13, 31}) {
      for (int extreme = 0; extreme < 4; ++extreme) {
        const auto d = static_cast<std::size_t>(depth), r = static_cast<std::size_t>(rows);
        Guarded<std::uint8_t> q(r * d);
        Guarded<std::int8_t> panel(d * kPanel);
        fill_integers(q, 0, 255);
        fill_integers(panel, -127, 127);
        if (extreme == 1 || extreme == 2)
          std::fill(q.begin(), q.end(), std::uint8_t{255});
        if (extreme == 1)
          std::fill(panel.begin(), panel.end(), std::int8_t{127});
        if (extreme == 2)
          std::fill(panel.begin(), panel.end(), std::int8_t{-127});
        Guarded<std::int32_t> got(r * kPanel), expected(r * kPanel);
        k.sum_int8(q.data(), depth, rows, panel.data(), depth, got.data());
        scalar_kernels.sum_int8(q.data(), depth, rows, panel.data(), depth, expected.data());
        for (std::size_t i = 0; i < expected.size(); ++i)
          CHECK(got[i] == expected[i], "%s rows %d depth %d at %zu: %d, not %d", k.name, rows, depth, i, got[i],
                expected[i]);
        if (extreme == 1)
          CHECK(got[0] == 255 * 127 * depth, "%s: %d", k.name, got[0]);
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
  for (std::size_t i = 0; i < size; ++i)
    CHECK(std::abs(got[i] - expected[i]) <= tolerance * (1.0f + std::abs(expected[i])), "%s %s at %zu: %.9g, not %.9g",
          k.name, what, i, static_cast<double>(got[i]), static_cast<double>(expected[i]));
}

const Activation kActivations[] = {Activation::none, Activation::gelu, Activation::gelu_tanh,
                                   Activation::relu, Activation::silu, Activation::tanh};

// A fixed scale and zero: what lies outside of the range ends at its edge, however far it is.
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
      for (const int rows : {1, 5, 6, 7, 16}) {
        const auto in = static_cast<std::size_t>(inputs), out = static_cast<std::size_t>(outputs);
        Guarded<std::int8_t> weight(in * out);
        Guarded<float> scale(out), bias(out), x(static_cast<std::size_t>(rows) * in);
        fill_integers(weight, -127, 127);
        fill_normal(bias, 1.0f);
        fill_normal(x, 2.0f);
        for (float &s : scale)
          s = 0.001f + 0.01f * static_cast<float>(generator() % 100) / 100.0f;
        WeightMemory memory;
        const Linear w = Linear::int8(weight.data(), scale.data(), bias.data(), outputs, inputs, memory);
        const int ldq = round_up(inputs, kDepthStep), ldy = round_up(outputs, kPanel);
        std::vector<std::uint8_t> q(static_cast<std::size_t>(rows * ldq));
        std::vector<float> row_scale(static_cast<std::size_t>(rows));
        std::vector<std::int32_t> zero(static_cast<std::size_t>(rows));
        scalar_kernels.quantize_rows(x.data(), inputs, rows, inputs, q.data(), ldq, row_scale.data(), zero.data());
        const Int8Rows a{q.data(), ldq, row_scale.data(), zero.data()};
        for (const Activation act : kActivations) {
          Guarded<float> got(static_cast<std::size_t>(rows * ldy)), expected(got.size());
          k.linear_int8(a, rows, {}, w.int8_view(), 0, w.panels(), got.data(), ldy, act);
          scalar_kernels.linear_int8(a, rows, {}, w.int8_view(), 0, w.panels(), expected.data(), ldy, act);
          // GELU of an output that will be rounded to eight bits is a polynomial, see short_gelu.
          const float tolerance = act == Activation::gelu ? 4e-4f : 2e-5f;
          check_close("linear_int8", k, got.data(), expected.data(), expected.size(), tolerance);
        }
        // The scalar kernel against the definition, in double precision.
        std::vector<float> y(static_cast<std::size_t>(rows * ldy));
        scalar_kernels.linear_int8(a, rows, {}, w.int8_view(), 0, w.panels(), y.data(), ldy, Activation::none);
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

// Rows that are added to others give what they give alone, less the bias.
void test_rests(const KernelTable &k) {
  constexpr int inputs = 100, outputs = 130;
  std::vector<std::int8_t> weight(inputs * outputs);
  std::vector<float> scale(outputs, 0.01f), bias(outputs), none(outputs, 0.0f);
  fill_integers(weight, -127, 127);
  fill_normal(bias, 1.0f);
  WeightMemory memory;
  const Linear w = Linear::int8(weight.data(), scale.data(), bias.data(), outputs, inputs, memory),
               without_bias = Linear::int8(weight.data(), scale.data(), none.data(), outputs, inputs, memory);
  const int ldq = round_up(inputs, kDepthStep), ldy = w.panels() * kPanel;
  for (const int rows : {1, 4, 6, 13})
    for (const int rests : {1, 2, 7}) {
      if (rests > rows)
        continue;
      const auto all = static_cast<std::size_t>(rows + rests);
      Guarded<std::uint8_t> q(all * static_cast<std::size_t>(ldq));
      Guarded<float> row_scale(all), y(static_cast<std::size_t>(rows * ldy)),
          apart(all * static_cast<std::size_t>(ldy));
      Guarded<std::int32_t> zero(all), of(static_cast<std::size_t>(rests));
      fill_integers(q, 0, 255);
      fill_integers(zero, 0, 255);
      for (std::size_t i = 0; i < all; ++i)
        row_scale[i] = 0.01f * static_cast<float>(i + 1);
      for (int i = 0; i < rests; ++i)
        of[static_cast<std::size_t>(i)] = (rows - 1) * (rests - i) / rests; // falling, from the last row
      const Int8Rows a{q.data(), ldq, row_scale.data(), zero.data()};
      const Int8Rows behind{q.data() + rows * ldq, ldq, row_scale.data() + rows, zero.data() + rows};
      k.linear_int8(a, rows, {rests, of.data()}, w.int8_view(), 0, w.panels(), y.data(), ldy, Activation::none);
      k.linear_int8(a, rows, {}, w.int8_view(), 0, w.panels(), apart.data(), ldy, Activation::none);
      k.linear_int8(behind, rests, {}, without_bias.int8_view(), 0, w.panels(), apart.data() + rows * ldy, ldy,
                    Activation::none);
      for (int i = 0; i < rests; ++i)
        for (int c = 0; c < ldy; ++c)
          apart.data()[of.data()[i] * ldy + c] += apart.data()[(rows + i) * ldy + c];
      CHECK(std::memcmp(y.data(), apart.data(), y.size() * sizeof(float)) == 0, "%s: %d rows, %d rests", k.name, rows,
            rests);
    }
}

// What is taken is zeroed, lies on cache lines, is apart from the rest, and outlives what it was taken from.
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
      const Linear w = Linear::float32(weight.data(), bias.data(), outputs, inputs, memory);
      const int ldy = round_up(outputs, kPanel);
      for (const Activation act : kActivations) {
        Guarded<float> got(static_cast<std::size_t>(rows * ldy)), expected(got.size());
        k.linear_float32(x.data(), inputs, rows, w.float_view(), 0, w.panels(), got.data(), ldy, act);
        scalar_kernels.linear_float32(x.data(), inputs, rows, w.float_view(), 0, w.panels(), expected.data(), ldy, act);
        check_close("linear_float32", k, got.data(), expected.data(), expected.size(), 1e-5f);
      }
    }
  }
}

// Activations of single values over the whole line, where their tails and signs are.
void test_activations(const KernelTable &k) {
  const float zero_bias[kPanel] = {};
  std::vector<float> identity(kPanel * kPanel);
  for (int i = 0; i < kPanel; ++i)
    identity[static_cast<std::size_t>(i * kPanel + i)] = 1.0f;
  WeightMemory memory;
  const Linear w = Linear::float32(identity.data(), zero_bias, kPanel, kPanel, memory);
  std::vector<float> x;
  for (float v = -40.0f; v < 40.0f; v += 0.0625f)
    x.push_back(v);
  for (const float v : {0.0f, -0.0f, 1e-30f, -1e-30f, 1e4f, -1e4f, 3e37f, -3e37f})
    x.push_back(v);
  x.resize((x.size() + kPanel - 1) / kPanel * kPanel);
  const int rows = static_cast<int>(x.size()) / kPanel;
  std::vector<float> got(x.size());
  for (const Activation act : kActivations) {
    k.linear_float32(x.data(), kPanel, rows, w.float_view(), 0, 1, got.data(), kPanel, act);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double v = x[i];
      double expected = v;
      if (act == Activation::gelu)
        expected = 0.5 * v * std::erfc(-v * std::sqrt(0.5));
      else if (act == Activation::gelu_tanh)
        expected = std::abs(v) > 1e10 ? std::max(v, 0.0)
                                      : 0.5 * v * (1.0 + std::tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
      else if (act == Activation::silu)
        expected = v / (1.0 + std::exp(-v));
      else if (act == Activation::relu)
        expected = std::max(v, 0.0);
      else if (act == Activation::tanh)
        expected = std::tanh(v);
      CHECK(std::abs(got[i] - expected) <= 1e-6 * std::max(1.0, std::abs(v)), "%s activation %d of %g: %g, not %g",
            k.name, static_cast<int>(act), v, static_cast<double>(got[i]), expected);
    }
  }
}

void test_attention(const KernelTable &k) {
  for (const int length : kSizes) {
    for (const int head_size : {1, 7, 16, 20, 32, 64}) {
      const int ld = 3 * head_size, padded = round_up(length, kPanel), ldo = head_size;
      Guarded<float> qkv(static_cast<std::size_t>(length * ld));
      fill_normal(qkv, 1.0f);
      qkv[0] = 60.0f; // one query that looks at one key
      const AttentionHead head{qkv.data(), qkv.data() + head_size, qkv.data() + 2 * head_size, ld, length, head_size};
      Guarded<float> keys(static_cast<std::size_t>(padded * head_size)),
          scores(static_cast<std::size_t>(score_floats(length)));
      Guarded<float> got(static_cast<std::size_t>(length * ldo)), expected(got.size()), pieces(got.size());
      scalar_kernels.pack_keys(head, keys.data());
      scalar_kernels.attend(head, keys.data(), 0, length, scores.data(), expected.data(), ldo);
      k.pack_keys(head, keys.data());
      k.attend(head, keys.data(), 0, length, scores.data(), got.data(), ldo);
      check_close("attend", k, got.data(), expected.data(), expected.size(), 2e-5f);
      for (int row = 0; row < length; ++row) // a row's bits do not depend on the rows beside it
        k.attend(head, keys.data(), row, row + 1, scores.data(), pieces.data(), ldo);
      CHECK(std::memcmp(got.data(), pieces.data(), got.size() * sizeof(float)) == 0, "%s length %d head size %d",
            k.name, length, head_size);
    }
  }
}

// Attention in eight bits against attention in float32: what rounding query, key, weight and value to eight bits does.
void test_attention_int8(const KernelTable &k) {
  for (const int length : kSizes) {
    for (const int head_size : {1, 7, 16, 20, 32, 48, 64, 80}) {
      const int ld = 3 * head_size, padded = round_up(length, kPanel), ldo = head_size;
      const int columns = round_up(head_size, value_width(head_size)), ldq = round_up(head_size, kDepthStep);
      const auto size = [](int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); };
      Guarded<float> qkv(size(length, ld)), float_keys(size(padded, head_size)),
          scores(static_cast<std::size_t>(score_floats(length)));
      fill_normal(qkv, 0.7f);
      for (int c = 0; c < head_size; ++c)
        qkv[static_cast<std::size_t>(2 * head_size + c)] = 0.0f; // a token whose value is zero
      const AttentionHead head{qkv.data(), qkv.data() + head_size, qkv.data() + 2 * head_size, ld, length, head_size};
      Guarded<std::uint8_t> query(size(length, ldq));
      Guarded<float> query_scale(size(length, 1)), key_scale(size(padded, 1)), key_sums(size(padded, 1)),
          value_scale(size(columns, 1)), value_mean(size(columns, 1));
      Guarded<std::int32_t> query_zero(size(length, 1));
      Guarded<std::int8_t> keys(size(padded, round_up(head_size, 32))), values(size(padded, columns));
      const Int8Head packed{query.data(),    query_scale.data(), query_zero.data(),  keys.data(),      key_scale.data(),
                            key_sums.data(), values.data(),      value_scale.data(), value_mean.data()};
      Guarded<float> exact(size(length, ldo)), got(exact.size()), pieces(exact.size());
      scalar_kernels.pack_keys(head, float_keys.data());
      scalar_kernels.attend(head, float_keys.data(), 0, length, scores.data(), exact.data(), ldo);
      k.pack_head(head, packed);
      k.attend_int8(head, packed, 0, length, scores.data(), got.data(), ldo);
      float top = 0.0f;
      for (int j = 0; j < length; ++j)
        for (int c = 0; c < head_size; ++c)
          top = std::max(top, std::abs(head.value[j * ld + c]));
      float total = 0.0f;
      for (std::size_t i = 0; i < exact.size(); ++i) {
        const float error = std::abs(got[i] - exact[i]);
        total += error;
        CHECK(error <= 0.08f * top, "%s length %d head size %d at %zu: %g, not %g", k.name, length, head_size, i,
              static_cast<double>(got[i]), static_cast<double>(exact[i]));
      }
      CHECK(total <= 0.01f * top * static_cast<float>(exact.size()), "%s length %d head size %d: mean error %g", k.name,
            length, head_size, static_cast<double>(total) / static_cast<double>(exact.size()));
      for (int row = 0; row < length; ++row)
        k.attend_int8(head, packed, row, row + 1, scores.data(), pieces.data(), ldo);
      CHECK(std::memcmp(got.data(), pieces.data(), got.size() * sizeof(float)) == 0, "%s length %d head size %d",
            k.name, length, head_size);
      // What was packed is the same on every instruction set, to the last bit.
      std::vector<std::int8_t> packed_keys(keys.begin(), keys.end()), packed_values(values.begin(), values.end());
      scalar_kernels.pack_head(head, packed);
      CHECK(std::equal(keys.begin(), keys.end(), packed_keys.begin()), "%s keys %d %d", k.name, length, head_size);
      CHECK(std::equal(values.begin(), values.end(), packed_values.begin()), "%s values %d %d", k.name, length,
            head_size);
    }
  }
}

// Two tokens whose scores differ by x and whose values are 1 and -1: the output is (1 - 2^-x) / (1 + 2^-x), but for
// rounding the smaller weight to a 255th; what that loses or wins falls to the mean of the values, 0. Everything else
// is exact in eight bits here, but for 2^-x itself (1e-4).
void test_weights_int8(const KernelTable &k) {
  for (float x = 0.0f; x < 12.0f; x += 0.03f) {
    const float qkv[6] = {x, 1.0f, 1.0f, x, 0.0f, -1.0f};
    const AttentionHead head{qkv, qkv + 1, qkv + 2, 3, 2, 1};
    std::vector<std::uint8_t> query(2 * kPanel);
    std::vector<float> query_scale(2), key_scale(kPanel), key_sums(kPanel), value_scale(16), value_mean(16),
        scores(score_floats(2));
    std::vector<std::int32_t> query_zero(2);
    std::vector<std::int8_t> keys(kPanel * 32), values(kPanel * 16);
    const Int8Head packed{query.data(),    query_scale.data(), query_zero.data(),  keys.data(),      key_scale.data(),
                          key_sums.data(), values.data(),      value_scale.data(), value_mean.data()};
    k.pack_head(head, packed);
    float out[2];
    k.attend_int8(head, packed, 0, 2, scores.data(), out, 1);
    const float small = std::exp2(-x), expected = (1.0f - small) / (1.0f + small);
    CHECK(std::abs(out[0] - expected) < 0.0042f && out[0] == out[1], "%s x %g: %g, not %g", k.name,
          static_cast<double>(x), static_cast<double>(out[0]), static_cast<double>(expected));
    const float weight = std::nearbyint(255.0f * small), rounded = (255.0f - weight) / (255.0f + 255.0f * small);
    const bool near_half = std::abs(255.0f * small - std::floor(255.0f * small) - 0.5f) < 0.05f;
    CHECK(near_half || std::abs(out[0] - rounded) < 2e-4f, "%s x %g: %g, not %g", k.name, static_cast<double>(x),
          static_cast<double>(out[0]), static_cast<double>(rounded));
  }
}

// One head of a sequence with room for what both kinds of attention make of it.
struct Head {
  Head(int tokens, int features)
      : length(tokens), head_size(features), qkv(size(tokens, 3 * features)),
        float_keys(size(round_up(tokens, kPanel), features)), scores(static_cast<std::size_t>(score_floats(tokens))),
        query_scale(size(tokens, 1)), key_scale(size(round_up(tokens, kPanel), 1)), key_sums(key_scale.size()),
        value_scale(size(round_up(features, value_width(features)), 1)), value_mean(value_scale.size()),
        query_zero(size(tokens, 1)), query(size(tokens, round_up(features, kDepthStep))),
        keys(size(round_up(tokens, kPanel), round_up(features, 32))),
        values(size(round_up(tokens, kPanel), round_up(features, value_width(features)))) {}

  float *row(int part, int token) { return qkv.data() + (3 * token + part) * head_size; }
  AttentionHead view() {
    return {row(0, 0), row(1, 0), row(2, 0), 3 * head_size, length, head_size, bias, bias_step, window};
  }
  std::vector<float> attend(const KernelTable &k, bool int8) {
    Guarded<float> out(size(length, head_size));
    const Int8Head packed{query.data(),    query_scale.data(), query_zero.data(),  keys.data(),      key_scale.data(),
                          key_sums.data(), values.data(),      value_scale.data(), value_mean.data()};
    if (int8) {
      k.pack_head(view(), packed);
      k.attend_int8(view(), packed, 0, length, scores.data(), out.data(), head_size);
    } else {
      k.pack_keys(view(), float_keys.data());
      k.attend(view(), float_keys.data(), 0, length, scores.data(), out.data(), head_size);
    }
    return {out.begin(), out.end()};
  }

  static std::size_t size(int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); }

  int length, head_size, window = 0;
  const float *bias = nullptr;
  std::ptrdiff_t bias_step = 0;
  Guarded<float> qkv, float_keys, scores, query_scale, key_scale, key_sums, value_scale, value_mean;
  Guarded<std::int32_t> query_zero;
  Guarded<std::uint8_t> query;
  Guarded<std::int8_t> keys, values;
};

// A row sees its window and no key besides, and the bias of each place, whatever the size of the scores: queries may be
// so small that a score is 1e30 of their steps. Against the scalar float32 kernel.
void test_window_and_bias(const KernelTable &k) {
  for (const int length : {5, 17, 64, 100})
    for (const int window : {0, 1, 3, 40})
      for (const float size : {1.0f, 3e-29f})
        for (const bool biased : {false, true}) {
          Head head(length, 16);
          fill_normal(head.qkv, 0.7f);
          for (int token = 0; token < length; ++token)
            for (int c = 0; c < head.head_size; ++c) {
              head.row(0, token)[c] *= size;
              head.row(1, token)[c] /= size;
            }
          std::vector<float> bias(static_cast<std::size_t>(2 * length - 1));
          fill_normal(bias, 2.0f);
          head.window = window;
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
            CHECK(std::abs(rounded[i] - exact[i]) <= 0.08f * top, "%s length %d window %d size %g at %zu: %g, not %g",
                  k.name, length, window, static_cast<double>(size), i, static_cast<double>(rounded[i]),
                  static_cast<double>(exact[i]));
        }
}

// Scores far beyond 2^16, where their products round to whole powers of two: the highest takes all of the weight.
void test_large_scores(const KernelTable &k) {
  for (const float size : {3e2f, 1e3f, 3e3f, 1e4f, 1e6f})
    for (const int length : {2, 16, 33, 70}) {
      Head head(length, 32);
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
          const float value = head.row(2, seen)[c],
                      is = got[Head::size(token, head.head_size) + static_cast<std::size_t>(c)];
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

// A row that is not finite gives NaN, in eight bits as well, and the rows beside it are what they were.
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
        k.add_norm(x.data(), cols, nullptr, 0, rows, cols, gamma.data(), beta.data(), 1e-5f, x.data(), cols);
        CHECK(all_finite(x.data(), cols) && all_nan(x.data() + cols, cols) && all_finite(x.data() + 2 * cols, cols),
              "%s add_norm cols %d place %d", k.name, cols, place);
      }
  // Finite values whose variance is not.
  float huge[64], gamma[64], beta[64];
  for (int c = 0; c < 64; ++c) {
    huge[c] = c % 2 == 0 ? 1e25f : -1e25f;
    gamma[c] = beta[c] = 1.0f;
  }
  k.add_norm(huge, 64, nullptr, 0, 1, 64, gamma, beta, 1e-5f, huge, 64);
  CHECK(all_nan(huge, 64), "%s: %g", k.name, static_cast<double>(huge[0]));
}

void test_not_finite_linear(const KernelTable &k) {
  constexpr int inputs = 70, outputs = 65, rows = 3, ldq = 128, ldy = 128;
  std::vector<std::int8_t> small(inputs * outputs);
  std::vector<float> weight(inputs * outputs), bias(outputs), scale(outputs, 0.01f), x(rows * inputs);
  fill_integers(small, -127, 127);
  fill_normal(weight, 0.1f);
  fill_normal(bias, 1.0f);
  WeightMemory memory;
  const Linear i = Linear::int8(small.data(), scale.data(), bias.data(), outputs, inputs, memory);
  const Linear f = Linear::float32(weight.data(), bias.data(), outputs, inputs, memory);
  std::vector<std::uint8_t> q(rows * ldq);
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
    k.linear_int8({q.data(), ldq, row_scale.data(), zero.data()}, rows, {}, i.int8_view(), 0, 2, y.data(), ldy, act);
    check("linear_int8");
    k.linear_float32(x.data(), inputs, rows, f.float_view(), 0, 2, y.data(), ldy, act);
    check("linear_float32");
    std::vector<float> both(2 * inputs, 0.5f); // a gate of 70 columns
    both[3] = both[inputs + 20] = NAN;
    for (const bool last : {false, true}) {
      std::vector<float> gated = both;
      k.gate(gated.data(), 2 * inputs, 1, inputs, last, act);
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
            const int token = length / 2, place = head_size / 3;
            Head head(length, head_size);
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

void test_add_norm(const KernelTable &k) {
  for (const int cols : kSizes) {
    const int rows = 5;
    Guarded<float> x(static_cast<std::size_t>(rows * cols)), y(x.size()), expected(x.size());
    Guarded<float> gamma(static_cast<std::size_t>(cols)), beta(gamma.size());
    fill_normal(y, 1.0f);
    fill_normal(gamma, 1.0f);
    fill_normal(beta, 1.0f);
    for (const bool residual : {true, false}) {
      fill_normal(x, 2.0f);
      std::copy(x.begin(), x.end(), expected.begin());
      k.add_norm(x.data(), cols, residual ? y.data() : nullptr, cols, rows, cols, gamma.data(), beta.data(), 1e-12f,
                 x.data(), cols);
      scalar_kernels.add_norm(expected.data(), cols, residual ? y.data() : nullptr, cols, rows, cols, gamma.data(),
                              beta.data(), 1e-12f, expected.data(), cols);
      if (cols > 2) // the difference of two numbers says little about rounding when there are no others
        check_close("add_norm", k, x.data(), expected.data(), expected.size(), 5e-5f);
    }
  }
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
  const Linear f = Linear::float32(weight.data(), bias.data(), outputs, inputs, memory);
  const Linear i = Linear::int8(small.data(), scale.data(), bias.data(), outputs, inputs, memory);
  std::vector<std::uint8_t> q(rows * inputs);
  std::vector<float> row_scale(rows), together(rows * outputs), alone(rows * outputs);
  std::vector<std::int32_t> zero(rows);
  k.quantize_rows(x.data(), inputs, rows, inputs, q.data(), inputs, row_scale.data(), zero.data());
  const auto same = [&](const char *what) {
    CHECK(std::memcmp(together.data(), alone.data(), together.size() * sizeof(float)) == 0, "%s %s", k.name, what);
  };
  k.linear_int8({q.data(), inputs, row_scale.data(), zero.data()}, rows, {}, i.int8_view(), 0, 3, together.data(),
                outputs, Activation::gelu);
  for (int r = 0; r < rows; ++r)
    k.linear_int8({q.data() + r * inputs, inputs, row_scale.data() + r, zero.data() + r}, 1, {}, i.int8_view(), 0, 3,
                  alone.data() + r * outputs, outputs, Activation::gelu);
  same("linear_int8");
  k.linear_float32(x.data(), inputs, rows, f.float_view(), 0, 3, together.data(), outputs, Activation::gelu);
  for (int r = 0; r < rows; ++r)
    k.linear_float32(x.data() + r * inputs, inputs, 1, f.float_view(), 0, 3, alone.data() + r * outputs, outputs,
                     Activation::gelu);
  same("linear_float32");
}

} // namespace

int main() {
  test_weight_memory();
  for (const KernelTable *k : available_kernels()) {
    const int before = checks;
    test_sums(*k);
    test_quantize(*k);
    test_quantize_fixed(*k);
    test_linear_int8(*k);
    test_rests(*k);
    test_linear_float32(*k);
    test_activations(*k);
    test_attention(*k);
    test_attention_int8(*k);
    test_weights_int8(*k);
    test_window_and_bias(*k);
    test_large_scores(*k);
    test_not_finite_rows(*k);
    test_not_finite_linear(*k);
    test_not_finite_attention(*k);
    test_add_norm(*k);
    test_rows_alone(*k);
    std::printf("%s: %d checks\n", k->name, checks - before);
  }
  return report("kernels");
}
