// The kernels of RnnTanh.
#include "cell_kernels.h"

namespace rnnfast::cuda {

const CellKernels& rnn_tanh_kernels() {
  static const CellKernels kernels = make_cell_kernels<RnnTanh>();
  return kernels;
}

}  // namespace rnnfast::cuda
