// Weights into the order in which the tiles read them, and their gradients back.
#pragma once

#include "vec_bf16.h"

namespace rnnfast::RNNFAST_TARGET {

// Row of PyTorch's (gates * H, K) matrix that feeds `lane` of a panel's pre-activation; -1 in the padding.
RNNFAST_INLINE int64_t weight_row(const Run& run, int n, int64_t hidden, int64_t panel, int lanes, int lane) {
  const int64_t unit = panel * lanes + lane;
  return unit < hidden ? run.gate[n] * hidden + unit : -1;
}

// Rows become columns: each of log2(N) rounds interleaves the rows of one half with those of the other. N is L; or half
// of it, where vector i has the first N numbers of row i and of row i + N: a round less, and the columns of L rows.
template <class V, int N>
RNNFAST_INLINE void transpose(V (&block)[N]) {
#pragma GCC unroll 4
  for (int round = 1; round < N; round *= 2) {
    V next[N];
#pragma GCC unroll 8
    for (int i = 0; i < N / 2; ++i) {
      next[2 * i] = block[i], next[2 * i + 1] = block[i + N / 2];
      if constexpr (N == V::lanes) {
        interleave(next[2 * i], next[2 * i + 1]);
      } else {
        interleave_halves(next[2 * i], next[2 * i + 1]);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) block[i] = next[i];
  }
}

// L elements of each of L rows of weights, one vector an element.
template <class T, class E>
RNNFAST_INLINE void pack_block(const T* weight, int64_t width, E* packed, int64_t stride) {
  using V = Vec<E>;
  constexpr int L = V::lanes;
  V block[L];
  if constexpr (same_type<T, E>) {
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      __builtin_prefetch(weight + i * width + 4 * L);
      block[i] = V::load(weight + i * width);
    }
  } else {
    alignas(64) E row[L][L];  // all are stored before the first is loaded, as a whole, from its two halves
    for (int i = 0; i < L; ++i) {
      __builtin_prefetch(weight + i * width + 4 * L);
      __builtin_prefetch(weight + i * width + 5 * L);
      for (int d = 0; d < depth<E>; ++d)
        store_operand(Vec<T>::load(weight + i * width + d * L), row[i] + d * operands<E>);
    }
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) block[i] = V::load(row[i]);
  }
  transpose(block);
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) block[i].store(packed + i * stride);
}

// column[i][lane] = number i of row `lane`, of fewer rows or numbers than a block has; zeros where there is none.
template <class T>
void load_edge(const T* weight, int64_t width, int64_t rows, int numbers, T (&column)[Vec<T>::lanes][Vec<T>::lanes]) {
  using V = Vec<T>;
  constexpr int L = V::lanes;
  V block[L];
  for (int i = 0; i < L; ++i) block[i] = i < rows ? V::load_first(weight + i * width, numbers) : V(T(0));
  transpose(block);
  for (int i = 0; i < L; ++i) block[i].store(column[i]);
}

// The vector of an element from those of its numbers.
template <class E, class T>
RNNFAST_INLINE Vec<E> element_of(const Vec<T> (&number)[depth<E>]) {
  if constexpr (same_type<T, E>) {
    return number[0];
  } else {
    return pair(round_bf16(number[0]), depth<E> > 1 ? round_bf16(number[depth<E> - 1]) : Vec<T>(T(0)));
  }
}

// One panel: columns ids[0 .. columns) of the weights, or all.
template <class T, class E>
void pack_panel(const T* weight, int64_t hidden, int64_t width, const int32_t* ids, int64_t columns, const Run& run,
                E* packed, int64_t panel) {
  constexpr int L = Vec<T>::lanes, D = depth<E>;
  const int64_t stride = run.count * L, k_count = (columns + D - 1) / D;
  const int64_t units = hidden - panel * L < L ? hidden - panel * L : L;
  for (int n = 0; n < run.count; ++n) {
    const T* from = weight + weight_row(run, n, hidden, panel, L, 0) * width;
    E* to = packed + n * L;
    int64_t k = 0;
    if (ids == nullptr && units == L)
      for (; (k + L) * D <= columns; k += L) pack_block(from + k * D, width, to + k * stride, stride);
    if constexpr (same_type<T, E>) {
      while (ids == nullptr && k < columns) {
        const int numbers = static_cast<int>(columns - k < L ? columns - k : L);
        alignas(64) T column[L][L];
        load_edge(from + k, width, units, numbers, column);
        for (int i = 0; i < numbers; ++i, ++k) Vec<T>::load(column[i]).store(to + k * stride);
      }
    }
    for (; k < k_count; ++k) {
      Vec<T> v[D];
      for (int d = 0; d < D; ++d) {
        const int64_t column = k * D + d;
        const T* at = from + (ids == nullptr || column >= columns ? column : ids[column]);
        T number[L];
        for (int64_t lane = 0; lane < L; ++lane)
          number[lane] = lane < units && column < columns ? at[lane * width] : T(0);
        v[d] = Vec<T>::load(number);
      }
      element_of<E>(v).store(to + k * stride);
    }
  }
}

template <class T, class E>
void pack(const T* weight, int64_t hidden, int64_t width, const Run& run, E* packed, Span panels) {
  const int64_t panel_size = (width + depth<E> - 1) / depth<E> * run.count * Vec<T>::lanes;
  for (int64_t panel = panels.begin; panel < panels.end; ++panel)
    pack_panel(weight, hidden, width, nullptr, width, run, packed + panel * panel_size, panel);
}

template <class T, class E>
void pack_columns(const T* weight, int64_t hidden, int64_t width, const int32_t* ids, int64_t k, const Run& run,
                  T* packed, Span panels) {
  constexpr int L = Vec<T>::lanes;
  const int64_t size = k * run.count * L;
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
    T* to = packed + panel * size;
    pack_panel(weight, hidden, width, ids, k, run, to, panel);
    if constexpr (!same_type<T, E>)
      for (int64_t i = 0; i < size; i += L) round_bf16(Vec<T>::load(to + i)).store(to + i);
  }
}

// The weights of panel `panel` that `inputs`, panels of the width, take part in: [width panel][run][L][L of the width],
// the first ones panel_stride elements apart.
template <class T, class E>
RNNFAST_INLINE void pack_transposed_panel(const T* weight, int64_t hidden, int64_t width, const Run& run, int64_t panel,
                                          Span inputs, E* packed, int64_t panel_stride) {
  using V = Vec<T>;
  constexpr int L = V::lanes, D = depth<E>;
  for (int n = 0; n < run.count; ++n) {
    for (int lane = 0; lane < L; lane += D, packed += L) {
      const T* row[D];
      for (int d = 0; d < D; ++d) {
        const int64_t r = weight_row(run, n, hidden, panel, L, lane + d);
        row[d] = r < 0 ? nullptr : weight + r * width;
      }
      for (int64_t i = inputs.begin; i < inputs.end; ++i) {
        V v[D];
        for (int d = 0; d < D; ++d)
          if (row[d] != nullptr) __builtin_prefetch(row[d] + i * L + L * width, 0, 2);  // of the next panel
        for (int d = 0; d < D; ++d)
          v[d] = row[d] == nullptr      ? V(T(0))
                 : (i + 1) * L <= width ? V::load(row[d] + i * L)
                                        : V::load_first(row[d] + i * L, static_cast<int>(width - i * L));
        element_of<E>(v).store(packed + (i - inputs.begin) * panel_stride);
      }
    }
  }
}

template <class T, class E>
void pack_transposed(const T* weight, int64_t hidden, int64_t width, const Run& run, E* packed, Span width_panels) {
  constexpr int L = Vec<T>::lanes;
  constexpr int64_t kBlock = 8;  // panels of the width: a row is read in pieces of several cache lines
  const int64_t panels = (hidden + L - 1) / L, block_size = run.count * operands<E> * L;
  for (int64_t first = width_panels.begin; first < width_panels.end; first += kBlock) {
    const Span inputs{first, first + kBlock < width_panels.end ? first + kBlock : width_panels.end};
    for (int64_t panel = 0; panel < panels; ++panel)
      pack_transposed_panel(weight, hidden, width, run, panel, inputs, packed + (first * panels + panel) * block_size,
                            panels * block_size);
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
RNNFAST_INLINE void add_block(const T* gradient, int64_t stride, bool assign, T* d_weight, int64_t width) {
  using V = Vec<T>;
  constexpr int L = V::lanes;
  V block[L];
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i) block[i] = V::load(gradient + i * stride);
  transpose(block);
#pragma GCC unroll 16
  for (int i = 0; i < L; ++i)
    ((assign ? V(T(0)) : V::load(d_weight + i * width)) + block[i]).store(d_weight + i * width);
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
        for (; k + L <= k_count; k += L) add_block(from + k * stride, stride, gradient.assign, to + k, width);
      for (; k < k_count; ++k) {
        T* column = to + (ids == nullptr ? k : ids[k]);
        for (int64_t lane = 0; lane < units; ++lane)
          column[lane * width] = (gradient.assign ? T(0) : column[lane * width]) + from[k * stride + lane];
      }
    }
  }
}

}  // namespace rnnfast::RNNFAST_TARGET
