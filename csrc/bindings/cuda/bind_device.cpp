// Devices and their memory, for Python: addresses are integers, and an owner keeps memory alive.
#include <pybind11/stl.h>

#include "common.h"
#include "cuda/gemm.h"
#ifdef RNNFAST_EMULATE
#include "cuda/emulate/emulate.h"
#endif

namespace rnnfast::cuda {

namespace {

// DLPack's structures, as its specification has them (version 0).
struct DLDevice {
  int32_t type, id;
};
struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(DLManagedTensor*);
};

struct Exported {
  DLManagedTensor managed;
  std::vector<int64_t> shape;
  py::object owner;
};

void release(DLManagedTensor* managed) {
  with_gil([&] { delete static_cast<Exported*>(managed->context); });
}

py::capsule to_dlpack(uintptr_t address, std::vector<int64_t> shape, int code, int device_type, int device,
                      py::object owner) {
  auto exported = std::make_unique<Exported>();
  exported->shape = std::move(shape), exported->owner = std::move(owner);
  DLManagedTensor& m = exported->managed;
  m.tensor = {reinterpret_cast<void*>(address),
              {device_type, device},
              static_cast<int32_t>(exported->shape.size()),
              static_cast<uint8_t>(code),
              32,
              1,
              exported->shape.data(),
              nullptr,
              0};
  m.context = exported.get(), m.deleter = release;
  return py::capsule(&exported.release()->managed, "dltensor", [](PyObject* capsule) {
    if (!PyCapsule_IsValid(capsule, "dltensor")) return;  // somebody has taken it
    auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
    managed->deleter(managed);
  });
}

struct PooledMemory {
  PooledMemory(size_t bytes, uintptr_t stream) : memory(pooled_memory(bytes, stream_of(stream))) {}
  Memory memory;
};

py::dict describe(int device) {
  const DeviceInfo& info = device_info(device);
  py::dict d;
  d["name"] = info.name, d["compute_capability"] = std::to_string(info.major) + "." + std::to_string(info.minor);
  d["multiprocessors"] = info.sms, d["shared_bytes"] = info.shared_per_block, d["memory"] = info.memory;
  return d;
}

}  // namespace

void bind_device(py::module_& m) {
#ifdef RNNFAST_EMULATE
  m.attr("emulated") = true;
  m.def(
      "emulate",
      [](const std::string& schedule, uint64_t seed, int sms, bool count) {
        emulate::set_schedule(schedule, seed);
        emulate::options().sms = sms, emulate::options().count = count;
        emulate::clear_counts();
      },
      py::arg("schedule"), py::arg("seed") = 0, py::arg("sms") = 4, py::arg("count") = false,
      "Which thread runs next, how many SMs there are, and whether accesses are counted from now on.");
  m.def(
      "emulate_memory", [](int64_t allocations) { emulate::options().allocations = allocations; },
      py::arg("allocations"), "So many allocations can be had from now on, then there is no memory; -1: any number.");
  m.def(
      "emulated_counts",
      [] {
        py::list rows;
        for (const emulate::AccessCount& c : emulate::counts())
          rows.append(py::make_tuple(c.source, c.shared, c.write, c.times, c.passes, c.ideal, c.sectors, c.useful));
        return rows;
      },
      "(source, shared, write, times, passes, ideal passes, sectors, useful bytes) of each access of a kernel.");
  m.def(
      "emulated_launches", [] { return emulate::launches(); },
      "The kernels that were launched since emulate(), each with its most bytes of dynamic shared memory.");
#else
  m.attr("emulated") = false;
#endif
  m.def("device_count", device_count);
  m.def("why_no_device", why_no_device);
  m.def("device_info", describe, py::arg("device"));
  m.def("current_device", current_device);
  m.def("set_device", set_device, py::arg("device"));
  m.def("gemm_search", gemm_search, py::arg("path"));
  m.def("gemm_problem", gemm_problem);
  py::class_<PooledMemory>(m, "Memory")
      .def(py::init<size_t, uintptr_t>(), py::arg("nbytes"), py::arg("stream"))
      .def_property_readonly("address",
                             [](const PooledMemory& p) { return reinterpret_cast<uintptr_t>(p.memory.data); });
  m.def(
      "copy",
      [](uintptr_t to, uintptr_t from, size_t nbytes, uintptr_t stream) {
        without_gil([&] {  // from and to pageable memory it waits
          copy_async(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), nbytes, stream_of(stream));
        });
      },
      py::arg("to"), py::arg("from_"), py::arg("nbytes"), py::arg("stream"));
  m.def(
      "fill",
      [](uintptr_t to, int byte, size_t nbytes, uintptr_t stream) {
        if (nbytes > 0) fill_async(reinterpret_cast<void*>(to), byte, nbytes, stream_of(stream));
      },
      py::arg("to"), py::arg("byte"), py::arg("nbytes"), py::arg("stream"));
  m.def(
      "synchronize", [](uintptr_t stream) { without_gil([&] { synchronize(stream_of(stream)); }); }, py::arg("stream"));
  m.def(
      "put_after", [](uintptr_t stream, uintptr_t other) { put_after(stream_of(stream), stream_of(other)); },
      py::arg("stream"), py::arg("other"));
  m.def("to_dlpack", to_dlpack, py::arg("address"), py::arg("shape"), py::arg("code"), py::arg("device_type"),
        py::arg("device"), py::arg("owner"));
}

}  // namespace rnnfast::cuda
