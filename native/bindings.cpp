// The border to Python: the only file that knows nanobind. Shapes and ranges of a model are checked when it is read,
// the values of a batch by `encode`; quaver/engine/engine.py, the only caller, reports what was wrong.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <optional>

#include "cpu.h"
#include "engine/encoder.h"
#include "engine/pool.h"
#include "system/thread_end.h"
#include "words/word_pieces.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T> using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T> using Matrix = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void require(bool holds, const char *rule) {
  if (!holds)
    throw nb::value_error(rule);
}

// Whether the interpreter is ending; may be asked without the GIL. The function got its public name in Python 3.13, and
// the stable ABI of 3.12 has neither: so by name. Found while the module is imported.
using IsFinalizing = int (*)();
IsFinalizing find_is_finalizing() {
  void *found = quaver::find_symbol("Py_IsFinalizing");
  return reinterpret_cast<IsFinalizing>(found != nullptr ? found : quaver::find_symbol("_Py_IsFinalizing"));
}
const IsFinalizing is_finalizing = find_is_finalizing();

// The GIL, given up for a long call.
//
// Python up to 3.13 ends a thread that asks for the GIL while the interpreter ends: by pthread_exit, whose unwinding
// kills the process at the first noexcept frame, or pulls a stack away that other threads work on. Such a thread sleeps
// until the process ends instead, as it does by itself from 3.14 on: pthread_exit calls clean-up handlers before it
// leaves a frame, and ours never returns. Where the system has no such handlers (Windows), Python 3.13 and older keep
// that danger for threads that are in a call while the interpreter ends.
class WithoutGil {
public:
  WithoutGil() : ends_python_(finalizing()), state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil &) = delete;
  WithoutGil &operator=(const WithoutGil &) = delete;
  ~WithoutGil() { take(false); }

  // Whether a signal's handler raised.
  bool interrupted() {
    const bool raised = take(true);
    state_ = PyEval_SaveThread();
    return raised;
  }

private:
  static bool finalizing() { return is_finalizing != nullptr && is_finalizing() != 0; }

  bool take(bool check_signals) {
    if (!ends_python_ && finalizing())
      quaver::sleep_for_ever(nullptr);
    bool raised = false;
    quaver::or_sleep([&] { // it may begin to end while this thread waits for the GIL
      PyEval_RestoreThread(state_);
      raised = check_signals && PyErr_CheckSignals() != 0;
    });
    return raised;
  }

  const bool ends_python_; // the thread that ends the interpreter still runs code: it asked for the GIL and has it
  PyThreadState *state_;
};

std::vector<std::int32_t> copy(const Vector<std::int32_t> &v) { return {v.data(), v.data() + v.shape(0)}; }

// --- A model from Python ---------------------------------------------------------------------------------------------
// It is a mapping, as quaver/engine/native_model.py makes it; a layer is one, and so are a linear layer and a norm.

// The value of a key. Arrays are taken as they are: one of another type is an error, never a converted copy.
template <class T> T get(const nb::handle &mapping, const char *key) {
  const nb::object value = mapping[key];
  T converted;
  if (!nb::try_cast<T>(value, converted, false))
    throw nb::type_error((std::string(key) + " has another type or shape than the engine reads").c_str());
  return converted;
}
int get_size(const nb::handle &mapping, const char *key, int least, int most) {
  const int value = get<int>(mapping, key);
  if (value < least || value > most)
    throw nb::value_error((std::string(key) + " is in " + std::to_string(least) + ".." + std::to_string(most)).c_str());
  return value;
}
float get_float(const nb::handle &mapping, const char *key) { return static_cast<float>(get<double>(mapping, key)); }
constexpr int kAny = std::numeric_limits<int>::max();

template <class T> struct Choice {
  const char *name;
  T value;
};
constexpr Choice<quaver::Activation> kActivations[] = {
    {"none", quaver::Activation::none},           {"gelu", quaver::Activation::gelu},
    {"gelu_tanh", quaver::Activation::gelu_tanh}, {"relu", quaver::Activation::relu},
    {"silu", quaver::Activation::silu},           {"tanh", quaver::Activation::tanh}};
constexpr Choice<quaver::Gate> kGates[] = {
    {"none", quaver::Gate::none}, {"first", quaver::Gate::first}, {"last", quaver::Gate::last}};
constexpr Choice<quaver::Pooling> kPoolings[] = {{"cls", quaver::Pooling::cls},
                                                 {"mean", quaver::Pooling::mean},
                                                 {"max", quaver::Pooling::max},
                                                 {"lasttoken", quaver::Pooling::last},
                                                 {"mean_sqrt_len_tokens", quaver::Pooling::mean_sqrt},
                                                 {"weightedmean", quaver::Pooling::weighted}};
constexpr Choice<quaver::AttentionPrecision> kAttentions[] = {{"float32", quaver::AttentionPrecision::float32},
                                                              {"bfloat16", quaver::AttentionPrecision::bfloat16},
                                                              {"int8", quaver::AttentionPrecision::int8}};
constexpr Choice<quaver::NormKind> kNorms[] = {{"layer", quaver::NormKind::layer}, {"rms", quaver::NormKind::rms}};

template <class T, std::size_t N> T choose(const Choice<T> (&choices)[N], const std::string &name) {
  for (const Choice<T> &choice : choices)
    if (name == choice.name)
      return choice.value;
  throw nb::value_error((name + " is none of the names that the engine knows").c_str());
}

void require_length(const Vector<float> &v, int size, const char *rule) {
  require(v.shape(0) == static_cast<std::size_t>(size), rule);
}

quaver::Buffer<float> buffer_of(const Vector<float> &v, int size) {
  require_length(v, size, "a norm has a value for each feature");
  quaver::Buffer<float> buffer(v.shape(0));
  std::memcpy(buffer.data(), v.data(), v.nbytes());
  return buffer;
}

quaver::Norm norm_of(const nb::handle &norm, int size) {
  if (norm.is_none())
    return {};
  const quaver::NormKind kind = choose(kNorms, get<std::string>(norm, "kind"));
  return {kind, get_float(norm, "eps"), buffer_of(get<Vector<float>>(norm, "gamma"), size),
          kind == quaver::NormKind::layer ? buffer_of(get<Vector<float>>(norm, "beta"), size)
                                          : quaver::Buffer<float>{}};
}

// Makes a model's parts for one instruction set.
class ModelReader {
public:
  ModelReader(const quaver::InstructionSet &set, std::vector<nb::object> &kept)
      : kernels_(*set.kernels), multiplies_bfloat16_(set.bfloat16), kept_(kept) {}

  quaver::Model read(const nb::handle &model) {
    quaver::Model m{.kernels = kernels_, .geometry = geometry_of(model), .embeddings = {nullptr, nullptr, nullptr}};
    const quaver::Geometry &g = m.geometry;
    if (!model["order"].is_none())
      m.order = order_of(get<Vector<std::int32_t>>(model, "order"), g.hidden);
    const int width = g.embedding_width();
    const nb::object words_as_stored = model["word"];
    const bool plain = nb::ndarray_check(words_as_stored);
    m.embeddings = {plain ? quaver::WordTable(table(model, "word", g.vocabulary, width))
                          : words_of(words_as_stored, g.vocabulary, width),
                    model["position"].is_none() ? nullptr : table(model, "position", g.positions, width),
                    g.token_types == 0 ? nullptr : table(model, "token_type", g.token_types, width),
                    norm_of(model["embedding_norm"], width)};
    if (const nb::object projection = model.attr("get")("embedding_projection"); !projection.is_none())
      m.embeddings.projection = linear_of(projection, g.hidden, width);
    require(m.embeddings.projection != nullptr || width == g.hidden, "tables have H features without a projection");
    std::vector<int> head_sizes; // of the rotary tables
    for (const nb::handle tables : model["rotary"]) {
      const int half = static_cast<int>(get<Matrix<float>>(tables, "cosine").shape(1));
      m.rotary.push_back({table(tables, "cosine", g.longest(), half), table(tables, "sine", g.longest(), half)});
      head_sizes.push_back(2 * half);
    }
    if (!model["distance_bias"].is_none()) {
      const auto bias = get<Matrix<float>>(model, "distance_bias");
      const int width = static_cast<int>(bias.shape(1)), heads = static_cast<int>(bias.shape(0));
      require(width % 2 == 1 && width / 2 + 1 >= g.longest(), "a distance bias has 2 * reach - 1 columns");
      m.bias = {table(model, "distance_bias", heads, width), width / 2 + 1};
      bias_heads_ = heads;
    }
    if (!model["relative"].is_none())
      m.relative = relative_of(model["relative"], g);
    // One at a time: an iterator makes a layer when the one before it is packed.
    for (const nb::handle layer : model["layers"]) {
      m.layers.push_back(layer_of(layer, g));
      const quaver::LayerSpec &spec = m.layers.back().spec;
      require(spec.rotary < static_cast<int>(head_sizes.size()) &&
                  (spec.rotary < 0 || head_sizes[static_cast<std::size_t>(spec.rotary)] == spec.head_size),
              "a layer's rotary tables have D / 2 columns");
    }
    m.final_norm = norm_of(model["final_norm"], g.hidden);
    for (const nb::handle step : model["head"])
      m.head.push_back(head_step_of(step, m.outputs()));
    if (const nb::object words = model.attr("get")("words"); !words.is_none()) {
      quaver::LinearPtr linear = linear_of(words["linear"], g.vocabulary, m.outputs());
      m.words = {std::move(linear), {get<bool>(words, "sum"), get_size(words, "logarithms", 1, 2)}};
      require(g.pooling.size() == 1, "words are computed from one vector for each token");
    }
    return m;
  }

private:
  static quaver::Geometry geometry_of(const nb::handle &model) {
    quaver::Geometry g{.hidden = get_size(model, "hidden", 1, quaver::kMaxDepth),
                       .vocabulary = get_size(model, "vocabulary", 1, kAny),
                       .positions = get_size(model, "positions", 1, kAny),
                       .position_offset = get_size(model, "position_offset", 0, kAny),
                       .token_types = get_size(model, "token_types", 0, kAny),
                       .word_scale = get_float(model, "word_scale"),
                       .pooling = {},
                       .normalize = get<bool>(model, "normalize"),
                       .embedding = 0};
    if (nb::cast<bool>(model.attr("__contains__")("embedding")))
      g.embedding = get_size(model, "embedding", 0, quaver::kMaxDepth);
    require(g.longest() >= 1 && g.longest() <= quaver::kMaxLength, "a sequence has 1 to 65536 tokens");
    for (const nb::handle name : model["pooling"])
      g.pooling.push_back(choose(kPoolings, nb::cast<std::string>(name)));
    require(!g.pooling.empty(), "there is at least one pooling");
    return g;
  }

  static quaver::FeatureOrder order_of(const Vector<std::int32_t> &order, int hidden) {
    const quaver::FeatureOrder made = copy(order);
    std::vector<bool> seen(static_cast<std::size_t>(hidden));
    require(made.size() == seen.size(), "an order has H features");
    for (const std::int32_t c : made) {
      require(c >= 0 && c < hidden && !seen[static_cast<std::size_t>(c)], "an order has each feature once");
      seen[static_cast<std::size_t>(c)] = true;
    }
    return made;
  }

  quaver::LayerSpec spec_of(const nb::handle &layer) const {
    const quaver::LayerSpec spec{
        .heads = get_size(layer, "heads", 1, quaver::kMaxDepth),
        .kv_heads = get_size(layer, "kv_heads", 1, quaver::kMaxDepth),
        .head_size = get_size(layer, "head_size", 1, quaver::kMaxHead),
        .intermediate = get_size(layer, "intermediate", 1, quaver::kMaxDepth),
        .behind = get_size(layer, "behind", 0, quaver::kMaxLength),
        .ahead = get_size(layer, "ahead", 0, quaver::kMaxLength),
        .rotary = get_size(layer, "rotary", -1, kAny),
        .attention = choose(kAttentions, get<std::string>(layer, "attention")),
        .gate = choose(kGates, get<std::string>(layer, "gate")),
        .activation = choose(kActivations, get<std::string>(layer, "activation")),
        .input = layer["input"].is_none() ? 0 : get_size(layer["input"], "size", 1, quaver::kMaxDepth)};
    require(multiplies_bfloat16_ || spec.attention != quaver::AttentionPrecision::bfloat16, kBFloat16Rule);
    require(spec.heads % spec.kv_heads == 0, "kv_heads divides heads");
    require(spec.heads <= quaver::kMaxDepth / spec.head_size, "all heads together have at most 65536 features");
    return spec;
  }

  quaver::Layer layer_of(const nb::handle &layer, const quaver::Geometry &g) {
    const quaver::LayerSpec spec = spec_of(layer);
    const int d = spec.head_size;
    require(bias_heads_ == 0 || bias_heads_ == spec.heads, "a distance bias has a row for each head");
    const auto norms = [&](const char *key) {
      const nb::object places = layer[key];
      return quaver::Norms{norm_of(places["input"], g.hidden), norm_of(places["output"], g.hidden),
                           norm_of(places["sum"], g.hidden)};
    };
    return {.spec = spec,
            .attention = norms("attention_norms"),
            .feed_forward = norms("feed_forward_norms"),
            .qkv = linear_of(layer["qkv"], spec.qkv_width(), g.hidden),
            .out = linear_of(layer["out"], g.hidden, spec.query_width()),
            .up = linear_of(layer["up"], spec.up_width(), g.hidden),
            .down = linear_of(layer["down"], g.hidden, spec.intermediate),
            .query_norm = norm_of(layer["query_norm"], d),
            .key_norm = norm_of(layer["key_norm"], d),
            .value_norm = norm_of(layer["value_norm"], d),
            .position_queries = positions_of(layer["position_queries"], spec),
            .position_keys = positions_of(layer["position_keys"], spec),
            .input = input_of(layer["input"], spec.input, g.hidden),
            .scale = get_float(layer, "scale")};
  }

  quaver::LayerInput input_of(const nb::handle &input, int size, int hidden) {
    if (size == 0)
      return {};
    return {.project = linear_of(input["project"], size, hidden),
            .norm = norm_of(input["norm"], size),
            .gate = linear_of(input["gate"], size, hidden),
            .out = linear_of(input["out"], hidden, size),
            .output = norm_of(input["output"], hidden)};
  }

  // The kinds of weights.
  quaver::LinearPtr linear_of(const nb::handle &linear, int outputs, int inputs) {
    const auto kind = get<std::string>(linear, "kind");
    const auto bias = get<Vector<float>>(linear, "bias");
    require_length(bias, outputs, "a linear layer has bias (O,)");
    const auto require_weight = [&](const auto &weight) {
      require(weight.shape(0) == static_cast<std::size_t>(outputs) &&
                  weight.shape(1) == static_cast<std::size_t>(inputs),
              "a linear layer has weight (O, K)");
    };
    const bool pairs = kind == "bfloat16";
    if (kind == "float32" || pairs || kind == "bfloat16-weights") {
      const auto weight = get<Matrix<float>>(linear, "weight");
      require_weight(weight);
      if (kind == "float32")
        return std::make_unique<quaver::Float32Linear>(weight.data(), bias.data(), outputs, inputs, kernels_, memory_);
      require(multiplies_bfloat16_ || !pairs, kBFloat16Rule);
      const auto scale = get<Vector<float>>(linear, "scale");
      require_length(scale, outputs, "a linear layer in bfloat16 has scale (O,)");
      const auto make = [&]<class Kind>(const Kind *) -> quaver::LinearPtr {
        return std::make_unique<Kind>(weight.data(), scale.data(), bias.data(), outputs, inputs, kernels_, memory_);
      };
      return pairs ? make(static_cast<quaver::PairLinear *>(nullptr))
                   : make(static_cast<quaver::BFloat16Linear *>(nullptr));
    }
    require(kind == "int8" || kind == "int4", "a linear layer is float32, bfloat16, bfloat16-weights, int8 or int4");
    const auto weight = get<Matrix<std::int8_t>>(linear, "weight");
    require_weight(weight);
    quaver::InputRange range{0.0f, 0};
    if (!linear["input_scale"].is_none()) {
      range = {get_float(linear, "input_scale"), get_size(linear, "input_zero", 0, 255)};
      require(range.scale > 0.0f, "an input range has scale > 0");
    }
    if (kind == "int4") {
      const int group = get_size(linear, "group", 32, quaver::kInt4Block);
      require(group == 32 || group == 64 || group == 128, "a group of int4 weights has 32, 64 or 128 inputs");
      require(std::all_of(weight.data(), weight.data() + weight.size(), [](int q) { return q >= -8 && q <= 7; }),
              "int4 weights are in -8..7");
      const auto scale = get<Matrix<float>>(linear, "scale");
      require_groups(scale, outputs, (inputs + group - 1) / group);
      const std::vector<int> ends =
          ends_of(linear.attr("get")("ends", nb::tuple()), inputs, std::max(group, quaver::kDepthStep));
      quaver::InputsApart apart;
      if (const nb::object columns = linear.attr("get")("apart"); !columns.is_none()) {
        const auto small = get<Matrix<std::int8_t>>(columns, "weight");
        const auto scales = get<Vector<float>>(columns, "scale");
        apart = {copy(get<Vector<std::int32_t>>(columns, "columns")), small.data(), scales.data()};
        require(small.shape(0) == static_cast<std::size_t>(outputs) && small.shape(1) == apart.columns.size(),
                "inputs apart have weight (O, columns)");
        require_length(scales, outputs, "inputs apart have scale (O,)");
        require(std::all_of(apart.columns.begin(), apart.columns.end(), [=](int c) { return c >= 0 && c < inputs; }),
                "inputs apart are in 0..K - 1");
      }
      return std::make_unique<quaver::Int4Linear>(weight.data(), scale.data(), bias.data(), range, group, outputs,
                                                  inputs, kernels_, memory_, ends, apart);
    }
    quaver::InputGroups groups;
    groups.ends = ends_of(linear["groups"], inputs, quaver::kDepthStep);
    const auto scale = get<Matrix<float>>(linear, "scale");
    require_groups(scale, outputs, groups.count());
    std::optional<Matrix<float>> centers;
    if (!linear["centers"].is_none()) {
      centers = get<Matrix<float>>(linear, "centers");
      require_groups(*centers, outputs, groups.count());
      groups.centers = centers->data();
    }
    return std::make_unique<quaver::Int8Linear>(weight.data(), scale.data(), bias.data(), range, outputs, inputs,
                                                kernels_, memory_, groups);
  }

  static std::vector<int> ends_of(const nb::handle &groups, int inputs, int step) {
    std::vector<int> ends;
    for (const nb::handle end : groups)
      ends.push_back(nb::cast<int>(end));
    for (std::size_t g = 0; g < ends.size(); ++g)
      require(ends[g] > (g == 0 ? 0 : ends[g - 1]) &&
                  (g + 1 == ends.size() ? ends[g] == inputs : ends[g] % step == 0 && ends[g] < inputs),
              "groups of inputs end at rising multiples of 64, or of the groups of weights, the last at K");
    return ends;
  }

  static void require_groups(const Matrix<float> &values, int outputs, int groups) {
    require(values.shape(0) == static_cast<std::size_t>(outputs) && values.shape(1) == static_cast<std::size_t>(groups),
            "a linear layer has scales and centers (O, groups)");
  }

  quaver::RelativeRows relative_of(const nb::handle &relative, const quaver::Geometry &g) {
    const auto rows = get<Vector<std::int32_t>>(relative, "rows");
    span_ = get_size(relative, "span", 1, quaver::kMaxLength);
    require(rows.shape(0) == 2 * static_cast<std::size_t>(g.longest()) - 1, "rows are (2 * longest - 1,)");
    for (std::size_t i = 0; i < rows.shape(0); ++i)
      require(rows.data()[i] >= 0 && rows.data()[i] < 2 * span_ && (i == 0 || rows.data()[i] <= rows.data()[i - 1]),
              "rows fall and are in [0, 2 * span)");
    kept_.push_back(relative["rows"]);
    return {rows.data(), g.longest()};
  }

  std::vector<quaver::LinearPtr> positions_of(const nb::handle &heads, const quaver::LayerSpec &spec) {
    std::vector<quaver::LinearPtr> made;
    for (const nb::handle head : heads)
      made.push_back(linear_of(head, 2 * span_, spec.head_size));
    require(made.size() == static_cast<std::size_t>(span_ == 0 ? 0 : spec.heads) &&
                (span_ == 0 || spec.heads == spec.kv_heads),
            "one position layer for each head where there are relative positions");
    return made;
  }

  quaver::HeadStep head_step_of(const nb::handle &step, int inputs) {
    if (step["linear"].is_none())
      return {nullptr, quaver::Activation::none, norm_of(step["norm"], inputs)};
    const nb::object linear = step["linear"];
    const int outputs = static_cast<int>(get<Vector<float>>(linear, "bias").shape(0));
    return {linear_of(linear, outputs, inputs), choose(kActivations, get<std::string>(step, "activation")), {}};
  }

  // Word embeddings that are stored as something else than float32, read in place.
  quaver::WordTable words_of(const nb::handle &words, int rows, int columns) {
    using Kind = quaver::WordTable::Kind;
    const auto kind = get<std::string>(words, "kind");
    const auto stored = [&]<class T>(const T *) -> const void * {
      const auto values = get<Matrix<T>>(words, "rows");
      require(values.shape(0) == static_cast<std::size_t>(rows) && values.shape(1) == static_cast<std::size_t>(columns),
              "word embeddings are (V, H)");
      kept_.push_back(words["rows"]);
      return values.data();
    };
    if (kind == "float16" || kind == "bfloat16")
      return {kind == "float16" ? Kind::float16 : Kind::bfloat16, stored(static_cast<const std::uint16_t *>(nullptr)),
              nullptr};
    require(kind == "int8", "word embeddings are float32 (V, H), or float16, bfloat16 or int8");
    const auto scale = get<Vector<float>>(words, "scale");
    require_length(scale, rows, "word embeddings in int8 have scale (V,)");
    kept_.push_back(words["scale"]);
    return {Kind::int8, stored(static_cast<const std::int8_t *>(nullptr)), scale.data()};
  }

  // A table that is read in place.
  const float *table(const nb::handle &owner, const char *key, int rows, int columns) {
    const auto values = get<Matrix<float>>(owner, key);
    if (values.shape(0) != static_cast<std::size_t>(rows) || values.shape(1) != static_cast<std::size_t>(columns))
      throw nb::value_error((std::string(key) + " has another shape than the geometry says").c_str());
    kept_.push_back(owner[key]);
    return values.data();
  }

  static constexpr const char *kBFloat16Rule = "this instruction set has products of bfloat16 here";

  const quaver::KernelTable &kernels_;
  const bool multiplies_bfloat16_;
  std::vector<nb::object> &kept_;
  quaver::WeightMemory memory_;
  int bias_heads_ = 0, span_ = 0;
};

// An encoder together with the arrays that it reads in place.
class Encoder {
public:
  Encoder(const std::string &isa, const nb::object &model) : encoder_(ModelReader(set_of(isa), kept_).read(model)) {}

  // Returns nothing when all is well, the first vector that is not finite, or -1 for a batch that is not accepted.
  // Works on copies: other threads may write to the arrays.
  std::optional<int> encode(const Vector<std::int32_t> &ids, const Vector<std::int32_t> &offsets,
                            const std::optional<Vector<std::int32_t>> &type_ids, int threads,
                            nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu> vectors,
                            const std::optional<Vector<std::int32_t>> &keys,
                            const std::optional<Vector<std::int32_t>> &span_offsets,
                            const std::optional<Matrix<std::int32_t>> &spans,
                            const std::optional<Vector<std::int32_t>> &splits, const quaver::Prefix *prefix) const {
    const std::size_t all = offsets.shape(0);
    if (all < 1 || (type_ids && type_ids->shape(0) != ids.shape(0)) || (keys && keys->shape(0) + 1 != all) ||
        (splits && splits->shape(0) + 1 != all))
      return -1;
    require(span_offsets.has_value() == spans.has_value() &&
                (!spans || (spans->shape(1) == 2 && span_offsets->shape(0) == all)),
            "spans are (S, 2), with N + 1 offsets");
    require(vectors.shape(0) == (spans ? spans->shape(0) : all - 1) &&
                vectors.shape(1) == static_cast<std::size_t>(outputs()),
            "vectors are (N, outputs) for N + 1 offsets, (S, outputs) for spans");
    const auto copy_of = [](const auto &v) { return v ? copy(*v) : std::vector<std::int32_t>{}; };
    const std::vector<std::int32_t> tokens = copy(ids), bounds = copy(offsets), types = copy_of(type_ids),
                                    key_counts = copy_of(keys), span_bounds = copy_of(span_offsets),
                                    split_places = copy_of(splits);
    std::vector<std::int32_t> parts;
    if (spans) {
      parts.assign(spans->data(), spans->data() + 2 * spans->shape(0));
      if (span_bounds.back() < 0 || static_cast<std::size_t>(span_bounds.back()) != spans->shape(0))
        return -1;
      parts.resize(std::max<std::size_t>(parts.size(), 1)); // a pointer even where there are none
    }
    const quaver::TokenBatch batch{.ids = tokens.data(),
                                   .type_ids = type_ids ? types.data() : nullptr,
                                   .offsets = bounds.data(),
                                   .sequences = static_cast<int>(all - 1),
                                   .keys = keys ? key_counts.data() : nullptr,
                                   .span_offsets = spans ? span_bounds.data() : nullptr,
                                   .spans = spans ? parts.data() : nullptr,
                                   .splits = splits ? split_places.data() : nullptr,
                                   .prefix = prefix};
    if (!encoder_.accepts(batch, tokens.size()))
      return -1;
    if (batch.vectors() == 0)
      return std::nullopt;
    bool finished = false;
    {
      WithoutGil without;
      auto asked = std::chrono::steady_clock::now();
      finished = encoder_.encode(batch, threads, vectors.data(), [&asked, &without] {
        const auto now = std::chrono::steady_clock::now();
        if (now - asked < std::chrono::milliseconds(100))
          return false;
        asked = now;
        return without.interrupted();
      });
    }
    if (!finished)
      throw nb::python_error();
    const int bad = quaver::first_not_finite(vectors.data(), batch.vectors(), outputs());
    return bad < 0 ? std::nullopt : std::optional(bad);
  }

  // Keys and values of tokens that come before others; nothing where the model has none to give, or ids are no rows.
  std::unique_ptr<quaver::Prefix> prefix(const Vector<std::int32_t> &ids, int threads) const {
    const std::vector<std::int32_t> tokens = copy(ids);
    WithoutGil without;
    return encoder_.prefix(tokens.data(), static_cast<int>(tokens.size()), threads);
  }

  int outputs() const { return encoder_.model().outputs(); }
  std::size_t weight_bytes() const { return encoder_.weight_bytes(); }

private:
  static const quaver::InstructionSet &set_of(const std::string &isa) {
    for (const quaver::InstructionSet &set : quaver::instruction_sets())
      if (set.available && isa == set.kernels->name) {
        if (const std::string refusal = quaver::request_permission(*set.kernels); !refusal.empty())
          throw nb::value_error(refusal.c_str());
        return set;
      }
    throw nb::value_error("isa is one of the available instruction sets");
  }

  std::vector<nb::object> kept_; // keep the arrays alive
  quaver::Encoder encoder_;
};

// Words and their tokens. Texts and words are ASCII, which Python stores as it is: nothing is copied.
class WordPieces {
public:
  using Ids = nb::ndarray<nb::numpy, std::int32_t, nb::ndim<1>>;

  WordPieces(bool lowercase, std::vector<std::string> added) : words_(lowercase, std::move(added)) {}

  void add(const std::vector<std::string> &words, const Vector<std::int32_t> &ids,
           const Vector<std::int32_t> &offsets) {
    const std::vector<std::int32_t> tokens = copy(ids), bounds = copy(offsets);
    require(bounds.size() == words.size() + 1 && bounds.front() == 0 && std::is_sorted(bounds.begin(), bounds.end()) &&
                static_cast<std::size_t>(bounds.back()) == tokens.size(),
            "offsets are (W + 1,) and go from 0 to the number of ids");
    words_.add(words, tokens, bounds);
  }

  std::tuple<Ids, Ids, std::vector<std::string>> read(const nb::typed<nb::list, nb::str> &texts, std::size_t most,
                                                      const WordPieces *more) const {
    require(more != this, "more words are those of another object");
    std::vector<nb::object> kept; // another thread may change the list
    std::vector<std::string_view> views;
    for (const nb::handle text : texts) {
      Py_ssize_t size = 0;
      const char *characters = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
      if (characters == nullptr)
        throw nb::python_error();
      kept.push_back(nb::borrow(text));
      views.emplace_back(characters, static_cast<std::size_t>(size));
    }
    quaver::WordPieces::Tokens found;
    {
      const WithoutGil without;
      found = words_.read(views, most, more == nullptr ? nullptr : &more->words_);
    }
    return {array_of(std::move(found.ids)), array_of(std::move(found.counts)), std::move(found.missing)};
  }

  std::size_t size() const { return words_.size(); }

private:
  static Ids array_of(std::vector<std::int32_t> &&values) {
    auto owned = std::make_unique<std::vector<std::int32_t>>(std::move(values));
    const nb::capsule owner(owned.get(), [](void *p) noexcept { delete static_cast<std::vector<std::int32_t> *>(p); });
    std::vector<std::int32_t> *const vector = owned.release();
    return Ids(vector->data(), {vector->size()}, owner);
  }

  quaver::WordPieces words_;
};

} // namespace

NB_MODULE(_native, m) {
  // A cache of some framework may hold an embedder until the interpreter ends; that is no leak worth a page of text.
  nb::set_leak_warnings(false);
  m.doc() = "The native engine. Private: use quaver.Embedder, or quaver.engine.Engine for token batches.";

  nb::class_<quaver::Prefix>(m, "Prefix").def_ro("length", &quaver::Prefix::length);
  nb::class_<Encoder>(m, "Encoder")
      .def(nb::init<const std::string &, const nb::object &>(), "isa"_a, "model"_a)
      .def("encode", &Encoder::encode, "ids"_a.noconvert(), "offsets"_a.noconvert(), "type_ids"_a.noconvert().none(),
           "threads"_a, "vectors"_a.noconvert(), "keys"_a.noconvert().none() = nb::none(),
           "span_offsets"_a.noconvert().none() = nb::none(), "spans"_a.noconvert().none() = nb::none(),
           "splits"_a.noconvert().none() = nb::none(), "prefix"_a.none() = nb::none())
      .def("prefix", &Encoder::prefix, "ids"_a.noconvert(), "threads"_a)
      .def_prop_ro("outputs", &Encoder::outputs)
      .def_prop_ro("weight_bytes", &Encoder::weight_bytes);

  nb::class_<WordPieces>(m, "WordPieces")
      .def(nb::init<bool, std::vector<std::string>>(), "lowercase"_a, "added"_a)
      .def("add", &WordPieces::add, "words"_a, "ids"_a.noconvert(), "offsets"_a.noconvert())
      .def("read", &WordPieces::read, "texts"_a, "most"_a, "more"_a.none() = nb::none())
      .def("__len__", &WordPieces::size);

  m.def("instruction_sets", [] {
    std::vector<std::tuple<std::string, bool>> sets;
    for (const quaver::InstructionSet &set : quaver::instruction_sets())
      sets.emplace_back(set.kernels->name, set.available);
    return sets;
  });
  m.def("bfloat16_sets", [] {
    std::vector<std::string> sets;
    for (const quaver::InstructionSet &set : quaver::instruction_sets())
      if (set.bfloat16)
        sets.emplace_back(set.kernels->name);
    return sets;
  });
  m.def("refusals", [] {
    std::vector<std::tuple<std::string, std::string>> reasons;
    for (const quaver::InstructionSet &set : quaver::instruction_sets())
      if (!set.refusal.empty())
        reasons.emplace_back(set.kernels->name, set.refusal);
    return reasons;
  });
  m.def(
      "request_permission",
      [](const std::string &isa) {
        for (const quaver::InstructionSet &set : quaver::instruction_sets())
          if (isa == set.kernels->name)
            return quaver::request_permission(*set.kernels);
        throw nb::value_error("isa is an instruction set of this build");
      },
      "isa"_a);
  m.def("cpu_name", &quaver::cpu_name);
  m.attr("compiler") = QUAVER_COMPILER;
#ifdef QUAVER_EMULATE
  m.attr("emulated") = true;
#else
  m.attr("emulated") = false;
#endif
}
