// Tensors of PyTorch, read where they are and made, through Python's interface and DLPack's: nothing is compiled
// against that library.
#pragma once

#include <pybind11/numpy.h>

#include <algorithm>
#include <initializer_list>
#include <type_traits>
#include <vector>

#include "dlpack.h"

namespace rnnfast {

namespace py = pybind11;

// Of an array of up to three axes.
struct Shape {
  int64_t sizes[3] = {};
  int axes = 0;

  Shape() = default;
  Shape(std::initializer_list<int64_t> of) : axes(static_cast<int>(of.size())) {
    std::copy(of.begin(), of.end(), sizes);
  }
  int64_t operator[](int i) const { return sizes[i]; }
  bool operator==(const Shape& other) const {
    return axes == other.axes && std::equal(sizes, sizes + axes, other.sizes);
  }
  int64_t size() const {
    int64_t product = 1;
    for (int i = 0; i < axes; ++i) product *= sizes[i];
    return product;
  }
};

// An array in memory that somebody else owns.
struct View {
  void* address = nullptr;
  dlpack::Code code = dlpack::kFloat;
  int bytes = 0;  // of a number
  Shape shape;
  int64_t strides[3] = {};  // in elements
  bool negative = false;    // its numbers are those in memory negated

  template <class P>
  P* data() const {
    return static_cast<P*>(address);
  }
  template <class P>
  bool holds() const {
    const dlpack::Code expected = std::is_same_v<P, bool>       ? dlpack::kBool
                                  : std::is_floating_point_v<P> ? dlpack::kFloat
                                  : std::is_signed_v<P>         ? dlpack::kInt
                                                                : dlpack::kUnsigned;
    return code == expected && bytes == static_cast<int>(sizeof(P));
  }
  bool aligned() const { return reinterpret_cast<intptr_t>(address) % std::max(bytes, 1) == 0; }
  // Whether the numbers can be read where they are, those of the axes from `first` on side by side.
  bool dense(int first) const {
    int64_t stride = 1;
    for (int i = shape.axes; i-- > first; stride *= shape[i])
      if (shape[i] != 1 && strides[i] != stride) return false;
    return !negative && aligned() && (address != nullptr || shape.size() == 0);
  }
};

// The items of a list or tuple.
class Items {
 public:
  explicit Items(py::handle of) {
    if (PyTuple_Check(of.ptr()) || PyList_Check(of.ptr()))
      items_ = PySequence_Fast_ITEMS(of.ptr()), size_ = static_cast<size_t>(PySequence_Fast_GET_SIZE(of.ptr()));
  }
  size_t size() const { return size_; }
  py::handle operator[](size_t i) const { return items_[i]; }
  bool any(size_t begin, size_t end) const {  // of bools
    return std::any_of(items_ + begin, items_ + end, [](PyObject* item) { return item == Py_True; });
  }

 private:
  PyObject** items_ = nullptr;
  size_t size_ = 0;
};

// What a call has made for itself and needs until it ends.
using Owners = std::vector<py::object>;

class Tensors {
 public:
  // `functions`: DLPack's of torch.Tensor; None where torch has none, or to do without.
  Tensors(const py::object& torch, const py::object& functions)
      : tensor_(torch.attr("Tensor")),
        parameter_(torch.attr("nn").attr("Parameter")),
        new_empty_(tensor_.attr("new_empty")),
        is_neg_(tensor_.attr("is_neg")),
        threads_(torch.attr("get_num_threads")),
        from_numpy_(torch.attr("from_numpy")),
        functions_(dlpack::functions_of(functions)) {}

  int threads() const { return call(threads_, nullptr, 0).cast<int>(); }

  // False where it is no plain tensor of the CPU with at most three axes.
  bool read(py::handle object, View& to) const {
    const auto* type = reinterpret_cast<PyObject*>(Py_TYPE(object.ptr()));  // NOLINT
    if (type != tensor_.ptr() && type != parameter_.ptr()) return false;
    if (functions_ == nullptr) return read_by_numpy(object, to);
    dlpack::Tensor from{};
    if (functions_->read(object.ptr(), &from) != 0) {
      PyErr_Clear();
      return false;
    }
    if (from.device_type != dlpack::kCpu || from.lanes != 1 || from.ndim > 3) return false;
    if (from.ndim > 0 && from.strides == nullptr) return false;
    to.address = from.data == nullptr ? nullptr : static_cast<char*>(from.data) + from.byte_offset;
    to.code = static_cast<dlpack::Code>(from.code), to.bytes = from.bits / 8, to.shape.axes = from.ndim;
    std::copy_n(from.shape, from.ndim, to.shape.sizes);
    std::copy_n(from.strides, from.ndim, to.strides);
    to.negative = call(is_neg_, object.ptr()).ptr() == Py_True;
    return true;
  }

  bool read_dense(py::handle object, int first, View& to, Owners& copies) const {
    return read(object, to) && make_dense(object, first, to, copies);
  }

  // Where the axes from `first` on of what was read are not dense in memory, reads a copy that is.
  bool make_dense(py::handle object, int first, View& view, Owners& copies) const {
    if (view.dense(first)) return true;
    py::object copy = object.attr("detach")().attr("resolve_neg")();
    if (copy.attr("_is_zerotensor")().cast<bool>() || !view.aligned()) copy = copy.attr("clone")();
    copies.push_back(copy.attr("contiguous")());
    return read(copies.back(), view);
  }

  // A new dense tensor of the type of `like`.
  py::object make(py::handle like, const Shape& shape, View& to) const {
    py::object sizes[3];
    PyObject* arguments[4] = {like.ptr()};  // torch takes sizes one by one in two thirds of the time of a tuple
    for (int i = 0; i < shape.axes; ++i) {
      sizes[i] = py::int_(shape[i]);
      arguments[1 + i] = sizes[i].ptr();
    }
    py::object made = call(new_empty_, arguments, 1 + static_cast<size_t>(shape.axes));
    if (!read(made, to)) throw std::runtime_error("torch.Tensor.new_empty has not made a tensor of the CPU");
    return made;
  }

  // The one byte at `place`, which is part of `owner`.
  py::object byte(uint8_t* place, const py::object& owner) const {
    const py::array_t<uint8_t> array({1}, {1}, place, owner);
    return call(from_numpy_, array.ptr());
  }

 private:
  static py::object call(const py::object& function, PyObject* const* arguments, size_t count) {
    auto made = py::reinterpret_steal<py::object>(PyObject_Vectorcall(function.ptr(), arguments, count, nullptr));
    if (!made) throw py::error_already_set();
    return made;
  }
  static py::object call(const py::object& function, PyObject* argument) { return call(function, &argument, 1); }

  static bool read_by_numpy(py::handle object, View& to) {
    try {
      if (!object.attr("is_cpu").cast<bool>()) return false;
      to.negative = object.attr("is_neg")().cast<bool>();
      const py::array from = object.attr("detach")().attr("resolve_neg")().attr("numpy")();
      const char kind = from.dtype().kind();
      if (from.ndim() > 3 || (kind != 'f' && kind != 'i' && kind != 'u' && kind != 'b')) return false;
      to.address = const_cast<void*>(from.data());  // NOLINT: written to where the caller has made it
      to.code = kind == 'f'   ? dlpack::kFloat
                : kind == 'i' ? dlpack::kInt
                : kind == 'u' ? dlpack::kUnsigned
                              : dlpack::kBool;
      to.bytes = static_cast<int>(from.itemsize()), to.shape.axes = static_cast<int>(from.ndim());
      for (int i = 0; i < to.shape.axes; ++i)
        to.shape.sizes[i] = from.shape(i), to.strides[i] = from.strides(i) / to.bytes;
      return true;
    } catch (const py::error_already_set&) {
      return false;
    }
  }

  py::object tensor_, parameter_, new_empty_, is_neg_, threads_, from_numpy_;
  const dlpack::Functions* functions_;
};

}  // namespace rnnfast
