// The upper half of a float, which is what products multiply where a layer computes in bfloat16. For host and device.
#pragma once

#include <cstdint>

#include "../core/macros.h"

namespace rnnfast::cuda {

struct Bf16 {
  uint16_t bits;
};

RNNFAST_INLINE uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
RNNFAST_INLINE float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

RNNFAST_INLINE float to_float(Bf16 x) { return float_of(uint32_t{x.bits} << 16); }
// To nearest, ties to even; NaN stays NaN.
RNNFAST_INLINE Bf16 to_bf16(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return Bf16{static_cast<uint16_t>(x == x ? rounded : 0x7fffu)};
}

}  // namespace rnnfast::cuda
