#include "engine/schedule.h"

#include <functional>
#include <queue>

namespace quaver {
namespace {

// Tokens that one core takes through all layers at a time. Their activations stay in its L2 cache, and reading the
// weights once per chunk costs little compared with the arithmetic.
constexpr int kChunkTokens = 256;

// Up to this many rows a core waits for a weight, and longer where no cache holds the weights and each core reads all
// of them. Kernels that multiply faster wait for as many rows as they multiply while one core of many reads this many
// bytes in a nanosecond.
constexpr int kReadRows = 16, kReadRowsUncached = 64;
constexpr std::size_t kCacheBytes = 32 << 20;
constexpr double kReadRate = 10.0;

// A product of attention costs as much as two of a linear layer, and packing a key and a value as much as this many
// queries that read them.
constexpr double kAttentionProduct = 2.0;
constexpr int kPackRows = 50;

// Part of a text that is worth packing its keys and values again.
constexpr int kLeastQueries = 32;

// A hand-over within a team, and what threads of unequal speed wait for each other there: nanoseconds.
double hand_over(int threads) { return threads == 1 ? 0.0 : 540.0 + 135.0 * threads; }

// From this many threads on, several texts are divided by outputs, and a block has at least so many rows.
constexpr int kWideTeam = 4, kLeastBlock = 16;

// A chunk for each thread is preferred to teams unless these are estimated to be this much faster: no hand-overs, and
// everything stays in the caches of one core. Teams are not searched where threads are kept this busy.
constexpr double kAlone = 1.05, kBusy = 0.95;

int ceil_of(int value, int by) { return (value + by - 1) / by; }

} // namespace

int column_shares(int blocks, int columns, int threads) {
  const int least_of_all = ceil_of(blocks * columns, threads);
  int best = 1, least = ceil_of(blocks, threads) * columns;
  for (int shares = 2; shares <= columns && least > least_of_all; ++shares)
    if (const int most = ceil_of(blocks * shares, threads) * ceil_of(columns, shares); most < least) {
      best = shares;
      least = most;
    }
  return best;
}

std::vector<AttentionItem> attention_items(const LayerSpec &layer, const Sequences &sequences, int threads,
                                           bool divides_rows) {
  const int group = layer.heads / layer.kv_heads, count = static_cast<int>(sequences.size());
  // A head of keys and values with all queries that read it is packed once; where that makes too few items, once for
  // each query head.
  const int heads = threads == 1 || count * layer.kv_heads >= 4 * threads ? group : 1;
  const int step = round_up(std::max(layer.behind, 1), kPanel); // of a window's blocks
  const auto seen = [&](const Sequence &s) { return std::min(s.length, layer.behind); };
  // Items of a sequence: its heads times the parts of its rows, `parts` for the longest sequence.
  const auto parts_of = [&](const Sequence &s, int parts, double longest) {
    const double share = static_cast<double>(s.length) * seen(s) / longest * parts;
    const int most = std::max(s.length / (layer.behind < s.length ? step : kLeastQueries), 1);
    return std::clamp(static_cast<int>(share + 0.5), 1, most);
  };
  double longest = 1.0;
  for (const Sequence &s : sequences)
    longest = std::max(longest, static_cast<double>(s.length) * seen(s));
  int parts = 1;
  if (threads > 1 && divides_rows) {
    double least = 0.0;
    for (int candidate = 1; candidate <= std::min(2 * threads, 32); ++candidate) {
      double all = 0.0, largest = 0.0;
      int items = 0;
      for (const Sequence &s : sequences) {
        const int own = parts_of(s, candidate, longest);
        const double item = static_cast<double>(s.length) * (static_cast<double>(seen(s)) / own + kPackRows);
        largest = std::max(largest, item);
        items += own * (layer.heads / heads);
        all += item * own * (layer.heads / heads);
      }
      const double cost = std::max(largest, all / items * ceil_of(items, threads));
      if (candidate == 1 || cost < 0.97 * least) {
        least = cost;
        parts = candidate;
      }
    }
  }
  std::vector<AttentionItem> items;
  for (int i = 0; i < count; ++i) {
    const Sequence &s = sequences[static_cast<std::size_t>(i)];
    const int own = parts_of(s, parts, longest);
    for (int head = 0; head < layer.heads; head += heads)
      for (int part = 0; part < own; ++part) {
        const auto bound = [&](int place) {
          const int row = static_cast<int>(static_cast<std::int64_t>(s.length) * place / own);
          return place == own ? s.length : layer.behind < s.length ? row / step * step : row;
        };
        if (bound(part) < bound(part + 1))
          items.push_back({i, head, head + heads, bound(part), bound(part + 1)});
      }
  }
  return items;
}

AttentionUnits attention_units(const LayerSpec &layer) {
  const int width = std::max(layer.head_size, kPanel);
  if (width % layer.head_size != 0 || width % kPanel != 0 || layer.kv_width() % width != 0)
    return {0, 0, 0, 0};
  const int panels = width / kPanel;
  return {layer.kv_width() / width, panels, panels * (layer.heads / layer.kv_heads), width / layer.head_size};
}

// --- What a chunk costs ---------------------------------------------------------------------------------------------

Schedule::Schedule(const Model &model, std::size_t weight_bytes)
    : kernels_(model.kernels), divides_(model.relative.rows == nullptr), relative_(model.relative.rows != nullptr) {
  const int read_rows = weight_bytes <= kCacheBytes ? kReadRows : kReadRowsUncached;
  for (const Layer &layer : model.layers) {
    layers_.push_back(&layer.spec);
    const int units = attention_units(layer.spec).count;
    divides_ = divides_ && units > 0;
    const auto part = [&](const Linear &linear, int columns) {
      const double row = static_cast<double>(linear.outputs()) * linear.inputs() / linear.rate();
      const double read = static_cast<double>(linear.bytes()) / kReadRate;
      return Part{columns, row, std::max(read_rows * row, read), std::max(kReadRows * row, read)};
    };
    parts_.push_back(part(*layer.qkv, std::max(units, 1)));
    for (const LinearPtr *linear : {&layer.out, &layer.up, &layer.down})
      parts_.push_back(part(**linear, (*linear)->panels()));
  }
  double read = 0.0;
  for (const Part &part : parts_) {
    row_ += part.row;
    read += part.read;
  }
  if (row_ > 0.0)
    read_rows_ = static_cast<int>(read / row_ + 0.5);
  // Layers of the same shape count once, as often as they are there.
  for (std::size_t i = parts_.size(); i-- > 4;)
    for (std::size_t first = 0; first < 4; ++first)
      if (parts_[first].columns == parts_[i].columns) {
        parts_[first].row += parts_[i].row;
        parts_[first].read += parts_[i].read;
        parts_[first].read_once += parts_[i].read_once;
        parts_.erase(parts_.begin() + static_cast<std::ptrdiff_t>(i));
        break;
      }
}

// What the linear layers cost a thread.
double Schedule::linear(int rows) const {
  double all = 0.0;
  for (const Part &part : parts_)
    all += std::max(part.row * rows, part.read);
  return all;
}

double Schedule::by_rows(int rows, int threads) const {
  return linear(ceil_of(rows, threads)) + 2.0 * static_cast<double>(layers_.size()) * hand_over(threads);
}

double Schedule::by_outputs(int rows, int blocks, int threads, bool alone) const {
  double all = 0.0;
  for (const Part &part : parts_) {
    const int shares = column_shares(blocks, part.columns, threads);
    const double most = ceil_of(blocks * shares, threads) * ceil_of(part.columns, shares);
    const double read = blocks == 1 ? part.read_once : part.read;
    all += most / part.columns * std::max(part.row * ceil_of(rows, blocks), read);
  }
  return all + (alone ? 7.0 : 9.0) * static_cast<double>(layers_.size()) * hand_over(threads);
}

// A product of attention, of queries and keys or weights and values.
double Schedule::attention_product(const LayerSpec &layer) const {
  const int rate = layer.attention == AttentionPrecision::int8       ? kernels_.int8_rate
                   : layer.attention == AttentionPrecision::bfloat16 ? kernels_.bfloat16->rate
                                                                     : kernels_.float32_rate;
  return kAttentionProduct / rate;
}

double Schedule::attention(const Sequences &sequences, int threads) const {
  double all = 0.0, most = 0.0;
  for (const LayerSpec *layer : layers_) {
    const double one = 2.0 * attention_product(*layer) * layer->head_size;
    double layer_all = 0.0, longest = 0.0;
    for (const Sequence &s : sequences) {
      const double head = one * s.length * (std::min(s.length, layer->behind) + kPackRows);
      layer_all += head * layer->heads;
      longest = std::max(longest, relative_ ? head : head / std::max(s.length / kLeastQueries, 1));
    }
    all += layer_all;
    most += std::max(layer_all / threads, longest);
  }
  return threads == 1 ? all : most;
}

double Schedule::work(int length) const {
  double all = row_ * length;
  for (const LayerSpec *layer : layers_)
    all +=
        2.0 * attention_product(*layer) * layer->query_width() * length * (std::min(length, layer->behind) + kPackRows);
  return all;
}

Division Schedule::divide(const Sequences &sequences, int threads) const {
  const int rows = sequences.back().row + sequences.back().length;
  const bool alone = sequences.size() == 1;
  Division best{0, by_rows(rows, threads)};
  if (divides_ && threads > 1 && (alone || threads >= kWideTeam) && rows < 4 * read_rows_ * threads) {
    const int most = std::clamp(rows / kLeastBlock, 1, std::max(threads / 2, 1));
    for (int blocks = 1; blocks <= most; blocks += std::max(blocks / 8, 1))
      if (const double cost = by_outputs(rows, blocks, threads, alone && blocks == 1); cost < best.cost)
        best = {blocks, cost};
  }
  best.cost += attention(sequences, threads);
  return best;
}

// --- Chunks and teams -----------------------------------------------------------------------------------------------

namespace {

// The longest sequence first, each to the chunk with the least work.
std::vector<Sequences> deal(const Sequences &order, const std::vector<double> &works, int count) {
  using Load = std::pair<double, int>; // work, chunk
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (int i = 0; i < count; ++i)
    loads.emplace(0.0, i);
  std::vector<Sequences> chunks(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < order.size(); ++i) {
    auto [load, number] = loads.top();
    loads.pop();
    Sequences &chunk = chunks[static_cast<std::size_t>(number)];
    Sequence sequence = order[i];
    sequence.row = chunk.empty() ? 0 : chunk.back().row + chunk.back().length;
    chunk.push_back(sequence);
    loads.emplace(load + works[i], number);
  }
  return chunks;
}

// When the last of some teams ends that take chunks in this order.
double end_of(const std::vector<double> &costs, int teams) {
  std::priority_queue<double, std::vector<double>, std::greater<>> ends;
  for (int i = 0; i < teams; ++i)
    ends.push(0.0);
  double last = 0.0;
  for (const double cost : costs) {
    const double end = ends.top() + cost;
    ends.pop();
    ends.push(end);
    last = std::max(last, end);
  }
  return last;
}

} // namespace

Plan Schedule::plan(const TokenBatch &batch, int threads) const {
  Sequences order(static_cast<std::size_t>(batch.sequences));
  for (int i = 0; i < batch.sequences; ++i) {
    const int length = batch.offsets[i + 1] - batch.offsets[i];
    order[static_cast<std::size_t>(i)] = {i, 0, length, batch.keys == nullptr ? length : batch.keys[i],
                                          batch.splits == nullptr ? 0 : batch.splits[i]};
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const Sequence &a, const Sequence &b) { return a.length > b.length; });
  std::vector<double> works;
  double all = 0.0;
  for (const Sequence &s : order)
    all += works.emplace_back(work(s.length));

  // Each thread takes its turn with about kChunkTokens, or a team with as many for each of its threads.
  const std::int64_t total = batch.offsets[batch.sequences], turn = std::int64_t{kChunkTokens} * threads;
  const std::int64_t turns = (total + turn - 1) / turn;
  Plan best{};
  double least = 0.0; // of what `best` costs, less the preference for threads alone
  for (int width = 1; width <= threads; ++width) {
    const auto teams_of = [&](int w) { return static_cast<int>(std::min<std::int64_t>(threads / w, batch.sequences)); };
    const int teams = teams_of(width);
    if (width < threads && teams_of(width + 1) == teams)
      continue; // as many teams can be wider
    if (!best.chunks.empty() && works.front() / width > least)
      continue; // the longest text alone takes longer
    const int count = static_cast<int>(std::min<std::int64_t>(turns * teams, batch.sequences));
    Plan plan{deal(order, works, count), teams, 0};
    for (int own = width;; own = own * 3 / 4) {
      std::vector<double> costs;
      for (const Sequences &chunk : plan.chunks)
        costs.push_back(divide(chunk, own).cost);
      const double end = end_of(costs, teams) / (own == 1 ? kAlone : 1.0);
      if (best.chunks.empty() || end < least) {
        plan.threads = own == width ? threads : own * teams;
        best = plan;
        least = end;
      }
      // Hand-overs can make a team slower than a narrower one, but not where each thread has enough rows.
      if (own == 1 || total >= std::int64_t{kLeastQueries} * own * teams)
        break;
    }
    if (all >= kBusy * least * threads)
      break;
  }
  return best;
}

} // namespace quaver
