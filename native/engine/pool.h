// After the last layer: token vectors to one vector for each sequence, and the head that runs on it.
#pragma once

#include "engine/forward.h"

namespace quaver {

// Pool, run the head, normalize: vectors f32 [batch.vectors()][model.outputs()], each at its place in the batch.
void finish(const Model &model, const TokenBatch &batch, const TokenVectors &tokens, Team team, float *vectors);

// Return the first of the vectors f32 [rows][columns] that holds NaN or infinity; -1 if all are finite. A value that is
// not finite stays so through the encoder (see kernels/table.h), so the vectors show it.
int first_not_finite(const float *vectors, int rows, int columns);

} // namespace quaver
