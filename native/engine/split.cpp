// A short text over several threads: each computes its share of every layer's outputs.
//
// Split by rows, every core would read all weights for a few rows, and would mostly wait for them. Split by outputs, a
// core reads its own share alone. Norms and quantization need whole rows, so they are split by rows in between: eight
// hand-overs a layer. The arithmetic is the same as elsewhere, and so are the bits.
#include <algorithm>

#include "engine/chunk.h"

namespace quaver {
namespace {

// Up to this many rows, a core has too few of its own to use a weight often enough. The limit is higher when no cache
// holds the weights, and lower where threads would get different numbers of panels: rows are then easier to divide.
constexpr int kRows = 32, kRowsUncached = 128, kRowsUneven = 8, kRowsUnevenUncached = 16;
constexpr std::size_t kCacheBytes = 32 << 20;

// The part of share i.
std::pair<int, int> share_of(int all, int i, int shares) { return {all * i / shares, all * (i + 1) / shares}; }

} // namespace

// A head must not cross panels. A gate needs two outputs that are far apart.
bool Encoder::can_split(const Chunk &chunk, Team team) const {
  const bool cached = weight_bytes() <= kCacheBytes, even = spec_.hidden / kPanel % team.width == 0;
  const int most = even ? (cached ? kRows : kRowsUncached) : (cached ? kRowsUneven : kRowsUnevenUncached);
  return team.width > 1 && chunk.sequences.size() == 1 && chunk.rows <= most && spec_.gate == Gate::none &&
         relative_.rows == nullptr && spec_.hidden % kPanel == 0 && kPanel % (spec_.hidden / spec_.heads) == 0;
}

void Encoder::encode_split(const TokenBatch &batch, Chunk &chunk, Team team, float *vectors) const {
  Activations &buffers = activations();
  const std::ptrdiff_t ld = chunk.ldx, ldwide = row_step(layers_.front().up.outputs());
  float *residual = buffers.residual.resize(area(chunk.rows, ld));
  float *wide = buffers.wide.resize(area(chunk.rows, ldwide));

  const auto each_share = [&](int of, auto &&work) {
    team.each(team.width, [&](int i) {
      const auto [first, last] = share_of(of, i, team.width);
      if (first < last)
        work(first, last);
    });
  };
  // The input of w, each thread its rows: prepare(first, last) computes them, then they are quantized.
  const auto read_shared = [&](const Linear &w, const float *x, std::ptrdiff_t ldx, auto &&prepare,
                               ResidualRows residuals = {}) {
    const RoundedRows rounded = buffers.rounded.fit(chunk.rows + residuals.rows, w.inputs(), kernels_.overread_rows);
    each_share(chunk.rows, [&](int first, int last) {
      prepare(first, last);
      if (!w.is_int8())
        return;
      round_rows(w.input(), x + first * ldx, ldx, last - first, w.inputs(), rounded.from(first));
      if (residuals.rows > 0 && first == 0)
        round_residual(x, w.inputs(), rounded, rounded.from(chunk.rows));
    });
    return Input{x, ldx, rounded, residuals};
  };
  const auto as_it_is = [&](const Linear &w, const float *x, std::ptrdiff_t ldx) {
    return w.is_int8() ? read_shared(w, x, ldx, [](int, int) {}) : Input{x, ldx, {}, {}};
  };
  // x += the residual, then its norm.
  const auto norm = [&](const Norm &norm) {
    return [&](int first, int last) {
      add_norm(chunk.x + first * ld, residual + first * ld, ld, last - first, norm, chunk.input + first * ld);
    };
  };
  const auto multiply_shared = [&](const Linear &w, const Input &input, float *y, std::ptrdiff_t ldy, Activation act) {
    each_share(w.panels(), [&](int first, int last) { multiply(w, input, chunk.rows, first, last, y, ldy, act); });
  };

  static constexpr std::int32_t first_row = 0;
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const Layer &layer = layers_[l];
    const auto prepare = [&](int first, int last) {
      if (l == 0)
        embed(batch, chunk, first, last);
      else
        norm(spec_.norm_first ? norm_before(l) : layers_[l - 1].output_norm)(first, last);
    };
    const Input input = read_shared(layer.qkv, chunk.input, ld, prepare, {1, &first_row});
    each_share(spec_.hidden / kPanel, [&](int first, int last) { attend_share(chunk, l, input, first, last); });
    if (only_first_rows(l))
      keep_first_rows(chunk);
    multiply_shared(layer.out, as_it_is(layer.out, chunk.context, ld), residual, ld, Activation::none);
    const auto between = norm(spec_.norm_first ? layer.output_norm : layer.attention_norm);
    multiply_shared(layer.up, read_shared(layer.up, chunk.input, ld, between), wide, ldwide, spec_.activation);
    multiply_shared(layer.down, as_it_is(layer.down, wide, ldwide), residual, ld, Activation::none);
  }
  add_norm(chunk.x, residual, ld, chunk.rows,
           spec_.norm_first ? norm_before(layers_.size()) : layers_.back().output_norm, chunk.input);
  finish(chunk, vectors);
}

// Queries, keys and values of the heads in these panels of a part, and their attention.
void Encoder::attend_share(Chunk &chunk, std::size_t layer, const Input &input, int first_panel, int last_panel) const {
  const Linear &qkv = layers_[layer].qkv;
  const int part = spec_.hidden / kPanel, heads = kPanel / (spec_.hidden / spec_.heads);
  const int first_head = first_panel * heads, last_head = last_panel * heads;
  const auto project_part = [&](int number, const Input &from, int rows) {
    multiply(qkv, from, rows, number * part + first_panel, number * part + last_panel, chunk.qkv, chunk.ldqkv,
             Activation::none);
  };
  if (only_first_rows(layer))
    project_part(0, read_with_residuals(qkv, chunk, 0, 1), 1);
  else
    project_part(0, input, chunk.rows);
  project_part(1, input, chunk.rows);
  project_part(2, input, chunk.rows);
  rotate(chunk, layers_[layer], 0, chunk.rows, first_head, last_head);
  for (int head = first_head; head < last_head; ++head)
    attend(chunk, layer, head);
}

} // namespace quaver
