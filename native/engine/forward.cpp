// The forward pass of a chunk, stage by stage: embeddings, projection, attention, feed-forward part.
//
//   norm behind (BERT)         a = norm(x + out(attention(qkv(x))));     x = norm(a + down(act(up(a))))
//   norm first (ModernBERT)    a = x + out(attention(qkv(norm(x))));     x = a + down(act(up(norm(a)))), a last norm
#include <algorithm>

#include "engine/chunk.h"

namespace quaver {
namespace {

// Queries of a layer with a window that are attended together, with the keys around them.
int block_rows(int window) { return round_up(window, kPanel); }

} // namespace

// The norm before a layer; after the last one it is the encoder's final norm.
const Norm &Encoder::norm_before(std::size_t layer) const {
  return layer == layers_.size() ? final_norm_ : layers_[layer].attention_norm;
}

// x += y if y is given, then out = norm(x); without a norm out = x.
void Encoder::add_norm(float *x, const float *y, std::ptrdiff_t ld, int rows, const Norm &norm, float *out) const {
  kernels_.add_norm(x, ld, y, ld, rows, spec_.hidden, norm.empty() ? nullptr : norm.gamma.data(), norm.beta.data(),
                    spec_.norm_eps, out, ld);
}

// x = norm(word + position + type), for the rows [first, last) of the chunk.
void Encoder::embed(const TokenBatch &batch, Chunk &chunk, int first, int last) const {
  auto sequence = std::upper_bound(chunk.sequences.begin(), chunk.sequences.end(), first,
                                   [](int row, const Sequence &s) { return row < s.row; });
  --sequence;
  const int hidden = spec_.hidden;
  for (int row = first; row < last; ++row) {
    while (row >= sequence->row + sequence->length)
      ++sequence;
    const int place = row - sequence->row;
    const int token = batch.offsets[sequence->index] + place;
    const auto add = [&](float *x, const float *table, int at) {
      const float *source = table + static_cast<std::ptrdiff_t>(at) * hidden;
      for (int c = 0; c < hidden; ++c)
        x[c] += source[c];
    };
    float *x = chunk.x + row * chunk.ldx;
    std::copy_n(embeddings_.word + static_cast<std::ptrdiff_t>(batch.ids[token]) * hidden, hidden, x);
    if (embeddings_.position != nullptr)
      add(x, embeddings_.position, place + spec_.position_offset);
    if (embeddings_.token_type != nullptr)
      add(x, embeddings_.token_type, batch.type_ids == nullptr ? 0 : batch.type_ids[token]);
  }
  float *x = chunk.x + first * chunk.ldx;
  add_norm(x, nullptr, chunk.ldx, last - first, embeddings_.norm, x);
  if (spec_.norm_first)
    add_norm(x, nullptr, chunk.ldx, last - first, norm_before(0), chunk.input + first * chunk.ldx);
}

// qkv = input W^T + b of a layer, query and key rotated by their positions, for the rows [first, last). Does nothing
// after the last layer.
void Encoder::project(Chunk &chunk, std::size_t layer, int first, int last) const {
  if (layer == layers_.size())
    return;
  const Linear &qkv = layers_[layer].qkv;
  const auto project_rows = [&](int begin, int end, int first_panel, int last_panel) {
    multiply(qkv, read_with_residuals(qkv, chunk, begin, end), end - begin, first_panel, last_panel,
             chunk.qkv + begin * chunk.ldqkv, chunk.ldqkv, Activation::none);
  };
  const int query_panels = spec_.hidden / kPanel;
  if (!only_first_rows(layer) || spec_.hidden % kPanel != 0) {
    project_rows(first, last, 0, qkv.panels());
  } else {
    project_rows(first, last, query_panels, qkv.panels());
    for (const Sequence &sequence : chunk.sequences)
      if (sequence.row >= first && sequence.row < last)
        project_rows(sequence.row, sequence.row + 1, 0, query_panels);
  }
  rotate(chunk, layers_[layer], first, last, 0, spec_.heads);
}

// In trained encoders every token attends to the first one of its sequence more than to any other, and the first
// token's activations are the widest: its quantization error was a fifth of the loss of eight bits. So that row goes
// through the projection twice: once quantized, then again for its residual. The residual rows of the rows
// [first, last) follow them.
Encoder::Input Encoder::read_with_residuals(const Linear &qkv, const Chunk &chunk, int first, int last) const {
  const float *x = chunk.input + first * chunk.ldx;
  if (!qkv.is_int8())
    return {x, chunk.ldx, {}, {}};
  Scratch &s = scratch();
  const int rows = last - first;
  std::int32_t *of = s.residual_of.resize(static_cast<std::size_t>(rows));
  int residuals = 0;
  for (const Sequence &sequence : chunk.sequences)
    if (sequence.row >= first && sequence.row < last)
      of[residuals++] = sequence.row - first;
  const RoundedRows rounded = s.rounded.fit(rows + residuals, qkv.inputs(), kernels_.overread_rows);
  round_rows(qkv.input(), x, chunk.ldx, rows, qkv.inputs(), rounded);
  for (int i = 0; i < residuals; ++i)
    round_residual(x + of[i] * chunk.ldx, qkv.inputs(), rounded.from(of[i]), rounded.from(rows + i));
  return {x, chunk.ldx, rounded, {residuals, of}};
}

// What quantization lost of a row, quantized in turn.
void Encoder::round_residual(const float *x, int columns, const Int8Rows &rounded, const RoundedRows &target) const {
  float *lost = scratch().lost.resize(area(1, columns));
  for (int c = 0; c < columns; ++c)
    lost[c] = x[c] - rounded.scale[0] * static_cast<float>(rounded.q[c] - rounded.zero[0]);
  round_rows({0.0f, 0}, lost, columns, 1, columns, target);
}

// Rotate queries and keys of the heads [first_head, last_head) by their positions.
void Encoder::rotate(Chunk &chunk, const Layer &layer, int first, int last, int first_head, int last_head) const {
  if (layer.rotary < 0)
    return;
  const Rotary &table = rotary_[static_cast<std::size_t>(layer.rotary)];
  const int head_size = spec_.hidden / spec_.heads;
  for (const Sequence &sequence : chunk.sequences) {
    const int begin = std::max(first, sequence.row), end = std::min(last, sequence.row + sequence.length);
    if (begin >= end)
      continue;
    const std::ptrdiff_t position = static_cast<std::ptrdiff_t>(begin - sequence.row) * (head_size / 2);
    float *query = chunk.qkv + begin * chunk.ldqkv + first_head * head_size;
    for (float *x : {query, query + spec_.hidden})
      kernels_.rotate(x, chunk.ldqkv, end - begin, last_head - first_head, head_size, table.cosine + position,
                      table.sine + position);
  }
}

// context = softmax(q k^T) v for one head of one sequence. A layer with a window takes a block of queries at a time,
// with the keys that any of them sees: linear time. Blocks are counted from the start of the sequence, so they are the
// same ones in any batch.
void Encoder::attend(Chunk &chunk, std::size_t layer, int item) const {
  const Sequence &sequence = chunk.sequences[static_cast<std::size_t>(item / spec_.heads)];
  const int number = item % spec_.heads, head_size = spec_.hidden / spec_.heads, column = number * head_size;
  const float *query = chunk.qkv + sequence.row * chunk.ldqkv + column;
  float *out = chunk.context + sequence.row * chunk.ldx + column;
  const Layer &l = layers_[layer];
  const int length = sequence.length, rows = only_first_rows(layer) ? 1 : length;
  const Bias bias = bias_of(l, number, query, chunk.ldqkv, rows, length);
  const bool everything = l.window == 0 || l.window >= length - 1, int8 = l.qkv.is_int8();
  const int step = everything ? length : block_rows(l.window);
  AttentionHead head{.query = query,
                     .key = query + spec_.hidden,
                     .value = query + 2 * spec_.hidden,
                     .ld = chunk.ldqkv,
                     .length = everything ? length : std::min(round_up(rows, step) + l.window, length),
                     .head_size = head_size,
                     .bias = bias.values,
                     .bias_step = bias.step,
                     .window = everything ? 0 : l.window};
  PackedHead packed = room_for(head, int8);
  // Blocks share the packed keys where each begins between two strips of them (panels in float32).
  const bool keys_once = everything || l.window % (int8 ? kStrip : kPanel) == 0;
  if (keys_once)
    pack_keys(head, int8, packed);
  for (int first = 0; first < rows; first += step) {
    const int last = std::min(first + step, rows);
    const int begin = everything ? 0 : std::max(first - l.window, 0);
    const int end = everything ? length : std::min(first + step + l.window, length);
    AttentionHead block = head;
    block.query += begin * head.ld;
    block.key += begin * head.ld;
    block.value += begin * head.ld;
    block.length = end - begin;
    PackedHead of_block = packed;
    if (keys_once)
      of_block.skip_keys(begin, head_size);
    else
      pack_keys(block, int8, of_block);
    attend_block(block, int8, of_block, first - begin, last - begin, out + begin * chunk.ldx, chunk.ldx);
  }
}

Encoder::PackedHead Encoder::room_for(const AttentionHead &head, bool int8) const {
  Scratch &s = scratch();
  PackedHead packed{nullptr, {}};
  if (int8)
    packed.int8 = s.head.fit(head.length, head.head_size, kernels_.overread_rows);
  else
    packed.keys = s.keys.resize(area(round_up(head.length, kPanel), head.head_size));
  return packed;
}

// Go on to the key `first`, where a strip (a panel in float32) begins.
void Encoder::PackedHead::skip_keys(int first, int head_size) {
  if (keys != nullptr) {
    keys += static_cast<std::ptrdiff_t>(first) * head_size;
  } else {
    int8.keys += static_cast<std::ptrdiff_t>(first) * round_up(head_size, 32);
    int8.key_scale += first;
    int8.key_sums += first;
  }
}

void Encoder::pack_keys(const AttentionHead &head, bool int8, const PackedHead &packed) const {
  if (int8)
    kernels_.pack_keys_int8(head, packed.int8);
  else
    kernels_.pack_keys(head, packed.keys);
}

Encoder::Bias Encoder::bias_of(const Layer &layer, int head, const float *query, std::ptrdiff_t ld, int rows,
                               int length) const {
  if (relative_.rows != nullptr)
    return relative_bias(layer, head, query, ld, rows, length);
  if (bias_.heads == nullptr)
    return {nullptr, 0};
  return {bias_.heads + static_cast<std::ptrdiff_t>(head) * (2 * bias_.reach - 1) + bias_.reach - 1, -1};
}

// bias[i][j] = query_i . position_key_r + key_j . position_query_r, r the row of relative positions for j - i. Both
// products are computed at once for all the rows that the sequence needs.
Encoder::Bias Encoder::relative_bias(const Layer &layer, int head, const float *query, std::ptrdiff_t ld, int rows,
                                     int length) const {
  constexpr int tile = 16; // of queries: what they read of a key's row is contiguous
  const Linear &keys = layer.position_keys[static_cast<std::size_t>(head)],
               &queries = layer.position_queries[static_cast<std::size_t>(head)];
  const std::int32_t *row_of = relative_.rows + relative_.reach - 1;
  const int first = row_of[length - 1] / kPanel, last = row_of[1 - length] / kPanel + 1;
  const std::ptrdiff_t width = keys.panels() * kPanel, step = round_up(length, tile);
  Scratch &s = scratch();
  float *by_query = s.by_query.resize(area(rows, width)), *by_key = s.by_key.resize(area(length, width));
  apply(keys, query, ld, rows, first, last, by_query, width, Activation::none);
  apply(queries, query + spec_.hidden, ld, length, first, last, by_key, width, Activation::none);
  float *bias = s.bias.resize(area(rows, step));
  for (int i = 0; i < rows; i += tile)
    for (int j = 0; j < length; ++j)
      for (int r = i; r < std::min(i + tile, rows); ++r)
        bias[r * step + j] = by_query[r * width + row_of[j - r]] + by_key[j * width + row_of[j - r]];
  return {bias, step};
}

// The rows [first, last) of a head whose keys are packed. In eight bits values depend on all that are packed together:
// their mean and scale are those of the block.
void Encoder::attend_block(const AttentionHead &head, bool int8, const PackedHead &packed, int first, int last,
                           float *out, std::ptrdiff_t ldo) const {
  float *scores = scratch().scores.resize(static_cast<std::size_t>(score_floats(kernels_, head.length)));
  if (!int8) {
    kernels_.attend(head, packed.keys, first, last, scores, out, ldo);
    return;
  }
  const Int8Head &p = packed.int8;
  const std::ptrdiff_t ldq = round_up(head.head_size, kDepthStep);
  kernels_.quantize_rows(head.query + first * head.ld, head.ld, last - first, head.head_size, p.query + first * ldq,
                         ldq, p.query_scale + first, p.query_zero + first);
  kernels_.pack_values_int8(head, p);
  kernels_.attend_int8(head, p, first, last, scores, out, ldo);
}

// The part of a layer that works on one row at a time: the attention's output, the feed-forward part, both norms.
void Encoder::feed_forward(Chunk &chunk, std::size_t layer, int first, int last) const {
  const Layer &l = layers_[layer];
  const int rows = last - first;
  const std::ptrdiff_t ld = chunk.ldx, ldwide = row_step(l.up.outputs());
  Scratch &s = scratch();
  float *x = chunk.x + first * ld, *input = chunk.input + first * ld;
  float *residual = s.residual.resize(area(rows, ld));
  float *wide = s.wide.resize(area(rows, ldwide));
  apply(l.out, chunk.context + first * ld, ld, rows, 0, l.out.panels(), residual, ld, Activation::none);
  // With the norm first, `input` is free from here on: the layer's own projection has read it.
  add_norm(x, residual, ld, rows, spec_.norm_first ? l.output_norm : l.attention_norm, input);
  if (spec_.gate == Gate::none) {
    apply(l.up, input, ld, rows, 0, l.up.panels(), wide, ldwide, spec_.activation);
  } else {
    apply(l.up, input, ld, rows, 0, l.up.panels(), wide, ldwide, Activation::none);
    kernels_.gate(wide, ldwide, rows, spec_.intermediate, spec_.gate == Gate::last, spec_.activation);
  }
  apply(l.down, wide, ldwide, rows, 0, l.down.panels(), residual, ld, Activation::none);
  add_norm(x, residual, ld, rows, spec_.norm_first ? norm_before(layer + 1) : l.output_norm, input);
}

// The input of a linear layer. An int8 layer quantizes its rows first; they stay in the scratch until the next call.
Encoder::Input Encoder::read(const Linear &w, const float *x, std::ptrdiff_t ldx, int rows) const {
  if (!w.is_int8())
    return {x, ldx, {}, {}};
  const RoundedRows rounded = scratch().rounded.fit(rows, w.inputs(), kernels_.overread_rows);
  round_rows(w.input(), x, ldx, rows, w.inputs(), rounded);
  return {x, ldx, rounded, {}};
}

// y = act(x W^T + b) for the outputs of the panels [first_panel, last_panel).
void Encoder::multiply(const Linear &w, const Input &input, int rows, int first_panel, int last_panel, float *y,
                       std::ptrdiff_t ldy, Activation act) const {
  if (w.is_int8())
    kernels_.linear_int8(input.rounded, rows, input.residuals, w.int8_view(), first_panel, last_panel, y, ldy, act);
  else
    kernels_.linear_float32(input.x, input.ldx, rows, w.float_view(), first_panel, last_panel, y, ldy, act);
}

void Encoder::apply(const Linear &w, const float *x, std::ptrdiff_t ldx, int rows, int first_panel, int last_panel,
                    float *y, std::ptrdiff_t ldy, Activation act) const {
  multiply(w, read(w, x, ldx, rows), rows, first_panel, last_panel, y, ldy, act);
}

// Quantize rows, with one range for all of them if the layer has one.
void Encoder::round_rows(InputRange range, const float *x, std::ptrdiff_t ldx, int rows, int columns,
                         RoundedRows target) const {
  if (range.scale > 0.0f) {
    kernels_.quantize_rows_fixed(x, ldx, rows, columns, range.scale, range.zero, target.q, target.ldq, target.scale,
                                 target.zero);
  } else {
    kernels_.quantize_rows(x, ldx, rows, columns, target.q, target.ldq, target.scale, target.zero);
  }
}

} // namespace quaver
