// One float as the vector type of the cells: csrc/cells/ compiles for the device unchanged with V = cuda::Vec. And
// bf16.
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

RNNFAST_INLINE uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
RNNFAST_INLINE float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

// x 2^n for |n| <= 252, in two steps because 2^n need not be a normal number; only the second one can round. n = NaN is
// taken for 0.
RNNFAST_INLINE Vec ldexp(Vec x, Vec n) {
  const int whole = n.v == n.v ? static_cast<int>(n.v) : 0, half = whole / 2;
  const float first = float_of(static_cast<uint32_t>(127 + half) << 23);
  const float second = float_of(static_cast<uint32_t>(127 + whole - half) << 23);
  return Vec(x.v * first * second);
}

RNNFAST_INLINE float to_float(Bf16 x) { return float_of(uint32_t{x.bits} << 16); }
RNNFAST_INLINE float low_bf16(uint32_t pair) { return float_of(pair << 16); }
RNNFAST_INLINE float high_bf16(uint32_t pair) { return float_of(pair & 0xffff0000u); }
RNNFAST_INLINE Bf16 to_bf16(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return Bf16{static_cast<uint16_t>(x == x ? rounded : 0x7fffu)};
}
#if defined(RNNFAST_EMULATE)
RNNFAST_INLINE uint32_t pack_bf16(float low, float high) {
  return uint32_t{to_bf16(high).bits} << 16 | to_bf16(low).bits;
}
#endif

}  // namespace rnnfast::cuda
