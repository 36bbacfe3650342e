// Device memory that somebody else hands out: torch's caching allocator, CuPy's pool, or CUDA's own stream-ordered one.
// An owner frees it when the last copy goes.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "runtime.h"

namespace rnnfast::cuda {

struct Memory {
  std::shared_ptr<void> owner;
  void* data = nullptr;
};

// Bytes of device memory, aligned to 256 bytes, for use in the order of the stream that the call runs on.
using Allocator = std::function<Memory(size_t bytes)>;

// Where a call runs and where its memory comes from.
struct Context {
  Stream stream;
  Allocator allocate;
};

// CUDA's stream-ordered pool; freed on the stream of its birth.
inline Memory pooled_memory(size_t bytes, Stream stream) {
  void* data = allocate_async(bytes > 0 ? bytes : 1, stream);
  return {std::shared_ptr<void>(data, [stream](void* p) { free_async(p, stream); }), data};
}

template <class T>
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(const Context& context, int64_t size)
      : memory_(size > 0 ? context.allocate(static_cast<size_t>(size) * sizeof(T)) : Memory{}), size_(size) {}
  T* data() const { return static_cast<T*>(memory_.data); }
  int64_t size() const { return size_; }
  size_t bytes() const { return static_cast<size_t>(size_) * sizeof(T); }

 private:
  Memory memory_;
  int64_t size_ = 0;
};

template <class T>
DeviceBuffer<T> zeros(const Context& context, int64_t size) {
  DeviceBuffer<T> made(context, size);
  if (size > 0) fill_async(made.data(), 0, made.bytes(), context.stream);
  return made;
}

}  // namespace rnnfast::cuda
