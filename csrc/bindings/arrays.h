// NumPy arrays in and out. Python has checked every argument by name; what is wrong here is a mistake of ours.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <optional>
#include <vector>

#include "core/buffer.h"
#include "gil.h"

namespace rnnfast {

// An argument at an address that does not fit its type arrives as a copy.
constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;

template <class T>
using Array = py::array_t<T, py::array::c_style | kAligned>;

// Only the numbers of its last axis lie side by side; the other strides are any, 0 and below among them.
template <class T>
using StridedRows = py::array_t<T, kAligned>;

inline bool is_aligned(const py::array& array) { return (array.flags() & kAligned) != 0; }

template <class T>
const T* data_or_null(const std::optional<Array<T>>& array) {
  return array ? array->data() : nullptr;
}

// An array over a buffer's memory, made while the buffer is still another's: who lets go of it moves it into `owner`,
// and it goes back to the pool with the array.
template <class T>
Array<T> array_of(const Buffer<T>& buffer, std::vector<py::ssize_t> shape, Buffer<T>*& owner) {
  auto made = std::make_unique<Buffer<T>>();
  const py::capsule base(made.get(), [](void* b) { delete static_cast<Buffer<T>*>(b); });
  owner = made.release();
  return Array<T>(std::move(shape), const_cast<T*>(buffer.data()), base);
}

}  // namespace rnnfast
