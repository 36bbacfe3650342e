// The table of contents of rnnfast._cuda.
#include "common.h"

namespace rnnfast::cuda {
void bind_device(py::module_& m);
void bind_rnn(py::module_& m);
void bind_ops(py::module_& m);
}  // namespace rnnfast::cuda

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "The GPU kernels of rnnfast. Use the package; nothing here checks its arguments.";
  rnnfast::cuda::bind_device(m);
  rnnfast::cuda::bind_rnn(m);
  rnnfast::cuda::bind_ops(m);
}
