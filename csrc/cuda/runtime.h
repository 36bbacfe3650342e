// What the host asks of a device: memory, streams, events and launches, each call checked. runtime.cpp does it with the
// CUDA run time, emulate/runtime.cpp without any. No CUDA header is needed to include this.
//
// A failed call throws Error, whose text names the call, the file and line, and the device. Nothing here waits for the
// device but synchronize().
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

namespace rnnfast::cuda {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using Stream = struct OpaqueStream*;  // a cudaStream_t; null is the default stream
using Event = struct OpaqueEvent*;    // a cudaEvent_t

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int sms = 0;
  int threads_per_sm = 0, threads_per_block = 0;
  size_t shared_per_sm = 0, shared_per_block = 0;  // bytes; the second with opt-in
  size_t l2_bytes = 0, memory = 0;
  bool cooperative = false;
};

int device_count();           // 0 where there is no driver or no device; never throws
std::string why_no_device();  // what is missing, empty if nothing is
int current_device();
void set_device(int device);
const DeviceInfo& device_info(int device);  // asked for once

void* allocate_async(size_t bytes, Stream stream);  // in stream order, 256-byte aligned; the device keeps freed memory
void free_async(void* p, Stream stream) noexcept;
void copy_async(void* to, const void* from, size_t bytes, Stream stream);  // between any two kinds of memory
// Host memory of a copy_async, which need not have been read when that returns: it goes once the stream has come here.
void keep_until_copied(std::shared_ptr<const void> owner, Stream stream);
void fill_async(void* p, int byte, size_t bytes, Stream stream);

Stream create_stream();
void destroy_stream(Stream stream);
void synchronize(Stream stream);
Event create_event(bool timing = false);
void destroy_event(Event event);
void record(Event event, Stream stream);
void wait(Stream stream, Event event);  // what follows in the stream waits for the event
void synchronize(Event event);
float milliseconds(Event begin, Event end);

class DeviceGuard {  // makes a device the current one for a scope
 public:
  explicit DeviceGuard(int device) : before_(current_device()), now_(device) {
    if (now_ != before_) set_device(now_);
  }
  ~DeviceGuard() noexcept(false) {
    if (now_ != before_) set_device(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_, now_;
};

inline void put_after(Stream stream, Stream other) {  // what follows in `stream` waits for what `other` has now
  if (stream == other) return;
  const Event event = create_event();
  try {
    record(event, other);
    wait(stream, event);
  } catch (...) {
    destroy_event(event);
    throw;
  }
  destroy_event(event);  // the device lets go of it once it has come
}

// For a scope in which a stream uses another's memory: it comes after what the other has by then, and the other's next
// work, which may be to hand the memory on, comes after the scope's. The host does not wait.
class Turn {
 public:
  Turn(Stream stream, Stream other) : stream_(stream), other_(other) { put_after(stream, other); }
  ~Turn() {
    try {
      put_after(other_, stream_);
    } catch (const Error&) {
      return;  // the device is lost, and the next call to it says so
    }
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  Stream stream_, other_;
};

struct Launch {
  int64_t blocks = 1;
  int threads = 0;  // a block, in one dimension
  size_t shared_bytes = 0;
  Stream stream = nullptr;
};

namespace detail {

struct KernelRef {
  const void* kernel;
  const char* name;
  void (*call)(const void* kernel, void** arguments);  // only the emulator calls it
};
bool launch(const KernelRef& ref, const Launch& shape, bool cooperative, void** arguments, const char* file, int line);
int64_t resident_blocks(const KernelRef& ref, int threads, size_t shared_bytes, const char* file, int line);

template <class P>
__attribute__((no_sanitize("thread"))) void call(const void* kernel, void** arguments) {
  reinterpret_cast<void (*)(P)>(const_cast<void*>(kernel))(*static_cast<P*>(arguments[0]));
}

template <class P>
KernelRef reference(const char* name, void (*kernel)(P)) {
#if defined(RNNFAST_EMULATE)
  return {reinterpret_cast<const void*>(kernel), name, call<P>};
#else
  return {reinterpret_cast<const void*>(kernel), name, nullptr};
#endif
}

}  // namespace detail

// How many blocks can be on the device at once: occupancy times number of SMs, 0 if not even one.
template <class P>
int64_t resident_blocks(const char* name, void (*kernel)(P), int threads, size_t shared_bytes,
                        const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return detail::resident_blocks(detail::reference(name, kernel), threads, shared_bytes, file, line);
}

// A plain launch, and one whose blocks wait for each other. The latter launches nothing and returns false where its
// blocks would not all be resident. The kernel takes one argument, a struct; shared memory beyond 48 KiB is opted in.
template <class P>
void launch(const char* name, void (*kernel)(P), const Launch& shape, P argument, const char* file = __builtin_FILE(),
            int line = __builtin_LINE()) {
  void* arguments[] = {&argument};
  detail::launch(detail::reference(name, kernel), shape, false, arguments, file, line);
}
template <class P>
[[nodiscard]] bool launch_cooperative(const char* name, void (*kernel)(P), const Launch& shape, P argument,
                                      const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  void* arguments[] = {&argument};
  return detail::launch(detail::reference(name, kernel), shape, true, arguments, file, line);
}

}  // namespace rnnfast::cuda
