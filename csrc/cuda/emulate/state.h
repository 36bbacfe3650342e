// What the parts of the run time share: the launch that is running, its blocks, warps and threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../device.h"
#include "../runtime.h"
#include "emulate.h"
#include "fiber.h"

namespace rnnfast::emulate {

constexpr int kLanes = 32;

struct Knowledge;   // knowledge.h
struct Allocation;  // memory.h
struct Block;

enum class State { runnable, at_barrier, at_warp, at_flag, done };

struct Copy {  // one that an async_wait has not reached yet
  void* to;
  const void* from;
  int bytes, valid;
  uint32_t group;
  const void* pc;
};

// A CUDA thread. The first half is what an access needs.
struct Fiber {
  Block* block;
  int thread;
  uint32_t clock;           // of accesses from here on
  uint32_t barrier_clock;   // accesses of the own block below this are known
  uint32_t warp_clock;      // those of the own warp
  const Knowledge* known;   // of other blocks, and what is in between
  const Knowledge* seen;    // read from flags, not yet ordered by a fence
  const Knowledge* fenced;  // what a relaxed store publishes

  Context context;
  size_t stack;
  State state;
  Where where;           // it waits there
  const unsigned* flag;  // state at_flag: for this to reach flag_value
  unsigned flag_value;
  bool flag_acquire;
  uint64_t value;  // argument and result of a warp operation
  int source;
  float* d;
  const uint32_t *a, *b;
  uint32_t group;  // of the asynchronous copies to come
  std::vector<Copy> copies;
};

struct WarpOperation {
  enum Kind { sync, shuffle, ballot, any, all, mma } kind;
  unsigned mask, arrived;
  Where where;
};

struct Warp {
  unsigned lanes;  // those that exist
  unsigned exited;
  std::vector<WarpOperation> pending;
};

struct Block {
  int number;  // in the grid
  Fiber* fibers;
  std::vector<Warp> warps;
  Allocation* shared;
  int arrived, exited;
  Where where;  // of the barrier that the first one arrived at
};

struct Machine {
  Context host;
  Stacks stacks;
  std::vector<Fiber> fibers;
  std::vector<Block> blocks;  // those that are resident
  const cuda::detail::KernelRef* kernel = nullptr;
  const cuda::Launch* shape = nullptr;
  void** arguments = nullptr;
  bool cooperative = false;
  std::string fault;
  uint64_t events = 0;  // flags written, threads ended: what can wake a thread that waits for a flag
  Statistics statistics = {};
};

extern Machine machine;
// Of the host's thread that launched: meanwhile others may run what is no kernel in a kernel's file. A module that is
// loaded later has room for two words of this model, and other models take a call for each access.
#define RNNFAST_OF_THREAD thread_local __attribute__((tls_model("initial-exec")))
extern RNNFAST_OF_THREAD constinit Fiber* self;
// A kernel's own code runs, not the run time's or the host's, which may share the compiler's copy of some function of
// the standard library with the kernel's file and must not be checked there.
extern RNNFAST_OF_THREAD constinit bool watching;
struct Unwatched {
  Unwatched() { watching = false; }
  ~Unwatched() { watching = true; }
};
extern bool counting;  // options().count of this launch
extern bool tracked;   // there is a source compiled as checked; set before any constructor runs

// schedule.cpp
struct Work {
  const cuda::detail::KernelRef* kernel;
  const cuda::Launch* shape;
  void** arguments;
  bool cooperative;
  int64_t blocks;
};
void run(const Work& work);  // a launch; throws Fault
// A fault: the words for it, then the end of the launch. Two calls, because what is on the stack at stop() stays there.
void report(const std::string& what, const void* pc = nullptr);
[[noreturn]] void stop();
void make_runnable(Block& block, int first_thread, unsigned lanes);  // in the schedule's order
void make_all_runnable(Block& block);
void park();  // runs others until somebody makes this thread runnable; its state says what it waits for
uint64_t chance();

// report.cpp
std::string name_of(const Fiber& fiber);  // block (1, 0, 0) thread 37
std::string describe(Where where);
std::string source_of(const void* pc);  // function at file:line
std::string source_at(int32_t pc);      // the same of a short_pc
int32_t short_pc(const void* pc);

}  // namespace rnnfast::emulate
