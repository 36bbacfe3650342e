// bf16 operands of products: a lane holds the numbers of two neighbouring k, which are multiplied and added in float32.
//
// A bf16 number is the upper half of a float, so the product of two is exact in float32. One fma of pairs is two of
// floats, the high halves first; that is what AVX-512's instruction does, and where it is missing those two give the
// same bits, because kernels run with denormals flushed to zero as the instruction does by itself. Rounding is to
// nearest, ties to even; NaN stays NaN.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace rnnfast::RNNFAST_TARGET {

using VecF = Vec<float>;

template <>
struct Vec<Bf16x2> {
  using Element = Bf16x2;
  static constexpr int lanes = Vec<float>::lanes;
  typedef uint32_t Bits __attribute__((vector_size(4 * lanes)));
  Bits v;
  Vec() = default;
  RNNFAST_INLINE Vec(Bits x) : v(x) {}
  RNNFAST_INLINE explicit Vec(Bf16x2 x) : v(Bits{} + x.bits) {}
  RNNFAST_INLINE static Vec load(const Bf16x2* p) {
    Vec x;
    __builtin_memcpy(&x.v, p, sizeof x.v);
    return x;
  }
  RNNFAST_INLINE void store(Bf16x2* p) const { __builtin_memcpy(p, &v, sizeof v); }
};
using VecB = Vec<Bf16x2>;
typedef uint16_t HalfBits __attribute__((vector_size(2 * VecB::lanes)));

RNNFAST_INLINE VecB::Bits bits_of(VecF x) { return __builtin_bit_cast(VecB::Bits, x.v); }
RNNFAST_INLINE VecF float_of(VecB::Bits x) { return VecF(__builtin_bit_cast(decltype(VecF::v), x)); }
RNNFAST_INLINE VecF low(VecB x) { return float_of(x.v << 16); }
RNNFAST_INLINE VecF high(VecB x) { return float_of(x.v & 0xffff0000u); }

// c + high * high + low * low, in this order
RNNFAST_INLINE VecF fma(VecB a, VecB b, VecF c) {
#ifdef __AVX512BF16__
  return _mm512_dpbf16_ps(c.v, __builtin_bit_cast(__m512bh, a.v), __builtin_bit_cast(__m512bh, b.v));
#else
  return fma(low(a), low(b), fma(high(a), high(b), c));
#endif
}

// The nearest number whose lower half is zero.
RNNFAST_INLINE VecF round_bf16(VecF x) {
  const VecB::Bits bits = bits_of(x), nearest = bits + 0x7fffu + (bits >> 16 & 1u);
  const VecB::Bits nan = __builtin_bit_cast(VecB::Bits, (bits & 0x7fffffffu) > 0x7f800000u);
  return float_of(((nearest & ~nan) | ((bits | 0x400000u) & nan)) & 0xffff0000u);
}

// Of rounded numbers.
RNNFAST_INLINE VecB pair(VecF low, VecF high) { return VecB(bits_of(low) >> 16 | bits_of(high)); }
RNNFAST_INLINE void interleave(VecB& a, VecB& b) {
  VecF x = float_of(a.v), y = float_of(b.v);
  interleave(x, y);
  a.v = bits_of(x), b.v = bits_of(y);
}

// Rows of operands: a vector of numbers takes `operands<E>` elements E, and an element holds `depth<E>` numbers. Where
// a vector has one lane, the high half of a pair stays empty.
template <class E>
inline constexpr int depth = 1;
template <>
inline constexpr int depth<Bf16x2> = VecF::lanes > 1 ? 2 : 1;
template <class E>
inline constexpr int operands = Vec<E>::lanes / depth<E>;

template <class T, class E>
inline constexpr bool same_type = false;
template <class T>
inline constexpr bool same_type<T, T> = true;

template <class T>
RNNFAST_INLINE void store_operand(Vec<T> x, T* p) {
  x.store(p);
}
RNNFAST_INLINE void store_operand(VecF x, Bf16x2* p) {
  const HalfBits half = __builtin_convertvector(bits_of(round_bf16(x)) >> 16, HalfBits);
  if (VecF::lanes == 1) p->bits = 0;
  __builtin_memcpy(p, &half, sizeof half);
}
template <class T>
RNNFAST_INLINE Vec<T> load_operand(const T* p) {
  return Vec<T>::load(p);
}
RNNFAST_INLINE VecF load_operand(const Bf16x2* p) {
  HalfBits half;
  __builtin_memcpy(&half, p, sizeof half);
  return float_of(__builtin_convertvector(half, VecB::Bits) << 16);
}

}  // namespace rnnfast::RNNFAST_TARGET
