// Loops that do nothing but what one core does fastest: multiply and add, or read. core/limits.h times them, and
// `rnnfast bench` holds the kernels against what they reach.
#pragma once

#include "tile.h"

namespace rnnfast::RNNFAST_TARGET {

// Reads data[0 .. n), n a multiple of 8 vectors, `times` times over.
template <class T>
void read_loop(const T* data, int64_t n, int64_t times, T* sink) {
  using V = Vec<T>;
  constexpr int kVectors = 8;
  V top[kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) top[i] = V::load(sink + i * V::lanes);
  for (int64_t time = 0; time < times; ++time)
    for (int64_t k = 0; k < n; k += kVectors * V::lanes)
#pragma GCC unroll 8
      for (int i = 0; i < kVectors; ++i) top[i] = max(top[i], V::load(data + k + i * V::lanes));
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) top[i].store(sink + i * V::lanes);
}

}  // namespace rnnfast::RNNFAST_TARGET
