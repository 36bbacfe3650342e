// Weights into the order in which the tiles read them, and their gradients back.
#pragma once

#include "kernels.h"

namespace rnnfast::RNNFAST_TARGET {

// Row of PyTorch's (gates * H, K) matrix that feeds `lane` of a panel's pre-activation; -1 in the padding.
RNNFAST_INLINE int64_t weight_row(const Run& run, int n, int64_t hidden, int64_t panel, int lanes, int lane) {
  const int64_t unit = panel * lanes + lane;
  return unit < hidden ? run.gate[n] * hidden + unit : -1;
}

// Rows become columns: each of log2(L) rounds interleaves the rows of one half with those of the other.
template <class V>
RNNFAST_INLINE void transpose(V (&block)[V::lanes]) {
  constexpr int L = V::lanes;
#pragma GCC unroll 4
  for (int round = 1; round < L; round *= 2) {
    V next[L];
#pragma GCC unroll 8
    for (int i = 0; i < L / 2; ++i) {
      next[2 * i] = block[i], next[2 * i + 1] = block[i + L / 2];
      interleave(next[2 * i], next[2 * i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) block[i] = next[i];
  }
}

// L columns of L rows of weights, one vector a column.
template <class T>
RNNFAST_INLINE void pack_block(const T* weight, int64_t width, T* packed, int64_t stride) {
  using V = Vec<T>;
  constexpr int L = V::lanes;
  V block[L];
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) {
    __builtin_prefetch(weight + i * width + 4 * L);
    block[i] = V::load(weight + i * width);
  }
  transpose(block);
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) block[i].store(packed + i * stride);
}

// One panel of pack().
template <class T>
void pack_panel(const T* weight, int64_t hidden, int64_t width, const int32_t* ids, int64_t k_count, const Run& run,
                T* packed, int64_t panel) {
  constexpr int L = Vec<T>::lanes;
  const int64_t stride = run.count * L, units = hidden - panel * L < L ? hidden - panel * L : L;
  for (int n = 0; n < run.count; ++n) {
    const T* from = weight + weight_row(run, n, hidden, panel, L, 0) * width;
    T* to = packed + n * L;
    int64_t k = 0;
    if (ids == nullptr && units == L)
      for (; k + L <= k_count; k += L) pack_block(from + k, width, to + k * stride, stride);
    for (; k < k_count; ++k) {
      const T* column = from + (ids == nullptr ? k : ids[k]);
      for (int64_t lane = 0; lane < L; ++lane) to[k * stride + lane] = lane < units ? column[lane * width] : T(0);
    }
  }
}

template <class T>
void pack(const T* weight, int64_t hidden, int64_t width, const int32_t* ids, int64_t k_count, const Run& run,
          T* packed, Span panels) {
  const int64_t panel_size = k_count * run.count * Vec<T>::lanes;
  for (int64_t panel = panels.begin; panel < panels.end; ++panel)
    pack_panel(weight, hidden, width, ids, k_count, run, packed + panel * panel_size, panel);
}

template <class T>
void pack_transposed(const T* weight, int64_t hidden, int64_t width, const Run& run, T* packed, Span width_panels) {
  using V = Vec<T>;
  constexpr int L = V::lanes;
  constexpr int64_t kBlock = 8;  // panels of the width: a row is read in pieces of several cache lines
  const int64_t panels = (hidden + L - 1) / L, panel_size = panels * run.count * L * L;
  for (int64_t first = width_panels.begin; first < width_panels.end; first += kBlock) {
    const int64_t last = first + kBlock < width_panels.end ? first + kBlock : width_panels.end;
    T* to = packed + first * panel_size;
    for (int64_t panel = 0; panel < panels; ++panel) {
      for (int n = 0; n < run.count; ++n) {
        for (int lane = 0; lane < L; ++lane, to += L) {
          const int64_t row = weight_row(run, n, hidden, panel, L, lane);
          const T* from = weight + row * width;
          for (int64_t i = first; i < last; ++i) {
            const V v = row < 0                ? V(T(0))
                        : (i + 1) * L <= width ? V::load(from + i * L)
                                               : V::load_first(from + i * L, static_cast<int>(width - i * L));
            v.store(to + (i - first) * panel_size);
          }
        }
      }
    }
  }
}

template <class T>
void pack_bias(const T* b_ih, const Run& input, const T* b_hh, const Run& recurrent, int64_t hidden,
               int pre_activations, T* bias, Span panels) {
  constexpr int L = Vec<T>::lanes;
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
    T* to = bias + panel * pre_activations * L;
    for (int i = 0; i < pre_activations * L; ++i) to[i] = T(0);
    for (int lane = 0; lane < L; ++lane) {
      for (int n = 0; b_ih != nullptr && n < input.count; ++n) {
        const int64_t row = weight_row(input, n, hidden, panel, L, lane);
        if (row >= 0) to[(input.first + n) * L + lane] = b_ih[row];
      }
      for (int n = 0; b_hh != nullptr && n < recurrent.count; ++n) {
        const int64_t row = weight_row(recurrent, n, hidden, panel, L, lane);
        if (row >= 0) to[(recurrent.first + n) * L + lane] += b_hh[row];
      }
    }
  }
}

template <class T>
RNNFAST_INLINE void add_block(const T* gradient, int64_t stride, T* d_weight, int64_t width) {
  using V = Vec<T>;
  constexpr int L = V::lanes;
  V block[L];
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) block[i] = V::load(gradient + i * stride);
  transpose(block);
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) (V::load(d_weight + i * width) + block[i]).store(d_weight + i * width);
}

template <class T>
void add_gradient(const PackedGradient<T>& gradient, int64_t hidden, int64_t width, const int32_t* ids, int64_t k_count,
                  const Run& run, T* d_weight, Span panels) {
  constexpr int L = Vec<T>::lanes;
  const int64_t stride = gradient.k_stride;
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
    const int64_t units = hidden - panel * L < L ? hidden - panel * L : L;
    for (int n = 0; n < run.count; ++n) {
      const T* from = gradient.data + panel * gradient.panel_stride + n * L;
      T* to = d_weight + weight_row(run, n, hidden, panel, L, 0) * width;
      int64_t k = 0;
      if (ids == nullptr && units == L)
        for (; k + L <= k_count; k += L) add_block(from + k * stride, stride, to + k, width);
      for (; k < k_count; ++k) {
        T* column = to + (ids == nullptr ? k : ids[k]);
        for (int64_t lane = 0; lane < units; ++lane) column[lane * width] += from[k * stride + lane];
      }
    }
  }
}

}  // namespace rnnfast::RNNFAST_TARGET
