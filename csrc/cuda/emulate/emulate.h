// How a test steers the emulator, and what it learns from it.
//
// A launch runs at once, on the thread that makes it, and all that is wrong with it ends it with a Fault. What is
// found: barriers and warp operations that not all named threads come to; threads that wait for ever; accesses outside
// of live device memory or the block's shared buffer, or not aligned to their size; two accesses to the same bytes, one
// of them a write, that neither a barrier nor a released and acquired flag orders; in every schedule the last one does
// not depend on which thread happened to come first. Accesses are seen only in sources compiled as `checked`
// (cmake/cuda.cmake).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace rnnfast::emulate {

struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Which of the threads that can run runs next: in the order of their index, the other way round, by chance at each
// switch; or one thread, or the threads of one block, chosen by the seed, whenever they can.
enum class Schedule { in_order, reverse, random, thread_ahead, block_ahead };

struct Options {
  Schedule schedule = Schedule::in_order;
  uint64_t seed = 0;
  // The device there is. What a cooperative launch may have at once follows from it.
  int sms = 4, blocks_per_sm = 16, threads_per_sm = 2048, threads_per_block = 1024;
  size_t shared_per_sm = 228 << 10, shared_per_block = 227 << 10;
  bool count = false;        // keep counts(); slow
  int64_t allocations = -1;  // so many can be had, then there is no memory; -1: any number
};
Options& options();
void set_schedule(const std::string& name, uint64_t seed);  // the enumerators' names

// Host memory that kernels may touch as if allocate_async had given it.
void register_memory(void* p, size_t bytes);
void unregister_memory(void* p);

// What one access of a kernel source did since clear_counts(), all warps and times together.
struct AccessCount {
  std::string source;        // function at file:line
  bool shared, write;        // shared or global memory
  int bytes;                 // of a lane
  uint64_t times;            // executions by a warp, whole or in part
  uint64_t passes, ideal;    // shared: how often the banks were read, and how often without any conflict
  uint64_t sectors, useful;  // global: 32-byte sectors moved, and bytes of them that lanes asked for
};
std::vector<AccessCount> counts();
void clear_counts();

// The most dynamic shared memory, in bytes of a block, of each kernel that was launched since clear_counts().
const std::map<std::string, size_t>& launches();

struct Statistics {
  uint64_t launches, threads, switches, accesses;
};
Statistics statistics();  // since the program began

}  // namespace rnnfast::emulate
