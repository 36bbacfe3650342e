// One element a "register": for every processor that has no file of its own, and to check the others against.
#pragma once

#include "../core/macros.h"

namespace rnnfast::RNNFAST_TARGET {

inline constexpr int kRegisters = 16;

template <class T>
struct Vec {
  using Element = T;
  static constexpr int lanes = 1;
  T v;
  Vec() = default;
  RNNFAST_INLINE explicit Vec(T x) : v(x) {}
  RNNFAST_INLINE static Vec load(const T* p) { return Vec(*p); }
  RNNFAST_INLINE static Vec load_first(const T* p, int n) { return n > 0 ? Vec(*p) : Vec(T(0)); }
  RNNFAST_INLINE void store(T* p) const { *p = v; }
  RNNFAST_INLINE void store_first(T* p, int n) const {
    if (n > 0) *p = v;
  }
};
template <class T>
RNNFAST_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) {
  return Vec<T>(a.v + b.v);
}
template <class T>
RNNFAST_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) {
  return Vec<T>(a.v - b.v);
}
template <class T>
RNNFAST_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) {
  return Vec<T>(a.v * b.v);
}
template <class T>
RNNFAST_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) {
  return Vec<T>(a.v / b.v);
}
template <class T>
RNNFAST_INLINE Vec<T> operator-(Vec<T> a) {
  return Vec<T>(-a.v);
}
template <class T>
RNNFAST_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return Vec<T>(a.v * b.v + c.v);
}  // two roundings
// The product of two floats is exact in double.
RNNFAST_INLINE Vec<float> wide_fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return Vec<float>(static_cast<float>(static_cast<double>(a.v) * b.v + c.v));
}
RNNFAST_INLINE Vec<double> wide_fma(Vec<double> a, Vec<double> b, Vec<double> c) { return fma(a, b, c); }
template <class T>
RNNFAST_INLINE Vec<T> min(Vec<T> a, Vec<T> b) {
  return Vec<T>(a.v < b.v ? a.v : b.v);
}
template <class T>
RNNFAST_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  return Vec<T>(a.v > b.v ? a.v : b.v);
}
RNNFAST_INLINE Vec<float> abs(Vec<float> a) { return Vec<float>(__builtin_fabsf(a.v)); }
RNNFAST_INLINE Vec<double> abs(Vec<double> a) { return Vec<double>(__builtin_fabs(a.v)); }
RNNFAST_INLINE Vec<float> sqrt(Vec<float> a) { return Vec<float>(__builtin_sqrtf(a.v)); }
RNNFAST_INLINE Vec<double> sqrt(Vec<double> a) { return Vec<double>(__builtin_sqrt(a.v)); }
RNNFAST_INLINE Vec<float> copysign(Vec<float> a, Vec<float> b) { return Vec<float>(__builtin_copysignf(a.v, b.v)); }
RNNFAST_INLINE Vec<double> copysign(Vec<double> a, Vec<double> b) { return Vec<double>(__builtin_copysign(a.v, b.v)); }
template <class T>
RNNFAST_INLINE Vec<T> select_positive(Vec<T> x, Vec<T> yes, Vec<T> no) {
  return x.v > T(0) ? yes : no;
}
RNNFAST_INLINE Vec<float> ldexp(Vec<float> x, Vec<float> n) {
  return Vec<float>(__builtin_ldexpf(x.v, n.v == n.v ? static_cast<int>(n.v) : 0));
}
RNNFAST_INLINE Vec<double> ldexp(Vec<double> x, Vec<double> n) {
  return Vec<double>(__builtin_ldexp(x.v, n.v == n.v ? static_cast<int>(n.v) : 0));
}

template <class T>
RNNFAST_INLINE void interleave(Vec<T>&, Vec<T>&) {}

}  // namespace rnnfast::RNNFAST_TARGET
