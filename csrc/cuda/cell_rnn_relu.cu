// The kernels of RnnRelu.
#include "cell_kernels.h"

namespace rnnfast::cuda {

CellKernels rnn_relu_kernels() { return make_cell_kernels<RnnRelu>(); }

}  // namespace rnnfast::cuda
