// The kernels of Lstm.
#include "cell_kernels.h"

namespace rnnfast::cuda {

const CellKernels& lstm_kernels() {
  static const CellKernels kernels = make_cell_kernels<Lstm>();
  return kernels;
}

}  // namespace rnnfast::cuda
