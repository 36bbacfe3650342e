// Softmax cross-entropy of a row of logits, in three passes over a row that stays in cache: the largest logit, the
// exponentials and their sum, the gradient. A row's result depends on that row alone.
#pragma once

#include "driver.h"
#include "ops_kernels.h"

namespace rnnfast::RNNFAST_TARGET {

// Classes i .. i + L of a row; minus infinity behind the last, whose exponential is 0.
template <class T>
RNNFAST_INLINE Vec<T> load_classes(const T* row, int64_t i, int64_t classes) {
  constexpr int L = Vec<T>::lanes;
  if (i + L <= classes) return Vec<T>::load(row + i);
  alignas(64) T lane[L];
  for (int j = 0; j < L; ++j) lane[j] = i + j < classes ? row[i + j] : T(-__builtin_inf());
  return Vec<T>::load(lane);
}

// The lanes of v folded in halves: op(lane j, lane j + L / 2), and so on.
template <class T, class Op>
RNNFAST_INLINE T fold_lanes(Vec<T> v, Op op) {
  constexpr int L = Vec<T>::lanes;
  alignas(64) T lane[L];
  v.store(lane);
#pragma GCC unroll 4
  for (int half = L / 2; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) lane[j] = op(lane[j], lane[j + half]);
  return lane[0];
}

template <class T>
T largest(const T* row, int64_t classes) {
  constexpr int L = Vec<T>::lanes;
  Vec<T> most(T(-__builtin_inf()));
  for (int64_t i = 0; i < classes; i += L) most = max(most, load_classes(row, i, classes));
  return fold_lanes(most, [](T a, T b) { return a > b ? a : b; });
}

// to[i] = exp(row[i] - most), and their sum; null `to` for the sum alone.
template <class T>
T exponentials(const T* row, int64_t classes, T most, T* to, int64_t width) {
  using V = Vec<T>;
  constexpr int64_t L = V::lanes, block = kSumBlock * L;
  V total(T(0));
  for (int64_t i0 = 0; i0 < classes; i0 += block) {
    const int64_t end = i0 + block < classes ? i0 + block : classes;
    V sum(T(0));
    for (int64_t i = i0; i < end; i += L) {
      const V e = exp(load_classes(row, i, classes) - V(most));
      if (to != nullptr) store_units(e, to, i, width);
      sum = sum + e;
    }
    total = total + sum;
  }
  return fold_lanes(total, [](T a, T b) { return a + b; });
}

// Sum of row[i] - most.
template <class T>
T sum_of(const T* row, int64_t classes, T most) {
  using V = Vec<T>;
  constexpr int64_t L = V::lanes;
  V total(T(0));
  int64_t i = 0;
  for (; i + L <= classes; i += L) total = total + (V::load(row + i) - V(most));
  T sum = fold_lanes(total, [](T a, T b) { return a + b; });
  for (; i < classes; ++i) sum += row[i] - most;
  return sum;
}

template <class T>
void cross_entropy(const CrossEntropyArgs<T>& c, int64_t begin, int64_t end) {
  using V = Vec<T>;
  constexpr int64_t L = V::lanes;
  for (int64_t r = begin; r < end; ++r) {
    const T* row = c.logits + r * c.stride;
    T* to = c.dlogits != nullptr ? c.dlogits + r * c.dlogits_stride : nullptr;
    const int32_t target = c.target[r];
    if (target < 0) {
      c.denominator[r] = T(1), c.target_logit[r] = T(0);
      for (int64_t i = 0; to != nullptr && i < c.width; ++i) to[i] = T(0);
      continue;
    }
    const T most = largest(row, c.classes);
    c.target_logit[r] = row[target] - most;  // read before `to`, which may be the same row, is written
    if (c.smoothing != T(0)) {
      const T mean = sum_of(row, c.classes, most) / static_cast<T>(c.classes);
      c.target_logit[r] += c.smoothing * (mean - c.target_logit[r]);
    }
    const T sum = exponentials(row, c.classes, most, to, c.width);
    c.denominator[r] = sum;
    if (to == nullptr) continue;
    const V factor(c.scale[r] / sum);
    for (int64_t i = 0; i < c.width; i += L) store_units(load_units(to, i, c.width) * factor, to, i, c.width);
    const T share = c.smoothing / static_cast<T>(c.classes);
    to[target] -= c.scale[r] * ((T(1) - c.smoothing) + share);
    for (int64_t i = 0; share != T(0) && i < c.classes; ++i)
      if (i != target) to[i] -= c.scale[r] * share;
  }
}

}  // namespace rnnfast::RNNFAST_TARGET
