// The table of contents of rnnfast._core.
#include "arrays.h"

namespace rnnfast {
void bind_system(py::module_& m);
void bind_rnn(py::module_& m);
void bind_tensors(py::module_& m);
void bind_ops(py::module_& m);
void bind_seq2seq(py::module_& m);
}  // namespace rnnfast

PYBIND11_MODULE(_core, m) {
  m.doc() = "The compiled kernels of rnnfast. Use the package; nothing here checks its arguments.";
  rnnfast::bind_system(m);
  rnnfast::bind_rnn(m);
  rnnfast::bind_tensors(m);
  rnnfast::bind_ops(m);
  rnnfast::bind_seq2seq(m);
}
