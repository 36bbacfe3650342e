// Loops that do nothing but what one core does fastest: multiply and add, or read. core/limits.h times them, and
// `rnnfast bench` holds the kernels against what they reach.
#pragma once

#include "kernels.h"
#include "vec_bf16.h"

namespace rnnfast::RNNFAST_TARGET {

constexpr int kChains = 12;  // more than latency times throughput of any core, and 16 registers hold them

// `rounds` times kChains vectors of multiply-adds, of pairs where E holds pairs; returns their floating-point
// operations. sink: [kChains][L], in and out, so that nothing can be left out.
template <class T, class E>
int64_t fma_loop(int64_t rounds, E x, T* sink) {
  using V = Vec<T>;
  V sum[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum[i] = V::load(sink + i * V::lanes);
  const Vec<E> factor(x);
  for (int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sum[i] = fma(factor, factor, sum[i]);
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum[i].store(sink + i * V::lanes);
  return rounds * kChains * V::lanes * 2 * depth<E>;
}

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
