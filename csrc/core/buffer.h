// Memory for kernels: aligned to a cache line, contents undefined, and kept for the next call when freed, because the
// page faults of fresh large allocations cost 10 to 20 % of a training step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace rnnfast {

void* pool_allocate(size_t bytes);  // throws std::bad_alloc
void pool_free(void* memory, size_t bytes) noexcept;
void pool_clear() noexcept;  // gives what is kept back to the system

template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size)
      : data_(static_cast<T*>(pool_allocate(static_cast<size_t>(size) * sizeof(T)))), size_(size) {}
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() { pool_free(data_, bytes()); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }
  int64_t size() const { return size_; }
  size_t bytes() const { return static_cast<size_t>(size_) * sizeof(T); }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace rnnfast
