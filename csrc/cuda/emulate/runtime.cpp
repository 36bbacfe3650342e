// runtime.h without a device: memory is the emulator's, a stream does everything at once, and a launch runs the kernel
// before it returns, with the checks that the CUDA run time would make.
#include "../runtime.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>
#include <new>

#include "counts.h"
#include "memory.h"
#include "state.h"

namespace rnnfast::cuda {
namespace {

constexpr int kDevice = 0;

[[noreturn]] void fail(const std::string& call, const std::string& why, const char* file, int line) {
  throw Error(call + " failed on device 0 (emulated): " + why + " at " + file + ":" + std::to_string(line));
}

struct Time {
  std::chrono::steady_clock::time_point at;
};
Time* native(Event event) { return reinterpret_cast<Time*>(event); }

std::mutex one_launch;  // of all threads of the host; nor does memory come or go meanwhile

}  // namespace

int device_count() { return 1; }
std::string why_no_device() { return ""; }
int current_device() { return kDevice; }

void set_device(int device) {
  if (device != kDevice) throw Error("set_device failed: there is one emulated device, got " + std::to_string(device));
}

const DeviceInfo& device_info(int) {
  thread_local DeviceInfo info;  // made anew at each call, for the options may have changed
  const emulate::Options& o = emulate::options();
  info.name = "emulated device";
  info.major = 9, info.minor = 0;
  info.sms = o.sms;
  info.threads_per_sm = o.threads_per_sm, info.threads_per_block = o.threads_per_block;
  info.shared_per_sm = o.shared_per_sm, info.shared_per_block = o.shared_per_block;
  info.l2_bytes = size_t{50} << 20, info.memory = size_t{8} << 30;
  info.cooperative = true;
  return info;
}

void* allocate_async(size_t bytes, Stream) {
  const std::lock_guard<std::mutex> lock(one_launch);
  int64_t& left = emulate::options().allocations;
  try {
    if (left == 0) throw std::bad_alloc();
    left -= left > 0;
    return emulate::allocate(bytes);
  } catch (const std::bad_alloc&) {
    throw Error("allocate_async failed on device 0 (emulated): out of memory for " + std::to_string(bytes) + " bytes");
  }
}

void free_async(void* p, Stream) noexcept {
  const std::lock_guard<std::mutex> lock(one_launch);
  emulate::release(p);
}

void copy_async(void* to, const void* from, size_t bytes, Stream) {
  if (bytes == 0) return;
  const std::lock_guard<std::mutex> lock(one_launch);
  emulate::check_live(to, bytes, "copy_async to");
  emulate::check_live(from, bytes, "copy_async from");
  std::memmove(to, from, bytes);
}

void keep_until_copied(std::shared_ptr<const void>, Stream) {}

void fill_async(void* p, int byte, size_t bytes, Stream) {
  if (bytes == 0) return;
  const std::lock_guard<std::mutex> lock(one_launch);
  emulate::check_live(p, bytes, "fill_async of");
  std::memset(p, byte, bytes);
}

Stream create_stream() { return reinterpret_cast<Stream>(new Time); }
void destroy_stream(Stream stream) { delete reinterpret_cast<Time*>(stream); }
void synchronize(Stream) {}
Event create_event(bool) { return reinterpret_cast<Event>(new Time); }
void destroy_event(Event event) { delete native(event); }
void record(Event event, Stream) { native(event)->at = std::chrono::steady_clock::now(); }
void wait(Stream, Event) {}
void synchronize(Event) {}
float milliseconds(Event begin, Event end) {
  return std::chrono::duration<float, std::milli>(native(end)->at - native(begin)->at).count();
}

namespace detail {

int64_t resident_blocks(const KernelRef&, int threads, size_t shared_bytes, const char*, int) {
  const emulate::Options& o = emulate::options();
  if (threads < 1 || threads > o.threads_per_block || shared_bytes > o.shared_per_block) return 0;
  constexpr size_t kReserved = 1 << 10;  // shared memory that the system takes for each block
  const auto by_shared = static_cast<int>(o.shared_per_sm / (shared_bytes + kReserved));
  const int by_threads = o.threads_per_sm / threads;
  return int64_t{std::min({by_shared, by_threads, o.blocks_per_sm})} * o.sms;
}

bool launch(const KernelRef& ref, const Launch& shape, bool cooperative, void** arguments, const char* file, int line) {
  const std::string call = std::string("launch of ") + ref.name;
  const emulate::Options& o = emulate::options();
  if (shape.threads < 1 || shape.threads > o.threads_per_block)
    fail(call, std::to_string(shape.threads) + " threads a block", file, line);
  if (shape.shared_bytes > o.shared_per_block)
    fail(call, std::to_string(shape.shared_bytes) + " bytes of shared memory a block", file, line);
  if (shape.blocks < 1 || shape.blocks > 2147483647)
    fail(call, "a grid of " + std::to_string(shape.blocks) + " blocks", file, line);
  if (cooperative && shape.blocks > resident_blocks(ref, shape.threads, shape.shared_bytes, file, line)) return false;
  const std::lock_guard<std::mutex> lock(one_launch);
  emulate::count_launch(ref.name, shape.shared_bytes);
  emulate::run({&ref, &shape, arguments, cooperative, shape.blocks});
  return true;
}

}  // namespace detail
}  // namespace rnnfast::cuda
