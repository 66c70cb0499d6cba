// The memory that a thread works in, kept from call to call.
#pragma once

#include "engine/linear.h"

namespace quaver {

// Floats between rows: whole panels, but never whole pages. Otherwise a column of many rows would share a few cache
// lines.
inline std::ptrdiff_t row_step(int columns) {
  constexpr int page = 4096 / sizeof(float);
  const int step = round_up(columns, kPanel);
  return step % page == 0 ? step + kPanel : step;
}

inline std::size_t area(int rows, std::ptrdiff_t columns) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
}

// Room for an Int8Head.
struct Int8HeadBuffers {
  Buffer<std::uint8_t> query;
  Buffer<float> query_scale, key_scale, key_sums, value_scale, value_mean;
  Buffer<std::int32_t> query_zero;
  Buffer<std::int8_t> keys, values;

  // For `rows` queries, and keys and values of `length` tokens.
  Int8Head fit(int rows, int length, int head_size, const KernelTable &kernels) {
    const int padded = round_up(length, kPanel), columns = round_up(head_size, value_width(head_size));
    return {query.resize(area(rows + kernels.overread_rows, round_up(head_size, kDepthStep))),
            query_scale.resize(area(rows, 1)),
            query_zero.resize(area(rows, 1)),
            keys.resize(area(padded, round_up(head_size, kernels.key_step))),
            key_scale.resize(area(padded, 1)),
            key_sums.resize(area(padded, 1)),
            values.resize(area(padded, columns)),
            value_scale.resize(area(columns, 1)),
            value_mean.resize(area(columns, 1))};
  }

  std::size_t bytes() const {
    return query.bytes() + query_scale.bytes() + query_zero.bytes() + keys.bytes() + key_scale.bytes() +
           key_sums.bytes() + values.bytes() + value_scale.bytes() + value_mean.bytes();
  }
};

// Room for a BFloat16Head.
struct BFloat16HeadBuffers {
  Buffer<std::uint16_t> query, keys, values;

  // For `rows` queries, and keys and values of `length` tokens.
  BFloat16Head fit(int rows, int length, int head_size, const BFloat16Kernels &kernels) {
    const int row = round_up(head_size, kPairStep);
    return {query.resize(area(rows + kernels.overread_rows, row)), keys.resize(area(round_up(length, kStrip), row)),
            values.resize(area(round_up(length, kPairStep), round_up(head_size, value_width(head_size))))};
  }

  std::size_t bytes() const { return query.bytes() + keys.bytes() + values.bytes(); }
};

// Scratch of one thread, kept for the next call unless it has grown large (see AtWork). A thread is in one stage of one
// call at a time, so the parts are free whenever a stage begins.
struct Scratch {
  InputRoom input;                      // of the linear layer that a block of rows goes through
  Buffer<float> branch, wide;           // of a block of rows, see Value
  Buffer<float> keys, values, scores;   // see KernelTable::attend
  Int8HeadBuffers head;                 // see KernelTable::attend_int8
  BFloat16HeadBuffers pairs;            // see BFloat16Kernels::attend
  Buffer<float> joined;                 // queries, keys and values behind a prefix
  Buffer<float> by_query, by_key, bias; // of relative positions, see attention.cpp
  Buffer<std::int32_t> first_tokens;    // see Forward::first_tokens
  Buffer<float> others;                 // a row without its inputs apart, and these; see ByteInputLinear
  Buffer<float> natural;                // a row whose features are in the natural order, see FeatureOrder
  Buffer<float> pooled, stepped;        // what goes into and comes out of a step of the head
  Buffer<float> logits;                 // of a block of words

  std::size_t bytes() const {
    return input.bytes() + branch.bytes() + wide.bytes() + keys.bytes() + values.bytes() + scores.bytes() +
           head.bytes() + pairs.bytes() + joined.bytes() + by_query.bytes() + by_key.bytes() + bias.bytes() +
           first_tokens.bytes() + others.bytes() + natural.bytes() + pooled.bytes() + stepped.bytes() + logits.bytes();
  }
};

Scratch &scratch();

// The input of a layer whose outputs are divided, for one block of rows.
struct BlockRoom {
  InputRoom rounded;
  Buffer<std::int32_t> first_tokens; // see Forward::first_tokens

  std::size_t bytes() const { return rounded.bytes() + first_tokens.bytes(); }
};

// Activations of the chunk that a calling thread leads; helpers read and write them, each its own rows or columns.
struct Activations {
  Buffer<float> x, embedded, input, qkv, context;
  Buffer<float> branch, wide;    // where layers are divided by outputs
  std::vector<BlockRoom> blocks; // the same
  InputRoom rounded;             // of the words
  Buffer<float> tokens;          // a block of token vectors that the words are computed from

  std::size_t bytes() const {
    std::size_t all = x.bytes() + embedded.bytes() + input.bytes() + qkv.bytes() + context.bytes() + branch.bytes() +
                      wide.bytes() + rounded.bytes() + tokens.bytes();
    for (const BlockRoom &block : blocks)
      all += block.bytes();
    return all;
  }
};

Activations &activations();

// A thread at work with the kernels of a table: between the table's enter and leave, but for the times that it sleeps
// within a call (threads/sleep.h). At the end the thread returns its
// scratch and activations to the system if they are large, as they are after a text of thousands of tokens: a server
// has many threads that call now and then.
class AtWork {
public:
  explicit AtWork(const KernelTable &kernels);
  AtWork(const AtWork &) = delete;
  AtWork &operator=(const AtWork &) = delete;
  ~AtWork();

private:
  const KernelTable &kernels_;
};

} // namespace quaver
