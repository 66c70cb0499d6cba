// The border to Python: the only file that knows nanobind. Types, dimensions and contiguity are checked by the
// signatures, the values of a batch by `encode`; quaver/engine/engine.py, the only caller, reports what was wrong.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

#include <chrono>
#include <optional>

#include "cpu.h"
#include "engine/encoder.h"

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
  void *found = dlsym(RTLD_DEFAULT, "Py_IsFinalizing");
  return reinterpret_cast<IsFinalizing>(found != nullptr ? found : dlsym(RTLD_DEFAULT, "_Py_IsFinalizing"));
}
const IsFinalizing is_finalizing = find_is_finalizing();

// The GIL, given up for a long call.
//
// Python up to 3.13 ends a thread that asks for the GIL while the interpreter ends: by pthread_exit, whose unwinding
// kills the process at the first noexcept frame, or pulls a stack away that other threads work on. Such a thread sleeps
// until the process ends instead, as it does by itself from 3.14 on: pthread_exit calls clean-up handlers before it
// leaves a frame, and ours never returns.
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

  [[noreturn]] static void sleep_for_ever(void *) {
    for (;;)
      pause();
  }

  bool take(bool check_signals) {
    if (!ends_python_ && finalizing())
      sleep_for_ever(nullptr);
    bool raised = false;
    pthread_cleanup_push(sleep_for_ever, nullptr); // it may begin to end while this thread waits for the GIL
    PyEval_RestoreThread(state_);
    raised = check_signals && PyErr_CheckSignals() != 0;
    pthread_cleanup_pop(0);
    return raised;
  }

  const bool ends_python_; // the thread that ends the interpreter still runs code: it asked for the GIL and has it
  PyThreadState *state_;
};

std::vector<std::int32_t> copy(const Vector<std::int32_t> &v) { return {v.data(), v.data() + v.shape(0)}; }

template <class T> quaver::Buffer<T> copy(const Vector<T> &v, int size) {
  require(v.shape(0) == static_cast<std::size_t>(size), "a norm has H values");
  quaver::Buffer<T> buffer(v.shape(0));
  std::memcpy(buffer.data(), v.data(), v.nbytes());
  return buffer;
}

using FloatParts = std::tuple<Matrix<float>, Vector<float>>;                     // weight, bias
using Int8Parts = std::tuple<Matrix<std::int8_t>, Vector<float>, Vector<float>>; // weight, scale, bias
// The same with the scale and the zero of its input.
using StaticParts = std::tuple<Matrix<std::int8_t>, Vector<float>, Vector<float>, float, int>;
using LinearParts = std::variant<FloatParts, Int8Parts, StaticParts>;

quaver::Linear linear(const FloatParts &parts, int outputs, int inputs, const quaver::KernelTable &,
                      quaver::WeightMemory &memory) {
  const auto &[weight, bias] = parts;
  require(weight.shape(0) == static_cast<std::size_t>(outputs) && weight.shape(1) == static_cast<std::size_t>(inputs) &&
              bias.shape(0) == weight.shape(0),
          "a linear layer has weight (O, K) and bias (O,)");
  return quaver::Linear::float32(weight.data(), bias.data(), outputs, inputs, memory);
}

quaver::Linear linear(const Int8Parts &parts, int outputs, int inputs, const quaver::KernelTable &kernels,
                      quaver::WeightMemory &memory) {
  const auto &[weight, scale, bias] = parts;
  require(weight.shape(0) == static_cast<std::size_t>(outputs) && weight.shape(1) == static_cast<std::size_t>(inputs) &&
              scale.shape(0) == weight.shape(0) && bias.shape(0) == weight.shape(0),
          "a linear layer has weight (O, K), scale (O,) and bias (O,)");
  return quaver::Linear::int8(weight.data(), scale.data(), bias.data(), outputs, inputs, kernels, memory);
}

quaver::Linear linear(const StaticParts &parts, int outputs, int inputs, const quaver::KernelTable &kernels,
                      quaver::WeightMemory &memory) {
  const auto &[weight, scale, bias, input_scale, input_zero] = parts;
  require(input_scale > 0.0f && input_zero >= 0 && input_zero <= 255,
          "an input range has scale > 0 and zero in 0..255");
  quaver::Linear made = linear(Int8Parts{weight, scale, bias}, outputs, inputs, kernels, memory);
  made.fix_input({input_scale, input_zero});
  return made;
}

quaver::Linear linear(const LinearParts &parts, int outputs, int inputs, const quaver::KernelTable &kernels,
                      quaver::WeightMemory &memory) {
  return std::visit([&](const auto &p) { return linear(p, outputs, inputs, kernels, memory); }, parts);
}

using NormParts = std::tuple<Vector<float>, Vector<float>>; // gamma, beta

quaver::Norm make_norm(const NormParts &parts, int size) {
  return {copy(std::get<0>(parts), size), copy(std::get<1>(parts), size)};
}

// An encoder together with the arrays that it reads in place.
class Encoder {
public:
  Encoder(const quaver::EncoderSpec &spec, const std::string &isa, Matrix<float> word,
          std::optional<Matrix<float>> position, std::optional<Matrix<float>> token_type, const NormParts &norm)
      : encoder_(spec, kernels(isa),
                 {word.data(), position ? position->data() : nullptr, token_type ? token_type->data() : nullptr,
                  make_norm(norm, spec.hidden)}) {
    require_table(word, spec.vocabulary);
    if (position)
      require_table(*position, spec.positions);
    require(token_type.has_value() == (spec.token_types > 0), "a token type table where there are token types");
    if (token_type)
      require_table(*token_type, spec.token_types);
  }

  void add_layer(const LinearParts &qkv, const LinearParts &out, const std::optional<NormParts> &attention_norm,
                 const LinearParts &up, const LinearParts &down, const NormParts &output_norm, int window, int rotary,
                 const std::vector<LinearParts> &position_queries, const std::vector<LinearParts> &position_keys) {
    const quaver::EncoderSpec &spec = encoder_.spec();
    const int h = spec.hidden, wide = spec.intermediate;
    const auto make = [this](const LinearParts &parts, int outputs, int inputs) {
      return linear(parts, outputs, inputs, encoder_.kernels(), encoder_.memory());
    };
    require(window >= 0 && rotary >= -1 && rotary < rotaries_, "window is not negative, rotary one that was added");
    encoder_.add_layer(
        {make(qkv, 3 * h, h), make(out, h, h), attention_norm ? make_norm(*attention_norm, h) : quaver::Norm{},
         make(up, spec.gate == quaver::Gate::none ? wide : 2 * wide, h), make(down, h, wide), make_norm(output_norm, h),
         window, rotary, position_linears(position_queries), position_linears(position_keys)});
  }

  // Before the layers that have position queries and keys of 2 * span rows.
  void set_relative_rows(const Vector<std::int32_t> &rows, int span) {
    const quaver::EncoderSpec &spec = encoder_.spec();
    const int reach = spec.positions - spec.position_offset;
    require(span >= 1 && rows.shape(0) == 2 * static_cast<std::size_t>(reach) - 1, "rows are (2 * positions - 1,)");
    for (std::size_t i = 0; i < rows.shape(0); ++i)
      require(rows.data()[i] >= 0 && rows.data()[i] < 2 * span && (i == 0 || rows.data()[i] <= rows.data()[i - 1]),
              "rows fall and are in [0, 2 * span)");
    encoder_.set_relative_rows({rows.data(), reach});
    rows_ = rows;
    span_ = span;
  }

  void add_rotary(Matrix<float> cosine, Matrix<float> sine) {
    const quaver::EncoderSpec &spec = encoder_.spec();
    const auto rows = static_cast<std::size_t>(spec.positions - spec.position_offset);
    const auto half = static_cast<std::size_t>(spec.hidden / spec.heads / 2);
    require(cosine.shape(0) == rows && sine.shape(0) == rows && cosine.shape(1) == half && sine.shape(1) == half &&
                spec.hidden / spec.heads % 2 == 0,
            "rotary tables are (positions, D / 2), D even");
    encoder_.add_rotary({cosine.data(), sine.data()});
    tables_.push_back(cosine);
    tables_.push_back(sine);
    ++rotaries_;
  }

  void set_final_norm(const NormParts &norm) { encoder_.set_final_norm(make_norm(norm, encoder_.spec().hidden)); }

  void set_distance_bias(Matrix<float> bias, int reach) {
    const quaver::EncoderSpec &spec = encoder_.spec();
    require(reach >= spec.positions - spec.position_offset && bias.shape(0) == static_cast<std::size_t>(spec.heads) &&
                bias.shape(1) == 2 * static_cast<std::size_t>(reach) - 1,
            "a bias is (heads, 2 * reach - 1)");
    encoder_.set_distance_bias({bias.data(), reach});
    tables_.push_back(bias);
  }

  void add_dense(const Matrix<float> &weight, const Vector<float> &bias, quaver::Activation activation) {
    const int outputs = static_cast<int>(weight.shape(0));
    quaver::HeadStep step{
        linear(FloatParts{weight, bias}, outputs, encoder_.outputs(), encoder_.kernels(), encoder_.memory()),
        activation,
        {},
        0.0f};
    encoder_.add_head_step(std::move(step));
  }

  void add_norm(const NormParts &norm, float eps) {
    encoder_.add_head_step({std::nullopt, quaver::Activation::none, make_norm(norm, encoder_.outputs()), eps});
  }

  bool accepts(const Vector<std::int32_t> &ids, const Vector<std::int32_t> &offsets,
               const std::optional<Vector<std::int32_t>> &type_ids) const {
    if (offsets.shape(0) < 1 || (type_ids && type_ids->shape(0) != ids.shape(0)))
      return false;
    return encoder_.accepts(
        {ids.data(), type_ids ? type_ids->data() : nullptr, offsets.data(), static_cast<int>(offsets.shape(0)) - 1},
        ids.shape(0));
  }

  // Returns nothing when all is well, the first text whose vector is not finite, or -1 for a batch that is not
  // accepted. Works on copies: other threads may write to the arrays.
  std::optional<int> encode(const Vector<std::int32_t> &ids, const Vector<std::int32_t> &offsets,
                            const std::optional<Vector<std::int32_t>> &type_ids, int threads,
                            nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu> vectors) const {
    if (offsets.shape(0) < 1 || (type_ids && type_ids->shape(0) != ids.shape(0)))
      return -1;
    require(vectors.shape(0) + 1 == offsets.shape(0) &&
                vectors.shape(1) == static_cast<std::size_t>(encoder_.outputs()),
            "vectors are (N, outputs) for N + 1 offsets");
    const std::vector<std::int32_t> tokens = copy(ids), bounds = copy(offsets),
                                    types = type_ids ? copy(*type_ids) : std::vector<std::int32_t>{};
    const quaver::TokenBatch batch{tokens.data(), type_ids ? types.data() : nullptr, bounds.data(),
                                   static_cast<int>(vectors.shape(0))};
    if (!encoder_.accepts(batch, tokens.size()))
      return -1;
    if (batch.sequences == 0)
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
    const int bad = quaver::first_not_finite(vectors.data(), batch.sequences, encoder_.outputs());
    return bad < 0 ? std::nullopt : std::optional(bad);
  }

  std::size_t weight_bytes() const { return encoder_.weight_bytes(); }

private:
  static const quaver::KernelTable &kernels(const std::string &isa) {
    for (const quaver::InstructionSet &set : quaver::instruction_sets())
      if (set.available && isa == set.kernels->name)
        return *set.kernels;
    throw nb::value_error("isa is one of the available instruction sets");
  }

  void require_table(const Matrix<float> &table, int rows) {
    require(table.shape(0) == static_cast<std::size_t>(rows) &&
                table.shape(1) == static_cast<std::size_t>(encoder_.spec().hidden),
            "embedding tables have as many rows as the spec and H columns");
    tables_.push_back(table);
  }

  std::vector<quaver::Linear> position_linears(const std::vector<LinearParts> &heads) {
    const quaver::EncoderSpec &spec = encoder_.spec();
    require(heads.size() == static_cast<std::size_t>(span_ == 0 ? 0 : spec.heads),
            "one position layer for each head where there are relative positions");
    std::vector<quaver::Linear> made;
    for (const LinearParts &parts : heads)
      made.push_back(linear(parts, 2 * span_, spec.hidden / spec.heads, encoder_.kernels(), encoder_.memory()));
    return made;
  }

  std::vector<Matrix<float>> tables_; // keep the arrays alive
  Vector<std::int32_t> rows_;
  int span_ = 0;
  int rotaries_ = 0;
  quaver::Encoder encoder_;
};

} // namespace

NB_MODULE(_native, m) {
  // A cache of some framework may hold an embedder until the interpreter ends; that is no leak worth a page of text.
  nb::set_leak_warnings(false);
  m.doc() = "The native engine. Private: use quaver.Embedder, or quaver.engine.Engine for token batches.";

  nb::enum_<quaver::Activation>(m, "Activation")
      .value("gelu", quaver::Activation::gelu)
      .value("gelu_tanh", quaver::Activation::gelu_tanh)
      .value("relu", quaver::Activation::relu)
      .value("silu", quaver::Activation::silu)
      .value("tanh", quaver::Activation::tanh)
      .value("none", quaver::Activation::none);
  nb::enum_<quaver::Gate>(m, "Gate")
      .value("none", quaver::Gate::none)
      .value("first", quaver::Gate::first)
      .value("last", quaver::Gate::last);
  nb::enum_<quaver::Pooling>(m, "Pooling")
      .value("cls", quaver::Pooling::cls)
      .value("mean", quaver::Pooling::mean)
      .value("max", quaver::Pooling::max)
      .value("lasttoken", quaver::Pooling::last)
      .value("mean_sqrt_len_tokens", quaver::Pooling::mean_sqrt);

  nb::class_<quaver::EncoderSpec>(m, "EncoderSpec")
      .def(
          "__init__",
          [](quaver::EncoderSpec *self, int hidden, int heads, int intermediate, int vocabulary, int positions,
             int position_offset, int token_types, float norm_eps, quaver::Activation activation, quaver::Gate gate,
             bool norm_first, std::vector<quaver::Pooling> pooling, bool normalize) {
            require(hidden >= 1 && heads >= 1 && hidden % heads == 0, "heads divides hidden");
            require(intermediate >= 1 && hidden <= quaver::kMaxDepth && intermediate <= quaver::kMaxDepth,
                    "hidden and intermediate are in 1..65536");
            require(hidden / heads <= quaver::kMaxHead, "a head has at most 1024 features");
            require(positions - position_offset <= quaver::kMaxLength, "a sequence has at most 65536 tokens");
            require(!pooling.empty(), "there is at least one pooling");
            new (self) quaver::EncoderSpec{
                hidden,   heads,      intermediate, vocabulary, positions,          position_offset, token_types,
                norm_eps, activation, gate,         norm_first, std::move(pooling), normalize};
          },
          nb::kw_only(), "hidden"_a, "heads"_a, "intermediate"_a, "vocabulary"_a, "positions"_a, "position_offset"_a,
          "token_types"_a, "norm_eps"_a, "activation"_a, "gate"_a, "norm_first"_a, "pooling"_a, "normalize"_a);

  nb::class_<Encoder>(m, "Encoder")
      .def(nb::init<const quaver::EncoderSpec &, const std::string &, Matrix<float>, std::optional<Matrix<float>>,
                    std::optional<Matrix<float>>, const NormParts &>(),
           "spec"_a, "isa"_a, "word"_a.noconvert(), "position"_a.noconvert().none(), "token_type"_a.noconvert().none(),
           "norm"_a)
      .def("add_layer", &Encoder::add_layer, "qkv"_a, "out"_a, "attention_norm"_a.none(), "up"_a, "down"_a,
           "output_norm"_a, "window"_a, "rotary"_a, "position_queries"_a, "position_keys"_a)
      .def("set_relative_rows", &Encoder::set_relative_rows, "rows"_a.noconvert(), "span"_a)
      .def("add_rotary", &Encoder::add_rotary, "cosine"_a.noconvert(), "sine"_a.noconvert())
      .def("set_final_norm", &Encoder::set_final_norm, "norm"_a)
      .def("set_distance_bias", &Encoder::set_distance_bias, "bias"_a.noconvert(), "reach"_a)
      .def("add_dense", &Encoder::add_dense, "weight"_a.noconvert(), "bias"_a.noconvert(), "activation"_a)
      .def("add_norm", &Encoder::add_norm, "norm"_a, "eps"_a)
      .def("accepts", &Encoder::accepts, "ids"_a.noconvert(), "offsets"_a.noconvert(), "type_ids"_a.noconvert().none())
      .def("encode", &Encoder::encode, "ids"_a.noconvert(), "offsets"_a.noconvert(), "type_ids"_a.noconvert().none(),
           "threads"_a, "vectors"_a.noconvert())
      .def_prop_ro("weight_bytes", &Encoder::weight_bytes);

  m.def("instruction_sets", [] {
    std::vector<std::tuple<std::string, bool>> sets;
    for (const quaver::InstructionSet &set : quaver::instruction_sets())
      sets.emplace_back(set.kernels->name, set.available);
    return sets;
  });
  m.def("cpu_name", &quaver::cpu_name);
  m.attr("compiler") = QUAVER_COMPILER;
#ifdef QUAVER_EMULATE
  m.attr("emulated") = true;
#else
  m.attr("emulated") = false;
#endif
}
