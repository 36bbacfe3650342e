// Weights into the order in which the tiles read them, and their gradients back.
#pragma once

#include "kernels.h"

namespace rnnfast::RNNFAST_TARGET {

// Row of PyTorch's (gates * H, K) matrix that feeds `lane` of a panel's pre-activation; -1 in the padding.
RNNFAST_INLINE int64_t weight_row(const Run& run, int n, int64_t hidden, int64_t panel, int lanes, int lane) {
  const int64_t unit = panel * lanes + lane;
  return unit < hidden ? run.gate[n] * hidden + unit : -1;
}

template <class T>
void pack(const T* weight, int64_t hidden, int64_t width, const int32_t* ids, int64_t k_count, const Run& run,
          T* packed, Span panels) {
  constexpr int L = Vec<T>::lanes;
  constexpr int64_t kBlock = 16;  // columns at a time: the block that is written stays in L1
  const int64_t stride = run.count * L;
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
    for (int64_t k0 = 0; k0 < k_count; k0 += kBlock) {
      const int64_t k1 = k0 + kBlock < k_count ? k0 + kBlock : k_count;
      for (int n = 0; n < run.count; ++n) {
        for (int lane = 0; lane < L; ++lane) {
          T* to = packed + panel * k_count * stride + n * L + lane;
          const int64_t row = weight_row(run, n, hidden, panel, L, lane);
          const T* from = weight + row * width;
          if (row < 0) {
            for (int64_t k = k0; k < k1; ++k) to[k * stride] = T(0);
          } else if (ids == nullptr) {
            for (int64_t k = k0; k < k1; ++k) to[k * stride] = from[k];
          } else {
            for (int64_t k = k0; k < k1; ++k) to[k * stride] = from[ids[k]];
          }
        }
      }
    }
  }
}

template <class T>
void pack_transposed(const T* weight, int64_t hidden, int64_t width, const Run& run, T* packed, Span width_panels) {
  using V = Vec<T>;
  constexpr int L = V::lanes;
  const int64_t panels = (hidden + L - 1) / L;
  for (int64_t width_panel = width_panels.begin; width_panel < width_panels.end; ++width_panel) {
    T* to = packed + width_panel * panels * run.count * L * L;
    const int64_t left = width - width_panel * L;
    for (int64_t panel = 0; panel < panels; ++panel) {
      for (int n = 0; n < run.count; ++n) {
        for (int lane = 0; lane < L; ++lane, to += L) {
          const int64_t row = weight_row(run, n, hidden, panel, L, lane);
          const T* from = weight + row * width + width_panel * L;
          (row < 0 ? V(T(0)) : left >= L ? V::load(from) : V::load_first(from, static_cast<int>(left))).store(to);
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
void add_gradient(const PackedGradient<T>& gradient, int64_t hidden, int64_t width, const int32_t* ids, int64_t k_count,
                  const Run& run, T* d_weight, Span panels) {
  constexpr int L = Vec<T>::lanes;
  constexpr int64_t kBlock = 16;
  const int64_t stride = gradient.k_stride;
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) {
    for (int64_t k0 = 0; k0 < k_count; k0 += kBlock) {
      const int64_t k1 = k0 + kBlock < k_count ? k0 + kBlock : k_count;
      for (int n = 0; n < run.count; ++n) {
        for (int lane = 0; lane < L; ++lane) {
          const int64_t row = weight_row(run, n, hidden, panel, L, lane);
          if (row < 0) continue;
          const T* from = gradient.data + panel * gradient.panel_stride + n * L + lane;
          T* to = d_weight + row * width;
          if (ids == nullptr) {
            for (int64_t k = k0; k < k1; ++k) to[k] += from[k * stride];
          } else {
            for (int64_t k = k0; k < k1; ++k) to[ids[k]] += from[k * stride];
          }
        }
      }
    }
  }
}

}  // namespace rnnfast::RNNFAST_TARGET
