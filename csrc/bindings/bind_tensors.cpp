#include <pybind11/stl.h>

#include "tensor_rnn.h"

namespace rnnfast {

namespace {

template <class T, class E>
void bind_type(py::module_& m, const std::string& suffix) {
  using Cache = TensorCache<T, E>;
  using Rnn = TensorRnn<T, E>;
  py::class_<Cache>(m, ("TensorCache" + suffix).c_str());
  py::class_<Rnn>(m, ("TensorRnn" + suffix).c_str())
      .def(py::init<std::shared_ptr<const Tensors>, py::object>(), py::arg("tensors"), py::arg("network"))
      .def_property_readonly("network", &Rnn::network)
      .def("pack", &Rnn::pack, py::arg("weights"))
      .def("forward", &Rnn::forward, py::arg("x"), py::arg("state"), py::arg("weights"), py::arg("given"),
           py::arg("keep"), py::arg("packed"))
      .def("backward", &Rnn::backward, py::arg("place"), py::arg("slopes"), py::arg("sources"), py::arg("wanted"),
           py::arg("keep"));
}

}  // namespace

void bind_tensors(py::module_& m) {
  py::class_<Tensors, std::shared_ptr<Tensors>>(m, "Tensors")
      .def(py::init<const py::object&, const py::object&>(), py::arg("torch"), py::arg("functions"));
  bind_type<float, float>(m, "32");
  bind_type<double, double>(m, "64");
  bind_type<float, Bf16x2>(m, "Bf16");
}

}  // namespace rnnfast
