// A ragged batch through the layers of an encoder, to one vector for each sequence.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "engine/weights.h"
#include "kernels/table.h"

namespace quaver {

// Which half of the feed-forward part's first layer goes through the activation before it multiplies the other half.
enum class Gate : std::int32_t { none, first, last };

enum class Pooling : std::int32_t { cls, mean, max, last, mean_sqrt };

struct EncoderSpec {
  int hidden;          // H
  int heads;           // divides H
  int intermediate;    // I, width of the feed-forward layer
  int vocabulary;      // rows of the word table
  int positions;       // most tokens of a sequence, plus position_offset; rows of the position table if there is one
  int position_offset; // position of the first token
  int token_types;     // rows of the token type table, 0 for none
  float norm_eps;
  Activation activation;
  Gate gate;
  bool norm_first;              // norms before attention and feed-forward part, and one after the last layer
  std::vector<Pooling> pooling; // at least one; their vectors are concatenated
  bool normalize;               // divide each vector by its L2 norm
};

struct Norm {
  Buffer<float> gamma, beta; // [H], or empty for no norm at all

  bool empty() const { return gamma.size() == 0; }
};

// Tables of one rotary position embedding. The caller owns them; they outlive the encoder.
struct Rotary {
  const float *cosine, *sine; // [positions - position_offset][D / 2]
};

struct Layer {
  Linear qkv; // 3H x H; the rows of the query carry log2(e) / sqrt(D)
  Linear out; // H x H
  Norm attention_norm;
  Linear up;   // I x H, with a gate 2I x H
  Linear down; // H x I
  Norm output_norm;
  int window; // a token attends to those at most this far away; 0 for all
  int rotary; // which of the encoder's tables turns query and key; -1 for none
  // The projections of relative positions by the layer's query and key, 2S x D for each head; empty without them.
  // Position queries are scaled by log2(e) / sqrt(3D), and so are the rows of the query then.
  std::vector<Linear> position_queries, position_keys;
};

// The caller owns the embedding tables (usually mapped from the model file); they outlive the encoder.
struct Embeddings {
  const float *word;       // [vocabulary][H]
  const float *position;   // [positions][H], or null
  const float *token_type; // [token_types][H], or null
  Norm norm;
};

// The bias added to a score for the distance of key and query, times log2(e): heads[h][j - i + reach - 1].
struct DistanceBias {
  const float *heads; // [heads][2 * reach - 1], or null
  int reach;          // positions - position_offset
};

// Which relative position a query and a key have: rows[j - i + reach - 1], a row of a layer's position queries and
// keys. Falls with j - i.
struct RelativeRows {
  const std::int32_t *rows; // [2 * reach - 1], in [0, 2S), or null
  int reach;                // positions - position_offset
};

// A step of the head, which runs on pooled vectors: a linear layer in float32 with its activation, or a norm.
struct HeadStep {
  std::optional<Linear> dense;
  Activation activation;
  Norm norm; // where there is no dense layer
  float eps;
};

struct TokenBatch {
  const std::int32_t *ids;      // [offsets[sequences]]
  const std::int32_t *type_ids; // the same, or null when all are 0
  const std::int32_t *offsets;  // [sequences + 1], from 0, strictly increasing
  int sequences;
};

// Int8Rows to be written.
struct RoundedRows {
  std::uint8_t *q;
  std::ptrdiff_t ldq;
  float *scale;
  std::int32_t *zero;

  RoundedRows from(int row) const { return {q + row * ldq, ldq, scale + row, zero + row}; }
  operator Int8Rows() const { return {q, ldq, scale, zero}; }
};

// Return the first of the vectors f32 [rows][columns] that holds NaN or infinity; -1 if all are finite. A value that is
// not finite stays so through the encoder (see kernels/table.h), so the vectors show it.
int first_not_finite(const float *vectors, int rows, int columns);

class Encoder {
public:
  Encoder(const EncoderSpec &spec, const KernelTable &kernels, Embeddings embeddings);

  // The memory for its weights.
  WeightMemory &memory() { return memory_; }
  void add_layer(Layer layer) { layers_.push_back(std::move(layer)); }
  void add_rotary(Rotary rotary) { rotary_.push_back(rotary); }
  void add_head_step(HeadStep step) { head_.push_back(std::move(step)); }
  void set_final_norm(Norm norm) { final_norm_ = std::move(norm); }
  void set_distance_bias(DistanceBias bias) { bias_ = bias; }
  void set_relative_rows(RelativeRows rows) { relative_ = rows; }

  // Features of a vector: H for each pooling, or the outputs of the head's last dense layer.
  int outputs() const;

  // Whether `encode` may read a batch of this many ids: offsets rise from 0 to it, every id and type has a row in its
  // table, and every sequence fits the positions.
  bool accepts(const TokenBatch &batch, std::size_t ids) const;

  // Vectors f32 [sequences][outputs]. At most `threads` threads take part. The calling thread asks
  // `interrupted` every few hundred tokens; once that returns true, the call skips what is left and returns false.
  //
  // A sequence's vector has the same bits whatever else is in the batch, and with any number of threads.
  // Throws std::bad_alloc and nothing else; the batch is one that is accepted.
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
  // The input of a linear layer.
  struct Input {
    const float *x;
    std::ptrdiff_t ldx;
    Int8Rows rounded; // of an int8 layer
    ResidualRows residuals;
  };

  std::vector<std::vector<Sequence>> make_chunks(const TokenBatch &batch, int threads) const;
  void encode_chunk(const TokenBatch &batch, std::vector<Sequence> &sequences, Team team, float *vectors) const;
  bool can_split(const Chunk &chunk, Team team) const;
  void encode_split(const TokenBatch &batch, Chunk &chunk, Team team, float *vectors) const;
  void attend_share(Chunk &chunk, std::size_t layer, const Input &input, int first_panel, int last_panel) const;
  void embed(const TokenBatch &batch, Chunk &chunk, int first, int last) const;
  void project(Chunk &chunk, std::size_t layer, int first, int last) const;
  Input read_with_residuals(const Linear &qkv, const Chunk &chunk, int first, int last) const;
  void round_residual(const float *x, int columns, const Int8Rows &rounded, const RoundedRows &target) const;
  void rotate(Chunk &chunk, const Layer &layer, int first, int last, int first_head, int last_head) const;
  void attend(Chunk &chunk, std::size_t layer, int item) const;
  // The bias of a head's scores: values[r * step + j]; null for none.
  struct Bias {
    const float *values;
    std::ptrdiff_t step;
  };
  Bias bias_of(const Layer &layer, int head, const float *query, std::ptrdiff_t ld, int rows, int length) const;
  Bias relative_bias(const Layer &layer, int head, const float *query, std::ptrdiff_t ld, int rows, int length) const;
  // One head as the kernels read it: float keys, or everything in eight bits.
  struct PackedHead {
    float *keys;
    Int8Head int8;
    void skip_keys(int first, int head_size);
  };
  PackedHead room_for(const AttentionHead &head, bool int8) const;
  void pack_keys(const AttentionHead &head, bool int8, const PackedHead &packed) const;
  void attend_block(const AttentionHead &head, bool int8, const PackedHead &packed, int first, int last, float *out,
                    std::ptrdiff_t ldo) const;
  void feed_forward(Chunk &chunk, std::size_t layer, int first, int last) const;
  const Norm &norm_before(std::size_t layer) const;
  void add_norm(float *x, const float *y, std::ptrdiff_t ld, int rows, const Norm &norm, float *out) const;
  bool only_first_rows(std::size_t layer) const;
  void keep_first_rows(Chunk &chunk) const;
  Input read(const Linear &w, const float *x, std::ptrdiff_t ldx, int rows) const;
  void multiply(const Linear &w, const Input &input, int rows, int first_panel, int last_panel, float *y,
                std::ptrdiff_t ldy, Activation act) const;
  void apply(const Linear &w, const float *x, std::ptrdiff_t ldx, int rows, int first_panel, int last_panel, float *y,
             std::ptrdiff_t ldy, Activation act) const;
  void round_rows(InputRange range, const float *x, std::ptrdiff_t ldx, int rows, int columns,
                  RoundedRows target) const;
  void pool(const Chunk &chunk, const Sequence &sequence, Pooling pooling, float *vector) const;
  void finish(const Chunk &chunk, float *vectors) const;

  EncoderSpec spec_;
  const KernelTable &kernels_;
  Embeddings embeddings_;
  WeightMemory memory_;
  std::vector<Layer> layers_;
  std::vector<Rotary> rotary_;
  std::vector<HeadStep> head_;
  Norm final_norm_;
  DistanceBias bias_{nullptr, 0};
  RelativeRows relative_{nullptr, 0};
};

} // namespace quaver
