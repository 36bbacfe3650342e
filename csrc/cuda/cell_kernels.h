// The instances of one cell. Each cell has a .cu of its own, so that they compile side by side.
#pragma once

#include "kernel_persistent.h"
#include "kernel_small.h"
#include "kernel_step.h"
#include "kernel_tensor.h"

namespace rnnfast::cuda {

template <class Cell, int N>
constexpr PersistentShape persistent_shape() {
  using Size = PersistentSize<Cell, N>;
  return {Size::units, Size::width + Size::pre_stride, Size::sequences, Size::k_width + kWarps * Size::units,
          Size::back_sequences};
}

template <class Cell>
CellKernels make_cell_kernels() {
  using C = Traits<Cell>;
  constexpr int N0 = kLaneWeights[0], N1 = kLaneWeights[1], N2 = kLaneWeights[2];
  CellKernels k{};
  k.gates = C::G, k.states = C::S, k.saved = C::saved, k.split = C::split;
  k.step_forward = step_forward<Cell>, k.step_backward = step_backward<Cell>;
  k.small_forward = small_forward<Cell>, k.small_backward = small_backward<Cell>;
  k.persistent_forward[0] = persistent_forward<Cell, N0>, k.persistent_backward[0] = persistent_backward<Cell, N0>;
  k.persistent_forward[1] = persistent_forward<Cell, N1>, k.persistent_backward[1] = persistent_backward<Cell, N1>;
  k.persistent_forward[2] = persistent_forward<Cell, N2>, k.persistent_backward[2] = persistent_backward<Cell, N2>;
  k.shapes[0] = persistent_shape<Cell, N0>(), k.shapes[1] = persistent_shape<Cell, N1>();
  k.shapes[2] = persistent_shape<Cell, N2>();
  k.tensor_forward = tensor_forward<Cell>, k.tensor_backward = tensor_backward<Cell>;
  k.small_forward_size = [](int hidden) { return SmallLayout(hidden, hidden, C::G).floats(); };
  k.small_backward_size = [](int hidden) { return SmallLayout(C::G * hidden, hidden, 1).floats(); };
  return k;
}

}  // namespace rnnfast::cuda
