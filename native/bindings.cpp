// The border to Python: the only file that knows nanobind. Types, dimensions and contiguity are checked by the
// signatures; values were checked by quaver/engine.py, which is the only caller.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <optional>

#include "cpu.h"
#include "encoder.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <class T> using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T> using Matrix = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void require(bool holds, const char *rule) {
  if (!holds)
    throw nb::value_error(rule);
}

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

quaver::Linear linear(const FloatParts &parts, int outputs, int inputs) {
  const auto &[weight, bias] = parts;
  require(weight.shape(0) == static_cast<std::size_t>(outputs) && weight.shape(1) == static_cast<std::size_t>(inputs) &&
              bias.shape(0) == weight.shape(0),
          "a linear layer has weight (O, K) and bias (O,)");
  return quaver::Linear::float32(weight.data(), bias.data(), outputs, inputs);
}

quaver::Linear linear(const Int8Parts &parts, int outputs, int inputs) {
  const auto &[weight, scale, bias] = parts;
  require(weight.shape(0) == static_cast<std::size_t>(outputs) && weight.shape(1) == static_cast<std::size_t>(inputs) &&
              scale.shape(0) == weight.shape(0) && bias.shape(0) == weight.shape(0),
          "a linear layer has weight (O, K), scale (O,) and bias (O,)");
  return quaver::Linear::int8(weight.data(), scale.data(), bias.data(), outputs, inputs);
}

quaver::Linear linear(const StaticParts &parts, int outputs, int inputs) {
  const auto &[weight, scale, bias, input_scale, input_zero] = parts;
  require(input_scale > 0.0f && input_zero >= 0 && input_zero <= 255,
          "an input range has scale > 0 and zero in 0..255");
  quaver::Linear made = linear(Int8Parts{weight, scale, bias}, outputs, inputs);
  made.fix_input({input_scale, input_zero});
  return made;
}

quaver::Linear linear(const LinearParts &parts, int outputs, int inputs) {
  return std::visit([&](const auto &p) { return linear(p, outputs, inputs); }, parts);
}

using NormParts = std::tuple<Vector<float>, Vector<float>>; // gamma, beta

// An encoder together with the arrays that it reads in place.
class Encoder {
public:
  Encoder(const quaver::EncoderSpec &spec, const std::string &isa, Matrix<float> word, Matrix<float> position,
          Matrix<float> token_type, const NormParts &norm)
      : word_(word), position_(position), token_type_(token_type),
        encoder_(spec, kernels(isa),
                 {word.data(),
                  position.data(),
                  token_type.data(),
                  {copy(std::get<0>(norm), spec.hidden), copy(std::get<1>(norm), spec.hidden)}}) {
    const auto hidden = static_cast<std::size_t>(spec.hidden);
    require(word.shape(1) == hidden && position.shape(1) == hidden && token_type.shape(1) == hidden,
            "embedding tables have H columns");
    require(word.shape(0) == static_cast<std::size_t>(spec.vocabulary) &&
                position.shape(0) == static_cast<std::size_t>(spec.positions) &&
                token_type.shape(0) == static_cast<std::size_t>(spec.token_types),
            "embedding tables have the rows that the spec says");
  }

  void add_layer(const LinearParts &qkv, const LinearParts &out, const NormParts &attention_norm, const LinearParts &up,
                 const LinearParts &down, const NormParts &output_norm) {
    const int h = encoder_.spec().hidden, wide = encoder_.spec().intermediate;
    encoder_.add_layer({linear(qkv, 3 * h, h),
                        linear(out, h, h),
                        {copy(std::get<0>(attention_norm), h), copy(std::get<1>(attention_norm), h)},
                        linear(up, wide, h),
                        linear(down, h, wide),
                        {copy(std::get<0>(output_norm), h), copy(std::get<1>(output_norm), h)}});
  }

  void encode(const Vector<std::int32_t> &ids, const Vector<std::int32_t> &offsets,
              const std::optional<Vector<std::int32_t>> &type_ids, int threads,
              nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu> vectors) const {
    require(offsets.shape(0) >= 1 && vectors.shape(0) + 1 == offsets.shape(0) &&
                vectors.shape(1) == static_cast<std::size_t>(encoder_.spec().hidden),
            "vectors are (N, H) for N + 1 offsets");
    const quaver::TokenBatch batch{ids.data(), type_ids ? type_ids->data() : nullptr, offsets.data(),
                                   static_cast<int>(vectors.shape(0))};
    if (batch.sequences == 0)
      return;
    bool finished = false;
    {
      nb::gil_scoped_release release;
      auto asked = std::chrono::steady_clock::now();
      finished = encoder_.encode(batch, threads, vectors.data(), [&asked] {
        const auto now = std::chrono::steady_clock::now();
        if (now - asked < std::chrono::milliseconds(100))
          return false;
        asked = now;
        nb::gil_scoped_acquire acquire;
        return PyErr_CheckSignals() != 0;
      });
    }
    if (!finished)
      throw nb::python_error();
  }

  std::size_t weight_bytes() const { return encoder_.weight_bytes(); }

private:
  static const quaver::KernelTable &kernels(const std::string &isa) {
    for (const quaver::InstructionSet &set : quaver::instruction_sets())
      if (set.available && isa == set.kernels->name)
        return *set.kernels;
    throw nb::value_error("isa is one of the available instruction sets");
  }

  Matrix<float> word_, position_, token_type_; // keep the arrays alive
  quaver::Encoder encoder_;
};

} // namespace

NB_MODULE(_native, m) {
  m.doc() = "The native engine. Private: use quaver.Embedder, or quaver.engine.Engine for token batches.";

  nb::enum_<quaver::Activation>(m, "Activation")
      .value("gelu", quaver::Activation::gelu)
      .value("gelu_tanh", quaver::Activation::gelu_tanh)
      .value("relu", quaver::Activation::relu)
      .value("silu", quaver::Activation::silu);
  nb::enum_<quaver::Pooling>(m, "Pooling").value("cls", quaver::Pooling::cls).value("mean", quaver::Pooling::mean);

  nb::class_<quaver::EncoderSpec>(m, "EncoderSpec")
      .def(
          "__init__",
          [](quaver::EncoderSpec *self, int hidden, int heads, int intermediate, int vocabulary, int positions,
             int position_offset, int token_types, float norm_eps, quaver::Activation activation,
             quaver::Pooling pooling, bool normalize) {
            require(hidden >= 1 && heads >= 1 && hidden % heads == 0, "heads divides hidden");
            require(intermediate >= 1 && hidden <= quaver::kMaxDepth && intermediate <= quaver::kMaxDepth,
                    "hidden and intermediate are in 1..65536");
            require(hidden / heads <= quaver::kMaxHead, "a head has at most 1024 features");
            new (self) quaver::EncoderSpec{hidden,      heads,    intermediate, vocabulary, positions, position_offset,
                                           token_types, norm_eps, activation,   pooling,    normalize};
          },
          nb::kw_only(), "hidden"_a, "heads"_a, "intermediate"_a, "vocabulary"_a, "positions"_a, "position_offset"_a,
          "token_types"_a, "norm_eps"_a, "activation"_a, "pooling"_a, "normalize"_a);

  nb::class_<Encoder>(m, "Encoder")
      .def(nb::init<const quaver::EncoderSpec &, const std::string &, Matrix<float>, Matrix<float>, Matrix<float>,
                    const NormParts &>(),
           "spec"_a, "isa"_a, "word"_a.noconvert(), "position"_a.noconvert(), "token_type"_a.noconvert(), "norm"_a)
      .def("add_layer", &Encoder::add_layer, "qkv"_a, "out"_a, "attention_norm"_a, "up"_a, "down"_a, "output_norm"_a)
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
