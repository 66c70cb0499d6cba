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
      k.quantize_rows_fixed(x.data(), cols, rows, cols, 0.0371f, zero, got.data(), ldq);
      scalar_kernels.quantize_rows_fixed(x.data(), cols, rows, cols, 0.0371f, zero, expected.data(), ldq);
      CHECK(std::equal(got.begin(), got.end(), expected.begin()), "%s cols %d zero %d", k.name, cols, zero);
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
      Guarded<float> keys(static_cast<std::size_t>(padded * head_size)), scores(static_cast<std::size_t>(16 * padded));
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
      Guarded<float> qkv(size(length, ld)), float_keys(size(padded, head_size)), scores(size(16, padded));
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
        scores(16 * kPanel);
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
    test_add_norm(*k);
    test_rows_alone(*k);
    std::printf("%s: %d checks\n", k->name, checks - before);
  }
  return report("kernels");
}
