// AVX-512 (F, BW, DQ, VL): 16 floats or 8 doubles a register, 32 registers.
#pragma once

#include <immintrin.h>

#if defined(__GNUC__) && !defined(__clang__)
// gcc 11 to 13 take _mm512_undefined_ps() inside its own intrinsics for a mistake of ours.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include "../core/macros.h"

namespace rnnfast::RNNFAST_TARGET {

inline constexpr int kRegisters = 32;

template <class T>
struct Vec;

template <>
struct Vec<float> {
  using Element = float;
  static constexpr int lanes = 16;
  __m512 v;
  Vec() = default;
  RNNFAST_INLINE Vec(__m512 x) : v(x) {}
  RNNFAST_INLINE explicit Vec(float x) : v(_mm512_set1_ps(x)) {}
  RNNFAST_INLINE static __mmask16 mask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  RNNFAST_INLINE static Vec load(const float* p) { return _mm512_loadu_ps(p); }
  RNNFAST_INLINE static Vec load_halves(const float* low, const float* high) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(low)), _mm256_loadu_ps(high), 1);
  }
  RNNFAST_INLINE static Vec load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  RNNFAST_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  RNNFAST_INLINE void store_first(float* p, int n) const { _mm512_mask_storeu_ps(p, mask(n), v); }
};
using VecF = Vec<float>;
RNNFAST_INLINE VecF operator+(VecF a, VecF b) { return _mm512_add_ps(a.v, b.v); }
RNNFAST_INLINE VecF operator-(VecF a, VecF b) { return _mm512_sub_ps(a.v, b.v); }
RNNFAST_INLINE VecF operator*(VecF a, VecF b) { return _mm512_mul_ps(a.v, b.v); }
RNNFAST_INLINE VecF operator/(VecF a, VecF b) { return _mm512_div_ps(a.v, b.v); }
RNNFAST_INLINE VecF operator-(VecF a) { return _mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f)); }
RNNFAST_INLINE VecF fma(VecF a, VecF b, VecF c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
RNNFAST_INLINE VecF wide_fma(VecF a, VecF b, VecF c) { return fma(a, b, c); }
RNNFAST_INLINE VecF min(VecF a, VecF b) { return _mm512_min_ps(a.v, b.v); }
RNNFAST_INLINE VecF max(VecF a, VecF b) { return _mm512_max_ps(a.v, b.v); }
RNNFAST_INLINE VecF abs(VecF a) { return _mm512_abs_ps(a.v); }
RNNFAST_INLINE VecF sqrt(VecF a) { return _mm512_sqrt_ps(a.v); }
RNNFAST_INLINE VecF copysign(VecF size, VecF sign) {
  const __m512 bit = _mm512_set1_ps(-0.0f);
  return _mm512_or_ps(_mm512_andnot_ps(bit, size.v), _mm512_and_ps(bit, sign.v));
}
RNNFAST_INLINE VecF select_positive(VecF x, VecF yes, VecF no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, _mm512_setzero_ps(), _CMP_GT_OQ), no.v, yes.v);
}
RNNFAST_INLINE VecF ldexp(VecF x, VecF n) { return _mm512_scalef_ps(x.v, n.v); }
RNNFAST_INLINE void interleave(VecF& a, VecF& b) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512 first = _mm512_permutex2var_ps(a.v, low, b.v);
  b.v = _mm512_permutex2var_ps(a.v, _mm512_or_si512(low, _mm512_set1_epi32(8)), b.v);
  a.v = first;
}
// The same in each half.
RNNFAST_INLINE void interleave_halves(VecF& a, VecF& b) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 8, 24, 9, 25, 10, 26, 11, 27);
  const __m512 first = _mm512_permutex2var_ps(a.v, low, b.v);
  b.v = _mm512_permutex2var_ps(a.v, _mm512_or_si512(low, _mm512_set1_epi32(4)), b.v);
  a.v = first;
}

template <>
struct Vec<double> {
  using Element = double;
  static constexpr int lanes = 8;
  __m512d v;
  Vec() = default;
  RNNFAST_INLINE Vec(__m512d x) : v(x) {}
  RNNFAST_INLINE explicit Vec(double x) : v(_mm512_set1_pd(x)) {}
  RNNFAST_INLINE static __mmask8 mask(int n) { return static_cast<__mmask8>((1u << n) - 1u); }
  RNNFAST_INLINE static Vec load(const double* p) { return _mm512_loadu_pd(p); }
  RNNFAST_INLINE static Vec load_halves(const double* low, const double* high) {
    return _mm512_insertf64x4(_mm512_castpd256_pd512(_mm256_loadu_pd(low)), _mm256_loadu_pd(high), 1);
  }
  RNNFAST_INLINE static Vec load_first(const double* p, int n) { return _mm512_maskz_loadu_pd(mask(n), p); }
  RNNFAST_INLINE void store(double* p) const { _mm512_storeu_pd(p, v); }
  RNNFAST_INLINE void store_first(double* p, int n) const { _mm512_mask_storeu_pd(p, mask(n), v); }
};
using VecD = Vec<double>;
RNNFAST_INLINE VecD operator+(VecD a, VecD b) { return _mm512_add_pd(a.v, b.v); }
RNNFAST_INLINE VecD operator-(VecD a, VecD b) { return _mm512_sub_pd(a.v, b.v); }
RNNFAST_INLINE VecD operator*(VecD a, VecD b) { return _mm512_mul_pd(a.v, b.v); }
RNNFAST_INLINE VecD operator/(VecD a, VecD b) { return _mm512_div_pd(a.v, b.v); }
RNNFAST_INLINE VecD operator-(VecD a) { return _mm512_xor_pd(a.v, _mm512_set1_pd(-0.0)); }
RNNFAST_INLINE VecD fma(VecD a, VecD b, VecD c) { return _mm512_fmadd_pd(a.v, b.v, c.v); }
RNNFAST_INLINE VecD wide_fma(VecD a, VecD b, VecD c) { return fma(a, b, c); }
RNNFAST_INLINE VecD min(VecD a, VecD b) { return _mm512_min_pd(a.v, b.v); }
RNNFAST_INLINE VecD max(VecD a, VecD b) { return _mm512_max_pd(a.v, b.v); }
RNNFAST_INLINE VecD abs(VecD a) { return _mm512_abs_pd(a.v); }
RNNFAST_INLINE VecD sqrt(VecD a) { return _mm512_sqrt_pd(a.v); }
RNNFAST_INLINE VecD copysign(VecD size, VecD sign) {
  const __m512d bit = _mm512_set1_pd(-0.0);
  return _mm512_or_pd(_mm512_andnot_pd(bit, size.v), _mm512_and_pd(bit, sign.v));
}
RNNFAST_INLINE VecD select_positive(VecD x, VecD yes, VecD no) {
  return _mm512_mask_blend_pd(_mm512_cmp_pd_mask(x.v, _mm512_setzero_pd(), _CMP_GT_OQ), no.v, yes.v);
}
RNNFAST_INLINE VecD ldexp(VecD x, VecD n) { return _mm512_scalef_pd(x.v, n.v); }
RNNFAST_INLINE void interleave(VecD& a, VecD& b) {
  const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
  const __m512d first = _mm512_permutex2var_pd(a.v, low, b.v);
  b.v = _mm512_permutex2var_pd(a.v, _mm512_or_si512(low, _mm512_set1_epi64(4)), b.v);
  a.v = first;
}
RNNFAST_INLINE void interleave_halves(VecD& a, VecD& b) {
  const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 4, 12, 5, 13);
  const __m512d first = _mm512_permutex2var_pd(a.v, low, b.v);
  b.v = _mm512_permutex2var_pd(a.v, _mm512_or_si512(low, _mm512_set1_epi64(2)), b.v);
  a.v = first;
}

}  // namespace rnnfast::RNNFAST_TARGET
