// Linear layers. A kind of weights owns how they are packed, what it reads of its input and how it multiplies: a class
// of this file and of linear.cpp each, which nothing else has to know.
#pragma once

#include <memory>
#include <vector>

#include "engine/memory.h"
#include "kernels/table.h"

namespace quaver {

// Int8Rows to be written.
struct RoundedRows {
  std::uint8_t *q = nullptr;
  std::ptrdiff_t ldq = 0;
  float *scale = nullptr;
  std::int32_t *zero = nullptr;
  float *sums = nullptr;
  std::ptrdiff_t stride = 0;

  // From a row, a group and its first column on.
  RoundedRows from(int row, int group, int column) const {
    const std::ptrdiff_t at = group * stride + row;
    return {q + row * ldq + column, ldq, scale + at, zero + at, sums == nullptr ? nullptr : sums + at, stride};
  }
  operator Int8Rows() const { return {q, ldq, scale, zero, sums, stride}; }
};

// Room for the input of a linear layer, as that layer reads it.
struct InputRoom {
  Buffer<std::uint8_t> q;      // [rows][K']
  Buffer<float> scale, sums;   // [groups][rows]
  Buffer<std::int32_t> zero;   // [groups][rows]
  Buffer<float> lost;          // [residual rows][K], see LinearInput
  Buffer<std::uint16_t> pairs; // bfloat16 rows

  std::size_t bytes() const {
    return q.bytes() + scale.bytes() + sums.bytes() + zero.bytes() + lost.bytes() + pairs.bytes();
  }
};

// What a linear layer multiplies: rows, and of some of them also what rounding lost, where the kind rounds.
struct LinearInput {
  const float *x;
  std::ptrdiff_t ldx;
  int rows;
  ResidualRows residuals; // of[i] rises
  RoundedRows rounded;    // of the rows, then of the residual rows
  float *lost;
  std::uint16_t *pairs = nullptr; // bfloat16 rows [rows][K+]
};

// One linear layer y = x W^T + b.
class Linear {
public:
  virtual ~Linear() = default;
  Linear(const Linear &) = delete;
  Linear &operator=(const Linear &) = delete;

  int inputs() const { return inputs_; }
  int outputs() const { return outputs_; }
  int panels() const { return round_up(outputs_, kPanel) / kPanel; }

  // Whether rows have to be prepared before they are multiplied.
  virtual bool prepares() const = 0;

  // Whether the rows are rounded to eight bits: what comes before may be computed in a short form.
  virtual bool rounds_to_bytes() const { return false; }

  // `rows` rows of x as this layer reads them, not yet prepared. They stay in the room until it is used again.
  virtual LinearInput read(const float *x, std::ptrdiff_t ldx, int rows, ResidualRows residuals,
                           InputRoom &room) const = 0;

  // Prepare the rows [first, last) of an input. Threads may prepare different rows at the same time.
  virtual void prepare(const LinearInput &input, int first, int last) const = 0;

  // y = act(x W^T + b) for the outputs of the panels [first_panel, last_panel).
  virtual void multiply(const LinearInput &input, int first_panel, int last_panel, float *y, std::ptrdiff_t ldy,
                        Activation act) const = 0;

  // Of the packed weights.
  virtual std::size_t bytes() const = 0;

  // Products that a core makes in a nanosecond, see KernelTable.
  virtual int rate() const = 0;

protected:
  Linear(const float *bias, int outputs, int inputs, const KernelTable &kernels);

  const int outputs_, inputs_;
  const KernelTable &kernels_;
  Buffer<float> bias_; // [O']
};

using LinearPtr = std::unique_ptr<const Linear>;

// --- Kinds that read float32 -----------------------------------------------------------------------------------------

class FloatInputLinear : public Linear {
public:
  bool prepares() const override { return false; }
  LinearInput read(const float *x, std::ptrdiff_t ldx, int rows, ResidualRows residuals,
                   InputRoom &room) const override;
  void prepare(const LinearInput &input, int first, int last) const override;
  int rate() const override { return kernels_.float32_rate; }

protected:
  using Linear::Linear;
};

// Weights in float32.
class Float32Linear final : public FloatInputLinear {
public:
  // weight f32 [outputs][inputs], bias f32 [outputs]; natural order, as on disk.
  Float32Linear(const float *weight, const float *bias, int outputs, int inputs, const KernelTable &kernels,
                WeightMemory &memory);

  void multiply(const LinearInput &input, int first_panel, int last_panel, float *y, std::ptrdiff_t ldy,
                Activation act) const override;
  std::size_t bytes() const override;
  FloatWeights view() const { return {panels_.get(), bias_.data(), inputs_}; }

private:
  std::shared_ptr<float> panels_;
};

// Weights in bfloat16, half the bytes; products and sums in float32.
class BFloat16Linear : public FloatInputLinear {
public:
  // weight f32 [outputs][inputs], finite, rounded to the nearest bfloat16: that of a bfloat16 file stays the same.
  // scale, bias f32 [outputs]: y = scale * (x W^T) + bias. Natural order, as on disk.
  BFloat16Linear(const float *weight, const float *scale, const float *bias, int outputs, int inputs,
                 const KernelTable &kernels, WeightMemory &memory);

  void multiply(const LinearInput &input, int first_panel, int last_panel, float *y, std::ptrdiff_t ldy,
                Activation act) const override;
  std::size_t bytes() const override;
  BFloat16Weights view() const { return {panels_.get(), scale_.data(), bias_.data(), inputs_}; }

private:
  std::shared_ptr<std::uint16_t> panels_;
  Buffer<float> scale_; // [O']
};

// The same weights, and rows rounded to bfloat16 as well: products of pairs, summed in float32. For tables whose
// products of bfloat16 run here, see cpu.h.
class PairLinear final : public BFloat16Linear {
public:
  using BFloat16Linear::BFloat16Linear;

  bool prepares() const override { return true; }
  LinearInput read(const float *x, std::ptrdiff_t ldx, int rows, ResidualRows residuals,
                   InputRoom &room) const override;
  void prepare(const LinearInput &input, int first, int last) const override;
  void multiply(const LinearInput &input, int first_panel, int last_panel, float *y, std::ptrdiff_t ldy,
                Activation act) const override;
  int rate() const override { return kernels_.bfloat16->rate; }

private:
  std::ptrdiff_t row_size() const { return round_up(inputs_, kPairStep); } // K+
};

// --- Kinds that read u8 ----------------------------------------------------------------------------------------------

// A fixed range of a layer's input: x ~ scale * (q - zero).
struct InputRange {
  float scale;       // > 0; 0 for a layer that finds the range of each row while running
  std::int32_t zero; // 0..255
};

// Groups of a layer's inputs, each with scales of its own. Input and weights of a group are wide where others are not:
// with one scale for all, those would have few levels left.
struct InputGroups {
  std::vector<int> ends{};        // where they end: multiples of 64, and K; empty for one group
  const float *centers = nullptr; // f32 [outputs][groups], w ~ scale * (q + center); null for none

  int count() const { return ends.empty() ? 1 : static_cast<int>(ends.size()); }
};

// Quantizes rows, group by group of its inputs.
class ByteInputLinear : public Linear {
public:
  bool prepares() const final { return true; }
  bool rounds_to_bytes() const final { return true; }
  LinearInput read(const float *x, std::ptrdiff_t ldx, int rows, ResidualRows residuals, InputRoom &room) const final;
  void prepare(const LinearInput &input, int first, int last) const final;
  int rate() const final { return kernels_.int8_rate; }

protected:
  // `ends` as in InputGroups; `sums` for a kind that reads Int8Rows::sums; `apart` are inputs that become a last group,
  // behind all others, which have zeros in their place.
  ByteInputLinear(const float *bias, InputRange range, const std::vector<int> &ends, bool sums, int outputs, int inputs,
                  const KernelTable &kernels, const std::vector<int> &apart = {});

  int groups() const { return static_cast<int>(ends_.size()); }
  int depth() const { return ends_.back(); } // K', and the inputs apart

  const InputRange range_;
  const std::vector<int> ends_; // of the groups; the last is the depth
  const bool sums_;
  const std::vector<int> apart_;

private:
  void round(InputRange range, const float *x, std::ptrdiff_t ldx, int rows, const RoundedRows &target) const;
  void round_parts(InputRange range, const float *x, std::ptrdiff_t ldx, int rows, const RoundedRows &target) const;
};

// Weights in s8 with one scale per output and group of inputs.
class Int8Linear final : public ByteInputLinear {
public:
  // weight s8 [outputs][inputs], scale f32 [outputs][groups], bias f32 [outputs]; natural order, as on disk.
  Int8Linear(const std::int8_t *weight, const float *scale, const float *bias, InputRange range, int outputs,
             int inputs, const KernelTable &kernels, WeightMemory &memory, const InputGroups &groups = {});

  void multiply(const LinearInput &input, int first_panel, int last_panel, float *y, std::ptrdiff_t ldy,
                Activation act) const override;
  std::size_t bytes() const override;
  Int8Weights view() const;

private:
  std::shared_ptr<std::int8_t> panels_;
  Buffer<float> scale_, column_sums_; // [O'/64][groups][64]
  Buffer<float> shifts_;              // the same, or empty
};

// A few inputs of a layer in four bits whose values are wide where others are not: they have a range of their own, and
// weights in eight bits. With one range for all, the others would have few levels left.
struct InputsApart {
  std::vector<int> columns{};          // different inputs; empty for none
  const std::int8_t *weight = nullptr; // s8 [outputs][columns]
  const float *scale = nullptr;        // f32 [outputs]
};

// Weights in four bits with one scale per output and `group` inputs. Rows have a scale for each range of inputs.
class Int4Linear final : public ByteInputLinear {
public:
  // weight s8 [outputs][inputs], each in -8..7; scale f32 [outputs][groups], groups = inputs / group rounded up; group
  // 32, 64 or 128; bias f32 [outputs]; natural order. `ends` are those of ranges of inputs, multiples of 64 and of
  // `group`; the weights of inputs apart are 0.
  Int4Linear(const std::int8_t *weight, const float *scale, const float *bias, InputRange range, int group, int outputs,
             int inputs, const KernelTable &kernels, WeightMemory &memory, const std::vector<int> &ends = {},
             const InputsApart &apart = {});

  void multiply(const LinearInput &input, int first_panel, int last_panel, float *y, std::ptrdiff_t ldy,
                Activation act) const override;
  std::size_t bytes() const override;
  Int4Weights view() const;

private:
  int parts() const { return groups() - (apart_.empty() ? 0 : 1); }

  const int group_, weight_groups_, depth_; // K' of the weights
  std::shared_ptr<std::uint8_t> panels_;
  Buffer<float> scale_;                      // [groups][O']
  Buffer<float> weight_sums_;                // [parts][O']
  std::unique_ptr<const Int8Linear> wide_{}; // of the inputs apart, with the bias
};

} // namespace quaver
