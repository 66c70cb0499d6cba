// What the stages of the forward pass share: the scratch memory of a thread, the activations of a chunk, the team that
// works on it. Only encoder.cpp, forward.cpp and pool.cpp include it.
#pragma once

#include <algorithm>
#include <vector>

#include "engine/encoder.h"
#include "threads/threads.h"

namespace quaver {

// Rows of a chunk that go through the row-wise part of a layer together; the wide activation of the feed-forward part
// is kept for this many rows only.
inline constexpr int kBlockRows = 96;

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

  Int8Head fit(int length, int head_size, int overread_rows) {
    const int padded = round_up(length, kPanel), columns = round_up(head_size, value_width(head_size));
    return {query.resize(area(length + overread_rows, round_up(head_size, kDepthStep))),
            query_scale.resize(area(length, 1)),
            query_zero.resize(area(length, 1)),
            keys.resize(area(padded, round_up(head_size, 32))),
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

// Room for rows in eight bits.
struct RoundedBuffers {
  Buffer<std::uint8_t> q;    // [rows][K']
  Buffer<float> scale;       // [rows]
  Buffer<std::int32_t> zero; // [rows]

  RoundedRows fit(int rows, int columns, int overread_rows) {
    const std::ptrdiff_t ldq = round_up(columns, kDepthStep);
    return {q.resize(area(rows + overread_rows, ldq)), ldq, scale.resize(area(rows, 1)), zero.resize(area(rows, 1))};
  }

  std::size_t bytes() const { return q.bytes() + scale.bytes() + zero.bytes(); }
};

// Scratch of one thread, kept for the next call unless it has grown large (see AtWork). A thread is in one stage of one
// call at a time, so the parts are free whenever a stage begins.
struct Scratch {
  RoundedBuffers rounded;               // a block of rows that a linear layer reads
  Buffer<float> residual, wide;         // [kBlockRows][H'], [kBlockRows][outputs of `up`]
  Buffer<float> keys, scores;           // see KernelTable::attend
  Int8HeadBuffers head;                 // see KernelTable::attend_int8
  Buffer<float> by_query, by_key, bias; // see Encoder::relative_bias
  Buffer<float> lost;                   // see Encoder::round_residual
  Buffer<std::int32_t> residual_of;     // see Encoder::read_with_residuals

  std::size_t bytes() const {
    return rounded.bytes() + residual.bytes() + wide.bytes() + keys.bytes() + scores.bytes() + head.bytes() +
           by_query.bytes() + by_key.bytes() + bias.bytes() + lost.bytes() + residual_of.bytes();
  }
};

Scratch &scratch();

// Activations of the chunk that a calling thread leads; helpers read and write them, each its own rows or columns.
struct Activations {
  Buffer<float> x, normed, qkv, context;
  Buffer<float> residual, wide; // of a text whose layers are split by outputs
  RoundedBuffers rounded;       // of the same
  Buffer<float> pooled, head;   // what goes into and comes out of a step of the head

  std::size_t bytes() const {
    return x.bytes() + normed.bytes() + qkv.bytes() + context.bytes() + residual.bytes() + wide.bytes() +
           rounded.bytes() + pooled.bytes() + head.bytes();
  }
};

Activations &activations();

// A thread at work with the kernels of a table: between the table's enter and leave. At the end the thread returns its
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

// Who works on a chunk: the calling thread alone (width 1), or a crew.
struct Encoder::Team {
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

  // Blocks of rows, none larger than kBlockRows, the same number for each thread.
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
  float *input;              // [rows][ldx], what the next layer reads: x, or its norm where the norm comes first
  float *qkv;                // [rows][ldqkv]
  float *context;            // [rows][ldx]
};

} // namespace quaver
