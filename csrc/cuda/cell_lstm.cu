// The kernels of Lstm.
#include "cell_kernels.h"

namespace rnnfast::cuda {

CellKernels lstm_kernels() { return make_cell_kernels<Lstm>(); }

}  // namespace rnnfast::cuda
