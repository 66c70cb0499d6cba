#include "engine/stages.h"

#include <algorithm>

namespace quaver {
namespace {

using Kind = Stage::Kind;

class Builder {
public:
  void embed(const Embeddings &tables) {
    if (tables.projection == nullptr) {
      add({.kind = Kind::embed});
      return;
    }
    add({.kind = Kind::embed, .to = Value::input});
    multiply(tables.projection, Value::input, Value::x);
  }

  // Layers change x, and some read what it was.
  void keep_embedded() { add({.kind = Kind::norm, .to = Value::embedded}); }

  // Where to read x through this norm.
  Value through(const Norm &norm, Value from = Value::x, Value to = Value::input) {
    if (norm.empty())
      return from;
    // One pass over a row is enough to add the branch and to take the norm of the sum.
    if (Stage &last = stages_.list.back();
        last.kind == Kind::norm && last.add && last.norm == nullptr && from == last.to) {
      last.norm = &norm;
      last.to = to;
    } else {
      add({.kind = Kind::norm, .from = from, .to = to, .norm = &norm});
    }
    return to;
  }

  void multiply(const LinearPtr &linear, Value from, Value to, Activation activation = Activation::none,
                int column = 0) {
    add({.kind = Kind::multiply,
         .from = from,
         .to = to,
         .linear = linear.get(),
         .activation = activation,
         .column = column});
  }

  void attend(const Layer &layer, Value from, bool keep) {
    add({.kind = Kind::project, .from = from, .to = Value::qkv, .layer = &layer, .linear = layer.qkv.get()});
    add({.kind = Kind::attend, .from = Value::qkv, .to = Value::context, .layer = &layer});
    if (keep)
      add({.kind = Kind::keep});
  }

  // The first half through the activation, or the last, times the other; `reader` multiplies what comes of it.
  void gate(Activation activation, int columns, bool last, const LinearPtr &reader) {
    add({.kind = Kind::gate,
         .from = Value::wide,
         .to = Value::wide,
         .linear = reader.get(),
         .activation = activation,
         .columns = columns,
         .last = last});
  }

  // What the embedding adds. Its features follow those of the gate, which are written first: their last panel may reach
  // over them.
  void add_input(const Layer &layer) {
    const LayerInput &input = layer.input;
    const int size = layer.spec.input;
    multiply(input.gate, Value::x, Value::wide);
    multiply(input.project, Value::embedded, Value::wide, Activation::none, size);
    add({.kind = Kind::norm,
         .from = Value::wide,
         .to = Value::wide,
         .norm = &input.norm,
         .column = size,
         .columns = size});
    gate(layer.spec.activation, size, false, input.out);
    multiply(input.out, Value::wide, Value::branch);
    through(input.output, Value::branch, Value::branch);
    add({.kind = Kind::norm, .add = true});
  }

  // x = sum norm(x + output norm(branch)).
  void join(const Norms &norms) {
    through(norms.output, Value::branch, Value::branch);
    add({.kind = Kind::norm, .add = true});
    through(norms.sum, Value::x, Value::x);
  }

  void add(const Stage &stage) { stages_.list.push_back(stage); }
  Stages finish(Value result, Kept kept) {
    stages_.result = result;
    stages_.kept = kept;
    return std::move(stages_);
  }

private:
  Stages stages_;
};

} // namespace

Stages stages_of(const Model &model, Kept kept) {
  Builder run;
  run.embed(model.embeddings);
  if (std::any_of(model.layers.begin(), model.layers.end(), [](const Layer &l) { return l.spec.input > 0; }))
    run.keep_embedded();
  for (const Layer &layer : model.layers) {
    const Value attended = run.through(layer.attention.input);
    run.attend(layer, attended, kept != Kept::all && &layer == &model.layers.back());
    run.multiply(layer.out, Value::context, Value::branch);
    run.join(layer.attention);

    const Value fed = run.through(layer.feed_forward.input);
    const bool gated = layer.spec.gate != Gate::none;
    run.multiply(layer.up, fed, Value::wide, gated ? Activation::none : layer.spec.activation);
    if (gated)
      run.gate(layer.spec.activation, layer.spec.intermediate, layer.spec.gate == Gate::last, layer.down);
    run.multiply(layer.down, Value::wide, Value::branch);
    run.join(layer.feed_forward);
    if (layer.spec.input > 0)
      run.add_input(layer);
    if (layer.scale != 1.0f)
      run.add({.kind = Kind::scale, .factor = layer.scale});
  }
  const Value result = run.through(model.final_norm);
  return run.finish(result, kept);
}

// Nobody reads the other rows of the last layer: it computes keys and values for all of them, and everything else for
// one row of each sequence.
Kept kept_rows(const Model &model) {
  const Geometry &geometry = model.geometry;
  if (model.words.linear != nullptr)
    return Kept::all;
  if (geometry.pooling == std::vector{Pooling::cls})
    return Kept::first;
  if (geometry.pooling == std::vector{Pooling::last})
    return Kept::last;
  return Kept::all;
}

} // namespace quaver
