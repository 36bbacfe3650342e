// exp, tanh and sigmoid, written once for every vector type V.
//
// V is a wrapper around a SIMD register, or a plain float on a GPU. It brings + - * /, fma, min, max, abs,
// copysign, select_positive, ldexp and wide_fma (fma with an exact product, which fma need not have); min(a, b) and
// max(a, b) return b where either is NaN, so a bound written first lets a NaN through. Accuracy (tests/test_math.py):
// float <= 2 ulp where argument and result are normal, double <= 4 ulp.
#pragma once

#include "../core/macros.h"

namespace rnnfast {

// Constants by element type; functions, not arrays, because a constexpr array has no address on a device.
template <class E>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr float highest = 89.0f, lowest = -104.0f;         // exp is inf above, 0 below
  static constexpr float log2e = 1.44269504f, magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
};

template <>
struct ExpConstants<double> {
  static constexpr double highest = 710.0, lowest = -746.0;
  static constexpr double log2e = 1.4426950408889634074, magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 6.93145751953125e-1, ln2_low = 1.42860682030941723212e-6;
};

// (exp(r) - 1 - r) / r^2 on |r| <= ln(2)/2, interpolated at the Chebyshev nodes: 2e-17 off (double), 1e-8 (float, with
// two coefficients moved by some units in the last place, where tanh is nearest to 2 ulp).
template <class V>
RNNFAST_INLINE V exp_tail(V r, float) {
  V p = V(1.39261836e-3f);
  p = fma(p, r, V(8.36317905e-3f));
  p = fma(p, r, V(4.16664071e-2f));
  p = fma(p, r, V(1.66665718e-1f));
  return fma(p, r, V(0.5f));
}

template <class V>
RNNFAST_INLINE V exp_tail(V r, double) {
  V p = V(2.51003854955103190776e-8);
  p = fma(p, r, V(2.7620088445409748161e-7));
  p = fma(p, r, V(2.75572684599970647717e-6));
  p = fma(p, r, V(2.48015212959543751312e-5));
  p = fma(p, r, V(1.98412698630536168779e-4));
  p = fma(p, r, V(1.38888889172137169014e-3));
  p = fma(p, r, V(8.33333333333006183252e-3));
  p = fma(p, r, V(4.1666666666624127873e-2));
  p = fma(p, r, V(1.66666666666666674527e-1));
  return fma(p, r, V(0.5));
}

// exp(x) = 2^n (1 + rest), n an integer and -0.3 < rest < 0.42.
template <class V>
RNNFAST_INLINE void exp_parts(V x, V& n, V& rest) {
  using C = ExpConstants<typename V::Element>;
  n = fma(x, V(C::log2e), V(C::magic)) - V(C::magic);
  const V r = fma(n, V(-C::ln2_low), fma(n, V(-C::ln2_high), x));
  rest = wide_fma(r * r, exp_tail(r, typename V::Element()), r);
}

template <class V>
RNNFAST_INLINE V exp(V x) {
  using C = ExpConstants<typename V::Element>;
  V n, rest;
  exp_parts(min(V(C::highest), max(V(C::lowest), x)), n, rest);
  return ldexp(V(1) + rest, n);
}

// 1 / (1 + exp(-x)). With exp(-x) in its two parts the sum is rounded about once, if the smaller of 1 and 2^n goes
// into the product's sum. All of it is made small by `unit`, so that nothing overflows before the result is 0.
template <class V>
RNNFAST_INLINE V sigmoid(V x) {
  using E = typename V::Element;
  using C = ExpConstants<E>;
  const V unit(static_cast<E>(0x1p-64));
  V n, rest;
  exp_parts(min(V(-C::lowest), max(V(C::lowest), -x)), n, rest);
  const V scale = ldexp(unit, n);
  return unit / (wide_fma(scale, rest, min(scale, unit)) + max(scale, unit));
}

// (1 - e) / (1 + e) with e = exp(-2 |x|): both are rounded once, and nothing is lost near 0.
template <class V>
RNNFAST_INLINE V tanh(V x) {
  using C = ExpConstants<typename V::Element>;
  V n, rest;
  exp_parts(max(V(C::lowest), V(-2) * abs(x)), n, rest);
  const V scale = ldexp(V(1), n);
  return copysign(wide_fma(scale, -rest, V(1) - scale) / wide_fma(scale, rest, V(1) + scale), x);
}

}  // namespace rnnfast
