// AVX2 and FMA: 8 floats or 4 doubles a register, 16 registers.
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
  static constexpr int lanes = 8;
  __m256 v;
  Vec() = default;
  RNNFAST_INLINE Vec(__m256 x) : v(x) {}
  RNNFAST_INLINE explicit Vec(float x) : v(_mm256_set1_ps(x)) {}
  RNNFAST_INLINE static Vec load(const float* p) { return _mm256_loadu_ps(p); }
  RNNFAST_INLINE static Vec load_first(const float* p, int n) {
    alignas(32) float lane[lanes] = {};
    for (int i = 0; i < n; ++i) lane[i] = p[i];
    return _mm256_load_ps(lane);
  }
  RNNFAST_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  RNNFAST_INLINE void store_first(float* p, int n) const {
    alignas(32) float lane[lanes];
    _mm256_store_ps(lane, v);
    for (int i = 0; i < n; ++i) p[i] = lane[i];
  }
};
using VecF = Vec<float>;
RNNFAST_INLINE VecF operator+(VecF a, VecF b) { return _mm256_add_ps(a.v, b.v); }
RNNFAST_INLINE VecF operator-(VecF a, VecF b) { return _mm256_sub_ps(a.v, b.v); }
RNNFAST_INLINE VecF operator*(VecF a, VecF b) { return _mm256_mul_ps(a.v, b.v); }
RNNFAST_INLINE VecF operator/(VecF a, VecF b) { return _mm256_div_ps(a.v, b.v); }
RNNFAST_INLINE VecF operator-(VecF a) { return _mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f)); }
RNNFAST_INLINE VecF fma(VecF a, VecF b, VecF c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
RNNFAST_INLINE VecF wide_fma(VecF a, VecF b, VecF c) { return fma(a, b, c); }
RNNFAST_INLINE VecF min(VecF a, VecF b) { return _mm256_min_ps(a.v, b.v); }
RNNFAST_INLINE VecF max(VecF a, VecF b) { return _mm256_max_ps(a.v, b.v); }
RNNFAST_INLINE VecF abs(VecF a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v); }
RNNFAST_INLINE VecF sqrt(VecF a) { return _mm256_sqrt_ps(a.v); }
RNNFAST_INLINE VecF copysign(VecF size, VecF sign) {
  const __m256 bit = _mm256_set1_ps(-0.0f);
  return _mm256_or_ps(_mm256_andnot_ps(bit, size.v), _mm256_and_ps(bit, sign.v));
}
RNNFAST_INLINE VecF select_positive(VecF x, VecF yes, VecF no) {
  return _mm256_blendv_ps(no.v, yes.v, _mm256_cmp_ps(x.v, _mm256_setzero_ps(), _CMP_GT_OQ));
}
// 2^n for integers -126 <= n <= 127, by its bits.
RNNFAST_INLINE VecF power_of_two(__m256i n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
// In two factors, because 2^128 and 2^-150 are no floats.
RNNFAST_INLINE VecF ldexp(VecF x, VecF n) {
  const __m256i whole = _mm256_cvtps_epi32(n.v), half = _mm256_srai_epi32(whole, 1);
  return x * power_of_two(half) * power_of_two(_mm256_sub_epi32(whole, half));
}

template <>
struct Vec<double> {
  using Element = double;
  static constexpr int lanes = 4;
  __m256d v;
  Vec() = default;
  RNNFAST_INLINE Vec(__m256d x) : v(x) {}
  RNNFAST_INLINE explicit Vec(double x) : v(_mm256_set1_pd(x)) {}
  RNNFAST_INLINE static Vec load(const double* p) { return _mm256_loadu_pd(p); }
  RNNFAST_INLINE static Vec load_first(const double* p, int n) {
    alignas(32) double lane[lanes] = {};
    for (int i = 0; i < n; ++i) lane[i] = p[i];
    return _mm256_load_pd(lane);
  }
  RNNFAST_INLINE void store(double* p) const { _mm256_storeu_pd(p, v); }
  RNNFAST_INLINE void store_first(double* p, int n) const {
    alignas(32) double lane[lanes];
    _mm256_store_pd(lane, v);
    for (int i = 0; i < n; ++i) p[i] = lane[i];
  }
};
using VecD = Vec<double>;
RNNFAST_INLINE VecD operator+(VecD a, VecD b) { return _mm256_add_pd(a.v, b.v); }
RNNFAST_INLINE VecD operator-(VecD a, VecD b) { return _mm256_sub_pd(a.v, b.v); }
RNNFAST_INLINE VecD operator*(VecD a, VecD b) { return _mm256_mul_pd(a.v, b.v); }
RNNFAST_INLINE VecD operator/(VecD a, VecD b) { return _mm256_div_pd(a.v, b.v); }
RNNFAST_INLINE VecD operator-(VecD a) { return _mm256_xor_pd(a.v, _mm256_set1_pd(-0.0)); }
RNNFAST_INLINE VecD fma(VecD a, VecD b, VecD c) { return _mm256_fmadd_pd(a.v, b.v, c.v); }
RNNFAST_INLINE VecD wide_fma(VecD a, VecD b, VecD c) { return fma(a, b, c); }
RNNFAST_INLINE VecD min(VecD a, VecD b) { return _mm256_min_pd(a.v, b.v); }
RNNFAST_INLINE VecD max(VecD a, VecD b) { return _mm256_max_pd(a.v, b.v); }
RNNFAST_INLINE VecD abs(VecD a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v); }
RNNFAST_INLINE VecD sqrt(VecD a) { return _mm256_sqrt_pd(a.v); }
RNNFAST_INLINE VecD copysign(VecD size, VecD sign) {
  const __m256d bit = _mm256_set1_pd(-0.0);
  return _mm256_or_pd(_mm256_andnot_pd(bit, size.v), _mm256_and_pd(bit, sign.v));
}
RNNFAST_INLINE VecD select_positive(VecD x, VecD yes, VecD no) {
  return _mm256_blendv_pd(no.v, yes.v, _mm256_cmp_pd(x.v, _mm256_setzero_pd(), _CMP_GT_OQ));
}
RNNFAST_INLINE VecD power_of_two_double(__m128i n) {  // n as 32-bit integers
  const __m256i wide = _mm256_cvtepi32_epi64(n);
  return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_add_epi64(wide, _mm256_set1_epi64x(1023)), 52));
}
RNNFAST_INLINE VecD ldexp(VecD x, VecD n) {
  const __m128i whole = _mm256_cvtpd_epi32(n.v), half = _mm_srai_epi32(whole, 1);
  return x * power_of_two_double(half) * power_of_two_double(_mm_sub_epi32(whole, half));
}

RNNFAST_INLINE void interleave(VecF& a, VecF& b) {
  const __m256 low = _mm256_unpacklo_ps(a.v, b.v), high = _mm256_unpackhi_ps(a.v, b.v);
  a.v = _mm256_permute2f128_ps(low, high, 0x20);
  b.v = _mm256_permute2f128_ps(low, high, 0x31);
}
RNNFAST_INLINE void interleave(VecD& a, VecD& b) {
  const __m256d low = _mm256_unpacklo_pd(a.v, b.v), high = _mm256_unpackhi_pd(a.v, b.v);
  a.v = _mm256_permute2f128_pd(low, high, 0x20);
  b.v = _mm256_permute2f128_pd(low, high, 0x31);
}

}  // namespace rnnfast::RNNFAST_TARGET
