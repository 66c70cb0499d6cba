// A short text over several threads: each computes its share of every layer's outputs.
//
// Split by rows, every core would read all weights for a few rows each, and waiting for them is most of the time. Split
// by outputs, a core reads its share alone. What looks at whole rows, norms and rounding, is shared out by rows in
// between: eight hand-overs a layer. Everything is computed as it is elsewhere: the bits are the same.
#include <algorithm>
#include <cstdlib>

#include "chunk.h"

namespace quaver {
namespace {

// Up to here a core has too few rows of its own to use a weight often enough. Weights that no cache holds are worth
// more.
int kShortRows = getenv("QS") ? atoi(getenv("QS")) : 8, kShortRowsUncached = getenv("QU") ? atoi(getenv("QU")) : 16;
constexpr std::size_t kCacheBytes = 32 << 20;

// The part of share i.
std::pair<int, int> share_of(int all, int i, int shares) { return {all * i / shares, all * (i + 1) / shares}; }

} // namespace

// Heads must not lie across panels, and a gate needs two outputs that lie far from each other.
bool Encoder::can_split(const Chunk &chunk, Team team) const {
  const int most = weight_bytes() > kCacheBytes ? kShortRowsUncached : kShortRows;
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
  // x += what the last layer gave, its norm, and the rounding of what w reads.
  const auto norm_and_round = [&](const float *y, const Norm &norm, const Linear &w) {
    const RoundedRows rounded = buffers.rounded.fit(chunk.rows, w.inputs());
    each_share(chunk.rows, [&](int first, int last) {
      float *x = chunk.x + first * ld, *input = chunk.input + first * ld;
      if (y != nullptr)
        add_norm(x, y + first * ld, ld, last - first, norm, input);
      else
        embed(batch, chunk, first, last);
      if (w.is_int8())
        round_rows(w.input(), input, ld, last - first, w.inputs(), rounded.from(first));
    });
    return Input{chunk.input, ld, rounded};
  };
  const auto round = [&](const float *x, std::ptrdiff_t ldx, const Linear &w) {
    const RoundedRows rounded = buffers.rounded.fit(chunk.rows, w.inputs());
    if (w.is_int8())
      each_share(chunk.rows, [&](int first, int last) {
        round_rows(w.input(), x + first * ldx, ldx, last - first, w.inputs(), rounded.from(first));
      });
    return Input{x, ldx, rounded};
  };
  const auto outputs = [&](const Linear &w, const Input &input, float *y, std::ptrdiff_t ldy, Activation act) {
    each_share(w.panels(), [&](int first, int last) { multiply(w, input, chunk.rows, first, last, y, ldy, act); });
  };

  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const Layer &layer = layers_[l];
    const Norm &norm = l == 0 || spec_.norm_first ? norm_before(l) : layers_[l - 1].output_norm;
    const Input input = norm_and_round(l == 0 ? nullptr : residual, norm, layer.qkv);
    each_share(spec_.hidden / kPanel, [&](int first, int last) { attend_share(chunk, l, input, first, last); });
    if (only_first_rows(l))
      keep_first_rows(chunk);
    outputs(layer.out, round(chunk.context, ld, layer.out), residual, ld, Activation::none);
    outputs(layer.up, norm_and_round(residual, spec_.norm_first ? layer.output_norm : layer.attention_norm, layer.up),
            wide, ldwide, spec_.activation);
    outputs(layer.down, round(wide, ldwide, layer.down), residual, ld, Activation::none);
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
  Panels ranges[3];
  for (int i = 0; i < 3; ++i) {
    ranges[i] = {i * part + first_panel, i * part + last_panel};
    const int rows = i == 0 && only_first_rows(layer) ? 1 : chunk.rows;
    multiply(qkv, input, rows, ranges[i].first, ranges[i].second, chunk.qkv, chunk.ldqkv, Activation::none);
  }
  add_rests(qkv, chunk, 0, chunk.rows, ranges);
  rotate(chunk, layers_[layer], 0, chunk.rows, first_head, last_head);
  for (int head = first_head; head < last_head; ++head)
    attend(chunk, layer, head);
}

} // namespace quaver
