// A ragged batch through the layers of an encoder, to one vector for each sequence.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels.h"
#include "weights.h"

namespace quaver {

enum class Pooling : std::int32_t { cls, mean };

struct EncoderSpec {
  int hidden;          // H
  int heads;           // divides H
  int intermediate;    // width of the feed-forward layer
  int vocabulary;      // rows of the word table
  int positions;       // rows of the position table
  int position_offset; // position of the first token
  int token_types;     // rows of the token type table
  float norm_eps;
  Activation activation;
  Pooling pooling;
  bool normalize; // divide each vector by its L2 norm
};

struct Norm {
  Buffer<float> gamma, beta; // [H]
};

struct Layer {
  Linear qkv; // 3H x H; the rows of the query carry log2(e) / sqrt(D)
  Linear out; // H x H
  Norm attention_norm;
  Linear up;   // intermediate x H
  Linear down; // H x intermediate
  Norm output_norm;
};

// Embedding tables stay where the caller has them (mapped from the model file, as a rule) and outlive the encoder.
struct Embeddings {
  const float *word;       // [vocabulary][H]
  const float *position;   // [positions][H]
  const float *token_type; // [token_types][H]
  Norm norm;
};

struct TokenBatch {
  const std::int32_t *ids;      // [offsets[sequences]]
  const std::int32_t *type_ids; // the same, or null when all are 0
  const std::int32_t *offsets;  // [sequences + 1], from 0, strictly increasing
  int sequences;
};

class Encoder {
public:
  Encoder(const EncoderSpec &spec, const KernelTable &kernels, Embeddings embeddings);

  void add_layer(Layer layer) { layers_.push_back(std::move(layer)); }

  // Vectors f32 [sequences][H]. At most `threads` threads take part. `interrupted` is asked by the calling thread every
  // few hundred tokens; once it says true the rest is left out and the call returns false.
  //
  // A sequence's vector is the same bits whatever else is in the batch and however many threads there are.
  // Throws std::bad_alloc and nothing else; ids, types and offsets were checked by the caller.
  bool encode(const TokenBatch &batch, int threads, float *vectors, const std::function<bool()> &interrupted) const;

  const EncoderSpec &spec() const { return spec_; }
  const KernelTable &kernels() const { return kernels_; }
  std::size_t weight_bytes() const;

private:
  struct Sequence {
    int index;  // in the batch
    int row;    // its first row in the chunk
    int length; // tokens
  };
  struct Chunk;
  struct Team;

  std::vector<std::vector<Sequence>> make_chunks(const TokenBatch &batch, int threads) const;
  void encode_chunk(const TokenBatch &batch, std::vector<Sequence> &sequences, Team team, float *vectors) const;
  void embed(const TokenBatch &batch, Chunk &chunk, int first, int last) const;
  void project(Chunk &chunk, std::size_t layer, int first, int last) const;
  void attend(Chunk &chunk, std::size_t layer, int item) const;
  void feed_forward(const Layer &layer, Chunk &chunk, int first, int last) const;
  bool only_first_rows(std::size_t layer) const;
  void keep_first_rows(Chunk &chunk) const;
  void apply(const Linear &w, const float *x, std::ptrdiff_t ldx, int rows, int first_panel, int last_panel, float *y,
             std::ptrdiff_t ldy, Activation act) const;
  void pool(const Chunk &chunk, const Sequence &sequence, float *vector) const;

  EncoderSpec spec_;
  const KernelTable &kernels_;
  Embeddings embeddings_;
  std::vector<Layer> layers_;
};

} // namespace quaver
