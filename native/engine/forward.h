// The forward pass of a chunk: its stages, divided among the threads of a team.
#pragma once

#include "engine/attention.h"
#include "engine/stages.h"

namespace quaver {

// The token vectors that are pooled.
struct TokenVectors {
  Matrix rows;
  const Sequences &sequences; // of one row each where the model needs no more
};

class Forward {
public:
  Forward(const Model &model, const Stages &stages, const TokenBatch &batch, Sequences &sequences, Team team);

  // Each thread takes blocks of rows through all stages from one attention to the next: two hand-overs a layer.
  TokenVectors by_rows();

  // A short text: each thread computes its share of every layer's outputs, and reads its share of the weights alone.
  // Norms and quantization need whole rows, so they are divided by rows in between: eight hand-overs a layer. With
  // several blocks of rows a share is one of a block's outputs, and attention has a hand-over of its own. The
  // arithmetic is the same as elsewhere, and so are the bits.
  TokenVectors by_outputs(int blocks);

private:
  using Values = Matrix[kValues];

  Matrix &value(Value v) { return values_[static_cast<int>(v)]; }
  TokenVectors result();

  // A stage of whole rows, for the rows [first, last).
  void run(const Stage &stage, const Values &values, int first, int last) const;
  void embed(const Matrix &x, int first, int last) const;
  void project(const Stage &stage, const Matrix &from, int first, int last) const;
  void project_units(const Stage &stage, const LinearInput &input, int first, int first_unit, int last_unit) const;
  void place(const Layer &layer, int first, int last, int first_kv_head, int last_kv_head) const;

  void attend(const Stage &stage);
  const std::vector<AttentionItem> &items_of(const LayerSpec &layer);
  void attend_heads(const Stage &stage, const Sequence &sequence, int first, int last) const;
  void attend_outputs(const Stage &stage, const LinearInput &input, int first_unit, int last_unit) const;

  void record(const Stage &stage);
  void keep();
  bool only_kept(const Stage &stage) const;
  int kept_row(const Sequence &sequence) const;
  ResidualRows first_tokens(int first, int last, Buffer<std::int32_t> &room) const;

  const Model &model_;
  const Stages &stages_;
  const TokenBatch &batch_;
  Sequences &sequences_;
  const Team team_;
  int rows_;
  Values values_{};
  std::vector<std::pair<const LayerSpec *, std::vector<AttentionItem>>> items_; // of layers that differ
};

} // namespace quaver
