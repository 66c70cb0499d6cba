// A model as data, without its weights: everything that tells one architecture from another.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/table.h"

namespace quaver {

// Which half of the feed-forward part's first layer goes through the activation before it multiplies the other half.
enum class Gate : std::int32_t { none, first, last };

// What the scores of attention, and what it mixes, are multiplied in.
enum class AttentionPrecision : std::int32_t { float32, bfloat16, int8 };

// Weighted counts each token by its place, from 1.
enum class Pooling : std::int32_t { cls, mean, max, last, mean_sqrt, weighted };

// How the logits of a text's tokens become the weight of a word: log(1 + x) of the positive ones, once or twice, and
// then the largest or the sum of them.
struct WordPooling {
  bool sum;
  int logarithms; // 1 or 2
};

// One layer. Query head h reads the keys and values of head h / (heads / kv_heads).
struct LayerSpec {
  int heads;         // Hq, of the query
  int kv_heads;      // Hkv, of key and value; divides heads
  int head_size;     // D
  int intermediate;  // I, width of the feed-forward part
  int behind, ahead; // a token attends to those at most this far before and after it; kMaxLength for all
  int rotary;        // which of the model's tables turns query and key; -1 for none
  AttentionPrecision attention;
  Gate gate;
  Activation activation;
  int input = 0; // P, features that the layer makes of a token's embedding, see LayerInput; 0 for none

  int query_width() const { return heads * head_size; }
  int kv_width() const { return kv_heads * head_size; }
  int qkv_width() const { return query_width() + 2 * kv_width(); }
  int up_width() const { return gate == Gate::none ? intermediate : 2 * intermediate; }
  // Features of the wide activation: a linear layer writes whole panels, and the second half of a gate begins at P.
  int wide_width() const { return std::max(up_width(), input + round_up(input, kPanel)); }
};

struct Geometry {
  int hidden;          // H
  int vocabulary;      // rows of the word table
  int positions;       // most tokens of a text, plus position_offset; rows of the position table if there is one
  int position_offset; // position of the first token
  int token_types;     // rows of the token type table, 0 for none
  float word_scale;    // what word embeddings are multiplied with
  std::vector<Pooling> pooling; // at least one; their vectors are concatenated
  bool normalize;               // divide each vector by its L2 norm
  int embedding = 0;            // E, features of the tables where a projection makes H of them; 0 for H

  int embedding_width() const { return embedding == 0 ? hidden : embedding; }
  int longest() const { return positions - position_offset; }
};

} // namespace quaver
