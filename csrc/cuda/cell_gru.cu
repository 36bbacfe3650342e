// The kernels of Gru.
#include "cell_kernels.h"

namespace rnnfast::cuda {

const CellKernels& gru_kernels() {
  static const CellKernels kernels = make_cell_kernels<Gru>();
  return kernels;
}

}  // namespace rnnfast::cuda
