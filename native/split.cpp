// A short text over several threads: each computes its share of every layer's outputs.
//
// Split by rows, every core would read all weights for a few rows each, and waiting for them is most of the time. Split
// by outputs, a core reads its share alone. Each share keeps its own copy of the rows, so that norms need no hand-over:
// four of them a layer. Rows are rounded by every share anew, and as they are elsewhere: the bits are the same.
#include <algorithm>

#include "chunk.h"

namespace quaver {
namespace {

// Up to here a core has too few rows of its own to use a weight often enough. Weights that no cache holds are worth
// more.
constexpr int kShortRows = 8, kShortRowsUncached = 16;
constexpr std::size_t kCacheBytes = 32 << 20;

// The panels of share i.
std::pair<int, int> share_of(int panels, int i, int shares) { return {panels * i / shares, panels * (i + 1) / shares}; }

} // namespace

// Heads must not lie across panels, and a gate needs two outputs that lie far from each other.
bool Encoder::can_split(const Chunk &chunk, Team team) const {
  const int most = weight_bytes() > kCacheBytes ? kShortRowsUncached : kShortRows;
  return team.width > 1 && chunk.sequences.size() == 1 && chunk.rows <= most && spec_.gate == Gate::none &&
         relative_.rows == nullptr && spec_.hidden % kPanel == 0 && kPanel % (spec_.hidden / spec_.heads) == 0;
}

void Encoder::encode_split(const TokenBatch &batch, Chunk &chunk, Team team, float *vectors) const {
  Activations &buffers = activations();
  const int shares = team.width;
  const std::ptrdiff_t ld = chunk.ldx, ldwide = row_step(layers_.front().up.outputs());
  float *x = buffers.x.resize(area(shares * chunk.rows, ld));
  float *input = spec_.norm_first ? buffers.normed.resize(area(shares * chunk.rows, ld)) : x;
  float *residual = buffers.residual.resize(area(chunk.rows, ld));
  float *wide = buffers.wide.resize(area(chunk.rows, ldwide));
  std::vector<Chunk> copies(static_cast<std::size_t>(shares), chunk);
  for (int i = 0; i < shares; ++i) {
    copies[static_cast<std::size_t>(i)].x = x + i * chunk.rows * ld;
    copies[static_cast<std::size_t>(i)].input = input + i * chunk.rows * ld;
  }
  const auto each_share = [&](auto &&work) {
    team.each(shares, [&](int i) { work(copies[static_cast<std::size_t>(i)], i); });
  };
  const auto outputs = [&](const Linear &w, const float *from, std::ptrdiff_t ldfrom, int rows, int i, float *y,
                           std::ptrdiff_t ldy, Activation act) {
    const auto [first, last] = share_of(w.panels(), i, shares);
    apply(w, from, ldfrom, rows, first, last, y, ldy, act);
  };

  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const Layer &layer = layers_[l];
    each_share([&](Chunk &mine, int i) {
      if (l == 0)
        embed(batch, mine, 0, mine.rows);
      else
        add_norm(mine.x, residual, ld, mine.rows, spec_.norm_first ? norm_before(l) : layers_[l - 1].output_norm,
                 mine.input);
      const auto [first, last] = share_of(spec_.hidden / kPanel, i, shares);
      attend_share(mine, l, first, last);
    });
    if (only_first_rows(l))
      std::for_each(copies.begin(), copies.end(), [this](Chunk &copy) { keep_first_rows(copy); });
    each_share([&](Chunk &mine, int i) {
      outputs(layer.out, mine.context, ld, mine.rows, i, residual, ld, Activation::none);
    });
    each_share([&](Chunk &mine, int i) {
      add_norm(mine.x, residual, ld, mine.rows, spec_.norm_first ? layer.output_norm : layer.attention_norm,
               mine.input);
      outputs(layer.up, mine.input, ld, mine.rows, i, wide, ldwide, spec_.activation);
    });
    each_share(
        [&](Chunk &mine, int i) { outputs(layer.down, wide, ldwide, mine.rows, i, residual, ld, Activation::none); });
  }
  Chunk &first = copies.front();
  add_norm(first.x, residual, ld, first.rows,
           spec_.norm_first ? norm_before(layers_.size()) : layers_.back().output_norm, first.input);
  finish(first, vectors);
}

// Queries, keys and values of the heads in these panels of a part, and their attention.
void Encoder::attend_share(Chunk &chunk, std::size_t layer, int first_panel, int last_panel) const {
  if (first_panel == last_panel)
    return;
  const Linear &qkv = layers_[layer].qkv;
  const int part = spec_.hidden / kPanel, heads = kPanel / (spec_.hidden / spec_.heads);
  const int first_head = first_panel * heads, last_head = last_panel * heads;
  const Input input = read(qkv, chunk.input, chunk.ldx, chunk.rows);
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
