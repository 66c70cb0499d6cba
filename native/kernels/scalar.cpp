// Every kernel in plain C++: the oracle that the others are tested against, and the fallback of any machine.
// Written for reading. Floats round twice in a multiply-add here and once on the others.
#include <cmath>
#include <cstdlib>

#include "kernels/table.h"

namespace quaver {
namespace {

float activate(float x, Activation act) {
  switch (act) {
  case Activation::gelu:
    return 0.5f * x * std::erfc(-x * 0.70710678f);
  case Activation::gelu_tanh:
    return 0.5f * x * (1.0f + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
  case Activation::silu:
    return x / (1.0f + std::exp(-x));
  case Activation::relu:
    return x < 0.0f ? 0.0f : x; // NaN stays NaN
  case Activation::tanh:
    return std::tanh(x);
  case Activation::none:
    break;
  }
  return x;
}

bool all_finite(const float *x, int size) {
  for (int i = 0; i < size; ++i)
    if (!std::isfinite(x[i]))
      return false;
  return true;
}

void quantize_rows(const float *x, std::ptrdiff_t ldx, int rows, int cols, std::uint8_t *q, std::ptrdiff_t ldq,
                   float *scale, std::int32_t *zero) noexcept {
  for (int r = 0; r < rows; ++r, x += ldx, q += ldq) {
    if (!all_finite(x, cols)) {
      scale[r] = NAN;
      zero[r] = 0;
      for (int c = 0; c < round_up(cols, kDepthStep); ++c)
        q[c] = 0;
      continue;
    }
    float low = 0.0f, high = 0.0f;
    for (int c = 0; c < cols; ++c) {
      low = x[c] < low ? x[c] : low;
      high = x[c] > high ? x[c] : high;
    }
    const float range = high - low;
    const float inverse = range > 1e-30f ? 255.0f / range : 0.0f; // below: quantized to zeros
    scale[r] = range > 1e-30f ? range / 255.0f : 1.0f;
    zero[r] = static_cast<std::int32_t>(std::nearbyint(-low * inverse));
    for (int c = 0; c < cols; ++c) {
      const auto n = static_cast<std::int32_t>(std::nearbyint(x[c] * inverse)) + zero[r];
      q[c] = static_cast<std::uint8_t>(n < 0 ? 0 : n > 255 ? 255 : n);
    }
    for (int c = cols; c < round_up(cols, kDepthStep); ++c)
      q[c] = static_cast<std::uint8_t>(zero[r]);
  }
}

// The place of the weight of output o and input k in strips of the given depth.
std::ptrdiff_t at_strip(int o, int k, int depth) {
  return static_cast<std::ptrdiff_t>(o / kStrip * depth + k / kGroup * kGroup) * kStrip + o % kStrip * kGroup +
         k % kGroup;
}

void quantize_rows_fixed(const float *x, std::ptrdiff_t ldx, int rows, int cols, float step, std::int32_t origin,
                         std::uint8_t *q, std::ptrdiff_t ldq, float *scale, std::int32_t *zero) noexcept {
  const float inverse = 1.0f / step;
  for (int r = 0; r < rows; ++r, x += ldx, q += ldq) {
    scale[r] = all_finite(x, cols) ? step : NAN;
    zero[r] = origin;
    for (int c = 0; c < cols; ++c) {
      const float n = std::nearbyint(x[c] * inverse) + static_cast<float>(origin);
      q[c] = static_cast<std::uint8_t>(n < 255.0f ? (n < 0.0f ? 0.0f : n) : 255.0f);
    }
    for (int c = cols; c < round_up(cols, kDepthStep); ++c)
      q[c] = static_cast<std::uint8_t>(origin);
  }
}

void sum_int8(const std::uint8_t *q, std::ptrdiff_t ldq, int rows, const std::int8_t *panel, int depth,
              std::int32_t *sums) noexcept {
  for (int r = 0; r < rows; ++r, q += ldq, sums += kPanel) {
    for (int o = 0; o < kPanel; ++o)
      sums[o] = 0;
    for (int o = 0; o < kPanel; ++o)
      for (int k = 0; k < depth; ++k)
        sums[o] += q[k] * panel[at_strip(o, k, depth)];
  }
}

void row_sums(const std::uint8_t *q, std::ptrdiff_t ldq, int rows, int depth, const std::int32_t *zero,
              float *sums) noexcept {
  for (int r = 0; r < rows; ++r, q += ldq) {
    std::int32_t sum = 0;
    for (int k = 0; k < depth; ++k)
      sum += q[k] - zero[r];
    sums[r] = static_cast<float>(sum);
  }
}

// The part of an output that a group of inputs makes, without bias.
float group_output(const Int8Rows &a, int row, const Int8Weights &w, int group, int output, int begin, int end) {
  const std::int8_t *panel = w.panels + static_cast<std::ptrdiff_t>(output / kPanel) * kPanel * w.depth;
  const std::ptrdiff_t of_row = group * a.stride + row,
                       of_output =
                           static_cast<std::ptrdiff_t>(output / kPanel * w.groups + group) * kPanel + output % kPanel;
  std::int32_t product = 0;
  for (int k = begin; k < end; ++k)
    product += a.q[row * a.ldq + k] * panel[at_strip(output % kPanel, k, w.depth)];
  const float sum = static_cast<float>(product) - static_cast<float>(a.zero[of_row]) * w.column_sums[of_output];
  const float value = sum * a.scale[of_row] * w.scale[of_output];
  return w.shifts == nullptr ? value : value + a.sums[of_row] * a.scale[of_row] * w.shifts[of_output];
}

void linear_int8(const Int8Rows &a, int rows, const ResidualRows &residuals, const Int8Weights &w, int first_panel,
                 int last_panel, float *y, std::ptrdiff_t ldy, Activation act) noexcept {
  for (int o = first_panel * kPanel; o < last_panel * kPanel; ++o)
    for (int r = 0; r < rows + residuals.rows; ++r) {
      float value = group_output(a, r, w, 0, o, 0, w.groups == 1 ? w.depth : w.ends[0]);
      for (int g = 1; g < w.groups; ++g)
        value += group_output(a, r, w, g, o, w.ends[g - 1], w.ends[g]);
      if (r < rows)
        y[r * ldy + o] = activate(value + w.bias[o], act);
      else
        y[residuals.of[r - rows] * ldy + o] += value;
    }
}

// Sixteen times the weight of output o and input k of a layer.
int sixteen_weights(const Int4Weights &w, int o, int k) {
  const int line = k / kGroup;
  const std::ptrdiff_t strip = static_cast<std::ptrdiff_t>(o / kStrip) * kStrip * w.depth / 2;
  const int byte = w.panels[strip + (line / 2 * kStrip + o % kStrip) * kGroup + k % kGroup];
  return static_cast<std::int8_t>(line % 2 == 0 ? byte << 4 : byte & 0xf0);
}

void linear_int4(const Int8Rows &a, int rows, const ResidualRows &residuals, const Int4Weights &w, int first_panel,
                 int last_panel, float *y, std::ptrdiff_t ldy, Activation act) noexcept {
  for (int o = first_panel * kPanel; o < last_panel * kPanel; ++o)
    for (int r = 0; r < rows + residuals.rows; ++r) {
      const float *row_scale = a.scale + r;
      float value = 0.0f;
      for (int p = 0; p < w.parts; ++p)
        value -= row_scale[p * a.stride] * static_cast<float>(a.zero[p * a.stride + r]) *
                 w.weight_sums[p * static_cast<std::ptrdiff_t>(w.outputs) + o];
      for (int g = 0, part = 0; g < w.groups; ++g) {
        if (part + 1 < w.parts && g * w.group >= w.ends[part])
          row_scale = a.scale + ++part * a.stride + r;
        std::int32_t sum = 0;
        for (int k = g * w.group; k < (g + 1 == w.groups ? w.depth : (g + 1) * w.group); ++k)
          sum += a.q[r * a.ldq + k] * sixteen_weights(w, o, k);
        value += static_cast<float>(sum) * *row_scale * w.scale[g * static_cast<std::ptrdiff_t>(w.outputs) + o];
      }
      if (r < rows)
        y[r * ldy + o] = value + (w.bias != nullptr ? w.bias[o] : y[r * ldy + o]);
      else
        y[residuals.of[r - rows] * ldy + o] += value;
    }
  for (int r = 0; r < rows; ++r)
    for (int o = first_panel * kPanel; o < last_panel * kPanel; ++o)
      y[r * ldy + o] = activate(y[r * ldy + o], act);
}

void linear_float32(const float *x, std::ptrdiff_t ldx, int rows, const FloatWeights &w, int first_panel,
                    int last_panel, float *y, std::ptrdiff_t ldy, Activation act) noexcept {
  for (int column = first_panel * kPanel; column < last_panel * kPanel; column += kStrip) {
    const float *weights = w.panels + static_cast<std::ptrdiff_t>(column) * w.depth;
    for (int r = 0; r < rows; ++r) {
      float sums[kStrip] = {};
      for (int k = 0; k < w.depth; ++k)
        for (int c = 0; c < kStrip; ++c)
          sums[c] += x[r * ldx + k] * weights[static_cast<std::ptrdiff_t>(k) * kStrip + c];
      for (int c = 0; c < kStrip; ++c)
        y[r * ldy + column + c] = activate(sums[c] + w.bias[column + c], act);
    }
  }
}

void linear_bfloat16(const float *x, std::ptrdiff_t ldx, int rows, const BFloat16Weights &w, int first_panel,
                     int last_panel, float *y, std::ptrdiff_t ldy, Activation act) noexcept {
  for (int o = first_panel * kPanel; o < last_panel * kPanel; ++o) {
    const std::uint16_t *pairs =
        w.panels + static_cast<std::ptrdiff_t>(o / kStrip) * kStrip * round_up(w.depth, kPairStep);
    for (int r = 0; r < rows; ++r) {
      float sum = 0.0f;
      for (int k = 0; k < w.depth; ++k) {
        const std::uint32_t bits = pairs[(k / 2 * kStrip + o % kStrip) * 2 + k % 2];
        sum += x[r * ldx + k] * __builtin_bit_cast(float, bits << 16);
      }
      y[r * ldy + o] = activate(sum * w.scale[o] + w.bias[o], act);
    }
  }
}

void pack_keys(const AttentionHead &head, float *packed) noexcept {
  for (int first = 0; first < head.length; first += kStrip)
    for (int c = 0; c < head.head_size; ++c)
      for (int j = first; j < first + kStrip; ++j)
        *packed++ = j < head.length ? head.key[j * head.ld + c] : 0.0f;
}

void pack_values(const AttentionHead &head, float *packed) noexcept {
  for (int first = 0; first < head.head_size; first += kStrip)
    for (int j = 0; j < head.length; ++j)
      for (int c = first; c < first + kStrip; ++c)
        *packed++ = c < head.head_size ? head.value[j * head.ld + c] : 0.0f;
}

// A score with the bias of its place; -infinity for a key that the row does not see.
float placed(float score, const AttentionHead &head, int row, int key) {
  if (row - key > head.behind || key - row > head.ahead)
    return -INFINITY;
  return head.bias == nullptr ? score : score + head.bias[row * head.bias_step + key];
}

void attend(const AttentionHead &head, const float *packed_keys, const float *packed_values, int first_row,
            int last_row, float *scores, float *out, std::ptrdiff_t ldo) noexcept {
  for (int r = first_row; r < last_row; ++r) {
    float top = -INFINITY;
    for (int j = 0; j < head.length; ++j) {
      const float *key = packed_keys + static_cast<std::ptrdiff_t>(j / kStrip) * kStrip * head.head_size + j % kStrip;
      scores[j] = 0.0f;
      for (int c = 0; c < head.head_size; ++c)
        scores[j] += head.query[r * head.ld + c] * key[c * kStrip];
      scores[j] = placed(scores[j], head, r, j);
      top = scores[j] > top ? scores[j] : top;
    }
    float sum = 0.0f;
    for (int j = 0; j < head.length; ++j) {
      scores[j] = std::exp2(scores[j] - top);
      sum += scores[j];
    }
    for (int c = 0; c < head.head_size; ++c) {
      const float *value = packed_values + static_cast<std::ptrdiff_t>(c / kStrip) * kStrip * head.length + c % kStrip;
      float total = 0.0f;
      for (int j = 0; j < head.length; ++j)
        total += scores[j] * value[j * kStrip];
      out[r * ldo + c] = total / sum;
    }
  }
}

std::int8_t nearest_s8(float x) { return static_cast<std::int8_t>(std::nearbyint(x)); }

// Of `size` values, `step` apart, minus `mean`.
float largest_magnitude(const float *x, std::ptrdiff_t step, int size, float mean) {
  float top = 0.0f;
  for (int i = 0; i < size; ++i)
    top = std::fabs(x[i * step] - mean) > top ? std::fabs(x[i * step] - mean) : top;
  return top;
}

float mean_of(const float *x, std::ptrdiff_t step, int size) {
  float sum = 0.0f;
  for (int i = 0; i < size; ++i)
    sum += x[i * step];
  return sum * (1.0f / static_cast<float>(size));
}

constexpr int kKeyStep = 32;

void pack_keys_int8(const AttentionHead &head, const Int8Head &packed) noexcept {
  const int d = head.head_size, depth = round_up(d, kKeyStep), padded = round_up(head.length, kStrip);
  bool finite = true; // a key that is not finite spoils all: no window may hide it
  for (int j = 0; j < head.length; ++j)
    finite = finite && all_finite(head.key + j * head.ld, d);
  for (int j = 0; j < padded; ++j) {
    const float *key = head.key + j * head.ld;
    const float top = j < head.length ? largest_magnitude(key, 1, d, 0.0f) : 0.0f;
    int sum = 0;
    for (int c = 0; c < depth; ++c) {
      const std::int8_t q =
          finite && j < head.length && c < d && top > 1e-30f ? nearest_s8(key[c] * (127.0f / top)) : std::int8_t{0};
      packed.keys[at_strip(j, c, depth)] = q;
      sum += q;
    }
    packed.key_scale[j] = finite ? top / 127.0f : NAN;
    packed.key_sums[j] = static_cast<float>(sum);
  }
}

void pack_values_int8(const AttentionHead &head, const Int8Head &packed) noexcept {
  const int d = head.head_size, padded = round_up(head.length, kStrip), width = value_width(d);
  for (int c = 0; c < round_up(d, width); ++c) {
    const float mean = c < d ? mean_of(head.value + c, head.ld, head.length) : 0.0f;
    const float top = c < d ? largest_magnitude(head.value + c, head.ld, head.length, mean) : 0.0f;
    packed.value_mean[c] = mean;
    packed.value_scale[c] = top / 127.0f;
    for (int j = 0; j < padded; ++j) {
      const std::int8_t q = j < head.length && std::isfinite(mean) && top > 1e-30f
                                ? nearest_s8((head.value[j * head.ld + c] - mean) * (127.0f / top))
                                : std::int8_t{0};
      packed.values[at_strip(c, j, padded)] = q;
    }
  }
}

void attend_int8(const AttentionHead &head, const Int8Head &packed, int first_row, int last_row, float *scores,
                 float *out, std::ptrdiff_t ldo) noexcept {
  const int d = head.head_size, depth = round_up(d, kKeyStep), ldq = round_up(d, kDepthStep);
  const int padded = round_up(head.length, kStrip);
  for (int r = first_row; r < last_row; ++r) {
    float top = -INFINITY;
    for (int j = 0; j < head.length; ++j) {
      std::int32_t sum = 0;
      for (int c = 0; c < depth; ++c)
        sum += packed.query[r * ldq + c] * packed.keys[at_strip(j, c, depth)];
      scores[j] = (static_cast<float>(sum) - static_cast<float>(packed.query_zero[r]) * packed.key_sums[j]) *
                  packed.key_scale[j] * packed.query_scale[r];
      scores[j] = placed(scores[j], head, r, j);
      top = scores[j] > top ? scores[j] : top;
    }
    float total = 0.0f;
    for (int j = 0; j < head.length; ++j) {
      const float weight = 255.0f * std::exp2(scores[j] - top);
      total += weight;
      scores[j] = std::nearbyint(weight);
    }
    for (int c = 0; c < d; ++c) {
      if (!std::isfinite(total)) {
        out[r * ldo + c] = NAN;
        continue;
      }
      std::int32_t sum = 0;
      for (int j = 0; j < head.length; ++j)
        sum += static_cast<std::int32_t>(scores[j]) * packed.values[at_strip(c, j, padded)];
      out[r * ldo + c] = static_cast<float>(sum) * packed.value_scale[c] / total + packed.value_mean[c];
    }
  }
}

void add_norm(float *x, std::ptrdiff_t ldx, const float *y, std::ptrdiff_t ldy, int rows, int cols,
              const NormWeights &norm, float *out, std::ptrdiff_t ldo) noexcept {
  for (int r = 0; r < rows; ++r, x += ldx, out += ldo) {
    float sum = 0.0f;
    for (int c = 0; c < cols; ++c) {
      x[c] += y != nullptr ? y[r * ldy + c] : 0.0f;
      sum += x[c];
    }
    const float mean = norm.kind == NormKind::layer ? sum / static_cast<float>(cols) : 0.0f;
    float square = 0.0f;
    for (int c = 0; c < cols; ++c)
      square += (x[c] - mean) * (x[c] - mean);
    const float variance = square / static_cast<float>(cols) + norm.eps;
    const float factor = std::isfinite(variance) ? 1.0f / std::sqrt(variance) : NAN;
    for (int c = 0; c < cols; ++c) {
      const float v = (x[c] - mean) * factor;
      out[c] = norm.kind == NormKind::none    ? x[c]
               : norm.kind == NormKind::layer ? v * norm.gamma[c] + norm.beta[c]
                                              : v * norm.gamma[c];
    }
  }
}

void gate(float *x, std::ptrdiff_t ldx, int rows, int cols, bool last, Activation act, bool) noexcept {
  for (int r = 0; r < rows; ++r, x += ldx)
    for (int c = 0; c < cols; ++c)
      x[c] = last ? x[c] * activate(x[cols + c], act) : activate(x[c], act) * x[cols + c];
}

void rotate(float *x, std::ptrdiff_t ldx, int rows, int heads, int head_size, const float *cosine,
            const float *sine) noexcept {
  const int half = head_size / 2;
  for (int r = 0; r < rows; ++r, x += ldx, cosine += half, sine += half)
    for (int h = 0; h < heads; ++h)
      for (int c = 0; c < half; ++c) {
        float *head = x + h * head_size;
        const float a = head[c], b = head[half + c];
        head[c] = a * cosine[c] - b * sine[c];
        head[half + c] = b * cosine[c] + a * sine[c];
      }
}

} // namespace

constinit const KernelTable scalar_kernels = {.name = "scalar",
                                              .alignment = alignof(float),
                                              .tile_rows = 1,
                                              .overread_rows = 0,
                                              .group = kGroup,
                                              .key_step = kKeyStep,
                                              .score_bytes = sizeof(float),
                                              .int8_rate = 2,
                                              .float32_rate = 1,
                                              .bfloat16 = nullptr,
                                              .enter = nullptr,
                                              .leave = nullptr,
                                              .quantize_rows = quantize_rows,
                                              .quantize_rows_fixed = quantize_rows_fixed,
                                              .sum_int8 = sum_int8,
                                              .row_sums = row_sums,
                                              .linear_int8 = linear_int8,
                                              .linear_int4 = linear_int4,
                                              .linear_float32 = linear_float32,
                                              .linear_bfloat16 = linear_bfloat16,
                                              .pack_keys = pack_keys,
                                              .pack_values = pack_values,
                                              .attend = attend,
                                              .pack_keys_int8 = pack_keys_int8,
                                              .pack_values_int8 = pack_values_int8,
                                              .attend_int8 = attend_int8,
                                              .add_norm = add_norm,
                                              .gate = gate,
                                              .rotate = rotate};

} // namespace quaver
