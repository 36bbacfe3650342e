// x86-64-v2 (SSE4.2): 4 floats or 2 doubles a register, 16 registers, no fused multiply-add.
#pragma once

#include <immintrin.h>

#include "../core/macros.h"

namespace rnnfast::RNNFAST_TARGET {

inline constexpr int kRegisters = 16;

template <class T>
struct Vec;

template <>
struct Vec<float> {
  using Element = float;
  static constexpr int lanes = 4;
  __m128 v;
  Vec() = default;
  RNNFAST_INLINE Vec(__m128 x) : v(x) {}
  RNNFAST_INLINE explicit Vec(float x) : v(_mm_set1_ps(x)) {}
  RNNFAST_INLINE static Vec load(const float* p) { return _mm_loadu_ps(p); }
  RNNFAST_INLINE static Vec load_first(const float* p, int n) {
    alignas(16) float lane[lanes] = {};
    for (int i = 0; i < n; ++i) lane[i] = p[i];
    return _mm_load_ps(lane);
  }
  RNNFAST_INLINE void store(float* p) const { _mm_storeu_ps(p, v); }
  RNNFAST_INLINE void store_first(float* p, int n) const {
    alignas(16) float lane[lanes];
    _mm_store_ps(lane, v);
    for (int i = 0; i < n; ++i) p[i] = lane[i];
  }
};
using VecF = Vec<float>;
RNNFAST_INLINE VecF operator+(VecF a, VecF b) { return _mm_add_ps(a.v, b.v); }
RNNFAST_INLINE VecF operator-(VecF a, VecF b) { return _mm_sub_ps(a.v, b.v); }
RNNFAST_INLINE VecF operator*(VecF a, VecF b) { return _mm_mul_ps(a.v, b.v); }
RNNFAST_INLINE VecF operator/(VecF a, VecF b) { return _mm_div_ps(a.v, b.v); }
RNNFAST_INLINE VecF operator-(VecF a) { return _mm_xor_ps(a.v, _mm_set1_ps(-0.0f)); }
RNNFAST_INLINE VecF fma(VecF a, VecF b, VecF c) { return a * b + c; }  // two roundings: no FMA here
// In double, where the product of two floats is exact: slow, and only where the last bit needs it.
RNNFAST_INLINE VecF wide_fma(VecF a, VecF b, VecF c) {
  const auto half = [](__m128 x, __m128 y, __m128 z) {
    return _mm_cvtpd_ps(_mm_add_pd(_mm_mul_pd(_mm_cvtps_pd(x), _mm_cvtps_pd(y)), _mm_cvtps_pd(z)));
  };
  const __m128 low = half(a.v, b.v, c.v);
  const __m128 high = half(_mm_movehl_ps(a.v, a.v), _mm_movehl_ps(b.v, b.v), _mm_movehl_ps(c.v, c.v));
  return _mm_movelh_ps(low, high);
}
RNNFAST_INLINE VecF min(VecF a, VecF b) { return _mm_min_ps(a.v, b.v); }
RNNFAST_INLINE VecF max(VecF a, VecF b) { return _mm_max_ps(a.v, b.v); }
RNNFAST_INLINE VecF abs(VecF a) { return _mm_andnot_ps(_mm_set1_ps(-0.0f), a.v); }
RNNFAST_INLINE VecF sqrt(VecF a) { return _mm_sqrt_ps(a.v); }
RNNFAST_INLINE VecF copysign(VecF size, VecF sign) {
  const __m128 bit = _mm_set1_ps(-0.0f);
  return _mm_or_ps(_mm_andnot_ps(bit, size.v), _mm_and_ps(bit, sign.v));
}
RNNFAST_INLINE VecF select_positive(VecF x, VecF yes, VecF no) {
  return _mm_blendv_ps(no.v, yes.v, _mm_cmpgt_ps(x.v, _mm_setzero_ps()));
}
// 2^n for integers -126 <= n <= 127, by its bits.
RNNFAST_INLINE VecF power_of_two(__m128i n) {
  return _mm_castsi128_ps(_mm_slli_epi32(_mm_add_epi32(n, _mm_set1_epi32(127)), 23));
}
// In two factors, because 2^128 and 2^-150 are no floats.
RNNFAST_INLINE VecF ldexp(VecF x, VecF n) {
  const __m128i whole = _mm_cvtps_epi32(n.v), half = _mm_srai_epi32(whole, 1);
  return x * power_of_two(half) * power_of_two(_mm_sub_epi32(whole, half));
}

template <>
struct Vec<double> {
  using Element = double;
  static constexpr int lanes = 2;
  __m128d v;
  Vec() = default;
  RNNFAST_INLINE Vec(__m128d x) : v(x) {}
  RNNFAST_INLINE explicit Vec(double x) : v(_mm_set1_pd(x)) {}
  RNNFAST_INLINE static Vec load(const double* p) { return _mm_loadu_pd(p); }
  RNNFAST_INLINE static Vec load_first(const double* p, int n) {
    alignas(16) double lane[lanes] = {};
    for (int i = 0; i < n; ++i) lane[i] = p[i];
    return _mm_load_pd(lane);
  }
  RNNFAST_INLINE void store(double* p) const { _mm_storeu_pd(p, v); }
  RNNFAST_INLINE void store_first(double* p, int n) const {
    alignas(16) double lane[lanes];
    _mm_store_pd(lane, v);
    for (int i = 0; i < n; ++i) p[i] = lane[i];
  }
};
using VecD = Vec<double>;
RNNFAST_INLINE VecD operator+(VecD a, VecD b) { return _mm_add_pd(a.v, b.v); }
RNNFAST_INLINE VecD operator-(VecD a, VecD b) { return _mm_sub_pd(a.v, b.v); }
RNNFAST_INLINE VecD operator*(VecD a, VecD b) { return _mm_mul_pd(a.v, b.v); }
RNNFAST_INLINE VecD operator/(VecD a, VecD b) { return _mm_div_pd(a.v, b.v); }
RNNFAST_INLINE VecD operator-(VecD a) { return _mm_xor_pd(a.v, _mm_set1_pd(-0.0)); }
RNNFAST_INLINE VecD fma(VecD a, VecD b, VecD c) { return a * b + c; }  // two roundings: no FMA here
RNNFAST_INLINE VecD wide_fma(VecD a, VecD b, VecD c) { return fma(a, b, c); }
RNNFAST_INLINE VecD min(VecD a, VecD b) { return _mm_min_pd(a.v, b.v); }
RNNFAST_INLINE VecD max(VecD a, VecD b) { return _mm_max_pd(a.v, b.v); }
RNNFAST_INLINE VecD abs(VecD a) { return _mm_andnot_pd(_mm_set1_pd(-0.0), a.v); }
RNNFAST_INLINE VecD sqrt(VecD a) { return _mm_sqrt_pd(a.v); }
RNNFAST_INLINE VecD copysign(VecD size, VecD sign) {
  const __m128d bit = _mm_set1_pd(-0.0);
  return _mm_or_pd(_mm_andnot_pd(bit, size.v), _mm_and_pd(bit, sign.v));
}
RNNFAST_INLINE VecD select_positive(VecD x, VecD yes, VecD no) {
  return _mm_blendv_pd(no.v, yes.v, _mm_cmpgt_pd(x.v, _mm_setzero_pd()));
}
RNNFAST_INLINE VecD power_of_two_double(__m128i n) {  // n as 32-bit integers
  const __m128i wide = _mm_cvtepi32_epi64(n);
  return _mm_castsi128_pd(_mm_slli_epi64(_mm_add_epi64(wide, _mm_set1_epi64x(1023)), 52));
}
RNNFAST_INLINE VecD ldexp(VecD x, VecD n) {
  const __m128i whole = _mm_cvtpd_epi32(n.v), half = _mm_srai_epi32(whole, 1);
  return x * power_of_two_double(half) * power_of_two_double(_mm_sub_epi32(whole, half));
}

RNNFAST_INLINE void interleave(VecF& a, VecF& b) {
  const __m128 low = _mm_unpacklo_ps(a.v, b.v);
  b.v = _mm_unpackhi_ps(a.v, b.v);
  a.v = low;
}
RNNFAST_INLINE void interleave(VecD& a, VecD& b) {
  const __m128d low = _mm_unpacklo_pd(a.v, b.v);
  b.v = _mm_unpackhi_pd(a.v, b.v);
  a.v = low;
}

}  // namespace rnnfast::RNNFAST_TARGET
