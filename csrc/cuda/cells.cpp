// The kernels of every cell, by the registry.
#include "../cells/registry.h"
#include "params.h"

namespace rnnfast::cuda {

#define RNNFAST_DECLARE(name, Type) CellKernels name##_kernels();
RNNFAST_CELLS(RNNFAST_DECLARE)
#undef RNNFAST_DECLARE

const CellKernels& cell_kernels(int cell) {
#define RNNFAST_TABLE(name, Type) name##_kernels(),
  static const CellKernels tables[] = {RNNFAST_CELLS(RNNFAST_TABLE)};
#undef RNNFAST_TABLE
  return tables[cell];
}

}  // namespace rnnfast::cuda
