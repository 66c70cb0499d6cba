// Functions of one vector of floats: exponentials and the activations of a feed-forward layer.
#pragma once

#include "kernels/table.h"

namespace quaver {
namespace {

inline int least(int a, int b) { return a < b ? a : b; }

constexpr float kLargest = 0x1.fffffep127f; // finite float32

// L::min and L::max return their second operand when either is NaN. The bound comes first, so NaN stays NaN.

// Adds nothing to `seen` when v is finite and NaN when it is not: one instruction beside those that wait for memory.
template <class L> typename L::V watch(typename L::V seen, typename L::V v) { return L::fma(v, L::zero(), seen); }

// 2^x for x <= 126, from a polynomial of degree 6 on [-1/2, 1/2] (Chebyshev fit, relative error 3e-9 before rounding).
// Below -126 it stays at 2^-126: smaller terms of a softmax do not count.
template <class L> typename L::V exp2(typename L::V x) {
  x = L::max(L::set(-126.0f), x);
  const auto n = L::round(x);
  const auto f = L::sub(x, n);
  auto p = L::set(0x1.446c7ep-13f);
  p = L::fma(p, f, L::set(0x1.5f48c8p-10f));
  p = L::fma(p, f, L::set(0x1.3b29d8p-7f));
  p = L::fma(p, f, L::set(0x1.c6aeccp-5f));
  p = L::fma(p, f, L::set(0x1.ebfbe0p-3f));
  p = L::fma(p, f, L::set(0x1.62e430p-1f));
  p = L::fma(p, f, L::set(1.0f));
  return L::scale(p, n);
}

// 255 * 2^x for x <= 0, from a polynomial of degree 3 (relative error 1e-4): for weights that are rounded to eight
// bits.
template <class L> typename L::V short_exp2(typename L::V x) {
  x = L::above_smallest(x);
  const auto n = L::round(x);
  const auto f = L::sub(x, n);
  auto p = L::set(14.0687094f);
  p = L::fma(p, f, L::set(61.8657417f));
  p = L::fma(p, f, L::set(176.781555f));
  p = L::fma(p, f, L::set(254.981659f));
  return L::scale(p, n);
}

// x * Phi(x) with the error function of Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7), arranged so that both
// signs share one form: gelu(x) = max(x, 0) - |x| / 2 * erfc(|x| / sqrt(2)).
template <class L> typename L::V gelu(typename L::V x) {
  const auto z = L::mul(L::abs(x), L::set(0.70710678f));
  const auto t = L::div(L::set(1.0f), L::fma(z, L::set(0.3275911f), L::set(1.0f)));
  auto p = L::set(1.061405429f);
  p = L::fma(p, t, L::set(-1.453152027f));
  p = L::fma(p, t, L::set(1.421413741f));
  p = L::fma(p, t, L::set(-0.284496736f));
  p = L::fma(p, t, L::set(0.254829592f));
  const auto tail = L::mul(L::mul(p, t), exp2<L>(L::mul(L::mul(z, z), L::set(-1.44269504f))));
  return L::fma(L::mul(L::abs(x), L::set(-0.5f)), tail, L::max(x, L::zero()));
}

// Activations of values that will be rounded to eight bits: max(x, 0) - t(|x|), t a polynomial without constant term on
// [0, edge], the coefficient of the highest power first. GELU, its tanh form and SiLU all have this form.
template <class L, int kTerms> typename L::V bent(typename L::V x, float edge, const float (&terms)[kTerms]) {
  const auto z = L::min(L::set(edge), L::abs(x));
  auto p = L::set(terms[0]);
#pragma GCC unroll 8
  for (int i = 1; i < kTerms; ++i)
    p = L::fma(p, z, L::set(terms[i]));
  return L::sub(L::max(x, L::zero()), L::mul(p, z));
}

// Absolute error 1.1e-4, 1.6e-4 beyond the edge, a fiftieth of such a step; a third of the instructions of gelu.
constexpr float kShortGelu[] = {-0.000730932981f, 0.0110598477f, -0.0633359998f, 0.154443592f,
                                -0.0613722429f,   -0.379629552f, 0.498142302f};
template <class L> typename L::V short_gelu(typename L::V x) { return bent<L>(x, 3.8f, kShortGelu); }

// Absolute errors 1.1e-4 and 4.8e-4.
constexpr float kShortGeluTanh[] = {-0x1.714a9cp-11f, 0x1.5e2b56p-7f,  -0x1.f65c28p-5f, 0x1.31cce6p-3f,
                                    -0x1.c49042p-5f,  -0x1.87cec0p-2f, 0x1.fe9a90p-2f};
constexpr float kShortSilu[] = {-0x1.ef89cap-23f, 0x1.67117ap-17f, -0x1.b3476ep-13f, 0x1.1a84d4p-9f, -0x1.99b37ep-7f,
                                0x1.2246aap-5f,   -0x1.579f50p-9f, -0x1.0705bcp-2f,  0x1.019ebcp-1f};
template <class L> typename L::V short_gelu_tanh(typename L::V x) { return bent<L>(x, 3.8f, kShortGeluTanh); }
template <class L> typename L::V short_silu(typename L::V x) { return bent<L>(x, 9.5f, kShortSilu); }

// x / (1 + e^-x); with x scaled inside the exponential it also serves the tanh form of GELU.
template <class L> typename L::V gated(typename L::V x, typename L::V inside) {
  const auto e = exp2<L>(L::min(L::set(126.0f), L::mul(inside, L::set(-1.44269504f))));
  return L::div(x, L::add(L::set(1.0f), e));
}

template <class L> typename L::V activate(typename L::V x, Activation act) {
  switch (act) {
  case Activation::gelu:
    return gelu<L>(x);
  case Activation::gelu_tanh: {
    const auto cube = L::mul(L::mul(x, x), L::mul(x, L::set(0.044715f)));
    return gated<L>(x, L::mul(L::add(x, cube), L::set(1.59576912f)));
  }
  case Activation::silu:
    return gated<L>(x, x);
  case Activation::relu:
    return L::max(L::zero(), x);
  case Activation::tanh: // 2 / (1 + e^-2x) - 1
    return L::sub(gated<L>(L::set(2.0f), L::add(x, x)), L::set(1.0f));
  case Activation::none:
    break;
  }
  return x;
}

// `activate` for values that will be rounded to eight bits.
template <class L> typename L::V short_activate(typename L::V x, Activation act) {
  switch (act) {
  case Activation::gelu:
    return short_gelu<L>(x);
  case Activation::gelu_tanh:
    return short_gelu_tanh<L>(x);
  case Activation::silu:
    return short_silu<L>(x);
  default:
    return activate<L>(x, act);
  }
}

} // namespace
} // namespace quaver
