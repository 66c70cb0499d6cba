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

// Who computes a batch: teams take chunks, one after the other, and go through all layers with each.
struct Plan {
  std::vector<Sequences> chunks;
  int teams;   // at least 1
  int threads; // of all teams, the same number in each or one more
};

// How a team divides the layers of a chunk: by rows, or the outputs of `blocks` blocks of rows.
struct Division {
  int blocks; // 0 for rows alone
  double cost;
};

// Rows of a chunk that go through the row-wise part of a layer together; the wide activation of the feed-forward part
// is kept for this many rows only.
inline constexpr int kBlockRows = 96;

// Equal shares of `columns`, for each of `blocks` blocks, that `threads` threads finish first; the fewest of these.
int column_shares(int blocks, int columns, int threads);

// An item of a layer's attention: some query heads, which share a head of keys and values, and some tokens.
struct AttentionItem {
  int sequence; // in the chunk
  int first_head, last_head, first, last;
};

// What makes a batch fast, by an estimate of what everything costs: chunks and teams, and how each of these divides its
// layers. Any choice gives the same bits. Costs are nanoseconds: products at the rate of the kernel table, so that fast
// kernels are divided among fewer threads where hand-overs would take longer than they.
//
// A layer is divided by rows where each thread has enough of them: two hand-overs a layer, and every thread reads all
// weights. With fewer rows it is divided by outputs: eight hand-overs, and a weight is read by one thread of a block.
class Schedule {
public:
  Schedule(const Model &model, std::size_t weight_bytes);

  Plan plan(const TokenBatch &batch, int threads) const;
  Division divide(const Sequences &sequences, int threads) const;

private:
  // A linear layer: what threads can divide, what a row costs, and what reading the weights costs at least: where each
  // thread reads all of them, and where one thread reads each.
  struct Part {
    int columns;
    double row, read, read_once;
  };

  double linear(int rows) const;
  double attention_product(const LayerSpec &layer) const;
  double by_rows(int rows, int threads) const;
  double by_outputs(int rows, int blocks, int threads, bool alone) const;
  double attention(const Sequences &sequences, int threads) const;
  double work(int length) const;

  std::vector<Part> parts_; // of all layers together: projection, output, up, down
  std::vector<const LayerSpec *> layers_;
  const KernelTable &kernels_;
  double row_ = 0.0;        // of all parts
  int read_rows_ = 0;       // reading the weights takes as long as multiplying them with this many rows
  bool divides_, relative_; // whether outputs can be divided; whether scores have relative positions
};

// The items of a layer's attention, in the order of rows. Keys and values are packed for each item, so a head of a long
// text is divided among threads only where there are too few heads.
std::vector<AttentionItem> attention_items(const LayerSpec &layer, const Sequences &sequences, int threads,
                                           bool divides_rows);

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

  // Blocks of rows, none larger than kBlockRows, the same number for each thread: work(first, last). Where no other
  // thread waits for the largest one, they begin at whole tiles of the instruction set with the highest ones.
  template <class Work> void each_block(int rows, Work &&work) const {
    constexpr int tile = 16;
    static_assert(kBlockRows % tile == 0);
    const int blocks = std::min(round_up((rows + kBlockRows - 1) / kBlockRows, width), rows);
    const auto edge = [=, this](int i) {
      const auto at = static_cast<int>(static_cast<std::int64_t>(rows) * i / blocks);
      return width == 1 && rows >= tile * blocks && i < blocks ? round_up(at, tile) : at;
    };
    each(blocks, [&](int i) { work(edge(i), edge(i + 1)); });
  }

  // One share of [0, all) for each thread: work(first, last).
  template <class Work> void each_share(int all, Work &&work) const {
    each_share(1, width, [all](int) { return all; }, [&](int, int first, int last) { work(first, last); });
  }

  // The same shares of [0, all(block)) for each of some blocks: work(block, first, last).
  template <class All, class Work> void each_share(int blocks, int shares, All &&all, Work &&work) const {
    each(blocks * shares, [&](int i) {
      const int block = i / shares, share = i % shares;
      const auto bound = [&](int place) {
        return static_cast<int>(static_cast<std::int64_t>(all(block)) * place / shares);
      };
      if (bound(share) < bound(share + 1))
        work(block, bound(share), bound(share + 1));
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

} // namespace quaver
