#include "engine/encoder.h"

#include <algorithm>
#include <utility>

#include "engine/forward.h"
#include "engine/pool.h"
#include "engine/scratch.h"

namespace quaver {

Encoder::Encoder(Model model)
    : model_(std::move(model)), stages_(stages_of(model_, kept_rows(model_))), all_rows_(stages_of(model_, Kept::all)),
      weight_bytes_(model_.weight_bytes()), schedule_(model_, weight_bytes_) {}

bool Encoder::accepts(const TokenBatch &batch, std::size_t ids) const {
  const Geometry &g = model_.geometry;
  if (batch.offsets[0] != 0 || batch.offsets[batch.sequences] < 0 ||
      static_cast<std::size_t>(batch.offsets[batch.sequences]) != ids)
    return false;
  for (int i = 0; i < batch.sequences; ++i) {
    const std::int64_t length = std::int64_t{batch.offsets[i + 1]} - batch.offsets[i];
    if (length <= 0 || batch.before() + length > g.longest())
      return false;
    if (batch.splits != nullptr && (batch.splits[i] < 0 || batch.splits[i] >= length))
      return false;
    if (batch.keys == nullptr || batch.keys[i] == length)
      continue;
    if (batch.keys[i] <= 0 || batch.keys[i] > length ||
        std::any_of(model_.layers.begin(), model_.layers.end(),
                    [length](const Layer &l) { return std::min(l.spec.behind, l.spec.ahead) < length - 1; }))
      return false;
  }
  if (batch.spans != nullptr && !accepts_spans(batch))
    return false;
  if (batch.prefix != nullptr && (batch.prefix->model != &model_ || batch.splits != nullptr))
    return false;
  if ((batch.prefix != nullptr || batch.splits != nullptr) &&
      (!accepts_prefixes() || batch.keys != nullptr || batch.spans != nullptr))
    return false;
  const auto in_table = [ids](const std::int32_t *rows, int size) {
    return std::all_of(rows, rows + ids, [size](std::int32_t row) { return row >= 0 && row < size; });
  };
  return in_table(batch.ids, g.vocabulary) &&
         (batch.type_ids == nullptr || g.token_types == 0 || in_table(batch.type_ids, g.token_types));
}

bool Encoder::accepts_spans(const TokenBatch &batch) const {
  const std::int32_t *offsets = batch.span_offsets;
  if (model_.words.linear != nullptr || offsets[0] != 0 || !std::is_sorted(offsets, offsets + batch.sequences + 1))
    return false;
  for (int i = 0; i < batch.sequences; ++i)
    for (const std::int32_t *span = batch.spans + 2 * offsets[i]; span != batch.spans + 2 * offsets[i + 1]; span += 2)
      if (span[0] < 0 || span[0] >= span[1] || span[1] > batch.offsets[i + 1] - batch.offsets[i])
        return false;
  return true;
}

// Only causal layers, and a vector of the last token alone: what comes before a sequence is read through its keys and
// values.
bool Encoder::accepts_prefixes() const {
  return stages_.kept == Kept::last && model_.relative.rows == nullptr && model_.bias.heads == nullptr &&
         std::all_of(model_.layers.begin(), model_.layers.end(), [](const Layer &l) { return l.spec.ahead == 0; });
}

std::unique_ptr<Prefix> Encoder::prefix(const std::int32_t *ids, int length, int threads) const {
  const std::int32_t offsets[] = {0, length};
  auto made = std::make_unique<Prefix>(model_, length);
  const TokenBatch batch{.ids = ids, .type_ids = nullptr, .offsets = offsets, .sequences = 1, .record = made.get()};
  if (!accepts_prefixes() || !accepts(batch, static_cast<std::size_t>(length)))
    return nullptr;
  Buffer<float> vector(static_cast<std::size_t>(model_.outputs()));
  encode(batch, threads, vector.data(), [] { return false; });
  return made;
}

bool Encoder::encode(const TokenBatch &batch, int threads, float *vectors,
                     const std::function<bool()> &interrupted) const {
  Plan plan = schedule_.plan(batch, threads);
  const auto caller = std::this_thread::get_id();
  std::atomic<bool> stop{false};
  ThreadPool::shared().together(
      plan.teams, plan.threads, static_cast<int>(plan.chunks.size()),
      [&](int i, Crew &crew) {
        if (stop.load(std::memory_order_relaxed))
          return;
        {
          const AtWork at_work(model_.kernels);
          encode_chunk(batch, plan.chunks[static_cast<std::size_t>(i)], Team{crew.width(), &crew}, vectors);
        }
        if (std::this_thread::get_id() == caller && interrupted())
          stop.store(true, std::memory_order_relaxed);
      },
      [&](Crew &crew) {
        const AtWork at_work(model_.kernels);
        crew.help();
      });
  return !stop;
}

void Encoder::encode_chunk(const TokenBatch &batch, Sequences &sequences, Team team, float *vectors) const {
  const int blocks = schedule_.divide(sequences, team.width).blocks;
  Forward forward(model_, batch.spans == nullptr ? stages_ : all_rows_, batch, sequences, team);
  finish(model_, batch, blocks > 0 ? forward.by_outputs(blocks) : forward.by_rows(), team, vectors);
}

} // namespace quaver
