// LSTM with forget gate (Hochreiter & Schmidhuber 1997; Gers et al. 2000), gates i f g o as in PyTorch.
#pragma once

#include "math.h"

namespace rnnfast {

struct Lstm {
  static constexpr int pre_activations = 4, states = 2, saved = 4;
  static constexpr unsigned input_mask = 0b1111, recurrent_mask = 0b1111;
  RNNFAST_INLINE static constexpr int gate_of(int pre_activation) { return pre_activation; }

  template <class V>
  RNNFAST_INLINE static void forward(const V* a, const V* s_prev, V* s, V* saved) {
    const V i = sigmoid(a[0]), f = sigmoid(a[1]), g = tanh(a[2]), o = sigmoid(a[3]);
    const V c = fma(f, s_prev[1], i * g);
    s[0] = o * tanh(c);
    s[1] = c;
    saved[0] = i, saved[1] = f, saved[2] = g, saved[3] = o;
  }

  template <class V>
  RNNFAST_INLINE static void backward(const V* saved, const V* s_prev, const V* s, V* ds, V* da) {
    const V i = saved[0], f = saved[1], g = saved[2], o = saved[3];
    const V tanh_c = tanh(s[1]);
    const V dc = fma(ds[0] * o, V(1) - tanh_c * tanh_c, ds[1]);
    da[0] = dc * g * (i * (V(1) - i));
    da[1] = dc * s_prev[1] * (f * (V(1) - f));
    da[2] = dc * i * (V(1) - g * g);
    da[3] = ds[0] * tanh_c * (o * (V(1) - o));
    ds[0] = V(0);
    ds[1] = dc * f;
  }
};

}  // namespace rnnfast
