// Element by element over parameters and gradients: optimiser steps by PyTorch's formulas, norms, clipping. And sums of
// scattered rows, for the gradient of an embedding.
#pragma once

#include "driver.h"
#include "ops_kernels.h"

namespace rnnfast::RNNFAST_TARGET {

template <class T>
RNNFAST_INLINE Vec<T> gradient(const UpdateArgs<T>& u, Vec<T> param, int64_t i) {
  const Vec<T> grad = load_units(u.grad, i, u.size) * Vec<T>(u.grad_scale);
  return fma(Vec<T>(u.weight_decay), param, grad);
}

template <class T>
void sgd(const UpdateArgs<T>& u) {
  using V = Vec<T>;
  for (int64_t i = 0; i < u.size; i += V::lanes) {
    const V param = load_units(u.param, i, u.size);
    V step = gradient(u, param, i);
    if (u.momentum != T(0)) {  // the buffer starts as zeros: after the first step it is the gradient, as PyTorch's is
      const V buffer = fma(V(u.momentum), load_units(u.state[0], i, u.size), step);
      store_units(buffer, u.state[0], i, u.size);
      step = u.nesterov ? fma(V(u.momentum), buffer, step) : buffer;
    }
    store_units(fma(V(-u.step_size), step, param), u.param, i, u.size);
  }
}

template <class T>
void rmsprop(const UpdateArgs<T>& u) {
  using V = Vec<T>;
  for (int64_t i = 0; i < u.size; i += V::lanes) {
    const V param = load_units(u.param, i, u.size), grad = gradient(u, param, i);
    const V square = fma(V(u.square_new) * grad, grad, V(u.square) * load_units(u.state[0], i, u.size));
    store_units(square, u.state[0], i, u.size);
    V step = grad / (sqrt(square) + V(u.eps));
    if (u.momentum != T(0)) {
      step = fma(V(u.momentum), load_units(u.state[1], i, u.size), step);
      store_units(step, u.state[1], i, u.size);
    }
    store_units(fma(V(-u.step_size), step, param), u.param, i, u.size);
  }
}

template <class T>
void adam(const UpdateArgs<T>& u) {
  using V = Vec<T>;
  for (int64_t i = 0; i < u.size; i += V::lanes) {
    const V param = load_units(u.param, i, u.size) * V(u.shrink), grad = gradient(u, param, i);
    const V before = load_units(u.state[0], i, u.size);
    const V mean = fma(V(u.mean), grad - before, before);
    const V square = fma(V(u.square_new) * grad, grad, V(u.square) * load_units(u.state[1], i, u.size));
    store_units(mean, u.state[0], i, u.size);
    store_units(square, u.state[1], i, u.size);
    const V denominator = sqrt(square) / V(u.correction) + V(u.eps);
    store_units(param - V(u.step_size) * mean / denominator, u.param, i, u.size);
  }
}

// Sixteen sums whatever a register holds, so that every instruction set gets the same bits: a float's square is exact
// in double.
template <class T>
double sum_of_squares(const T* x, int64_t n) {
  constexpr int kSums = 16;
  double sum[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums)
    for (int j = 0; j < kSums; ++j) {
      const double value = static_cast<double>(x[i + j]);
      sum[j] += value * value;
    }
  for (int j = 0; i < n; ++i, ++j) sum[j] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  for (int half = kSums / 2; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) sum[j] += sum[j + half];
  return sum[0];
}

template <class T>
void scale(T* x, int64_t n, T factor) {
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

template <class T>
void clip(T* x, int64_t n, T limit) {
  using V = Vec<T>;
  for (int64_t i = 0; i < n; i += V::lanes)
    store_units(min(V(limit), max(V(-limit), load_units(x, i, n))), x, i, n);  // bounds first: NaN passes
}

template <class T>
void add(T* to, const T* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

// N vectors of every row at a time.
template <class T, int N>
RNNFAST_INLINE void add_columns(T* to, const T* rows, const int32_t* order, int64_t count, int64_t n, int64_t i) {
  using V = Vec<T>;
  constexpr int L = V::lanes;
  V total[N];
  for (int j = 0; j < N; ++j) total[j] = V(T(0));
  for (int64_t r0 = 0; r0 < count; r0 += kSumBlock) {
    const int64_t end = r0 + kSumBlock < count ? r0 + kSumBlock : count;
    V sum[N];
    for (int j = 0; j < N; ++j) sum[j] = V(T(0));
    for (int64_t r = r0; r < end; ++r)
      for (int j = 0; j < N; ++j) sum[j] = sum[j] + load_units(rows + order[r] * n, i + j * L, n);
    for (int j = 0; j < N; ++j) total[j] = total[j] + sum[j];
  }
  for (int j = 0; j < N; ++j) store_units(load_units(to, i + j * L, n) + total[j], to, i + j * L, n);
}

template <class T>
void add_rows(T* to, const T* rows, const int32_t* order, int64_t count, int64_t n) {
  constexpr int L = Vec<T>::lanes;
  int64_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L) add_columns<T, 4>(to, rows, order, count, n, i);
  for (; i < n; i += L) add_columns<T, 1>(to, rows, order, count, n, i);
}

}  // namespace rnnfast::RNNFAST_TARGET
