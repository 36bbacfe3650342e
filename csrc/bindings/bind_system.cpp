// What the process has: instruction sets, threads, memory; and the elementary functions for their test.
#include <pthread.h>
#include <pybind11/stl.h>

#include <atomic>

#include "arrays.h"
#include "core/buffer.h"
#include "core/limits.h"
#include "cpu/dispatch.h"

namespace rnnfast {

namespace {

// The one that runs signal handlers. Others do not ask: the interpreter may have ended since a daemon thread's call
// began.
std::atomic<unsigned long> main_thread{0};

bool python_signal_pending() {
  if (PyThread_get_thread_ident() != main_thread) return false;
  bool pending = false;
  with_gil([&] { pending = PyErr_CheckSignals() != 0; });
  return pending;
}

template <class T>
Array<T> math_test(const std::string& name, const Array<T>& x) {
  const MathFunction function = name == "exp"    ? MathFunction::exp
                                : name == "tanh" ? MathFunction::tanh
                                                 : MathFunction::sigmoid;
  Array<T> y(x.size());
  const T* in = x.data();
  T* out = y.mutable_data();
  without_gil([&] { parallel(1, [&](Team&) { kernels<T>().math(function, in, out, x.size()); }); });
  return y;
}

// The same function, run with the GIL released.
template <class... Args>
auto unlocked(double (*measure)(Args...)) {
  return [measure](Args... args) {
    double result = 0;
    without_gil([&] { result = measure(args...); });
    return result;
  };
}

}  // namespace

void bind_system(py::module_& m) {
  main_thread = py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  pthread_atfork(nullptr, nullptr, [] { main_thread = PyThread_get_thread_ident(); });
  set_interrupt_check(python_signal_pending);
  m.attr("version") = RNNFAST_VERSION;
  m.attr("compiler") = __VERSION__;
  m.attr("openmp") = has_openmp();
  m.def("isa", isa_name);
  m.def("isas", isa_names);
  m.def("default_threads", default_threads);
  m.def("pool_clear", pool_clear);
  m.def("peak_float32", unlocked(peak_float32), py::arg("threads"), py::arg("seconds"));
  m.def("peak_bfloat16", unlocked(peak_bfloat16), py::arg("threads"), py::arg("seconds"));
  m.def("read_bandwidth", unlocked(read_bandwidth), py::arg("nbytes"), py::arg("threads"), py::arg("seconds"));
  m.def("exchange_time", unlocked(exchange_time), py::arg("seconds"));
  m.def("math_test", math_test<float>, py::arg("name"), py::arg("x").noconvert());
  m.def("math_test", math_test<double>, py::arg("name"), py::arg("x").noconvert());
}

}  // namespace rnnfast
