// Attention of one sequence, head by head.
#pragma once

#include "engine/schedule.h"

namespace quaver {

// Rows of floats, the row `begin` first.
struct Matrix {
  float *data = nullptr;
  std::ptrdiff_t ld = 0;
  int begin = 0;

  float *row(int r) const { return data + (r - begin) * ld; }
};

// context = softmax(q k^T) v for the query heads [first_head, last_head), which share a head of keys and values, and
// the tokens [first, last) of a sequence, behind those of a prefix if there is one.
void attend(const Model &model, const Layer &layer, const Sequence &sequence, int first_head, int last_head, int first,
            int last, const Matrix &qkv, const Matrix &context, const Prefix *prefix);

} // namespace quaver
