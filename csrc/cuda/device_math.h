// One float as the vector type of the cells: csrc/cells/ compiles for the device unchanged with V = cuda::Vec.
#pragma once

#include <cmath>

#include "device.h"

namespace rnnfast::cuda {

struct Vec {
  using Element = float;
  static constexpr int lanes = 1;
  float v;
  Vec() = default;
  RNNFAST_INLINE explicit Vec(float x) : v(x) {}
};

RNNFAST_INLINE Vec operator+(Vec a, Vec b) { return Vec(a.v + b.v); }
RNNFAST_INLINE Vec operator-(Vec a, Vec b) { return Vec(a.v - b.v); }
RNNFAST_INLINE Vec operator*(Vec a, Vec b) { return Vec(a.v * b.v); }
RNNFAST_INLINE Vec operator/(Vec a, Vec b) { return Vec(a.v / b.v); }
RNNFAST_INLINE Vec operator-(Vec a) { return Vec(-a.v); }
RNNFAST_INLINE float multiply_add(float a, float b, float c) { return ::fmaf(a, b, c); }
RNNFAST_INLINE Vec fma(Vec a, Vec b, Vec c) { return Vec(multiply_add(a.v, b.v, c.v)); }
RNNFAST_INLINE Vec wide_fma(Vec a, Vec b, Vec c) { return fma(a, b, c); }
RNNFAST_INLINE Vec min(Vec a, Vec b) { return Vec(a.v < b.v ? a.v : b.v); }
RNNFAST_INLINE Vec max(Vec a, Vec b) { return Vec(a.v > b.v ? a.v : b.v); }
RNNFAST_INLINE Vec abs(Vec a) { return Vec(::fabsf(a.v)); }
RNNFAST_INLINE Vec copysign(Vec a, Vec b) { return Vec(::copysignf(a.v, b.v)); }
RNNFAST_INLINE Vec select_positive(Vec x, Vec yes, Vec no) { return Vec(x.v > 0.0f ? yes.v : no.v); }

// x 2^n for |n| <= 252, in two steps because 2^n need not be a normal number; only the second one can round. n = NaN is
// taken for 0.
RNNFAST_INLINE Vec ldexp(Vec x, Vec n) {
  const int whole = n.v == n.v ? static_cast<int>(n.v) : 0, half = whole / 2;
  const float first = float_of(static_cast<uint32_t>(127 + half) << 23);
  const float second = float_of(static_cast<uint32_t>(127 + whole - half) << 23);
  return Vec(x.v * first * second);
}

}  // namespace rnnfast::cuda
