// runtime.h with the CUDA run time, linked statically. The driver is looked for at the first call, so a program that
// contains this starts on a machine without one.
#include "runtime.h"

#include <cuda_runtime_api.h>

#include <map>
#include <mutex>

namespace rnnfast::cuda {
namespace {

[[noreturn]] void fail(cudaError_t error, const char* call, const char* file, int line) {
  cudaGetLastError();  // else the next launch would be blamed for it
  int device = -1;
  std::string where = "no device";
  if (cudaGetDevice(&device) == cudaSuccess) where = "device " + std::to_string(device);
  throw Error(std::string(call) + " failed on " + where + ": " + cudaGetErrorString(error) + " (" +
              cudaGetErrorName(error) + ") at " + file + ":" + std::to_string(line));
}

void check(cudaError_t error, const char* call, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (error != cudaSuccess) fail(error, call, file, line);
}

cudaStream_t native(Stream stream) { return reinterpret_cast<cudaStream_t>(stream); }
cudaEvent_t native(Event event) { return reinterpret_cast<cudaEvent_t>(event); }

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  return value;
}

DeviceInfo ask(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  DeviceInfo info;
  info.name = properties.name;
  info.major = properties.major, info.minor = properties.minor;
  info.sms = properties.multiProcessorCount;
  info.threads_per_sm = properties.maxThreadsPerMultiProcessor;
  info.threads_per_block = properties.maxThreadsPerBlock;
  info.shared_per_sm = properties.sharedMemPerMultiprocessor;
  info.shared_per_block = properties.sharedMemPerBlockOptin;
  info.l2_bytes = static_cast<size_t>(properties.l2CacheSize);
  info.memory = properties.totalGlobalMem;
  info.cooperative = attribute(cudaDevAttrCooperativeLaunch, device) != 0;
  return info;
}

}  // namespace

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

std::string why_no_device() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess) return count > 0 ? "" : "the CUDA driver finds no device";
  cudaGetLastError();
  return cudaGetErrorString(error);
}

int current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

void set_device(int device) { check(cudaSetDevice(device), "cudaSetDevice"); }

const DeviceInfo& device_info(int device) {
  static std::mutex mutex;
  static std::map<int, DeviceInfo> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find(device);
  return found != known.end() ? found->second : known.emplace(device, ask(device)).first->second;
}

// The pool gives memory back to the system at every synchronisation unless told otherwise, and a training step would
// map it again each time.
static void keep_freed_memory(int device) {
  static std::mutex mutex;
  static std::map<int, bool> done;
  const std::lock_guard<std::mutex> lock(mutex);
  if (done[device]) return;
  cudaMemPool_t pool;
  check(cudaDeviceGetDefaultMemPool(&pool, device), "cudaDeviceGetDefaultMemPool");
  uint64_t all = UINT64_MAX;
  check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all), "cudaMemPoolSetAttribute");
  done[device] = true;
}

void* allocate_async(size_t bytes, Stream stream) {
  keep_freed_memory(current_device());
  void* p = nullptr;
  check(cudaMallocAsync(&p, bytes > 0 ? bytes : 1, native(stream)), "cudaMallocAsync");
  return p;
}

// The default stream is that of the current device, which need not be the memory's any more.
void free_async(void* p, Stream stream) noexcept {
  if (p == nullptr) return;
  int now = 0;
  cudaPointerAttributes memory{};
  const bool elsewhere =
      cudaGetDevice(&now) == cudaSuccess && cudaPointerGetAttributes(&memory, p) == cudaSuccess && memory.device != now;
  if (elsewhere) cudaSetDevice(memory.device);
  cudaFreeAsync(p, native(stream));
  if (elsewhere) cudaSetDevice(now);
  cudaGetLastError();  // an earlier call's error
}

void copy_async(void* to, const void* from, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, native(stream)), "cudaMemcpyAsync");
}

void keep_until_copied(std::shared_ptr<const void> owner, Stream stream) {
  auto kept = std::make_unique<std::shared_ptr<const void>>(std::move(owner));
  const auto drop = [](void* p) { delete static_cast<std::shared_ptr<const void>*>(p); };
  check(cudaLaunchHostFunc(native(stream), drop, kept.get()), "cudaLaunchHostFunc");
  kept.release();
}

void fill_async(void* p, int byte, size_t bytes, Stream stream) {
  check(cudaMemsetAsync(p, byte, bytes, native(stream)), "cudaMemsetAsync");
}

Stream create_stream() {
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return reinterpret_cast<Stream>(stream);
}

void destroy_stream(Stream stream) { check(cudaStreamDestroy(native(stream)), "cudaStreamDestroy"); }
void synchronize(Stream stream) { check(cudaStreamSynchronize(native(stream)), "cudaStreamSynchronize"); }

Event create_event(bool timing) {
  cudaEvent_t event;
  const unsigned flags = timing ? cudaEventDefault : cudaEventDisableTiming;
  check(cudaEventCreateWithFlags(&event, flags), "cudaEventCreateWithFlags");
  return reinterpret_cast<Event>(event);
}

void destroy_event(Event event) { check(cudaEventDestroy(native(event)), "cudaEventDestroy"); }
void record(Event event, Stream stream) { check(cudaEventRecord(native(event), native(stream)), "cudaEventRecord"); }
void wait(Stream stream, Event event) {
  check(cudaStreamWaitEvent(native(stream), native(event), 0), "cudaStreamWaitEvent");
}
void synchronize(Event event) { check(cudaEventSynchronize(native(event)), "cudaEventSynchronize"); }

float milliseconds(Event begin, Event end) {
  float time = 0;
  check(cudaEventElapsedTime(&time, native(begin), native(end)), "cudaEventElapsedTime");
  return time;
}

namespace detail {

namespace {
constexpr size_t kSharedWithoutAsking = 48 << 10;

// For all that the device has, whatever this launch needs: another thread may be about to launch the same kernel.
void opt_in(const KernelRef& ref, size_t shared_bytes, const char* file, int line) {
  if (shared_bytes <= kSharedWithoutAsking) return;
  const size_t most = device_info(current_device()).shared_per_block;
  check(cudaFuncSetAttribute(ref.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(most)),
        "cudaFuncSetAttribute", file, line);
}
}  // namespace

int64_t resident_blocks(const KernelRef& ref, int threads, size_t shared_bytes, const char* file, int line) {
  const DeviceInfo& info = device_info(current_device());
  if (threads > info.threads_per_block || shared_bytes > info.shared_per_block) return 0;
  opt_in(ref, shared_bytes, file, line);
  int per_sm = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_sm, ref.kernel, threads, shared_bytes),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor", file, line);
  return int64_t{per_sm} * info.sms;
}

bool launch(const KernelRef& ref, const Launch& shape, bool cooperative, void** arguments, const char* file, int line) {
  const dim3 grid(static_cast<unsigned>(shape.blocks)), block(static_cast<unsigned>(shape.threads));
  const std::string call = std::string("launch of ") + ref.name;
  if (cooperative) {
    if (!device_info(current_device()).cooperative) return false;
    if (shape.blocks > resident_blocks(ref, shape.threads, shape.shared_bytes, file, line)) return false;
    check(cudaLaunchCooperativeKernel(ref.kernel, grid, block, arguments, shape.shared_bytes, native(shape.stream)),
          call.c_str(), file, line);
    return true;
  }
  opt_in(ref, shape.shared_bytes, file, line);
  check(cudaLaunchKernel(ref.kernel, grid, block, arguments, shape.shared_bytes, native(shape.stream)), call.c_str(),
        file, line);
  return true;
}

}  // namespace detail
}  // namespace rnnfast::cuda
