// What attention needs beside products: softmax over rows of scores, and scores that go through a tanh. A row's result
// depends on that row alone.
#pragma once

#include "loss.h"

namespace rnnfast::RNNFAST_TARGET {

// Rows of n numbers, in place; zeros behind them up to the stride, the next multiple of L.
template <class T>
void softmax_rows(T* rows, int64_t count, int64_t n, int64_t stride) {
  using V = Vec<T>;
  for (T* row = rows; row < rows + count * stride; row += stride) {
    const T most = largest(row, n);
    const V factor(T(1) / exponentials(row, n, most, row, stride));
    for (int64_t i = 0; i < stride; i += V::lanes) (V::load(row + i) * factor).store(row + i);
  }
}

// d = weight * (d - sum of weight * d), the gradient of the scores, in place; whole vectors, zeros behind the numbers.
template <class T>
void softmax_back_rows(const T* weight, T* d, int64_t count, int64_t stride) {
  using V = Vec<T>;
  for (int64_t r = 0; r < count; ++r, weight += stride, d += stride) {
    V sum(T(0));
    for (int64_t i = 0; i < stride; i += V::lanes) sum = fma(V::load(weight + i), V::load(d + i), sum);
    const V mean(fold_lanes(sum, [](T a, T b) { return a + b; }));
    for (int64_t i = 0; i < stride; i += V::lanes) (V::load(weight + i) * (V::load(d + i) - mean)).store(d + i);
  }
}

template <class T>
void additive_scores(const AdditiveArgs<T>& a) {
  using V = Vec<T>;
  for (int64_t t = 0; t < a.queries; ++t) {
    const T* q = a.query + t * a.query_stride;
    for (int64_t s = 0; s < a.keys; ++s) {
      const T* k = a.key + s * a.key_stride;
      V sum(T(0));
      for (int64_t i = 0; i < a.width; i += V::lanes)
        sum = fma(load_units(a.v, i, a.width), tanh(load_units(q, i, a.width) + load_units(k, i, a.width)), sum);
      a.score[t * a.score_stride + s] = fold_lanes(sum, [](T x, T y) { return x + y; });
    }
  }
}

// The tanh is computed again: to keep it would take queries * keys * width numbers.
template <class T>
void additive_back(const AdditiveArgs<T>& a) {
  using V = Vec<T>;
  for (int64_t t = 0; t < a.queries; ++t) {
    const T* q = a.query + t * a.query_stride;
    T* dq = a.dquery + t * a.query_stride;
    for (int64_t s = 0; s < a.keys; ++s) {
      const T* k = a.key + s * a.key_stride;
      T* dk = a.dkey + s * a.key_stride;
      const V ds(a.score[t * a.score_stride + s]);
      for (int64_t i = 0; i < a.width; i += V::lanes) {
        const V y = tanh(load_units(q, i, a.width) + load_units(k, i, a.width));
        const V d = ds * load_units(a.v, i, a.width) * fma(-y, y, V(T(1)));
        store_units(s == 0 ? d : load_units(dq, i, a.width) + d, dq, i, a.width);
        store_units(t == 0 ? d : load_units(dk, i, a.width) + d, dk, i, a.width);
        store_units(fma(ds, y, load_units(a.dv, i, a.width)), a.dv, i, a.width);
      }
    }
  }
}

}  // namespace rnnfast::RNNFAST_TARGET
