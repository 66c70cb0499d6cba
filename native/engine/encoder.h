// A ragged batch through a model, to one vector for each sequence or span.
#pragma once

#include <functional>
#include <memory>

#include "engine/schedule.h"
#include "engine/stages.h"

namespace quaver {

class Encoder {
public:
  explicit Encoder(Model model);
  Encoder(const Encoder &) = delete;
  Encoder &operator=(const Encoder &) = delete;

  // Whether `encode` may read a batch of this many ids: offsets rise from 0 to it, every id and type has a row in its
  // table, every sequence fits the positions and, where some of its tokens are no keys, every window; and spans have
  // tokens of their sequence.
  bool accepts(const TokenBatch &batch, std::size_t ids) const;

  // Vectors f32 [batch.vectors()][outputs]; spans are pooled as sequences are. At most `threads` threads take part. The
  // calling thread asks `interrupted` every few hundred tokens; once that returns true, the call skips what is left and
  // returns false.
  //
  // A vector has the same bits whatever else is in the batch, and with any number of threads.
  // Throws std::bad_alloc and nothing else; the batch is one that is accepted.
  //
  // Where a batch has a prefix, its sequences are split after it: the bits are those of whole sequences, split there.
  bool encode(const TokenBatch &batch, int threads, float *vectors, const std::function<bool()> &interrupted) const;

  // Keys and values of `length` ids, to come before the sequences of batches; null where they are no sequence, or a
  // layer sees tokens behind them.
  std::unique_ptr<Prefix> prefix(const std::int32_t *ids, int length, int threads) const;

  const Model &model() const { return model_; }
  std::size_t weight_bytes() const { return weight_bytes_; }

private:
  bool accepts_spans(const TokenBatch &batch) const;
  bool accepts_prefixes() const;
  void encode_chunk(const TokenBatch &batch, Sequences &sequences, Team team, float *vectors) const;

  const Model model_;
  const Stages stages_, all_rows_; // point into the model
  const std::size_t weight_bytes_;
  const Schedule schedule_; // points into the model
};

} // namespace quaver
