// NumPy arrays in and out. Python has checked every argument by name; what is wrong here is a mistake of ours.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <vector>

#include "core/buffer.h"
#include "core/error.h"

namespace rnnfast {

namespace py = pybind11;

template <class T>
using Array = py::array_t<T, py::array::c_style>;

// Only the numbers of its last axis lie side by side; the other strides are any, 0 and below among them.
template <class T>
using StridedRows = py::array_t<T, 0>;

template <class T>
const T* data_or_null(const std::optional<Array<T>>& array) {
  return array ? array->data() : nullptr;
}

// An array whose memory is the buffer's, which goes back to the pool with it.
template <class T>
Array<T> array_of(Buffer<T>&& buffer, std::vector<py::ssize_t> shape) {
  auto owner = std::make_unique<Buffer<T>>(std::move(buffer));
  T* data = owner->data();
  const py::capsule base(owner.get(), [](void* b) { delete static_cast<Buffer<T>*>(b); });
  owner.release();
  return Array<T>(std::move(shape), data, base);
}

// Runs f with the GIL released. The region polls for signals; the handler's exception (KeyboardInterrupt) is raised.
template <class F>
void without_gil(F&& f) {
  bool interrupted = false;
  {
    const py::gil_scoped_release release;
    try {
      f();
    } catch (const Interrupted&) {
      interrupted = true;
    }
  }
  if (interrupted) throw py::error_already_set();
}

}  // namespace rnnfast
