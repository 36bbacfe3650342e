// The kernels of RnnRelu.
#include "cell_kernels.h"

namespace rnnfast::cuda {

const CellKernels& rnn_relu_kernels() {
  static const CellKernels kernels = make_cell_kernels<RnnRelu>();
  return kernels;
}

}  // namespace rnnfast::cuda
