// What the bindings of the CUDA module share: pointers come as integers, memory from a Python callable.
#pragma once

#include <pybind11/numpy.h>

#include "bindings/arrays.h"
#include "cuda/memory.h"

namespace rnnfast::cuda {

inline Stream stream_of(uintptr_t stream) { return reinterpret_cast<Stream>(stream); }

template <class T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// allocate(nbytes) -> (address, owner); the owner is kept as long as the memory. Null: CUDA's own pool. The caller has
// let go of the GIL.
inline Allocator allocator_of(const py::object& allocate, Stream stream) {
  if (allocate.is_none()) return Arena([stream](size_t bytes) { return pooled_memory(bytes, stream); });
  return Arena([allocate](size_t bytes) {
    Memory memory;
    with_gil([&] {
      const auto made = allocate(bytes).cast<py::tuple>();
      const auto drop = [](void* object) { with_gil([&] { py::handle(static_cast<PyObject*>(object)).dec_ref(); }); };
      py::object owner = made[1];
      memory = {std::shared_ptr<void>(owner.release().ptr(), drop), pointer<void>(made[0].cast<uintptr_t>())};
    });
    return memory;
  });
}

}  // namespace rnnfast::cuda
