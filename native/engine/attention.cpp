#include "engine/attention.h"

#include "engine/scratch.h"

namespace quaver {
namespace {

// One head as the kernels read it: float keys and values, or everything in bfloat16 or in eight bits.
struct PackedHead {
  float *keys = nullptr, *values = nullptr;
  BFloat16Head pairs{};
  Int8Head int8{};

  // Go on to the key `first`, where a strip begins.
  void skip_keys(int first, int head_size, const KernelTable &kernels) {
    if (keys != nullptr) {
      keys += static_cast<std::ptrdiff_t>(first) * head_size;
    } else if (pairs.keys != nullptr) {
      pairs.keys += static_cast<std::ptrdiff_t>(first) * round_up(head_size, kPairStep);
    } else {
      int8.keys += static_cast<std::ptrdiff_t>(first) * round_up(head_size, kernels.key_step);
      int8.key_scale += first;
      int8.key_sums += first;
    }
  }
};

// The kernels of one kind of attention.
class Kind {
public:
  Kind(const KernelTable &kernels, AttentionPrecision precision) : kernels_(kernels), precision_(precision) {}

  PackedHead room_for(const AttentionHead &head, int rows) const {
    Scratch &s = scratch();
    PackedHead packed;
    if (precision_ == AttentionPrecision::int8) {
      packed.int8 = s.head.fit(rows, head.length, head.head_size, kernels_);
    } else if (precision_ == AttentionPrecision::bfloat16) {
      packed.pairs = s.pairs.fit(rows, head.length, head.head_size, *kernels_.bfloat16);
    } else {
      packed.keys = s.keys.resize(area(round_up(head.length, kStrip), head.head_size));
      packed.values = s.values.resize(area(head.length, round_up(head.head_size, kStrip)));
    }
    return packed;
  }

  void pack_keys(const AttentionHead &head, const PackedHead &packed) const {
    if (precision_ == AttentionPrecision::int8)
      kernels_.pack_keys_int8(head, packed.int8);
    else if (precision_ == AttentionPrecision::bfloat16)
      kernels_.bfloat16->pack_keys(head, packed.pairs);
    else
      kernels_.pack_keys(head, packed.keys);
  }

  // In eight bits values depend on all that are packed together: their mean and scale are those of the block.
  void pack_values(const AttentionHead &head, const PackedHead &packed) const {
    if (precision_ == AttentionPrecision::int8)
      kernels_.pack_values_int8(head, packed.int8);
    else if (precision_ == AttentionPrecision::bfloat16)
      kernels_.bfloat16->pack_values(head, packed.pairs);
    else
      kernels_.pack_values(head, packed.values);
  }

  // The rows [first, last) of a head whose keys and values are packed.
  void attend(const AttentionHead &head, const PackedHead &packed, int first, int last, float *out,
              std::ptrdiff_t ldo) const {
    const auto scores = [&](const auto &kernels) {
      return scratch().scores.resize(static_cast<std::size_t>(score_floats(kernels, head.length)));
    };
    const float *query = head.query + first * head.ld;
    if (precision_ == AttentionPrecision::int8) {
      const Int8Head &p = packed.int8;
      const std::ptrdiff_t ldq = round_up(head.head_size, kDepthStep);
      kernels_.quantize_rows(query, head.ld, last - first, head.head_size, p.query + first * ldq, ldq,
                             p.query_scale + first, p.query_zero + first);
      kernels_.attend_int8(head, p, first, last, scores(kernels_), out, ldo);
    } else if (precision_ == AttentionPrecision::bfloat16) {
      const BFloat16Head &p = packed.pairs;
      const std::ptrdiff_t ldq = round_up(head.head_size, kPairStep);
      kernels_.bfloat16->round_rows(query, head.ld, last - first, head.head_size, p.query + first * ldq, ldq);
      kernels_.bfloat16->attend(head, p, first, last, scores(*kernels_.bfloat16), out, ldo);
    } else {
      kernels_.attend(head, packed.keys, packed.values, first, last, scores(kernels_), out, ldo);
    }
  }

private:
  const KernelTable &kernels_;
  const AttentionPrecision precision_;
};

// The bias of a head's scores: values[r * step + j]; null for none. The next head's begins `heads` further on.
struct Bias {
  const float *values = nullptr;
  std::ptrdiff_t step = 0, heads = 0;
};

// y = x W^T + b for some panels, by this thread alone.
void apply(const Linear &w, const float *x, std::ptrdiff_t ldx, int rows, int first_panel, int last_panel, float *y,
           std::ptrdiff_t ldy) {
  const LinearInput input = w.read(x, ldx, rows, {}, scratch().input);
  w.prepare(input, 0, rows);
  w.multiply(input, first_panel, last_panel, y, ldy, Activation::none);
}

// bias[i][j] = query_i . position_key_r + key_j . position_query_r, r the row of relative positions for j - i. Both
// products are computed at once for all the rows that the sequence needs.
Bias relative_bias(const RelativeRows &relative, const Layer &layer, int head, const float *query, const float *key,
                   std::ptrdiff_t ld, int first, int last, int length) {
  constexpr int tile = 16; // of queries: what they read of a key's row is contiguous
  const Linear &keys = *layer.position_keys[static_cast<std::size_t>(head)],
               &queries = *layer.position_queries[static_cast<std::size_t>(head)];
  const std::int32_t *row_of = relative.rows + relative.reach - 1;
  const int first_panel = row_of[length - 1] / kPanel, last_panel = row_of[1 - length] / kPanel + 1;
  const std::ptrdiff_t width = keys.panels() * kPanel, step = round_up(length, tile);
  const int rows = last - first;
  Scratch &s = scratch();
  float *by_query = s.by_query.resize(area(rows, width)), *by_key = s.by_key.resize(area(length, width));
  apply(keys, query + first * ld, ld, rows, first_panel, last_panel, by_query, width);
  apply(queries, key, ld, length, first_panel, last_panel, by_key, width);
  float *bias = s.bias.resize(area(rows, step));
  for (int i = 0; i < rows; i += tile)
    for (int j = 0; j < length; ++j)
      for (int r = i; r < std::min(i + tile, rows); ++r) {
        const std::int32_t row = row_of[j - first - r];
        bias[r * step + j] = by_query[r * width + row] + by_key[j * width + row];
      }
  return {bias - first * step, step, 0};
}

// Queries that are attended together, with the keys around them, where a token does not see all of its text.
int block_rows(const LayerSpec &layer) { return round_up(std::max(layer.behind, 1), kPanel); }

// Queries of some heads, and the key and value that they read, of one sequence: rows `ld` floats apart.
struct Parts {
  const float *query, *key, *value;
  std::ptrdiff_t ld;
};

// Those of a prefix and of the sequence behind it, in rows side by side. The prefix has no queries.
Parts behind(const Prefix &prefix, std::size_t layer, const LayerSpec &spec, int kv_head, int heads, int length,
             const Parts &own) {
  const int d = spec.head_size;
  const std::ptrdiff_t ld = static_cast<std::ptrdiff_t>(heads + 2) * d, width = 2 * spec.kv_width();
  float *joined = scratch().joined.resize(area(prefix.length + length, ld)), *key = joined + heads * d;
  for (int r = 0; r < prefix.length; ++r) {
    const float *row = prefix.layers[layer].data() + r * width + kv_head * d;
    std::copy_n(row, d, key + r * ld);
    std::copy_n(row + spec.kv_width(), d, key + r * ld + d);
  }
  for (int r = 0; r < length; ++r) {
    float *row = joined + (prefix.length + r) * ld;
    std::copy_n(own.query + r * own.ld, heads * d, row);
    std::copy_n(own.key + r * own.ld, d, row + heads * d);
    std::copy_n(own.value + r * own.ld, d, row + (heads + 1) * d);
  }
  return {joined, key, key + d, ld};
}

} // namespace

// A layer with a window takes a block of queries at a time, with the keys that any of them sees: linear time. Blocks
// are counted from the start of the sequence, so they are the same ones in any batch.
void attend(const Model &model, const Layer &layer, const Sequence &sequence, int first_head, int last_head, int first,
            int last, const Matrix &qkv, const Matrix &context, const Prefix *prefix) {
  if (sequence.split > first) {
    const Sequence before{sequence.index, sequence.row, sequence.split, sequence.split, 0};
    attend(model, layer, before, first_head, last_head, first, std::min(last, sequence.split), qkv, context, nullptr);
    first = sequence.split;
    if (first >= last)
      return;
  }
  const LayerSpec &spec = layer.spec;
  const int d = spec.head_size, kv_head = first_head / (spec.heads / spec.kv_heads);
  const int before = prefix == nullptr ? 0 : prefix->length, length = before + sequence.length;
  const float *first_key = qkv.row(sequence.row) + spec.query_width() + kv_head * d;
  Parts parts{qkv.row(sequence.row) + first_head * d, first_key, first_key + spec.kv_width(), qkv.ld};
  if (prefix != nullptr)
    parts = behind(*prefix, static_cast<std::size_t>(&layer - model.layers.data()), spec, kv_head,
                   last_head - first_head, sequence.length, parts);
  first += before;
  last += before;
  const std::ptrdiff_t ld = parts.ld, ldo = context.ld;
  const float *query = parts.query, *key = parts.key, *value = parts.value;
  float *out = context.row(sequence.row) + first_head * d - before * ldo;

  Bias bias;
  if (model.relative.rows != nullptr)
    bias = relative_bias(model.relative, layer, first_head, query, key, ld, first, last, length);
  else if (const int width = 2 * model.bias.reach - 1; model.bias.heads != nullptr)
    bias = {model.bias.heads + static_cast<std::ptrdiff_t>(first_head) * width + model.bias.reach - 1, -1, width};

  // Some tokens are no keys only where every token sees all of its text.
  const bool everything = spec.behind >= length - 1;
  const int step = everything ? length : block_rows(spec), keys = everything ? before + sequence.keys : length;
  const Kind kind(model.kernels, spec.attention);
  const AttentionHead head{.query = query,
                           .key = key,
                           .value = value,
                           .ld = ld,
                           .length = everything ? keys : std::min(round_up(last, step) + spec.ahead, length),
                           .head_size = d,
                           .bias = bias.values,
                           .bias_step = bias.step,
                           .behind = spec.behind,
                           .ahead = spec.ahead};
  const PackedHead packed = kind.room_for(head, std::max(head.length, last));
  // Blocks share the packed keys where each begins between two strips of them.
  const bool keys_once = everything || spec.behind % kStrip == 0;
  if (keys_once)
    kind.pack_keys(head, packed);
  for (int block = first / step * step; block < last; block += step) {
    const int begin = everything ? 0 : std::max(block - spec.behind, 0);
    AttentionHead part = head;
    part.length = (everything ? keys : std::min(block + step + spec.ahead, length)) - begin;
    part.query += begin * ld;
    part.key += begin * ld;
    part.value += begin * ld;
    PackedHead packed_part = packed;
    if (keys_once)
      packed_part.skip_keys(begin, d, model.kernels);
    else
      kind.pack_keys(part, packed_part);
    kind.pack_values(part, packed_part);
    for (int h = first_head; h < last_head; ++h, part.query += d, part.bias += bias.heads)
      kind.attend(part, packed_part, std::max(block, first) - begin, std::min(block + step, last) - begin,
                  out + begin * ldo + (h - first_head) * d, ldo);
  }
}

} // namespace quaver
