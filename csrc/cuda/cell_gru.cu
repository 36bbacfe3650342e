// The kernels of Gru.
#include "cell_kernels.h"

namespace rnnfast::cuda {

CellKernels gru_kernels() { return make_cell_kernels<Gru>(); }

}  // namespace rnnfast::cuda
