// Loops that do nothing but what one core does fastest: multiply and add, or read. core/limits.h times them, and
// `rnnfast bench` holds the kernels against what they reach.
#pragma once

#include "kernels.h"

namespace rnnfast::RNNFAST_TARGET {

constexpr int kChains = 12;  // more than latency times throughput of any core, and 16 registers hold them

// `rounds` times kChains vectors of multiply-adds; returns their floating-point operations. sink: [kChains][L], in and
// out, so that nothing can be left out.
template <class T>
int64_t fma_loop(int64_t rounds, T* sink) {
  using V = Vec<T>;
  V sum[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum[i] = V::load(sink + i * V::lanes);
  const V half(T(0.5)), one(T(1));
  for (int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sum[i] = fma(sum[i], half, one);
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum[i].store(sink + i * V::lanes);
  return rounds * kChains * V::lanes * 2;
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

#if defined(__AVX512F__)
// Dot products of pairs of bfloat16, summed in float; only where the processor has avx512_bf16. As fma_loop.
__attribute__((target("avx512bf16"))) inline int64_t bf16_loop(int64_t rounds, float* sink) {
  __m512 sum[kChains];
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum[i] = _mm512_loadu_ps(sink + i * 16);
  const __m512bh tiny = (__m512bh)_mm512_set1_epi16(0x0080);  // its square is no normal number: the sums stay
  for (int64_t round = 0; round < rounds; ++round)
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sum[i] = _mm512_dpbf16_ps(sum[i], tiny, tiny);
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) _mm512_storeu_ps(sink + i * 16, sum[i]);
  return rounds * kChains * 16 * 4;
}
#endif

}  // namespace rnnfast::RNNFAST_TARGET
