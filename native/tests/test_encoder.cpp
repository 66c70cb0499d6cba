// The encoder on every available instruction set: the same bits in any batch and with any number of threads, int8 near
// float32, float32 near the scalar one, interruption.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>

#include "check.h"
#include "engine/encoder.h"

using namespace quaver;
using namespace quaver::testing;

namespace {

constexpr int kVocabulary = 97, kPositions = 300;

struct Model {
  EncoderSpec spec;
  std::vector<float> word, position, token_type;
  int span = 0;                         // half the rows of relative positions, 0 for none
  std::vector<std::int32_t> relative{}; // see RelativeRows

  Norm norm() const {
    Norm n{Buffer<float>(static_cast<std::size_t>(spec.hidden)), Buffer<float>(static_cast<std::size_t>(spec.hidden))};
    for (int c = 0; c < spec.hidden; ++c) {
      n.gamma.data()[c] = 1.0f + 0.1f * static_cast<float>(c % 7);
      n.beta.data()[c] = 0.05f * static_cast<float>(c % 5) - 0.1f;
    }
    return n;
  }
};

Model make_model(int hidden, int heads, int intermediate, Pooling pooling) {
  Model m{{hidden,
           heads,
           intermediate,
           kVocabulary,
           kPositions,
           0,
           2,
           1e-12f,
           Activation::gelu,
           Gate::none,
           false,
           {pooling},
           true},
          {},
          {},
          {}};
  const auto h = static_cast<std::size_t>(hidden);
  m.word.resize(kVocabulary * h);
  m.position.resize(kPositions * h);
  m.token_type.resize(2 * h);
  fill_normal(m.word, 1.0f);
  fill_normal(m.position, 0.3f);
  fill_normal(m.token_type, 0.3f);
  return m;
}

// Relative positions: a row for each distance up to the span, the last one for all beyond.
Model with_relative_positions(Model m, int span) {
  m.span = span;
  for (int distance = 1 - kPositions; distance < kPositions; ++distance)
    m.relative.push_back(std::clamp(span - distance, 0, 2 * span - 1));
  return m;
}

Model with_norm_first(Model m) {
  m.spec.norm_first = true;
  return m;
}

Linear make_linear(int outputs, int inputs, const KernelTable &kernels, bool int8, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(inputs)));
  std::vector<float> weight(static_cast<std::size_t>(outputs) * static_cast<std::size_t>(inputs)),
      bias(static_cast<std::size_t>(outputs));
  for (float &w : weight)
    w = normal(random);
  for (float &b : bias)
    b = normal(random);
  static WeightMemory memory;
  if (!int8)
    return Linear::float32(weight.data(), bias.data(), outputs, inputs, memory);
  std::vector<std::int8_t> q(weight.size());
  std::vector<float> scale(bias.size());
  for (int o = 0; o < outputs; ++o) {
    const auto first = static_cast<std::size_t>(o) * static_cast<std::size_t>(inputs);
    float top = 1e-9f;
    for (std::size_t i = first; i < first + static_cast<std::size_t>(inputs); ++i)
      top = std::max(top, std::abs(weight[i]));
    scale[static_cast<std::size_t>(o)] = top / 127.0f;
    for (std::size_t i = first; i < first + static_cast<std::size_t>(inputs); ++i)
      q[i] = static_cast<std::int8_t>(std::lround(weight[i] / top * 127.0f));
  }
  return Linear::int8(q.data(), scale.data(), bias.data(), outputs, inputs, kernels, memory);
}

Encoder make_encoder(const Model &m, const KernelTable &kernels, bool int8) {
  Encoder e(m.spec, kernels, {m.word.data(), m.position.data(), m.token_type.data(), m.norm()});
  const int h = m.spec.hidden, wide = m.spec.intermediate;
  const auto positions = [&](unsigned seed) {
    std::vector<Linear> heads;
    for (unsigned i = 0; m.span > 0 && i < static_cast<unsigned>(m.spec.heads); ++i)
      heads.push_back(make_linear(2 * m.span, h / m.spec.heads, kernels, int8, seed + i));
    return heads;
  };
  if (m.span > 0)
    e.set_relative_rows({m.relative.data(), kPositions});
  for (unsigned l = 0; l < 2; ++l)
    e.add_layer({make_linear(3 * h, h, kernels, int8, 10 * l + 1), make_linear(h, h, kernels, int8, 10 * l + 2),
                 m.norm(), make_linear(wide, h, kernels, int8, 10 * l + 3),
                 make_linear(h, wide, kernels, int8, 10 * l + 4), m.norm(), 0, -1, positions(100 * l + 100),
                 positions(100 * l + 150)});
  return e;
}

struct Batch {
  std::vector<std::int32_t> ids, offsets{0};

  void add(const std::vector<std::int32_t> &text) {
    ids.insert(ids.end(), text.begin(), text.end());
    offsets.push_back(static_cast<std::int32_t>(ids.size()));
  }
  TokenBatch view() const { return {ids.data(), nullptr, offsets.data(), static_cast<int>(offsets.size()) - 1}; }
};

std::vector<float> encode(const Encoder &e, const Batch &batch, int threads) {
  std::vector<float> vectors((batch.offsets.size() - 1) * static_cast<std::size_t>(e.spec().hidden));
  CHECK(e.encode(batch.view(), threads, vectors.data(), [] { return false; }), "not interrupted");
  return vectors;
}

std::vector<std::vector<std::int32_t>> make_texts(std::size_t count) {
  std::vector<std::vector<std::int32_t>> texts(count);
  for (auto &text : texts) {
    text.resize(generator() % 20 == 0 ? kPositions : 1 + generator() % 60);
    fill_integers(text, 0, kVocabulary - 1);
  }
  return texts;
}

void test_same_bits(const Encoder &e, int rounds) {
  const auto texts = make_texts(48);
  const auto hidden = static_cast<std::size_t>(e.spec().hidden);
  std::vector<std::vector<float>> alone;
  for (const auto &text : texts) {
    Batch one;
    one.add(text);
    alone.push_back(encode(e, one, 1));
  }
  for (int round = 0; round < rounds; ++round) {
    std::vector<std::size_t> order(texts.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::shuffle(order.begin(), order.end(), generator);
    order.resize(1 + generator() % order.size());
    Batch batch;
    for (const std::size_t i : order)
      batch.add(texts[i]);
    const int threads = 1 + static_cast<int>(generator() % 4);
    const auto vectors = encode(e, batch, threads);
    for (std::size_t i = 0; i < order.size(); ++i)
      CHECK(std::memcmp(vectors.data() + i * hidden, alone[order[i]].data(), hidden * sizeof(float)) == 0,
            "%s: text %zu of %zu, %d threads", e.kernels().name, i, order.size(), threads);
  }
}

// A text alone over several threads, on both sides of the length from which its rows are split and not its outputs.
void test_one_short_text(const Encoder &e) {
  for (const std::size_t length : {1, 2, 3, 8, 9, 17, 32, 33}) {
    std::vector<std::int32_t> text(length);
    fill_integers(text, 0, kVocabulary - 1);
    Batch batch;
    batch.add(text);
    const auto alone = encode(e, batch, 1);
    for (const int threads : {2, 3, 4})
      CHECK(encode(e, batch, threads) == alone, "%s: %zu tokens, %d threads", e.kernels().name, length, threads);
  }
}

float cosine(const float *a, const float *b, int size) { return std::inner_product(a, a + size, b, 0.0f); }

void test_values(const Model &m, const KernelTable &k) {
  const Encoder exact = make_encoder(m, scalar_kernels, false), fast = make_encoder(m, k, false),
                small = make_encoder(m, k, true);
  generator.seed(1); // the same texts, whatever was tested before
  Batch batch;
  for (const auto &text : make_texts(12))
    batch.add(text);
  const auto expected = encode(exact, batch, 1), got = encode(fast, batch, 2), rounded = encode(small, batch, 2);
  // Longer sums round differently in another order, and err more in eight bits.
  const bool wide = m.spec.hidden > 64;
  const float most = wide ? 4e-6f : 2e-6f, least = wide ? 0.98f : 0.99f;
  for (std::size_t i = 0; i < expected.size(); ++i)
    CHECK(std::abs(expected[i] - got[i]) < most, "%s float32 at %zu", k.name, i);
  for (std::size_t i = 0; i < expected.size(); i += static_cast<std::size_t>(m.spec.hidden))
    CHECK(cosine(&expected[i], &rounded[i], m.spec.hidden) > least, "%s int8: cosine %g", k.name,
          static_cast<double>(cosine(&expected[i], &rounded[i], m.spec.hidden)));
}

void test_interruption(const Model &m, const KernelTable &k) {
  const Encoder e = make_encoder(m, k, true);
  Batch batch;
  for (const auto &text : make_texts(400))
    batch.add(text);
  std::vector<float> vectors((batch.offsets.size() - 1) * static_cast<std::size_t>(m.spec.hidden));
  for (const int threads : {1, 2})
    CHECK(!e.encode(batch.view(), threads, vectors.data(), [] { return true; }), "threads %d", threads);
}

} // namespace

void test_first_not_finite() {
  for (const int columns : {1, 7, 64, 65})
    for (const float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
      std::vector<float> vectors(static_cast<std::size_t>(3 * columns), 3e38f);
      CHECK(first_not_finite(vectors.data(), 3, columns) == -1, "%d columns", columns);
      for (int row = 2; row >= 0; --row) {
        vectors[static_cast<std::size_t>(row * columns + columns / 2)] = bad;
        CHECK(first_not_finite(vectors.data(), 3, columns) == row, "%d columns, row %d", columns, row);
      }
    }
}

// What a table wants done by every thread before and after it uses the kernels.
namespace hooks {
std::atomic<int> entered{0}, left{0}, outside{0};
thread_local int depth = 0;
void enter() noexcept {
  ++entered;
  ++depth;
}
void leave() noexcept {
  ++left;
  --depth;
}
} // namespace hooks

void test_enter_and_leave(const Model &m, const KernelTable &k) {
  static const KernelTable *original;
  original = &k;
  KernelTable watched = k;
  watched.enter = hooks::enter;
  watched.leave = hooks::leave;
  watched.add_norm = [](float *x, std::ptrdiff_t ldx, const float *y, std::ptrdiff_t ldy, int rows, int cols,
                        const float *gamma, const float *beta, float eps, float *out, std::ptrdiff_t ldo) noexcept {
    hooks::outside += hooks::depth == 1 ? 0 : 1;
    original->add_norm(x, ldx, y, ldy, rows, cols, gamma, beta, eps, out, ldo);
  };
  const Encoder e = make_encoder(m, watched, true), plain = make_encoder(m, k, true);
  for (const std::size_t texts : {std::size_t{1}, std::size_t{40}})
    for (const int threads : {1, 2, 4}) {
      Batch batch;
      for (const auto &text : make_texts(texts))
        batch.add(text);
      const int before = hooks::entered;
      CHECK(encode(e, batch, threads) == encode(plain, batch, threads), "%s: %zu texts, %d threads", k.name, texts,
            threads);
      CHECK(hooks::entered > before && hooks::entered == hooks::left && hooks::outside == 0,
            "%s: %zu texts, %d threads: entered %d, left %d, outside %d", k.name, texts, threads, hooks::entered.load(),
            hooks::left.load(), hooks::outside.load());
    }
}

int main() {
  test_first_not_finite();
  const Model even = make_model(64, 4, 256, Pooling::mean), odd = make_model(36, 3, 100, Pooling::cls),
              first_rows = make_model(64, 2, 128, Pooling::cls), panels = make_model(128, 4, 160, Pooling::mean),
              panels_first = make_model(128, 2, 128, Pooling::cls),
              norm_first = with_norm_first(make_model(128, 4, 128, Pooling::mean)),
              relative = with_relative_positions(make_model(48, 3, 96, Pooling::mean), 40),
              relative_first = with_relative_positions(make_model(64, 2, 128, Pooling::cls), 128);
  for (const KernelTable *k : available_kernels()) {
#if defined(__SANITIZE_THREAD__) // minutes, and the threads are the same
    if (k == &scalar_kernels)
      continue;
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    const int rounds = 4; // a sanitizer sees in a few rounds what it will see in many
#else
    const int rounds = k == &scalar_kernels ? 4 : 15;
#endif
    for (const Model *m : {&even, &odd, &first_rows, &panels, &panels_first, &norm_first, &relative, &relative_first}) {
      test_values(*m, *k);
      const int share = m->span > 0 ? 3 : 1;
      test_same_bits(make_encoder(*m, *k, true), (rounds + share - 1) / share);
      test_same_bits(make_encoder(*m, *k, false), (rounds + share - 1) / share);
      for (const bool int8 : {true, false})
        test_one_short_text(make_encoder(*m, *k, int8));
    }
    test_interruption(even, *k);
    test_enter_and_leave(even, *k);
  }
  return report("encoder");
}
