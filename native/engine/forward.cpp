#include "engine/forward.h"

#include <algorithm>

#include "engine/scratch.h"

namespace quaver {

using Kind = Stage::Kind;

Forward::Forward(const Model &model, const Stages &stages, const TokenBatch &batch, Sequences &sequences, Team team)
    : model_(model), stages_(stages), batch_(batch), sequences_(sequences), team_(team),
      rows_(sequences.back().row + sequences.back().length) {
  Activations &buffers = activations();
  const auto make = [this](Value v, Buffer<float> &buffer, int columns) {
    const std::ptrdiff_t ld = row_step(columns);
    value(v) = {buffer.resize(area(rows_, ld)), ld, 0};
  };
  int qkv = 0, context = 0, wide = 0;
  for (const Layer &layer : model.layers) {
    qkv = std::max(qkv, layer.spec.qkv_width());
    context = std::max(context, layer.spec.query_width());
    wide = std::max(wide, layer.spec.wide_width());
  }
  make(Value::x, buffers.x, model.geometry.hidden);
  const auto uses = [&stages](Value v) {
    return std::any_of(stages.list.begin(), stages.list.end(), [v](const Stage &s) { return s.to == v; });
  };
  if (uses(Value::input))
    make(Value::input, buffers.input, std::max(model.geometry.hidden, model.geometry.embedding));
  if (uses(Value::embedded))
    make(Value::embedded, buffers.embedded, model.geometry.hidden);
  make(Value::qkv, buffers.qkv, qkv);
  make(Value::context, buffers.context, context);
  // Made for a block of rows, or for all of them.
  value(Value::branch).ld = row_step(model.geometry.hidden);
  value(Value::wide).ld = row_step(wide);
}

TokenVectors Forward::result() { return {value(stages_.result), sequences_}; }

// --- Who runs the stages ---------------------------------------------------------------------------------------------

TokenVectors Forward::by_rows() {
  const auto end = stages_.list.end();
  for (auto stage = stages_.list.begin(); stage != end;) {
    if (stage->kind == Kind::attend) {
      record(*stage);
      attend(*stage++);
      continue;
    }
    if (stage->kind == Kind::keep) {
      keep();
      ++stage;
      continue;
    }
    const auto next =
        std::find_if(stage, end, [](const Stage &s) { return s.kind == Kind::attend || s.kind == Kind::keep; });
    team_.each_block(rows_, [&](int first, int last) {
      Values values;
      std::copy(std::begin(values_), std::end(values_), values);
      const auto make = [&](Value v, Buffer<float> &buffer) {
        Matrix &m = values[static_cast<int>(v)];
        m = {buffer.resize(area(last - first, m.ld)), m.ld, first};
      };
      make(Value::branch, scratch().branch);
      make(Value::wide, scratch().wide);
      for (auto s = stage; s != next; ++s)
        run(*s, values, first, last);
    });
    stage = next;
  }
  return result();
}

TokenVectors Forward::by_outputs(int blocks) {
  Activations &buffers = activations();
  value(Value::branch).data = buffers.branch.resize(area(rows_, value(Value::branch).ld));
  value(Value::wide).data = buffers.wide.resize(area(rows_, value(Value::wide).ld));
  const bool with_attention = blocks == 1 && sequences_.size() == 1;
  buffers.blocks.resize(std::max(buffers.blocks.size(), static_cast<std::size_t>(blocks)));
  std::vector<LinearInput> inputs(static_cast<std::size_t>(blocks));
  const auto begin_of = [&](int block) { return static_cast<int>(static_cast<std::int64_t>(rows_) * block / blocks); };
  const auto rows_of = [&](int block) { return begin_of(block + 1) - begin_of(block); };
  const auto input_of = [&](int block) -> const LinearInput & { return inputs[static_cast<std::size_t>(block)]; };
  const auto each_share = [&](int columns, auto &&work) {
    team_.each_share(blocks, column_shares(blocks, columns, team_.width), [=](int) { return columns; }, work);
  };

  // Stages of whole rows wait for the next linear layer: its input is prepared by rows, too.
  auto waiting = stages_.list.begin();
  for (auto stage = waiting; stage != stages_.list.end(); ++stage) {
    if (stage->kind == Kind::keep) {
      keep();
      blocks = std::clamp(rows_ / kBlockRows, 1, blocks);
    } else if (stage->kind == Kind::project || stage->kind == Kind::multiply) {
      const Linear &linear = *stage->linear;
      const bool project = stage->kind == Kind::project;
      const Matrix &from = value(stage->from), &to = value(stage->to);
      for (int b = 0; b < blocks; ++b) {
        BlockRoom &room = buffers.blocks[static_cast<std::size_t>(b)];
        const int first = begin_of(b), rows = rows_of(b);
        const ResidualRows residuals =
            project ? first_tokens(first, first + rows, room.first_tokens) : ResidualRows{0, nullptr};
        inputs[static_cast<std::size_t>(b)] = linear.read(from.row(first), from.ld, rows, residuals, room.rounded);
      }
      if (linear.prepares() || waiting != stage)
        team_.each_share(blocks, (team_.width + blocks - 1) / blocks, rows_of, [&](int block, int first, int last) {
          const int begin = begin_of(block);
          for (auto s = waiting; s != stage; ++s)
            run(*s, values_, begin + first, begin + last);
          linear.prepare(input_of(block), first, last);
        });
      if (!project)
        each_share(linear.panels(), [&](int block, int first, int last) {
          linear.multiply(input_of(block), first, last, to.row(begin_of(block)) + stage->column, to.ld,
                          stage->activation);
        });
      else if (with_attention)
        each_share(attention_units(stage->layer->spec).count,
                   [&](int, int first, int last) { attend_outputs(*stage, input_of(0), first, last); });
      else
        each_share(attention_units(stage->layer->spec).count, [&](int block, int first, int last) {
          project_units(*stage, input_of(block), begin_of(block), first, last);
        });
    } else if (stage->kind == Kind::attend) {
      record(*stage);
      if (!with_attention) // otherwise its share was computed with the projection
        attend(*stage);
    } else {
      continue;
    }
    waiting = stage + 1;
  }
  if (waiting != stages_.list.end())
    team_.each_share(rows_, [&](int first, int last) {
      for (auto s = waiting; s != stages_.list.end(); ++s)
        run(*s, values_, first, last);
    });
  return result();
}

// --- The stages of whole rows ----------------------------------------------------------------------------------------

void Forward::run(const Stage &stage, const Values &values, int first, int last) const {
  const Matrix &from = values[static_cast<int>(stage.from)], &to = values[static_cast<int>(stage.to)];
  const int rows = last - first;
  switch (stage.kind) {
  case Kind::embed:
    embed(to, first, last);
    break;
  case Kind::norm: {
    const Matrix &branch = values[static_cast<int>(Value::branch)];
    model_.kernels.add_norm(from.row(first) + stage.column, from.ld, stage.add ? branch.row(first) : nullptr, branch.ld,
                            rows, stage.columns == 0 ? model_.geometry.hidden : stage.columns,
                            stage.norm == nullptr ? NormWeights{} : stage.norm->view(), to.row(first) + stage.column,
                            to.ld);
    break;
  }
  case Kind::multiply: {
    const LinearInput input = stage.linear->read(from.row(first), from.ld, rows, {}, scratch().input);
    stage.linear->prepare(input, 0, rows);
    stage.linear->multiply(input, 0, stage.linear->panels(), to.row(first) + stage.column, to.ld, stage.activation);
    break;
  }
  case Kind::gate:
    model_.kernels.gate(to.row(first), to.ld, rows, stage.columns, stage.last, stage.activation,
                        stage.linear->rounds_to_bytes());
    break;
  case Kind::scale:
    for (int row = first; row < last; ++row)
      for (int c = 0; c < model_.geometry.hidden; ++c)
        to.row(row)[c] *= stage.factor;
    break;
  case Kind::project:
    project(stage, from, first, last);
    break;
  case Kind::attend: // reads other rows
  case Kind::keep:
    break;
  }
}

// x = norm(word + position + type), in the order of the model; a projection has that order itself.
void Forward::embed(const Matrix &x, int first, int last) const {
  const Embeddings &tables = model_.embeddings;
  const Geometry &g = model_.geometry;
  auto sequence = std::upper_bound(sequences_.begin(), sequences_.end(), first,
                                   [](int row, const Sequence &s) { return row < s.row; });
  --sequence;
  const int width = g.embedding_width();
  const std::size_t ordered = tables.projection == nullptr ? model_.order.size() : 0;
  float *natural = scratch().natural.resize(ordered);
  for (int row = first; row < last; ++row) {
    while (row >= sequence->row + sequence->length)
      ++sequence;
    const int place = row - sequence->row;
    const int token = batch_.offsets[sequence->index] + place;
    float *out = x.row(row), *sum = ordered == 0 ? out : natural;
    const auto row_of = [width](const float *table, int at) { return table + static_cast<std::ptrdiff_t>(at) * width; };
    const auto add = [&](const float *source) {
      for (int c = 0; c < width; ++c)
        sum[c] += source[c];
    };
    tables.word.read(batch_.ids[token], width, g.word_scale, sum);
    if (tables.position != nullptr)
      add(row_of(tables.position, batch_.before() + place + g.position_offset));
    if (tables.token_type != nullptr)
      add(row_of(tables.token_type, batch_.type_ids == nullptr ? 0 : batch_.type_ids[token]));
    for (std::size_t c = 0; c < ordered; ++c)
      out[c] = natural[model_.order[c]];
  }
  if (!tables.norm.empty())
    model_.kernels.add_norm(x.row(first), x.ld, nullptr, 0, last - first, width, tables.norm.view(), x.row(first),
                            x.ld);
}

// qkv = linear(from), query and key placed. In the last layer the queries of rows that nobody reads are left out.
void Forward::project(const Stage &stage, const Matrix &from, int first, int last) const {
  const Linear &linear = *stage.linear;
  const Matrix &qkv = values_[static_cast<int>(Value::qkv)];
  const auto multiply = [&](int begin, int end, int first_panel, int last_panel) {
    const LinearInput input = linear.read(from.row(begin), from.ld, end - begin,
                                          first_tokens(begin, end, scratch().first_tokens), scratch().input);
    linear.prepare(input, 0, end - begin);
    linear.multiply(input, first_panel, last_panel, qkv.row(begin), qkv.ld, Activation::none);
  };
  const LayerSpec &spec = stage.layer->spec;
  const int query_panels = spec.query_width() / kPanel;
  if (!only_kept(stage) || spec.query_width() % kPanel != 0) {
    multiply(first, last, 0, linear.panels());
  } else {
    multiply(first, last, query_panels, linear.panels());
    for (const Sequence &sequence : sequences_)
      if (const int row = sequence.row + kept_row(sequence); row >= first && row < last)
        multiply(row, row + 1, 0, query_panels);
  }
  place(*stage.layer, first, last, 0, spec.kv_heads);
}

// In trained encoders every token attends to the first one of its sequence more than to any other, and the first
// token's activations are the widest: its quantization error was a fifth of the loss of eight bits. So that row goes
// through the projection twice: once quantized, then again for its residual.
ResidualRows Forward::first_tokens(int first, int last, Buffer<std::int32_t> &room) const {
  std::int32_t *of = room.resize(static_cast<std::size_t>(last - first));
  int count = 0;
  for (const Sequence &sequence : sequences_)
    if (batch_.prefix == nullptr && sequence.row >= first && sequence.row < last)
      of[count++] = sequence.row - first;
  return {count, of};
}

// The heads of query, key and value through their norms, then query and key rotated by their positions: of some heads
// of keys and values, and the queries that read them.
void Forward::place(const Layer &layer, int first, int last, int first_kv_head, int last_kv_head) const {
  const LayerSpec &spec = layer.spec;
  const Matrix &qkv = values_[static_cast<int>(Value::qkv)];
  const int d = spec.head_size, group = spec.heads / spec.kv_heads, kv_heads = last_kv_head - first_kv_head;
  const struct {
    const Norm &norm;
    int column, heads;
    bool rotated;
  } parts[] = {
      {layer.query_norm, first_kv_head * group * d, kv_heads * group, true},
      {layer.key_norm, spec.query_width() + first_kv_head * d, kv_heads, true},
      {layer.value_norm, spec.query_width() + spec.kv_width() + first_kv_head * d, kv_heads, false},
  };
  for (const auto &part : parts)
    for (int h = 0; h < part.heads && !part.norm.empty(); ++h) {
      float *x = qkv.row(first) + part.column + h * d;
      model_.kernels.add_norm(x, qkv.ld, nullptr, 0, last - first, d, part.norm.view(), x, qkv.ld);
    }
  if (spec.rotary < 0)
    return;
  const Rotary &table = model_.rotary[static_cast<std::size_t>(spec.rotary)];
  for (const Sequence &sequence : sequences_) {
    const int begin = std::max(first, sequence.row), end = std::min(last, sequence.row + sequence.length);
    if (begin >= end)
      continue;
    const std::ptrdiff_t position = static_cast<std::ptrdiff_t>(batch_.before() + begin - sequence.row) * (d / 2);
    for (const auto &part : parts)
      if (part.rotated)
        model_.kernels.rotate(qkv.row(begin) + part.column, qkv.ld, end - begin, part.heads, d, table.cosine + position,
                              table.sine + position);
  }
}

// --- Attention -------------------------------------------------------------------------------------------------------

void Forward::attend(const Stage &stage) {
  if (only_kept(stage) || team_.width == 1) {
    const LayerSpec &spec = stage.layer->spec;
    const int group = spec.heads / spec.kv_heads, sequences = static_cast<int>(sequences_.size());
    const int heads = team_.width == 1 || sequences * spec.kv_heads >= 4 * team_.width ? group : 1;
    const int items = spec.heads / heads;
    team_.each(sequences * items, [&](int i) {
      const int head = i % items * heads;
      attend_heads(stage, sequences_[static_cast<std::size_t>(i / items)], head, head + heads);
    });
    return;
  }
  const std::vector<AttentionItem> &items = items_of(stage.layer->spec);
  team_.each(static_cast<int>(items.size()), [&](int i) {
    const AttentionItem &item = items[static_cast<std::size_t>(i)];
    quaver::attend(model_, *stage.layer, sequences_[static_cast<std::size_t>(item.sequence)], item.first_head,
                   item.last_head, item.first, item.last, value(Value::qkv), value(Value::context), batch_.prefix);
  });
}

// Most layers of a model have the same items.
const std::vector<AttentionItem> &Forward::items_of(const LayerSpec &layer) {
  for (const auto &[like, items] : items_)
    if (like->heads == layer.heads && like->kv_heads == layer.kv_heads && like->behind == layer.behind)
      return items;
  items_.emplace_back(&layer, attention_items(layer, sequences_, team_.width, model_.relative.rows == nullptr));
  return items_.back().second;
}

void Forward::attend_heads(const Stage &stage, const Sequence &sequence, int first, int last) const {
  const int token = only_kept(stage) ? kept_row(sequence) : 0;
  const int end = only_kept(stage) ? token + 1 : sequence.length;
  quaver::attend(model_, *stage.layer, sequence, first, last, token, end, values_[static_cast<int>(Value::qkv)],
                 values_[static_cast<int>(Value::context)], batch_.prefix);
}

// Keep the keys and values of a layer.
void Forward::record(const Stage &stage) {
  if (batch_.record == nullptr)
    return;
  const LayerSpec &spec = stage.layer->spec;
  const Matrix &qkv = value(Value::qkv);
  const std::ptrdiff_t width = 2 * spec.kv_width();
  float *rows =
      batch_.record->layers[static_cast<std::size_t>(stage.layer - model_.layers.data())].resize(area(rows_, width));
  for (int r = 0; r < rows_; ++r)
    std::copy_n(qkv.row(r) + spec.query_width(), width, rows + r * width);
}

// Queries, keys and values of some units: all rows of an input, which is of the rows from `first` on.
void Forward::project_units(const Stage &stage, const LinearInput &input, int first, int first_unit,
                            int last_unit) const {
  const Linear &linear = *stage.linear;
  const LayerSpec &spec = stage.layer->spec;
  const AttentionUnits units = attention_units(spec);
  const Matrix &qkv = values_[static_cast<int>(Value::qkv)];
  const int first_key = spec.query_width() / kPanel, first_value = first_key + spec.kv_width() / kPanel;
  const auto multiply = [&](const LinearInput &from, int row, int first_panel, int panels) {
    linear.multiply(from, first_panel + first_unit * panels, first_panel + last_unit * panels, qkv.row(row), qkv.ld,
                    Activation::none);
  };
  if (only_kept(stage) && sequences_.size() == 1) {
    if (const int row = kept_row(sequences_.front()); row >= first && row < first + input.rows) {
      const LinearInput kept = linear.read(input.x + (row - first) * input.ldx, input.ldx, 1,
                                           first_tokens(row, row + 1, scratch().first_tokens), scratch().input);
      linear.prepare(kept, 0, 1);
      multiply(kept, row, 0, units.query_panels);
    }
  } else {
    multiply(input, first, 0, units.query_panels);
  }
  multiply(input, first, first_key, units.kv_panels);
  multiply(input, first, first_value, units.kv_panels);
  place(*stage.layer, first, first + input.rows, first_unit * units.kv_heads, last_unit * units.kv_heads);
}

// The same with their attention, of a text alone.
void Forward::attend_outputs(const Stage &stage, const LinearInput &input, int first_unit, int last_unit) const {
  project_units(stage, input, 0, first_unit, last_unit);
  const LayerSpec &spec = stage.layer->spec;
  const int heads = attention_units(spec).kv_heads, group = spec.heads / spec.kv_heads;
  for (int head = first_unit * heads; head < last_unit * heads; ++head)
    attend_heads(stage, sequences_.front(), head * group, (head + 1) * group);
}

// --- The rows that are kept ------------------------------------------------------------------------------------------

bool Forward::only_kept(const Stage &stage) const {
  return stages_.kept != Kept::all && stage.layer == &model_.layers.back();
}

int Forward::kept_row(const Sequence &sequence) const { return stages_.kept == Kept::last ? sequence.length - 1 : 0; }

// The chunk shrinks to one row for each sequence; rows move towards the front, so none is overwritten before it is
// read.
void Forward::keep() {
  int row = 0;
  for (Sequence &sequence : sequences_) {
    const int from = sequence.row + kept_row(sequence);
    for (const Value v : {Value::x, Value::context, Value::embedded})
      if (const Matrix &m = value(v); row != from && m.data != nullptr)
        std::copy_n(m.row(from), m.ld, m.row(row));
    sequence.row = row++;
    sequence.length = 1;
  }
  rows_ = row;
}

} // namespace quaver
