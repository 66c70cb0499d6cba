#include "encoder.h"

#include <algorithm>
#include <cmath>
#include <queue>

#include "threads.h"

namespace quaver {
namespace {

// Tokens that one core takes through all layers at a time: their activations stay in its L2 cache, and the weights,
// read once per chunk, cost little beside the arithmetic.
constexpr int kChunkTokens = 256;
// Rows of a chunk that go through the row-wise part of a layer together; the wide activation of the feed-forward part
// is kept for this many rows only.
constexpr int kBlockRows = 96;

std::size_t area(int rows, std::ptrdiff_t columns) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
}

// Room for an Int8Head.
struct Int8HeadBuffers {
  Buffer<std::uint8_t> query;
  Buffer<float> query_scale, key_scale, key_sums, value_scale;
  Buffer<std::int32_t> query_zero;
  Buffer<std::int8_t> keys, values;

  Int8Head fit(int length, int head_size) {
    const int padded = round_up(length, kPanel), columns = round_up(head_size, value_width(head_size));
    return {query.resize(area(length, round_up(head_size, kDepthStep))),
            query_scale.resize(area(length, 1)),
            query_zero.resize(area(length, 1)),
            keys.resize(area(padded, round_up(head_size, 32))),
            key_scale.resize(area(padded, 1)),
            key_sums.resize(area(padded, 1)),
            values.resize(area(padded, columns)),
            value_scale.resize(area(columns, 1))};
  }
};

// Scratch of one thread, grown to the largest need it has met and kept for the next call. A thread is in one stage of
// one call at a time, so the parts are free whenever a stage begins.
struct Scratch {
  Buffer<std::uint8_t> quantized; // [kBlockRows][K']
  Buffer<float> scale;            // [kBlockRows]
  Buffer<std::int32_t> zero;      // [kBlockRows]
  Buffer<float> residual, wide;   // [kBlockRows][H'], [kBlockRows][intermediate']
  Buffer<float> keys, scores;     // see KernelTable::attend
  Int8HeadBuffers head;           // see KernelTable::attend_int8
};

Scratch &scratch() {
  thread_local Scratch buffers;
  return buffers;
}

// Activations of the chunk that a calling thread leads; helpers read and write them, each its own rows.
struct Activations {
  Buffer<float> x, qkv, context;
};

Activations &activations() {
  thread_local Activations buffers;
  return buffers;
}

} // namespace

// Who works on a chunk: the calling thread alone (width 1), or with the pool.
struct Encoder::Team {
  int width;

  template <class Work> void each(int items, Work &&work) const {
    if (width == 1) {
      for (int item = 0; item < items; ++item)
        work(item);
    } else {
      ThreadPool::shared().run(items, width, work);
    }
  }

  // Blocks of rows, none larger than kBlockRows, as many for each thread as for the others.
  template <class Work> void each_block(int rows, Work &&work) const {
    const int blocks = std::min(round_up((rows + kBlockRows - 1) / kBlockRows, width), rows);
    each(blocks, [&](int i) {
      work(static_cast<int>(static_cast<std::int64_t>(rows) * i / blocks),
           static_cast<int>(static_cast<std::int64_t>(rows) * (i + 1) / blocks));
    });
  }
};

struct Encoder::Chunk {
  std::vector<Sequence> &sequences;
  int rows;
  std::ptrdiff_t ldx, ldqkv; // H and 3H rounded up to a panel
  float *x;                  // [rows][ldx]
  float *qkv;                // [rows][ldqkv]
  float *context;            // [rows][ldx]
};

Encoder::Encoder(const EncoderSpec &spec, const KernelTable &kernels, Embeddings embeddings)
    : spec_(spec), kernels_(kernels), embeddings_(std::move(embeddings)) {}

std::size_t Encoder::weight_bytes() const {
  std::size_t bytes = 0;
  for (const Layer &layer : layers_)
    bytes += layer.qkv.bytes() + layer.out.bytes() + layer.up.bytes() + layer.down.bytes();
  return bytes;
}

// Whole sequences in chunks of about kChunkTokens, as many for each thread as for the others: the longest sequence
// first, each to the chunk that has the fewest tokens. When one sequence is so long that whole sequences cannot keep
// all threads busy, everything is one chunk for the whole team.
std::vector<std::vector<Encoder::Sequence>> Encoder::make_chunks(const TokenBatch &batch, int threads) const {
  std::vector<Sequence> order(static_cast<std::size_t>(batch.sequences));
  for (int i = 0; i < batch.sequences; ++i)
    order[static_cast<std::size_t>(i)] = {i, 0, batch.offsets[i + 1] - batch.offsets[i]};
  std::stable_sort(order.begin(), order.end(),
                   [](const Sequence &a, const Sequence &b) { return a.length > b.length; });

  const std::int64_t total = batch.offsets[batch.sequences], longest = order.front().length;
  const bool together = longest * threads * 4 > total * 5;
  const auto count = static_cast<int>(
      together ? 1
               : std::min<std::int64_t>((total + kChunkTokens * threads - 1) / (kChunkTokens * threads) * threads,
                                        batch.sequences));
  using Load = std::pair<int, int>; // tokens, chunk
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (int i = 0; i < count; ++i)
    loads.emplace(0, i);
  std::vector<std::vector<Sequence>> chunks(static_cast<std::size_t>(count));
  for (Sequence sequence : order) {
    auto [rows, chunk] = loads.top();
    loads.pop();
    sequence.row = rows;
    chunks[static_cast<std::size_t>(chunk)].push_back(sequence);
    loads.emplace(rows + sequence.length, chunk);
  }
  return chunks;
}

bool Encoder::encode(const TokenBatch &batch, int threads, float *vectors,
                     const std::function<bool()> &interrupted) const {
  auto chunks = make_chunks(batch, threads);
  if (chunks.size() == 1) {
    encode_chunk(batch, chunks[0], Team{threads}, vectors);
    return !interrupted();
  }
  const auto caller = std::this_thread::get_id();
  std::atomic<bool> stop{false};
  ThreadPool::shared().run(static_cast<int>(chunks.size()), threads, [&](int i) {
    if (stop.load(std::memory_order_relaxed))
      return;
    encode_chunk(batch, chunks[static_cast<std::size_t>(i)], Team{1}, vectors);
    if (std::this_thread::get_id() == caller && interrupted())
      stop.store(true, std::memory_order_relaxed);
  });
  return !stop;
}

void Encoder::encode_chunk(const TokenBatch &batch, std::vector<Sequence> &sequences, Team team, float *vectors) const {
  Activations &buffers = activations();
  const int rows = sequences.back().row + sequences.back().length;
  Chunk chunk{sequences, rows,   round_up(spec_.hidden, kPanel), round_up(3 * spec_.hidden, kPanel), nullptr,
              nullptr,   nullptr};
  chunk.x = buffers.x.resize(area(rows, chunk.ldx));
  chunk.qkv = buffers.qkv.resize(area(rows, chunk.ldqkv));
  chunk.context = buffers.context.resize(area(rows, chunk.ldx));

  team.each_block(rows, [&](int first, int last) {
    embed(batch, chunk, first, last);
    project(chunk, 0, first, last);
  });
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    team.each(static_cast<int>(sequences.size()) * spec_.heads, [&](int item) { attend(chunk, l, item); });
    if (only_first_rows(l))
      keep_first_rows(chunk);
    team.each_block(chunk.rows, [&](int first, int last) {
      feed_forward(layers_[l], chunk, first, last);
      project(chunk, l + 1, first, last);
    });
  }
  for (const Sequence &sequence : sequences)
    pool(chunk, sequence, vectors + static_cast<std::ptrdiff_t>(sequence.index) * spec_.hidden);
}

// With CLS pooling nobody reads the other rows of the last layer: it computes keys and values for all of them, and
// everything else for the first row of each sequence.
bool Encoder::only_first_rows(std::size_t layer) const {
  return spec_.pooling == Pooling::cls && layer + 1 == layers_.size();
}

// The chunk shrinks to one row for each sequence; rows move towards the front, so none is overwritten before it is
// read.
void Encoder::keep_first_rows(Chunk &chunk) const {
  int row = 0;
  for (Sequence &sequence : chunk.sequences) {
    const auto move = [&](float *rows) {
      std::copy_n(rows + sequence.row * chunk.ldx, chunk.ldx, rows + row * chunk.ldx);
    };
    if (row != sequence.row) {
      move(chunk.x);
      move(chunk.context);
    }
    sequence.row = row++;
    sequence.length = 1;
  }
  chunk.rows = row;
}

// qkv = x W^T + b of a layer, for the rows [first, last); nothing behind the last layer.
void Encoder::project(Chunk &chunk, std::size_t layer, int first, int last) const {
  if (layer == layers_.size())
    return;
  const Linear &qkv = layers_[layer].qkv;
  const auto apply_to = [&](int row, int rows, int first_panel, int last_panel) {
    apply(qkv, chunk.x + row * chunk.ldx, chunk.ldx, rows, first_panel, last_panel, chunk.qkv + row * chunk.ldqkv,
          chunk.ldqkv, Activation::none);
  };
  const int query_panels = spec_.hidden / kPanel;
  if (!only_first_rows(layer) || spec_.hidden % kPanel != 0)
    return apply_to(first, last - first, 0, qkv.panels());
  apply_to(first, last - first, query_panels, qkv.panels());
  for (const Sequence &sequence : chunk.sequences)
    if (sequence.row >= first && sequence.row < last)
      apply_to(sequence.row, 1, 0, query_panels);
}

// x = norm(word + position + type), for the rows [first, last) of the chunk.
void Encoder::embed(const TokenBatch &batch, Chunk &chunk, int first, int last) const {
  auto sequence = std::upper_bound(chunk.sequences.begin(), chunk.sequences.end(), first,
                                   [](int row, const Sequence &s) { return row < s.row; });
  --sequence;
  const int hidden = spec_.hidden;
  for (int row = first; row < last; ++row) {
    while (row >= sequence->row + sequence->length)
      ++sequence;
    const int place = row - sequence->row;
    const int token = batch.offsets[sequence->index] + place;
    const float *word = embeddings_.word + static_cast<std::ptrdiff_t>(batch.ids[token]) * hidden;
    const float *position = embeddings_.position + static_cast<std::ptrdiff_t>(place + spec_.position_offset) * hidden;
    const int type = batch.type_ids == nullptr ? 0 : batch.type_ids[token];
    const float *token_type = embeddings_.token_type + static_cast<std::ptrdiff_t>(type) * hidden;
    float *x = chunk.x + row * chunk.ldx;
    for (int c = 0; c < hidden; ++c)
      x[c] = word[c] + position[c] + token_type[c];
  }
  kernels_.add_norm(chunk.x + first * chunk.ldx, chunk.ldx, nullptr, 0, last - first, hidden,
                    embeddings_.norm.gamma.data(), embeddings_.norm.beta.data(), spec_.norm_eps);
}

// context = softmax(q k^T) v for one head of one sequence.
void Encoder::attend(Chunk &chunk, std::size_t layer, int item) const {
  const Sequence &sequence = chunk.sequences[static_cast<std::size_t>(item / spec_.heads)];
  const int head_size = spec_.hidden / spec_.heads, column = item % spec_.heads * head_size;
  const float *query = chunk.qkv + sequence.row * chunk.ldqkv + column;
  const AttentionHead head{query,       query + spec_.hidden, query + 2 * spec_.hidden,
                           chunk.ldqkv, sequence.length,      head_size};
  float *out = chunk.context + sequence.row * chunk.ldx + column;
  Scratch &s = scratch();
  const int padded = round_up(sequence.length, kPanel);
  float *scores = s.scores.resize(area(padded, 16));
  const int rows = only_first_rows(layer) ? 1 : sequence.length;
  if (layers_[layer].qkv.is_int8()) {
    const Int8Head packed = s.head.fit(sequence.length, head_size);
    kernels_.pack_head(head, packed);
    kernels_.attend_int8(head, packed, 0, rows, scores, out, chunk.ldx);
  } else {
    float *keys = s.keys.resize(area(padded, head_size));
    kernels_.pack_keys(head, keys);
    kernels_.attend(head, keys, 0, rows, scores, out, chunk.ldx);
  }
}

// Everything of a layer that looks at one row at a time: the attention's output, norm, feed-forward, norm.
void Encoder::feed_forward(const Layer &layer, Chunk &chunk, int first, int last) const {
  const int rows = last - first, hidden = spec_.hidden;
  const std::ptrdiff_t ldwide = round_up(spec_.intermediate, kPanel);
  Scratch &s = scratch();
  float *x = chunk.x + first * chunk.ldx;
  float *residual = s.residual.resize(area(rows, chunk.ldx));
  float *wide = s.wide.resize(area(rows, ldwide));
  apply(layer.out, chunk.context + first * chunk.ldx, chunk.ldx, rows, 0, layer.out.panels(), residual, chunk.ldx,
        Activation::none);
  kernels_.add_norm(x, chunk.ldx, residual, chunk.ldx, rows, hidden, layer.attention_norm.gamma.data(),
                    layer.attention_norm.beta.data(), spec_.norm_eps);
  apply(layer.up, x, chunk.ldx, rows, 0, layer.up.panels(), wide, ldwide, spec_.activation);
  apply(layer.down, wide, ldwide, rows, 0, layer.down.panels(), residual, chunk.ldx, Activation::none);
  kernels_.add_norm(x, chunk.ldx, residual, chunk.ldx, rows, hidden, layer.output_norm.gamma.data(),
                    layer.output_norm.beta.data(), spec_.norm_eps);
}

// y = act(x W^T + b) for the outputs of the panels [first_panel, last_panel); an int8 layer quantizes its rows first.
void Encoder::apply(const Linear &w, const float *x, std::ptrdiff_t ldx, int rows, int first_panel, int last_panel,
                    float *y, std::ptrdiff_t ldy, Activation act) const {
  if (!w.is_int8()) {
    kernels_.linear_float32(x, ldx, rows, w.float_view(), first_panel, last_panel, y, ldy, act);
    return;
  }
  Scratch &s = scratch();
  const std::ptrdiff_t ldq = round_up(w.inputs(), kDepthStep);
  std::uint8_t *q = s.quantized.resize(area(rows, ldq));
  float *scale = s.scale.resize(static_cast<std::size_t>(rows));
  std::int32_t *zero = s.zero.resize(static_cast<std::size_t>(rows));
  if (w.has_fixed_input()) {
    kernels_.quantize_rows_fixed(x, ldx, rows, w.inputs(), w.input().scale, w.input().zero, q, ldq);
    std::fill_n(scale, rows, w.input().scale);
    std::fill_n(zero, rows, w.input().zero);
  } else {
    kernels_.quantize_rows(x, ldx, rows, w.inputs(), q, ldq, scale, zero);
  }
  kernels_.linear_int8({q, ldq, scale, zero}, rows, w.int8_view(), first_panel, last_panel, y, ldy, act);
}

void Encoder::pool(const Chunk &chunk, const Sequence &sequence, float *vector) const {
  const int hidden = spec_.hidden;
  const float *x = chunk.x + sequence.row * chunk.ldx;
  std::copy(x, x + hidden, vector);
  if (spec_.pooling == Pooling::mean) {
    for (int row = 1; row < sequence.length; ++row)
      for (int c = 0; c < hidden; ++c)
        vector[c] += x[row * chunk.ldx + c];
    const float share = 1.0f / static_cast<float>(sequence.length);
    for (int c = 0; c < hidden; ++c)
      vector[c] *= share;
  }
  if (!spec_.normalize)
    return;
  double square = 0.0;
  for (int c = 0; c < hidden; ++c)
    square += static_cast<double>(vector[c]) * vector[c];
  const float factor = static_cast<float>(1.0 / std::max(std::sqrt(square), 1e-12));
  for (int c = 0; c < hidden; ++c)
    vector[c] *= factor;
}

} // namespace quaver
