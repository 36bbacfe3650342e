// Elman networks: h' = tanh(W x + R h + b) or h' = max(0, W x + R h + b).
#pragma once

#include "math.h"

namespace rnnfast {

struct RnnTanh {
  static constexpr int pre_activations = 1, states = 1, saved = 0;
  static constexpr unsigned input_mask = 0b1, recurrent_mask = 0b1;
  RNNFAST_INLINE static constexpr int gate_of(int) { return 0; }

  template <class V>
  RNNFAST_INLINE static void forward(const V* a, const V* /*s_prev*/, V* s, V* /*saved*/) {
    s[0] = tanh(a[0]);
  }

  template <class V>
  RNNFAST_INLINE static void backward(const V* /*saved*/, const V* /*s_prev*/, const V* s, V* ds, V* da) {
    da[0] = ds[0] * (V(1) - s[0] * s[0]);
    ds[0] = V(0);
  }
};

struct RnnRelu {
  static constexpr int pre_activations = 1, states = 1, saved = 0;
  static constexpr unsigned input_mask = 0b1, recurrent_mask = 0b1;
  RNNFAST_INLINE static constexpr int gate_of(int) { return 0; }

  template <class V>
  RNNFAST_INLINE static void forward(const V* a, const V* /*s_prev*/, V* s, V* /*saved*/) {
    s[0] = max(V(0), a[0]);
  }

  template <class V>
  RNNFAST_INLINE static void backward(const V* /*saved*/, const V* /*s_prev*/, const V* s, V* ds, V* da) {
    da[0] = select_positive(s[0], ds[0], V(0));
    ds[0] = V(0);
  }
};

}  // namespace rnnfast
