#include "engine/schedule.h"

#include <functional>
#include <queue>

namespace quaver {
namespace {

// Tokens that one core takes through all layers at a time. Their activations stay in its L2 cache, and reading the
// weights once per chunk costs little compared with the arithmetic.
constexpr int kChunkTokens = 256;

// Up to this many rows, a core has too few of its own to use a weight often enough. The limit is higher when no cache
// holds the weights, and lower where threads would get different numbers of panels: rows are then easier to divide.
constexpr int kRows = 32, kRowsUncached = 128, kRowsUneven = 8, kRowsUnevenUncached = 16;
constexpr std::size_t kCacheBytes = 32 << 20;

} // namespace

// The same number of chunks for each thread: the longest sequence first, each to the chunk with the fewest tokens.
std::vector<Sequences> make_chunks(const TokenBatch &batch, int threads) {
  Sequences order(static_cast<std::size_t>(batch.sequences));
  for (int i = 0; i < batch.sequences; ++i) {
    const int length = batch.offsets[i + 1] - batch.offsets[i];
    order[static_cast<std::size_t>(i)] = {i, 0, length, batch.keys == nullptr ? length : batch.keys[i],
                                          batch.splits == nullptr ? 0 : batch.splits[i]};
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const Sequence &a, const Sequence &b) { return a.length > b.length; });

  const std::int64_t total = batch.offsets[batch.sequences], longest = order.front().length;
  const bool together = longest * threads * 4 > total * 5;
  const auto count = static_cast<int>(
      together ? 1
               : std::min<std::int64_t>((total + kChunkTokens * threads - 1) / (kChunkTokens * threads) * threads,
                                        batch.sequences));
  using Load = std::pair<int, int>; // tokens, chunk
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (int i = 0; i < count; ++i)
    loads.emplace(0, i);
  std::vector<Sequences> chunks(static_cast<std::size_t>(count));
  for (Sequence sequence : order) {
    auto [rows, chunk] = loads.top();
    loads.pop();
    sequence.row = rows;
    chunks[static_cast<std::size_t>(chunk)].push_back(sequence);
    loads.emplace(rows + sequence.length, chunk);
  }
  return chunks;
}

AttentionUnits attention_units(const LayerSpec &layer) {
  const int width = std::max(layer.head_size, kPanel);
  if (width % layer.head_size != 0 || width % kPanel != 0 || layer.kv_width() % width != 0)
    return {0, 0, 0, 0};
  const int panels = width / kPanel;
  return {layer.kv_width() / width, panels, panels * (layer.heads / layer.kv_heads), width / layer.head_size};
}

bool divides_outputs(const Model &model, std::size_t weight_bytes, const Sequences &sequences, const Team &team) {
  if (team.width == 1 || sequences.size() != 1 || model.relative.rows != nullptr)
    return false;
  const bool cached = weight_bytes <= kCacheBytes, even = model.geometry.hidden / kPanel % team.width == 0;
  const int most = even ? (cached ? kRows : kRowsUncached) : (cached ? kRowsUneven : kRowsUnevenUncached);
  return sequences.front().length <= most &&
         std::all_of(model.layers.begin(), model.layers.end(),
                     [](const Layer &layer) { return attention_units(layer.spec).count > 0; });
}

} // namespace quaver
