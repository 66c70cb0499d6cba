// What runs, in which order: a model's layers as one list of stages.
#pragma once

#include <vector>

#include "engine/model.h"

namespace quaver {

// The activations of a chunk, a row for each token.
enum class Value : int {
  x,        // H, what layers add to
  input,    // H, x through a norm that stands before what reads it
  qkv,      // (Hq + 2 Hkv) D, query, key and value
  context,  // Hq D, what attention makes of them
  branch,   // H, what half a layer will add to x
  wide,     // I, with a gate 2I
  embedded, // H, what x was before the first layer, where layers read it
};
inline constexpr int kValues = 7;

struct Stage {
  enum class Kind {
    embed,    // to = norm(word + position + type)
    norm,     // to = norm(from), with `add` from += branch before; without a norm to = from
    multiply, // to = activation(linear(from))
    gate,     // wide = activation(one half of wide) * the other half, each of `columns`; `linear` reads it
    project,  // qkv = linear(from), its heads through their norms, query and key rotated
    attend,   // context = attention(qkv)
    keep,     // one row of each sequence stays
    scale,    // x *= factor
  } kind;
  Value from = Value::x, to = Value::x;
  const Layer *layer = nullptr;
  const Linear *linear = nullptr;
  const Norm *norm = nullptr;
  bool add = false;
  Activation activation = Activation::none;
  int column = 0;    // where the values of a norm begin, and those that `multiply` writes
  int columns = 0;   // of a norm, 0 for H; of half a gate
  bool last = false; // the activation of a gate is that of the second half
  float factor = 1.0f;
};

// Which row of each sequence its vector is made of.
enum class Kept { all, first, last };
Kept kept_rows(const Model &model);

// The stages of a model, from token ids to the rows that are pooled. They point into the model.
struct Stages {
  std::vector<Stage> list;
  Value result; // what is pooled
  Kept kept;
};
Stages stages_of(const Model &model, Kept kept);

} // namespace quaver
