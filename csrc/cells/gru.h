// GRU (Cho et al. 2014) as PyTorch and cuDNN compute it, the reset gate after the recurrent product:
//   r = s(W x + R h), z = s(W x + R h), n = tanh(W x + b + r * (R h + b')), h' = (1 - z) n + z h.
// The candidate has two pre-activations, so that one product from each side is enough.
#pragma once

#include "math.h"

namespace rnnfast {

struct Gru {
  // a[0] = W x of n, a[1] = r, a[2] = z, a[3] = R h of n
  static constexpr int pre_activations = 4, states = 1, saved = 4;
  static constexpr unsigned input_mask = 0b0111, recurrent_mask = 0b1110;
  RNNFAST_INLINE static constexpr int gate_of(int pre_activation) {  // PyTorch's blocks are r z n
    return pre_activation == 1 ? 0 : pre_activation == 2 ? 1 : 2;
  }

  template <class V>
  RNNFAST_INLINE static void forward(const V* a, const V* s_prev, V* s, V* saved) {
    const V r = sigmoid(a[1]), z = sigmoid(a[2]);
    const V n = tanh(fma(r, a[3], a[0]));
    s[0] = fma(z, s_prev[0] - n, n);
    saved[0] = n, saved[1] = r, saved[2] = z, saved[3] = a[3];
  }

  template <class V>
  RNNFAST_INLINE static void backward(const V* saved, const V* s_prev, const V* /*s*/, V* ds, V* da) {
    const V n = saved[0], r = saved[1], z = saved[2];
    const V da_n = ds[0] * (V(1) - z) * (V(1) - n * n);
    da[0] = da_n;
    da[1] = da_n * saved[3] * (r * (V(1) - r));
    da[2] = ds[0] * (s_prev[0] - n) * (z * (V(1) - z));
    da[3] = da_n * r;
    ds[0] = ds[0] * z;
  }
};

}  // namespace rnnfast
