// The encoder on every available instruction set: the same bits in any batch and with any number of threads, int8 and
// bfloat16 near float32, float32 near the scalar one, interruption.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <map>
#include <numeric>
#include <thread>

#include "check.h"
#include "engine/encoder.h"
#include "engine/pool.h"
#include "engine/scratch.h"
#include "threads/threads.h"

using namespace quaver;
using namespace quaver::testing;

namespace {

constexpr int kVocabulary = 97, kPositions = 300;

// What a test wants of a model; its weights are drawn.
struct Sketch {
  int hidden, heads, intermediate;
  Pooling pooling;
  int kv_heads = 0, head_size = 0;   // 0: heads, hidden / heads
  bool before = false, both = false; // norms before a part, or on both sides, instead of after its residual
  bool head_norms = false;
  NormKind norm = NormKind::layer;
  int behind = kMaxLength, ahead = kMaxLength;
  bool rotary = false;
  Gate gate = Gate::none;
  int span = 0;  // half the rows of relative positions, 0 for none
  int words = 0; // the logarithms of a model of words, 0 for one of vectors
  bool sum = false;
  int embedding = 0;     // features of the tables, which a projection makes H of them; 0 for H
  bool bare = false;     // no norm of the embeddings
  bool normalize = true; // vectors of length 1
  int input = 0;         // what layers make of a token's embedding; they are scaled then, too

  int table_width() const { return embedding == 0 ? hidden : embedding; }
};

struct Drawn {
  Sketch sketch;
  std::vector<float> word, position, token_type, cosine, sine;
  std::vector<std::int32_t> relative; // see RelativeRows: a row for each distance up to the span, the last one beyond

  explicit Drawn(const Sketch &s) : sketch(s) {
    if (sketch.kv_heads == 0)
      sketch.kv_heads = s.heads;
    if (sketch.head_size == 0)
      sketch.head_size = s.hidden / s.heads;
    const auto width = static_cast<std::size_t>(s.table_width()), half = static_cast<std::size_t>(sketch.head_size / 2);
    word.resize(kVocabulary * width);
    position.resize(kPositions * width);
    token_type.resize(2 * width);
    fill_normal(word, 1.0f);
    fill_normal(position, 0.3f);
    fill_normal(token_type, 0.3f);
    for (std::size_t i = 0; i < kPositions * half; ++i) {
      const double angle = static_cast<double>(i / half) * std::pow(100.0, -static_cast<double>(i % half));
      cosine.push_back(static_cast<float>(std::cos(angle)));
      sine.push_back(static_cast<float>(std::sin(angle)));
    }
    for (int distance = 1 - kPositions; s.span > 0 && distance < kPositions; ++distance)
      relative.push_back(std::clamp(s.span - distance, 0, 2 * s.span - 1));
  }

  Norm norm(int size, NormKind kind) const {
    Norm n{kind, 1e-12f, Buffer<float>(static_cast<std::size_t>(size)), Buffer<float>(static_cast<std::size_t>(size))};
    for (int c = 0; c < size; ++c) {
      n.gamma.data()[c] = 1.0f + 0.1f * static_cast<float>(c % 7);
      n.beta.data()[c] = 0.05f * static_cast<float>(c % 5) - 0.1f;
    }
    return n;
  }

  Norms norms() const {
    const auto make = [this](bool wanted) { return wanted ? norm(sketch.hidden, sketch.norm) : Norm{}; };
    return {make(sketch.before || sketch.both), make(sketch.both), make(!sketch.before && !sketch.both)};
  }
};

// The weights of a linear layer: the same for the same seed.
struct DrawnLinear {
  std::vector<float> weight, bias;

  DrawnLinear(int outputs, int inputs, unsigned seed)
      : weight(static_cast<std::size_t>(outputs) * static_cast<std::size_t>(inputs)),
        bias(static_cast<std::size_t>(outputs)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(inputs)));
    for (float &w : weight)
      w = normal(random);
    for (float &b : bias)
      b = normal(random);
  }
};

using Precision = AttentionPrecision; // of all linear layers as well

LinearPtr make_linear(int outputs, int inputs, const KernelTable &kernels, Precision precision, unsigned seed) {
  const auto [weight, bias] = DrawnLinear(outputs, inputs, seed);
  static WeightMemory memory;
  if (precision == Precision::float32)
    return std::make_unique<Float32Linear>(weight.data(), bias.data(), outputs, inputs, kernels, memory);
  if (precision == Precision::bfloat16)
    return std::make_unique<PairLinear>(weight.data(), std::vector<float>(bias.size(), 1.0f).data(), bias.data(),
                                        outputs, inputs, kernels, memory);
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
  return std::make_unique<Int8Linear>(q.data(), scale.data(), bias.data(), InputRange{0.0f, 0}, outputs, inputs,
                                      kernels, memory);
}

constexpr unsigned kProjection = 900; // its seed

Encoder make_encoder(const Drawn &d, const KernelTable &kernels, Precision precision) {
  const Sketch &s = d.sketch;
  const LayerSpec spec{.heads = s.heads,
                       .kv_heads = s.kv_heads,
                       .head_size = s.head_size,
                       .intermediate = s.intermediate,
                       .behind = s.behind,
                       .ahead = s.ahead,
                       .rotary = s.rotary ? 0 : -1,
                       .attention = precision,
                       .gate = s.gate,
                       .activation = Activation::gelu,
                       .input = s.input};
  Model m{.kernels = kernels,
          .geometry = {s.hidden, kVocabulary, kPositions, 0, 2, 1.0f, {s.pooling}, s.normalize, s.embedding},
          .embeddings = {d.word.data(), d.position.data(), d.token_type.data(),
                         s.bare ? Norm{} : d.norm(s.table_width(), NormKind::layer)},
          .final_norm = s.before || s.both ? d.norm(s.hidden, s.norm) : Norm{}};
  if (s.embedding > 0)
    m.embeddings.projection = make_linear(s.hidden, s.embedding, kernels, precision, kProjection);
  if (s.rotary)
    m.rotary.push_back({d.cosine.data(), d.sine.data()});
  if (s.span > 0)
    m.relative = {d.relative.data(), kPositions};
  for (unsigned l = 0; l < 2; ++l) {
    const auto linear = [&](int outputs, int inputs, unsigned number) {
      return make_linear(outputs, inputs, kernels, precision, 10 * l + number);
    };
    const auto positions = [&](unsigned first) {
      std::vector<LinearPtr> heads;
      for (unsigned i = 0; s.span > 0 && i < static_cast<unsigned>(s.heads); ++i)
        heads.push_back(make_linear(2 * s.span, s.head_size, kernels, precision, 100 * l + first + i));
      return heads;
    };
    const auto of_heads = [&] { return s.head_norms ? d.norm(s.head_size, s.norm) : Norm{}; };
    m.layers.push_back({.spec = spec,
                        .attention = d.norms(),
                        .feed_forward = d.norms(),
                        .qkv = linear(spec.qkv_width(), s.hidden, 1),
                        .out = linear(s.hidden, spec.query_width(), 2),
                        .up = linear(spec.up_width(), s.hidden, 3),
                        .down = linear(s.hidden, s.intermediate, 4),
                        .query_norm = of_heads(),
                        .key_norm = of_heads(),
                        .value_norm = of_heads(),
                        .position_queries = positions(100),
                        .position_keys = positions(150)});
    if (s.input > 0) {
      m.layers.back().input = {.project = linear(s.input, s.hidden, 5),
                               .norm = d.norm(s.input, s.norm),
                               .gate = linear(s.input, s.hidden, 6),
                               .out = linear(s.hidden, s.input, 7),
                               .output = d.norm(s.hidden, s.norm)};
      m.layers.back().scale = 0.75f;
    }
  }
  if (s.words > 0)
    m.words = {make_linear(kVocabulary, s.hidden, kernels, precision, 500), {s.sum, s.words}};
  return Encoder(std::move(m));
}

Encoder make_encoder(const Drawn &d, const KernelTable &kernels, bool int8) {
  return make_encoder(d, kernels, int8 ? Precision::int8 : Precision::float32);
}

struct Batch {
  std::vector<std::int32_t> ids, offsets{0}, keys{}, span_offsets{0}, spans{};

  void add(const std::vector<std::int32_t> &text) {
    ids.insert(ids.end(), text.begin(), text.end());
    offsets.push_back(static_cast<std::int32_t>(ids.size()));
  }
  // With `key_count` keys, and a vector for each of its tokens.
  void add_tokens(const std::vector<std::int32_t> &text, int key_count) {
    add(text);
    keys.push_back(key_count);
    for (int t = 0; t < static_cast<int>(text.size()); ++t)
      spans.insert(spans.end(), {t, t + 1});
    span_offsets.push_back(static_cast<std::int32_t>(spans.size() / 2));
  }
  TokenBatch view() const {
    const int sequences = static_cast<int>(offsets.size()) - 1;
    if (spans.empty())
      return {ids.data(), nullptr, offsets.data(), sequences};
    return {ids.data(), nullptr, offsets.data(), sequences, keys.data(), span_offsets.data(), spans.data()};
  }
};

std::vector<float> encode(const Encoder &e, const Batch &batch, int threads) {
  const auto rows = static_cast<std::size_t>(batch.view().vectors());
  std::vector<float> vectors(rows * static_cast<std::size_t>(e.model().outputs()));
  CHECK(e.accepts(batch.view(), batch.ids.size()), "accepted");
  CHECK(e.encode(batch.view(), threads, vectors.data(), [] { return false; }), "not interrupted");
  return vectors;
}

// Texts that begin with the same tokens: whole and split there, alone and together, and behind these tokens as a
// prefix.
void test_prefix(const Encoder &e) {
  for (const int shared : {1, 7, 40}) {
    std::vector<std::int32_t> first(static_cast<std::size_t>(shared));
    fill_integers(first, 0, kVocabulary - 1);
    Batch whole, rests;
    std::vector<std::int32_t> splits;
    std::vector<std::vector<std::int32_t>> texts;
    for (const int length : {1, 30, 3, 64, 17}) {
      std::vector<std::int32_t> rest(static_cast<std::size_t>(length)), text = first;
      fill_integers(rest, 0, kVocabulary - 1);
      text.insert(text.end(), rest.begin(), rest.end());
      rests.add(rest);
      whole.add(text);
      texts.push_back(text);
      splits.push_back(shared);
    }
    const auto outputs = static_cast<std::size_t>(e.model().outputs());
    for (const int threads : {1, 3}) {
      if (left_out())
        continue;
      TokenBatch split = whole.view(), behind = rests.view();
      std::vector<float> together(texts.size() * outputs), after(together.size()), alone(outputs);
      const auto prefix = e.prefix(first.data(), shared, threads);
      CHECK(prefix != nullptr && prefix->length == shared, "%s: a prefix of %d", e.model().kernels.name, shared);
      split.splits = splits.data();
      behind.prefix = prefix.get();
      CHECK(e.accepts(split, whole.ids.size()) && e.accepts(behind, rests.ids.size()), "accepted");
      e.encode(split, threads, together.data(), [] { return false; });
      e.encode(behind, threads, after.data(), [] { return false; });
      CHECK(together == after, "%s: %d tokens shared, %d threads", e.model().kernels.name, shared, threads);
      for (std::size_t i = 0; i < texts.size(); ++i) {
        Batch one;
        one.add(texts[i]);
        split = one.view();
        split.splits = splits.data();
        e.encode(split, threads, alone.data(), [] { return false; });
        CHECK(std::equal(alone.begin(), alone.end(), after.begin() + static_cast<std::ptrdiff_t>(i * outputs)),
              "%s: %d tokens shared, text %zu alone, %d threads", e.model().kernels.name, shared, i, threads);
      }
    }
  }
  const std::int32_t beyond = kVocabulary;
  CHECK(e.prefix(&beyond, 1, 1) == nullptr && e.prefix(&beyond, 0, 1) == nullptr, "ids without rows, and none");
}

std::vector<std::vector<std::int32_t>> make_texts(std::size_t count) {
  std::vector<std::vector<std::int32_t>> texts(count);
  for (auto &text : texts) {
    text.resize(generator() % 20 == 0 ? kPositions : 1 + generator() % 60);
    fill_integers(text, 0, kVocabulary - 1);
  }
  return texts;
}

void test_same_bits(const Encoder &e, int rounds, std::size_t count) {
  const auto texts = make_texts(count);
  const auto hidden = static_cast<std::size_t>(e.model().outputs());
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
    const int threads = 1 + static_cast<int>(generator() % (round % 2 == 0 ? 4 : 64));
    const auto vectors = encode(e, batch, threads);
    for (std::size_t i = 0; i < order.size(); ++i)
      CHECK(std::memcmp(vectors.data() + i * hidden, alone[order[i]].data(), hidden * sizeof(float)) == 0,
            "%s: text %zu of %zu, %d threads", e.model().kernels.name, i, order.size(), threads);
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
    for (const int threads : {2, 3, 28}) {
      if (left_out())
        continue;
      CHECK(encode(e, batch, threads) == alone, "%s: %zu tokens, %d threads", e.model().kernels.name, length, threads);
    }
  }
}

// One crew for all texts, with every division of the layers: the schedule takes none of them for models as small as
// these.
void test_divisions(const Encoder &e) {
  const Model &model = e.model();
  const bool divides = model.relative.rows == nullptr &&
                       std::all_of(model.layers.begin(), model.layers.end(),
                                   [](const Layer &layer) { return attention_units(layer.spec).count > 0; });
  const Stages stages = stages_of(model, kept_rows(model));
  for (const std::vector<std::size_t> &lengths : {std::vector<std::size_t>{150}, {70, 3, 33, 1}}) {
    Batch batch;
    Sequences sequences;
    for (const std::size_t length : lengths) {
      std::vector<std::int32_t> text(length);
      fill_integers(text, 0, kVocabulary - 1);
      const int row = batch.offsets.back(), tokens = static_cast<int>(length);
      sequences.push_back({static_cast<int>(sequences.size()), row, tokens, tokens, 0});
      batch.add(text);
    }
    const auto alone = encode(e, batch, 1);
    const TokenBatch view = batch.view();
    for (const int width : {2, 5, 28})
      for (const int blocks : {0, 1, 3}) {
        if ((blocks > 0 && (!divides || batch.offsets.back() < blocks)) || left_out())
          continue;
        std::vector<float> vectors(alone.size());
        ThreadPool::shared().together(
            1, width, 1,
            [&](int, Crew &crew) {
              const AtWork at_work(model.kernels);
              const Team team{crew.width(), &crew};
              Sequences own = sequences;
              Forward forward(model, stages, view, own, team);
              finish(model, view, blocks == 0 ? forward.by_rows() : forward.by_outputs(blocks), team, vectors.data());
            },
            [&](Crew &crew) {
              const AtWork at_work(model.kernels);
              crew.help();
            });
        CHECK(vectors == alone, "%s: %zu texts, %d threads, %d blocks", model.kernels.name, lengths.size(), width,
              blocks);
      }
  }
}

// Every sequence is in one chunk, every chunk has a team, and items of attention are all rows of all heads once.
void test_schedule(const Encoder &e) {
  const Model &model = e.model();
  const Schedule schedule(model, e.weight_bytes());
  for (const int count : {1, 2, 7, 64}) {
    Batch batch;
    for (int i = 0; i < count; ++i)
      batch.add(std::vector<std::int32_t>(1 + generator() % kPositions, 1));
    for (const int threads : {1, 2, 3, 8, 28, 96, 1024}) {
      const Plan plan = schedule.plan(batch.view(), threads);
      std::vector<int> seen(static_cast<std::size_t>(count), 0);
      for (const Sequences &chunk : plan.chunks) {
        CHECK(!chunk.empty(), "%d texts, %d threads: an empty chunk", count, threads);
        int row = 0;
        for (const Sequence &s : chunk) {
          ++seen[static_cast<std::size_t>(s.index)];
          CHECK(s.row == row && s.length == batch.offsets[static_cast<std::size_t>(s.index) + 1] -
                                                batch.offsets[static_cast<std::size_t>(s.index)],
                "%d texts, %d threads: rows", count, threads);
          row += s.length;
        }
        for (const Layer &layer : model.layers) {
          std::vector<int> rows(static_cast<std::size_t>(row * layer.spec.heads), 0);
          for (const AttentionItem &item : attention_items(layer.spec, chunk, std::max(threads, 2), true))
            for (int h = item.first_head; h < item.last_head; ++h)
              for (int r = item.first; r < item.last; ++r)
                ++rows[static_cast<std::size_t>(
                    (chunk[static_cast<std::size_t>(item.sequence)].row + r) * layer.spec.heads + h)];
          CHECK(std::all_of(rows.begin(), rows.end(), [](int n) { return n == 1; }), "%d texts, %d threads: attention",
                count, threads);
        }
      }
      CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }), "%d texts, %d threads", count,
            threads);
      CHECK(1 <= plan.teams && plan.teams <= plan.threads && plan.threads <= threads &&
                plan.teams <= static_cast<int>(plan.chunks.size()),
            "%d texts, %d threads: %d teams of %d", count, threads, plan.teams, plan.threads);
    }
  }
  for (const int threads : {1, 2, 5, 28})
    for (const int blocks : {1, 3, 7})
      for (const int columns : {1, 6, 12, 48}) {
        const int shares = column_shares(blocks, columns, threads);
        CHECK(shares >= 1 && shares <= columns, "%d blocks, %d columns, %d threads: %d", blocks, columns, threads,
              shares);
      }
  CHECK(column_shares(7, 12, 28) == 4 && column_shares(1, 6, 2) == 2, "equal shares");
}

// Spans are pooled as texts are: one of a whole text is its vector. The vectors of tokens have the same bits in any
// batch and with any number of threads.
void test_spans(const Encoder &e) {
  const auto texts = make_texts(test_share() > 1 ? 6 : 20);
  const auto width = static_cast<std::size_t>(e.model().outputs());
  Batch plain, whole, tokens;
  std::vector<std::vector<float>> alone;
  for (const auto &text : texts) {
    const int length = static_cast<int>(text.size());
    plain.add(text);
    whole.add(text);
    whole.keys.push_back(length);
    whole.spans.insert(whole.spans.end(), {0, length});
    whole.span_offsets.push_back(static_cast<std::int32_t>(whole.spans.size() / 2));
    tokens.add_tokens(text, length);
    Batch one;
    one.add_tokens(text, length);
    alone.push_back(encode(e, one, 1 + static_cast<int>(generator() % 3)));
  }
  for (const int threads : {1, 3}) {
    CHECK(encode(e, whole, threads) == encode(e, plain, threads), "%s: %d threads", e.model().kernels.name, threads);
    const auto together = encode(e, tokens, threads);
    for (std::size_t i = 0, at = 0; i < texts.size(); at += texts[i++].size() * width)
      CHECK(std::equal(alone[i].begin(), alone[i].end(), together.begin() + static_cast<std::ptrdiff_t>(at)),
            "%s: tokens of text %zu, %d threads", e.model().kernels.name, i, threads);
  }
}

// A token counts as often as its place in the text, or in the span, from 1.
void test_weighted(const Encoder &e) {
  const auto width = static_cast<std::size_t>(e.model().outputs());
  for (const int length : {1, 2, 17, 70}) {
    std::vector<std::int32_t> text(static_cast<std::size_t>(length));
    fill_integers(text, 0, kVocabulary - 1);
    Batch whole, tokens, span;
    whole.add(text);
    tokens.add_tokens(text, length);
    const auto expected = [&, vectors = encode(e, tokens, 1)](int first, int last, std::size_t c) {
      double sum = 0.0, total = 0.0;
      for (int t = first; t < last; ++t) {
        const double weight = t - first + 1;
        sum += weight * static_cast<double>(vectors[static_cast<std::size_t>(t) * width + c]);
        total += weight;
      }
      return static_cast<float>(sum / total);
    };
    const int first = length / 3, last = length - length / 4;
    span.add(text);
    span.keys = {length};
    span.spans = {first, last};
    span.span_offsets = {0, 1};
    const auto all = encode(e, whole, 2), part = encode(e, span, 2);
    for (std::size_t c = 0; c < width; ++c) {
      CHECK(std::abs(all[c] - expected(0, length, c)) < 4e-6f, "%s: %d tokens", e.model().kernels.name, length);
      CHECK(std::abs(part[c] - expected(first, last, c)) < 4e-6f, "%s: %d to %d of %d", e.model().kernels.name, first,
            last, length);
    }
  }
}

// Without a norm between them, a projection of narrow tables computes what wide tables hold that went through it
// before.
void test_projection(const KernelTable &k) {
  const Drawn narrow(
      {.hidden = 48, .heads = 3, .intermediate = 96, .pooling = Pooling::mean, .embedding = 20, .bare = true});
  Drawn wide({.hidden = 48, .heads = 3, .intermediate = 96, .pooling = Pooling::mean, .bare = true});
  const DrawnLinear drawn(48, 20, kProjection);
  const auto project = [&](const std::vector<float> &from, std::vector<float> &to, bool with_bias) {
    for (std::size_t row = 0; row < to.size() / 48; ++row)
      for (std::size_t o = 0; o < 48; ++o) {
        double sum = with_bias ? static_cast<double>(drawn.bias[o]) : 0.0;
        for (std::size_t i = 0; i < 20; ++i)
          sum += static_cast<double>(drawn.weight[o * 20 + i]) * static_cast<double>(from[row * 20 + i]);
        to[row * 48 + o] = static_cast<float>(sum);
      }
  };
  project(narrow.word, wide.word, true);
  project(narrow.position, wide.position, false);
  project(narrow.token_type, wide.token_type, false);
  Batch batch;
  for (const auto &text : make_texts(12))
    batch.add(text);
  const auto got = encode(make_encoder(narrow, k, false), batch, 2),
             expected = encode(make_encoder(wide, k, false), batch, 2);
  for (std::size_t i = 0; i < expected.size(); ++i)
    CHECK(std::abs(got[i] - expected[i]) < 4e-6f, "%s at %zu", k.name, i);
}

// Tokens that are no keys change nothing for the others, and nothing for each other.
void test_keys(const Encoder &e) {
  const auto width = static_cast<std::ptrdiff_t>(e.model().outputs());
  for (const std::size_t length : {2, 5, 16, 33, 70}) {
    std::vector<std::int32_t> text(length);
    fill_integers(text, 0, kVocabulary - 1);
    for (const std::size_t count : {std::size_t{1}, length / 2, length - 1}) {
      if (left_out())
        continue;
      Batch masked, shorter, changed;
      masked.add_tokens(text, static_cast<int>(count));
      shorter.add_tokens({text.begin(), text.begin() + static_cast<std::ptrdiff_t>(count)}, static_cast<int>(count));
      const auto vectors = encode(e, masked, 1), first = encode(e, shorter, 1);
      CHECK(std::equal(first.begin(), first.end(), vectors.begin()), "%s: %zu of %zu", e.model().kernels.name, count,
            length);
      for (const int threads : {2, 3})
        CHECK(encode(e, masked, threads) == vectors, "%s: %zu of %zu, %d threads", e.model().kernels.name, count,
              length, threads);
      text[count] = (text[count] + 1) % kVocabulary;
      changed.add_tokens(text, static_cast<int>(count));
      const auto others = encode(e, changed, 2);
      for (std::size_t t = 0; t < length; ++t) {
        const auto at = static_cast<std::ptrdiff_t>(t) * width;
        CHECK((t == count) != std::equal(vectors.begin() + at, vectors.begin() + at + width, others.begin() + at),
              "%s: token %zu, %zu of %zu", e.model().kernels.name, t, count, length);
      }
    }
  }
}

void test_refused(const Drawn &m, const KernelTable &k) {
  const Encoder e = make_encoder(m, k, false);
  const auto refused = [&](const std::vector<std::int32_t> &span_offsets, const std::vector<std::int32_t> &spans,
                           std::int32_t keys) {
    Batch batch;
    batch.add({1, 2, 3});
    batch.add({4, 5});
    batch.keys = {3, keys};
    batch.span_offsets = span_offsets;
    batch.spans = spans;
    return !e.accepts(batch.view(), batch.ids.size());
  };
  CHECK(!refused({0, 1, 2}, {0, 3, 1, 2}, 1), "sound");
  CHECK(refused({0, 1, 2}, {0, 4, 1, 2}, 1), "a span beyond its text");
  CHECK(refused({0, 1, 2}, {0, 3, 1, 1}, 1), "an empty span");
  CHECK(refused({0, 1, 2}, {-1, 3, 1, 2}, 1), "a span before its text");
  CHECK(refused({0, 2, 1}, {0, 3, 1, 2}, 1), "offsets that fall");
  CHECK(refused({1, 1, 2}, {0, 3, 1, 2}, 1), "offsets that do not begin with 0");
  CHECK(refused({0, 1, 2}, {0, 3, 1, 2}, 0), "no key");
  CHECK(refused({0, 1, 2}, {0, 3, 1, 2}, 3), "more keys than tokens");
}

float cosine(const float *a, const float *b, int size) { return std::inner_product(a, a + size, b, 0.0f); }

void test_values(const Drawn &m, const KernelTable &k) {
  const Encoder fast = make_encoder(m, k, false), small = make_encoder(m, k, true);
  generator.seed(1); // the same texts, whatever was tested before
  Batch batch;
  for (const auto &text : make_texts(12))
    batch.add(text);
  static std::map<const Drawn *, std::vector<float>> exact; // the same for every instruction set
  auto &expected = exact[&m];
  if (expected.empty())
    expected = encode(make_encoder(m, scalar_kernels, false), batch, 1);
  const auto got = encode(fast, batch, 2), rounded = encode(small, batch, 2);
  // Longer sums round differently in another order, and err more in eight bits.
  const bool wide = m.sketch.hidden > 64;
  const float most = wide ? 4e-6f : 2e-6f;
  const float least = m.sketch.pooling == Pooling::last ? 0.96f : wide ? 0.98f : 0.99f; // one token averages nothing
  for (std::size_t i = 0; i < expected.size(); ++i)
    CHECK(std::abs(expected[i] - got[i]) < most, "%s float32 at %zu", k.name, i);
  for (std::size_t i = 0; i < expected.size(); i += static_cast<std::size_t>(m.sketch.hidden))
    CHECK(cosine(&expected[i], &rounded[i], m.sketch.hidden) > least, "%s int8: cosine %g", k.name,
          static_cast<double>(cosine(&expected[i], &rounded[i], m.sketch.hidden)));
}

// Products of bfloat16: near float32, with the same bits however a batch is divided.
void test_bfloat16(const Drawn &m, const KernelTable &k, int rounds, std::size_t texts) {
  const Encoder e = make_encoder(m, k, Precision::bfloat16);
  if (m.sketch.words == 0) {
    Batch batch;
    for (const auto &text : make_texts(12))
      batch.add(text);
    const auto expected = encode(make_encoder(m, k, Precision::float32), batch, 2), got = encode(e, batch, 2);
    const int width = m.sketch.hidden;
    for (std::size_t i = 0; i < got.size(); i += static_cast<std::size_t>(width)) // one token averages nothing
      CHECK(cosine(&expected[i], &got[i], width) > 0.999f * cosine(&expected[i], &expected[i], width),
            "%s bfloat16: cosine %.7g", k.name, static_cast<double>(cosine(&expected[i], &got[i], width)));
    CHECK(got != expected, "%s: bfloat16 is float32", k.name);
    test_spans(e);
  }
  test_same_bits(e, rounds, texts);
  test_one_short_text(e);
  test_divisions(e);
  if (m.sketch.ahead == 0)
    test_prefix(e);
  else if (m.sketch.behind == kMaxLength && m.sketch.words == 0)
    test_keys(e);
}

// A linear layer without weights, for plans.
class Weightless final : public Linear {
public:
  Weightless(int outputs, int inputs, const KernelTable &kernels)
      : Linear(std::vector<float>(static_cast<std::size_t>(outputs)).data(), outputs, inputs, kernels) {}
  bool prepares() const override { return true; }
  LinearInput read(const float *x, std::ptrdiff_t ldx, int rows, ResidualRows residuals, InputRoom &) const override {
    return {x, ldx, rows, residuals, {}, nullptr};
  }
  void prepare(const LinearInput &, int, int) const override {}
  void multiply(const LinearInput &, int, int, float *, std::ptrdiff_t, Activation) const override {}
  std::size_t bytes() const override { return static_cast<std::size_t>(outputs_) * static_cast<std::size_t>(inputs_); }
  int rate() const override { return kernels_.int8_rate; }
};

// What is planned for the shapes of BGE, with kernels of AVX2's rate and with faster ones.
void test_plans() {
  const auto planned = [](int hidden, const std::vector<int> &lengths, int threads, int times = 1) {
    KernelTable kernels = scalar_kernels;
    kernels.int8_rate = 74 * times;
    const LayerSpec spec{.heads = 12,
                         .kv_heads = 12,
                         .head_size = hidden / 12,
                         .intermediate = 4 * hidden,
                         .behind = kMaxLength,
                         .ahead = kMaxLength,
                         .rotary = -1,
                         .attention = Precision::int8,
                         .gate = Gate::none,
                         .activation = Activation::gelu};
    Model m{.kernels = kernels,
            .geometry = {hidden, 1, 512, 0, 0, 1.0f, {Pooling::cls}, true},
            .embeddings = {nullptr, nullptr, nullptr}};
    for (int l = 0; l < 12; ++l) {
      Layer layer{.spec = spec,
                  .qkv = std::make_unique<Weightless>(3 * hidden, hidden, kernels),
                  .out = std::make_unique<Weightless>(hidden, hidden, kernels),
                  .up = std::make_unique<Weightless>(4 * hidden, hidden, kernels),
                  .down = std::make_unique<Weightless>(hidden, 4 * hidden, kernels)};
      m.layers.push_back(std::move(layer));
    }
    Batch batch;
    for (const int length : lengths)
      batch.add(std::vector<std::int32_t>(static_cast<std::size_t>(length), 0));
    const Schedule schedule(m, hidden == 768 ? std::size_t{85} << 20 : std::size_t{21} << 20);
    const Plan plan = schedule.plan(batch.view(), threads);
    const int width = plan.threads / plan.teams;
    return std::vector<int>{static_cast<int>(plan.chunks.size()), plan.teams, plan.threads,
                            schedule.divide(plan.chunks.front(), width).blocks};
  };
  using Numbers = std::vector<int>; // chunks, teams, threads, blocks of rows
  const std::vector<int> many(32, 256);
  for (const int hidden : {384, 768}) {
    CHECK((planned(hidden, many, 1) == Numbers{32, 1, 1, 0}), "32x256, one thread");
    CHECK((planned(hidden, many, 2) == Numbers{32, 2, 2, 0}), "32x256, two threads");
    CHECK((planned(hidden, many, 8) == Numbers{32, 8, 8, 0}), "32x256, eight threads");
    CHECK((planned(hidden, many, 28)[1] == 4 && planned(hidden, many, 28)[2] == 28), "32x256, 28 threads");
    CHECK((planned(hidden, {256, 256, 256}, 2) == Numbers{2, 1, 2, 0}), "three texts, two threads");
    CHECK((planned(hidden, {512}, 2) == Numbers{1, 1, 2, 0}), "a long text, two threads");
    CHECK((planned(hidden, {16}, 2) == Numbers{1, 1, 2, 1}), "a short text, two threads");
  }
  CHECK((planned(768, {100}, 2) == Numbers{1, 1, 2, 1}), "100 tokens of base, two threads");
  CHECK((planned(384, {100}, 2) == Numbers{1, 1, 2, 0}), "100 tokens of small, two threads");
  CHECK((planned(768, {512}, 28) == Numbers{1, 1, 28, 7}), "a long text, 28 threads");
  CHECK(planned(384, {16}, 96)[2] <= 12, "a short text, 96 threads");

  // A hand-over takes as long beside faster kernels: they share a short text among fewer threads, and many texts among
  // all of them.
  for (const int hidden : {384, 768})
    for (const int threads : {8, 28, 56, 96}) {
      const auto taking_part = [&](int tokens, int times) { return planned(hidden, {tokens}, threads, times)[2]; };
      for (const int tokens : {16, 64}) {
        const int once = taking_part(tokens, 1), eight = taking_part(tokens, 8), sixteen = taking_part(tokens, 16);
        // Where reading takes longer than multiplying, as for a few tokens of the larger model, kernels change nothing.
        const bool fewer = eight < once || threads < 56 || (hidden == 768 && tokens == 16);
        CHECK(eight <= once && sixteen <= eight && fewer,
              "%d tokens of %d, %d threads: %d, 8 times as fast %d, 16 times %d", tokens, hidden, threads, once, eight,
              sixteen);
      }
      for (const int times : {1, 8, 16})
        CHECK(planned(hidden, std::vector<int>(128, 256), threads, times)[2] == threads, "%d threads, %d times as fast",
              threads, times);
    }
  CHECK(planned(384, {16}, 96, 16)[2] <= 8, "a short text, 96 threads, 16 times as fast");
  CHECK(planned(768, {16}, 28)[2] == 28 && planned(768, {16}, 96)[2] <= 24 && planned(768, {16}, 28, 4)[2] <= 16,
        "a short text of base");
  CHECK(planned(768, {512}, 28, 16)[2] > 12, "a long text, 28 threads, 16 times as fast");
}

// Each table says how fast it is: hand-overs are weighed with it.
void test_rates() {
  for (const InstructionSet &set : instruction_sets()) {
    const KernelTable &k = *set.kernels;
    CHECK(k.int8_rate >= k.float32_rate && k.float32_rate > 0, "%s: %d and %d products", k.name, k.int8_rate,
          k.float32_rate);
    CHECK(k.bfloat16 == nullptr || (k.bfloat16->rate > k.float32_rate && k.bfloat16->rate <= k.int8_rate),
          "%s: %d products of bfloat16", k.name, k.bfloat16 == nullptr ? 0 : k.bfloat16->rate);
    for (const InstructionSet &better : instruction_sets()) { // the list begins with the best
      if (&better == &set)
        break;
      CHECK(better.kernels->int8_rate > k.int8_rate, "%s: %d products, %s %d", better.kernels->name,
            better.kernels->int8_rate, k.name, k.int8_rate);
    }
  }
}

void test_interruption(const Drawn &m, const KernelTable &k) {
  const Encoder e = make_encoder(m, k, true);
  Batch batch;
  for (const auto &text : make_texts(400))
    batch.add(text);
  std::vector<float> vectors((batch.offsets.size() - 1) * static_cast<std::size_t>(m.sketch.hidden));
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

// Blocks cover all rows once, in order; those of one thread begin at whole tiles.
void test_blocks() {
  for (int rows = 1; rows < 700; ++rows) {
    int next = 0;
    Team{1}.each_block(rows, [&](int first, int last) {
      CHECK(first == next && last > first && last - first <= kBlockRows, "%d rows: %d to %d", rows, first, last);
      CHECK(first % 16 == 0, "%d rows: a block begins at %d", rows, first);
      next = last;
    });
    CHECK(next == rows, "%d rows: %d", rows, next);
  }
}

// What a table wants done by every thread before and after it uses the kernels.
namespace hooks {
std::atomic<int> entered{0}, left{0}, outside{0};
thread_local int depth = 0;
const KernelTable *original;
void enter() noexcept {
  ++entered;
  ++depth;
  if (original->enter != nullptr)
    original->enter();
}
void leave() noexcept {
  ++left;
  --depth;
  if (original->leave != nullptr)
    original->leave();
}
} // namespace hooks

void test_enter_and_leave(const Drawn &m, const KernelTable &k) {
  hooks::original = &k;
  KernelTable watched = k;
  watched.enter = hooks::enter;
  watched.leave = hooks::leave;
  watched.add_norm = [](float *x, std::ptrdiff_t ldx, const float *y, std::ptrdiff_t ldy, int rows, int cols,
                        const NormWeights &norm, float *out, std::ptrdiff_t ldo) noexcept {
    hooks::outside += hooks::depth == 1 ? 0 : 1;
    hooks::original->add_norm(x, ldx, y, ldy, rows, cols, norm, out, ldo);
  };
  const Encoder e = make_encoder(m, watched, true), plain = make_encoder(m, k, true);
  for (const std::size_t texts : {std::size_t{1}, std::size_t{test_share() > 1 ? 8u : 40u}})
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

// A thread that sleeps in the midst of a call, as helper or as leader, leaves the kernels and enters again when it
// wakes.
void test_leave_for_sleep(const KernelTable &k) {
  hooks::original = &k;
  KernelTable watched = k;
  watched.enter = hooks::enter;
  watched.leave = hooks::leave;
  Crew crew(2);
  std::atomic<bool> begun{false};
  std::atomic<int> outside{0};
  const auto await_leave = [](int before) { // of the other thread, which has nothing to do and sleeps after a while
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (hooks::left == before && std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    return hooks::left > before;
  };
  std::thread helper([&] {
    const AtWork at_work(watched);
    crew.help();
  });
  {
    const AtWork at_work(watched);
    const auto leader = std::this_thread::get_id();
    const auto here = [&outside] { outside += hooks::depth == 1 ? 0 : 1; };
    // The leader has the item 0, and waits in it until the helper has begun 1. The helper, which has seen the leader
    // leave, ends that.
    crew.run(2, [&](int item) {
      here();
      if (item == 0) {
        while (!begun)
          std::this_thread::yield();
      } else {
        CHECK(std::this_thread::get_id() != leader, "%s: the leader has both items", k.name);
        const int before = hooks::left;
        begun = true;
        CHECK(await_leave(before), "%s: a leader sleeps within its kernels", k.name);
      }
    });
    begun = false;
    // The helper has the item 1, and nothing after it until the next stage.
    int before = 0;
    crew.run(2, [&](int item) {
      here();
      if (item == 1) {
        before = hooks::left;
        begun = true;
      } else {
        while (!begun)
          std::this_thread::yield();
        CHECK(await_leave(before), "%s: a helper sleeps within its kernels", k.name);
      }
    });
    crew.run(2, [&](int) { here(); });
    crew.finish();
  }
  helper.join();
  CHECK(outside == 0 && hooks::entered == hooks::left, "%s: outside %d, entered %d, left %d", k.name, outside.load(),
        hooks::entered.load(), hooks::left.load());
}

int main(int argc, char **argv) {
  test_first_not_finite();
  test_plans();
  test_rates();
  test_blocks();
  const Drawn even({.hidden = 64, .heads = 4, .intermediate = 256, .pooling = Pooling::mean}),
      odd({.hidden = 36, .heads = 3, .intermediate = 100, .pooling = Pooling::cls}),
      first_rows({.hidden = 64, .heads = 2, .intermediate = 128, .pooling = Pooling::cls}),
      panels({.hidden = 128, .heads = 4, .intermediate = 160, .pooling = Pooling::mean}),
      panels_first({.hidden = 128, .heads = 2, .intermediate = 128, .pooling = Pooling::cls}),
      before({.hidden = 128, .heads = 4, .intermediate = 128, .pooling = Pooling::mean, .before = true}),
      relative({.hidden = 48, .heads = 3, .intermediate = 96, .pooling = Pooling::mean, .span = 40}),
      relative_first({.hidden = 64, .heads = 2, .intermediate = 128, .pooling = Pooling::cls, .span = 128}),
      // As Qwen3: causal, groups of queries, heads wider than H / heads, their norms.
      causal({.hidden = 48,
              .heads = 4,
              .intermediate = 96,
              .pooling = Pooling::last,
              .kv_heads = 2,
              .head_size = 32,
              .before = true,
              .head_norms = true,
              .norm = NormKind::rms,
              .ahead = 0,
              .rotary = true,
              .gate = Gate::first}),
      causal_panels({.hidden = 64,
                     .heads = 4,
                     .intermediate = 128,
                     .pooling = Pooling::last,
                     .kv_heads = 2,
                     .head_size = 128,
                     .before = true,
                     .norm = NormKind::rms,
                     .behind = 20,
                     .ahead = 0,
                     .rotary = true}),
      // As Gemma: norms on both sides, one head of keys and values.
      both({.hidden = 64,
            .heads = 3,
            .intermediate = 96,
            .pooling = Pooling::mean,
            .kv_heads = 1,
            .head_size = 64,
            .both = true,
            .head_norms = true,
            .norm = NormKind::rms,
            .behind = 16,
            .ahead = 16,
            .rotary = true}),
      // As Electra small and ALBERT: narrow tables, their norm, then a projection.
      projected({.hidden = 64, .heads = 4, .intermediate = 96, .pooling = Pooling::mean, .embedding = 24}),
      projected_panels({.hidden = 64, .heads = 2, .intermediate = 128, .pooling = Pooling::cls, .embedding = 32}),
      weighted({.hidden = 36, .heads = 3, .intermediate = 100, .pooling = Pooling::weighted}),
      weighted_long({.hidden = 64, .heads = 4, .intermediate = 96, .pooling = Pooling::weighted, .normalize = false});
  // As EmbeddingGemma 2: layers that read the embedding, in fewer features than a panel and in more than one.
  const Sketch inputs{.hidden = 64,
                      .heads = 4,
                      .intermediate = 96,
                      .pooling = Pooling::mean,
                      .kv_heads = 1,
                      .head_size = 64,
                      .both = true,
                      .head_norms = true,
                      .norm = NormKind::rms,
                      .behind = 16,
                      .ahead = 16,
                      .rotary = true,
                      .gate = Gate::first,
                      .input = 24};
  Sketch inputs_last = inputs;
  inputs_last.pooling = Pooling::last;
  inputs_last.input = 160;
  const Drawn inputs_mean(inputs), inputs_kept(inputs_last);
  const Drawn words_max({.hidden = 64, .heads = 4, .intermediate = 96, .pooling = Pooling::cls, .words = 1}),
      words_sum({.hidden = 36, .heads = 3, .intermediate = 96, .pooling = Pooling::cls, .words = 2, .sum = true});
  for (const KernelTable *k : available_kernels(argc, argv)) {
#if defined(__SANITIZE_THREAD__) // minutes, and the threads are the same
    if (k == &scalar_kernels)
      continue;
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    const int rounds = 3; // a sanitizer sees in a few rounds, of few texts, what it will see in many
    const std::size_t texts = k == &scalar_kernels ? 8 : 24;
#else
    const char *many = std::getenv("QUAVER_TEST_ROUNDS"); // make test-long draws more of them, from more texts
    const int few = test_share() > 1 ? 2 : 3;
    const int most = many == nullptr ? few : std::atoi(many), rounds = k == &scalar_kernels ? std::min(most, 4) : most;
    const std::size_t texts = many != nullptr ? 48 : test_share() > 1 ? 8 : 24;
#endif
    for (const Drawn *m :
         {&even, &odd, &first_rows, &panels, &panels_first, &before, &relative, &relative_first, &causal,
          &causal_panels, &both, &projected, &projected_panels, &weighted, &inputs_mean, &inputs_kept}) {
      test_values(*m, *k);
      const int share = m->sketch.span > 0 ? 3 : 1;
      test_same_bits(make_encoder(*m, *k, true), (rounds + share - 1) / share, texts);
      test_same_bits(make_encoder(*m, *k, false), (rounds + share - 1) / share, texts);
      for (const bool int8 : {true, false}) {
        const Encoder e = make_encoder(*m, *k, int8);
        test_one_short_text(e);
        if (int8 && (m == &odd || m == &panels || m == &relative || m == &causal_panels || m == &both))
          test_divisions(e);
      }
      test_schedule(make_encoder(*m, *k, true));
    }
    for (const Drawn *m : {&words_max, &words_sum})
      for (const bool int8 : {true, false}) {
        const Encoder e = make_encoder(*m, *k, int8);
        test_same_bits(e, rounds, texts);
        test_one_short_text(e);
        if (int8)
          test_divisions(e);
      }
    if (bfloat16_kernels(*k) != nullptr)
      for (const Drawn *m :
           {&even, &odd, &panels_first, &relative, &causal, &causal_panels, &both, &inputs_kept, &words_max})
        test_bfloat16(*m, *k, std::min(rounds, 2), texts / 2);
    for (const bool int8 : {true, false})
      test_weighted(make_encoder(weighted_long, *k, int8));
    test_projection(*k);
    for (const Drawn *m : {&even, &odd, &panels_first, &relative, &both, &projected, &weighted, &inputs_kept})
      for (const bool int8 : {true, false})
        test_spans(make_encoder(*m, *k, int8));
    for (const Drawn *m : {&even, &odd, &panels, &relative})
      for (const bool int8 : {true, false})
        test_keys(make_encoder(*m, *k, int8));
    for (const Drawn *m : {&causal, &causal_panels})
      for (const bool int8 : {true, false})
        test_prefix(make_encoder(*m, *k, int8));
    test_refused(even, *k);
    test_interruption(even, *k);
    test_enter_and_leave(even, *k);
    test_leave_for_sleep(*k);
  }
  return report("encoder");
}
