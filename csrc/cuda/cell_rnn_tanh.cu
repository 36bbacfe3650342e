// The kernels of RnnTanh.
#include "cell_kernels.h"

namespace rnnfast::cuda {

CellKernels rnn_tanh_kernels() { return make_cell_kernels<RnnTanh>(); }

}  // namespace rnnfast::cuda
