// An encoder's work, cut into chunks and shared among threads. The forward pass of a chunk is in forward.cpp.
#include "engine/encoder.h"

#include <algorithm>
#include <queue>

#include "engine/chunk.h"

namespace quaver {
namespace {

// Tokens that one core takes through all layers at a time. Their activations stay in its L2 cache, and reading the
// weights once per chunk costs little compared with the arithmetic.
constexpr int kChunkTokens = 256;

// Bytes that a thread keeps between calls: enough for a chunk, or one text of 512 tokens, of any common model.
constexpr std::size_t kKept = 24 << 20;

} // namespace

Scratch &scratch() {
  thread_local Scratch buffers;
  return buffers;
}

Activations &activations() {
  thread_local Activations buffers;
  return buffers;
}

AtWork::AtWork(const KernelTable &kernels) : kernels_(kernels) {
  if (kernels_.enter != nullptr)
    kernels_.enter();
}

AtWork::~AtWork() {
  if (kernels_.leave != nullptr)
    kernels_.leave();
  if (scratch().bytes() + activations().bytes() <= kKept)
    return;
  scratch() = {};
  activations() = {};
}

Encoder::Encoder(const EncoderSpec &spec, const KernelTable &kernels, Embeddings embeddings)
    : spec_(spec), kernels_(kernels), embeddings_(std::move(embeddings)) {}

std::size_t Encoder::weight_bytes() const {
  std::size_t bytes = 0;
  for (const Layer &layer : layers_) {
    bytes += layer.qkv.bytes() + layer.out.bytes() + layer.up.bytes() + layer.down.bytes();
    for (const auto *positions : {&layer.position_queries, &layer.position_keys})
      for (const Linear &head : *positions)
        bytes += head.bytes();
  }
  return bytes;
}

// Whole sequences in chunks of about kChunkTokens, the same number of chunks for each thread: the longest sequence
// first, each to the chunk with the fewest tokens. When one sequence is so long that whole sequences cannot keep all
// threads busy, everything is one chunk for the whole team.
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

bool Encoder::accepts(const TokenBatch &batch, std::size_t ids) const {
  if (batch.offsets[0] != 0 || batch.offsets[batch.sequences] < 0 ||
      static_cast<std::size_t>(batch.offsets[batch.sequences]) != ids)
    return false;
  const int room = spec_.positions - spec_.position_offset;
  for (int i = 0; i < batch.sequences; ++i) {
    const std::int64_t length = std::int64_t{batch.offsets[i + 1]} - batch.offsets[i];
    if (length <= 0 || length > room)
      return false;
  }
  const auto in_table = [ids](const std::int32_t *rows, int size) {
    return std::all_of(rows, rows + ids, [size](std::int32_t row) { return row >= 0 && row < size; });
  };
  return in_table(batch.ids, spec_.vocabulary) &&
         (batch.type_ids == nullptr || spec_.token_types == 0 || in_table(batch.type_ids, spec_.token_types));
}

bool Encoder::encode(const TokenBatch &batch, int threads, float *vectors,
                     const std::function<bool()> &interrupted) const {
  auto chunks = make_chunks(batch, threads);
  if (chunks.size() == 1) {
    {
      const AtWork at_work(kernels_);
      if (threads == 1)
        encode_chunk(batch, chunks[0], Team{1}, vectors);
      else
        ThreadPool::shared().together(
            threads, [&](Crew &crew) { encode_chunk(batch, chunks[0], Team{threads, &crew}, vectors); },
            [&](Crew &crew) {
              const AtWork helper_at_work(kernels_);
              crew.help();
            });
    }
    return !interrupted();
  }
  const auto caller = std::this_thread::get_id();
  std::atomic<bool> stop{false};
  ThreadPool::shared().run(static_cast<int>(chunks.size()), threads, [&](int i) {
    if (stop.load(std::memory_order_relaxed))
      return;
    {
      const AtWork at_work(kernels_);
      encode_chunk(batch, chunks[static_cast<std::size_t>(i)], Team{1}, vectors);
    }
    if (std::this_thread::get_id() == caller && interrupted())
      stop.store(true, std::memory_order_relaxed);
  });
  return !stop;
}

void Encoder::encode_chunk(const TokenBatch &batch, std::vector<Sequence> &sequences, Team team, float *vectors) const {
  Activations &buffers = activations();
  const int rows = sequences.back().row + sequences.back().length;
  Chunk chunk{sequences, rows, row_step(spec_.hidden), row_step(3 * spec_.hidden), nullptr, nullptr, nullptr, nullptr};
  chunk.x = buffers.x.resize(area(rows, chunk.ldx));
  chunk.input = spec_.norm_first ? buffers.normed.resize(area(rows, chunk.ldx)) : chunk.x;
  chunk.qkv = buffers.qkv.resize(area(rows, chunk.ldqkv));
  chunk.context = buffers.context.resize(area(rows, chunk.ldx));
  if (can_split(chunk, team)) {
    encode_split(batch, chunk, team, vectors);
    return;
  }

  team.each_block(rows, [&](int first, int last) {
    embed(batch, chunk, first, last);
    project(chunk, 0, first, last);
  });
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    team.each(static_cast<int>(sequences.size()) * spec_.heads, [&](int item) { attend(chunk, l, item); });
    if (only_first_rows(l))
      keep_first_rows(chunk);
    team.each_block(chunk.rows, [&](int first, int last) {
      feed_forward(chunk, l, first, last);
      project(chunk, l + 1, first, last);
    });
  }
  finish(chunk, vectors);
}

// With CLS pooling nobody reads the other rows of the last layer: it computes keys and values for all of them, and
// everything else for the first row of each sequence.
bool Encoder::only_first_rows(std::size_t layer) const {
  return spec_.pooling == std::vector{Pooling::cls} && layer + 1 == layers_.size();
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

} // namespace quaver
