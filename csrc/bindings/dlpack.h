// What is needed of DLPack's C interface (dmlc.github.io/dlpack, version 1): a tensor of another library read where it
// is, from its Python object, in some nanoseconds. The library hands out a table of functions, in a capsule.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace rnnfast::dlpack {

struct Tensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;  // strides in elements; null where dense
  uint64_t byte_offset;
};
constexpr int32_t kCpu = 1;
enum Code : uint8_t { kInt = 0, kUnsigned = 1, kFloat = 2, kBool = 6 };

struct Functions {
  uint32_t major, minor;
  void *previous, *allocate, *from_object, *to_object;
  int (*read)(void* object, Tensor* out);  // the object stays the owner; may be null
  void* stream;
};

// The table in the capsule; null where it is of another version.
inline const Functions* functions_of(const pybind11::object& capsule) {
  if (capsule.is_none()) return nullptr;
  const void* found = PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api");
  if (found == nullptr) throw pybind11::error_already_set();
  const auto* functions = static_cast<const Functions*>(found);
  return functions->major == 1 && functions->read != nullptr ? functions : nullptr;
}

}  // namespace rnnfast::dlpack
