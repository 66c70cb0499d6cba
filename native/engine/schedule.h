// Who computes what: a batch cut into chunks, and the threads that work on one.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "engine/model.h"
#include "threads/threads.h"

namespace quaver {

// Keys and values of tokens that come before those of every sequence of a batch, as a model of causal layers made them.
struct Prefix {
  Prefix(const Model &model, int length) : model(&model), length(length), layers(model.layers.size()) {}
  Prefix(const Prefix &) = delete;
  Prefix &operator=(const Prefix &) = delete;

  const Model *const model;
  const int length;                  // P, tokens
  std::vector<Buffer<float>> layers; // [P][2 Hkv D] for each layer: keys, rotated, then values
};

struct TokenBatch {
  const std::int32_t *ids;      // [offsets[sequences]]
  const std::int32_t *type_ids; // the same, or null when all are 0
  const std::int32_t *offsets;  // [sequences + 1], from 0, strictly increasing
  int sequences;
  // [sequences], how many tokens of each sequence others attend to, at least one; the tokens after them attend to these
  // and to nothing else. Null for all.
  const std::int32_t *keys = nullptr;
  // Parts of sequences that get a vector each, [span_offsets[sequences]][2]: the first token of a span, and the one
  // after its last, counted from the start of their sequence. Sequence i has those of [span_offsets[i], span_offsets[i
  // + 1]). Null where each sequence gets one.
  const std::int32_t *span_offsets = nullptr, *spans = nullptr;
  // [sequences], after how many tokens each sequence is split, 0 for not at all: the tokens before attend as if they
  // were alone. In eight bits values depend on all that are packed together, so this is what makes the tokens before
  // the split the same in any sequence. Null for none.
  const std::int32_t *splits = nullptr;
  // What comes before every sequence, which then begins at its split; null for nothing. And where to keep the keys and
  // values of a batch of one sequence.
  const Prefix *prefix = nullptr;
  Prefix *record = nullptr;

  int before() const { return prefix == nullptr ? 0 : prefix->length; }

  int vectors() const { return spans == nullptr ? sequences : span_offsets[sequences]; }
};

struct Sequence {
  int index;  // in the batch
  int row;    // its first row in the chunk
  int length; // tokens
  int keys;   // those that others attend to, its first ones
  int split;  // see TokenBatch
};

// Whole sequences that go through the layers together, the last one at the end.
using Sequences = std::vector<Sequence>;

// At least one chunk of about kChunkTokens for each thread; or one chunk for all threads, where whole sequences cannot
// keep them busy.
std::vector<Sequences> make_chunks(const TokenBatch &batch, int threads);

// Rows of a chunk that go through the row-wise part of a layer together; the wide activation of the feed-forward part
// is kept for this many rows only.
inline constexpr int kBlockRows = 96;

// Who works on a chunk: the calling thread alone (width 1), or a crew.
struct Team {
  int width;
  Crew *crew = nullptr;

  template <class Work> void each(int items, Work &&work) const {
    if (width == 1) {
      for (int item = 0; item < items; ++item)
        work(item);
    } else {
      crew->run(items, work);
    }
  }

  // Blocks of rows, none larger than kBlockRows, the same number for each thread: work(first, last).
  template <class Work> void each_block(int rows, Work &&work) const {
    const int blocks = std::min(round_up((rows + kBlockRows - 1) / kBlockRows, width), rows);
    each(blocks, [&](int i) {
      work(static_cast<int>(static_cast<std::int64_t>(rows) * i / blocks),
           static_cast<int>(static_cast<std::int64_t>(rows) * (i + 1) / blocks));
    });
  }

  // One share of [0, all) for each thread: work(first, last).
  template <class Work> void each_share(int all, Work &&work) const {
    each(width, [&](int i) {
      const int first = all * i / width, last = all * (i + 1) / width;
      if (first < last)
        work(first, last);
    });
  }
};

// The smallest part of a layer's attention that one thread can compute from the layer's input to the context, where
// every layer's outputs are divided among threads: whole panels of keys and values, and the queries that read them.
struct AttentionUnits {
  int count;     // 0 where heads and panels do not fit each other
  int kv_panels; // of key, and of value
  int query_panels;
  int kv_heads;
};
AttentionUnits attention_units(const LayerSpec &layer);

// Whether a team divides the outputs of every layer of a short text, instead of its rows.
bool divides_outputs(const Model &model, std::size_t weight_bytes, const Sequences &sequences, const Team &team);

} // namespace quaver
