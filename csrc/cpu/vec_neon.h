// AArch64 NEON: 4 floats or 2 doubles a register, 32 registers. vmin and vmax return NaN where either side is NaN.
#pragma once

#include <arm_neon.h>

#include "../core/macros.h"

namespace rnnfast::RNNFAST_TARGET {

inline constexpr int kRegisters = 32;

template <class T>
struct Vec;

template <>
struct Vec<float> {
  using Element = float;
  static constexpr int lanes = 4;
  float32x4_t v;
  Vec() = default;
  RNNFAST_INLINE Vec(float32x4_t x) : v(x) {}
  RNNFAST_INLINE explicit Vec(float x) : v(vdupq_n_f32(x)) {}
  RNNFAST_INLINE static Vec load(const float* p) { return vld1q_f32(p); }
  RNNFAST_INLINE static Vec load_first(const float* p, int n) {
    float lane[lanes] = {};
    for (int i = 0; i < n; ++i) lane[i] = p[i];
    return vld1q_f32(lane);
  }
  RNNFAST_INLINE void store(float* p) const { vst1q_f32(p, v); }
  RNNFAST_INLINE void store_first(float* p, int n) const {
    float lane[lanes];
    vst1q_f32(lane, v);
    for (int i = 0; i < n; ++i) p[i] = lane[i];
  }
};
using VecF = Vec<float>;
RNNFAST_INLINE VecF operator+(VecF a, VecF b) { return vaddq_f32(a.v, b.v); }
RNNFAST_INLINE VecF operator-(VecF a, VecF b) { return vsubq_f32(a.v, b.v); }
RNNFAST_INLINE VecF operator*(VecF a, VecF b) { return vmulq_f32(a.v, b.v); }
RNNFAST_INLINE VecF operator/(VecF a, VecF b) { return vdivq_f32(a.v, b.v); }
RNNFAST_INLINE VecF operator-(VecF a) { return vnegq_f32(a.v); }
RNNFAST_INLINE VecF fma(VecF a, VecF b, VecF c) { return vfmaq_f32(c.v, a.v, b.v); }
RNNFAST_INLINE VecF wide_fma(VecF a, VecF b, VecF c) { return fma(a, b, c); }
RNNFAST_INLINE VecF min(VecF a, VecF b) { return vminq_f32(a.v, b.v); }
RNNFAST_INLINE VecF max(VecF a, VecF b) { return vmaxq_f32(a.v, b.v); }
RNNFAST_INLINE VecF abs(VecF a) { return vabsq_f32(a.v); }
RNNFAST_INLINE VecF sqrt(VecF a) { return vsqrtq_f32(a.v); }
RNNFAST_INLINE VecF copysign(VecF size, VecF sign) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign.v, size.v); }
RNNFAST_INLINE VecF select_positive(VecF x, VecF yes, VecF no) { return vbslq_f32(vcgtzq_f32(x.v), yes.v, no.v); }
RNNFAST_INLINE VecF power_of_two(int32x4_t n) {  // -126 <= n <= 127, by its bits
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
// In two factors, because 2^128 and 2^-150 are no floats.
RNNFAST_INLINE VecF ldexp(VecF x, VecF n) {
  const int32x4_t whole = vcvtq_s32_f32(n.v), half = vshrq_n_s32(whole, 1);
  return x * power_of_two(half) * power_of_two(vsubq_s32(whole, half));
}

template <>
struct Vec<double> {
  using Element = double;
  static constexpr int lanes = 2;
  float64x2_t v;
  Vec() = default;
  RNNFAST_INLINE Vec(float64x2_t x) : v(x) {}
  RNNFAST_INLINE explicit Vec(double x) : v(vdupq_n_f64(x)) {}
  RNNFAST_INLINE static Vec load(const double* p) { return vld1q_f64(p); }
  RNNFAST_INLINE static Vec load_first(const double* p, int n) {
    double lane[lanes] = {};
    for (int i = 0; i < n; ++i) lane[i] = p[i];
    return vld1q_f64(lane);
  }
  RNNFAST_INLINE void store(double* p) const { vst1q_f64(p, v); }
  RNNFAST_INLINE void store_first(double* p, int n) const {
    double lane[lanes];
    vst1q_f64(lane, v);
    for (int i = 0; i < n; ++i) p[i] = lane[i];
  }
};
using VecD = Vec<double>;
RNNFAST_INLINE VecD operator+(VecD a, VecD b) { return vaddq_f64(a.v, b.v); }
RNNFAST_INLINE VecD operator-(VecD a, VecD b) { return vsubq_f64(a.v, b.v); }
RNNFAST_INLINE VecD operator*(VecD a, VecD b) { return vmulq_f64(a.v, b.v); }
RNNFAST_INLINE VecD operator/(VecD a, VecD b) { return vdivq_f64(a.v, b.v); }
RNNFAST_INLINE VecD operator-(VecD a) { return vnegq_f64(a.v); }
RNNFAST_INLINE VecD fma(VecD a, VecD b, VecD c) { return vfmaq_f64(c.v, a.v, b.v); }
RNNFAST_INLINE VecD wide_fma(VecD a, VecD b, VecD c) { return fma(a, b, c); }
RNNFAST_INLINE VecD min(VecD a, VecD b) { return vminq_f64(a.v, b.v); }
RNNFAST_INLINE VecD max(VecD a, VecD b) { return vmaxq_f64(a.v, b.v); }
RNNFAST_INLINE VecD abs(VecD a) { return vabsq_f64(a.v); }
RNNFAST_INLINE VecD sqrt(VecD a) { return vsqrtq_f64(a.v); }
RNNFAST_INLINE VecD copysign(VecD size, VecD sign) {
  return vbslq_f64(vdupq_n_u64(0x8000000000000000u), sign.v, size.v);
}
RNNFAST_INLINE VecD select_positive(VecD x, VecD yes, VecD no) { return vbslq_f64(vcgtzq_f64(x.v), yes.v, no.v); }
RNNFAST_INLINE VecD power_of_two_double(int64x2_t n) {
  return vreinterpretq_f64_s64(vshlq_n_s64(vaddq_s64(n, vdupq_n_s64(1023)), 52));
}
RNNFAST_INLINE VecD ldexp(VecD x, VecD n) {
  const int64x2_t whole = vcvtq_s64_f64(n.v), half = vshrq_n_s64(whole, 1);
  return x * power_of_two_double(half) * power_of_two_double(vsubq_s64(whole, half));
}

RNNFAST_INLINE void interleave(VecF& a, VecF& b) {
  const float32x4_t low = vzip1q_f32(a.v, b.v);
  b.v = vzip2q_f32(a.v, b.v);
  a.v = low;
}
RNNFAST_INLINE void interleave(VecD& a, VecD& b) {
  const float64x2_t low = vzip1q_f64(a.v, b.v);
  b.v = vzip2q_f64(a.v, b.v);
  a.v = low;
}

}  // namespace rnnfast::RNNFAST_TARGET
