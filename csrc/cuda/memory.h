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

// Takes memory in blocks and hands it out in pieces, because a call needs some tens of small buffers, and an allocator
// in Python takes microseconds for each. A piece keeps its block. The emulator knows where allocations end, so there
// each piece is one.
class Arena {
 public:
  explicit Arena(Allocator source) : source_(std::move(source)) {}
  Memory operator()(size_t bytes) {
#ifdef RNNFAST_EMULATE
    return source_(bytes);
#else
    constexpr size_t kBlock = size_t{1} << 20, kAlign = 256;
    bytes = (bytes + kAlign - 1) / kAlign * kAlign;
    if (bytes >= kBlock / 4) return source_(bytes);
    if (used_ + bytes > kBlock || block_.data == nullptr) block_ = source_(kBlock), used_ = 0;
    used_ += bytes;
    return {block_.owner, static_cast<char*>(block_.data) + used_ - bytes};
#endif
  }

 private:
  Allocator source_;
  Memory block_;
  size_t used_ = 0;
};

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
