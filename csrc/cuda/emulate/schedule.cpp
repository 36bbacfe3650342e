// Who runs next. A thread that waits hands over to the next one directly; nobody being left, to the host, which starts
// the next block, returns from the launch or says who waits for what.
//
// A thread that waits for a flag is asked again only when nobody else can run and some flag has been written since: so
// waiting costs nothing, and if nothing was written it is a deadlock.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "counts.h"
#include "knowledge.h"
#include "memory.h"
#include "races.h"
#include "state.h"

namespace rnnfast::emulate {

Machine machine;
RNNFAST_OF_THREAD constinit Fiber* self = nullptr;
bool tracked = false;
bool counting = false;
RNNFAST_OF_THREAD constinit bool watching = false;

namespace {

constinit Options all_options;

// RNNFAST_EMULATE_WITHOUT=file.h:123 takes the barrier, or the order that a flag gives, out of that line, as if the
// source did not have it: scripts/mutate_kernels.py shows that some test then fails.
const char* const left_out_site = std::getenv("RNNFAST_EMULATE_WITHOUT");
const char* const left_out_colon = left_out_site != nullptr ? std::strrchr(left_out_site, ':') : nullptr;
const int left_out_line = left_out_colon != nullptr ? std::atoi(left_out_colon + 1) : -1;

constexpr uintptr_t kLeastStack = 2048;  // below that it may have been overrun

class Queue {
 public:
  void reserve(size_t n) {
    size_t size = 1;
    while (size < n + 1) size *= 2;
    ring_.resize(size);
    begin_ = end_ = 0;
  }
  bool empty() const { return begin_ == end_; }
  void push(Fiber* fiber) { ring_[end_++ & (ring_.size() - 1)] = fiber; }
  Fiber* pop(bool by_chance) {
    Fiber*& first = ring_[begin_ & (ring_.size() - 1)];
    if (by_chance) std::swap(first, ring_[(begin_ + chance() % (end_ - begin_)) & (ring_.size() - 1)]);
    ++begin_;
    return first;
  }

 private:
  std::vector<Fiber*> ring_;
  size_t begin_ = 0, end_ = 0;
};

Queue queue, favoured_queue;
std::vector<Fiber*> flag_waiters;
uint64_t events_seen, random_state;
int favoured_block, favoured_thread;

bool favoured(const Fiber& fiber) {
  switch (options().schedule) {
    case Schedule::thread_ahead:
      return fiber.thread == favoured_thread && fiber.block->number == favoured_block;
    case Schedule::block_ahead:
      return fiber.block->number == favoured_block;
    default:
      return false;
  }
}

void push(Fiber& fiber) {
  fiber.state = State::runnable;
  (favoured(fiber) ? favoured_queue : queue).push(&fiber);
}

void wake_flag_waiters() {
  if (flag_waiters.empty() || events_seen == machine.events) return;
  events_seen = machine.events;
  for (Fiber* each : flag_waiters) push(*each);
  flag_waiters.clear();
}

Fiber* next() {
  if (!favoured_queue.empty()) return favoured_queue.pop(false);
  if (queue.empty()) wake_flag_waiters();
  if (!favoured_queue.empty()) return favoured_queue.pop(false);
  if (queue.empty()) return nullptr;
  return queue.pop(options().schedule == Schedule::random);
}

void run_next(Context& from) {
  Fiber* to = next();
  Context& context = to != nullptr ? to->context : machine.host;
  self = to;
  if (&context == &from) return;
  ++machine.statistics.switches;
  switch_context(from, context);
}

[[noreturn]] void overran_stack(const Fiber& fiber) {
  report(name_of(fiber) + " overran its stack: the emulator's are too small for it");
  stop();
}

void thread_ended() {
  Block& block = *self->block;
  if (block.arrived > 0) {
    report("divergent barrier: " + name_of(*self) + " returned while others wait at " + describe(block.where));
    stop();
  }
  Warp& warp = block.warps[static_cast<size_t>(self->thread / kLanes)];
  const unsigned bit = 1u << self->thread % kLanes;
  for (const WarpOperation& each : warp.pending)
    if (each.mask & bit) {
      report(name_of(*self) + " returned, but the mask of " + describe(each.where) + " names it");
      stop();
    }
  warp.exited |= bit;
  ++block.exited;
  ++machine.events;
  self->state = State::done;
  if (block.exited == machine.shape->threads) count_block(block);
}

[[noreturn]] void thread_begins() {
  on_entry();
  watching = true;
  machine.kernel->call(machine.kernel->kernel, machine.arguments);
  watching = false;
  if (!machine.stacks.intact(self->stack)) overran_stack(*self);
  thread_ended();
  run_next(self->context);
  __builtin_unreachable();
}

void begin(Fiber& fiber, Block& block, int thread, size_t stack) {
  fiber.block = &block;
  fiber.stack = stack;
  fiber.thread = thread;
  fiber.group = 1;
  fiber.copies.clear();
  begin_clock(fiber);
  machine.stacks.prepare(fiber.context, stack, thread_begins);
}

void begin(Block& block, int64_t number, Fiber* fibers, size_t slot) {
  const cuda::Launch& shape = *machine.shape;
  block.number = static_cast<int>(number);
  block.fibers = fibers;
  block.shared = shared_buffer(slot, shape.shared_bytes);
  block.arrived = block.exited = 0;
  block.warps.resize(static_cast<size_t>((shape.threads + kLanes - 1) / kLanes));
  for (size_t i = 0; i < block.warps.size(); ++i) {
    const int lanes = std::min(kLanes, shape.threads - static_cast<int>(i) * kLanes);
    block.warps[i].lanes = lanes == kLanes ? ~0u : (1u << lanes) - 1;
    block.warps[i].exited = 0;
    block.warps[i].pending.clear();
  }
  for (int t = 0; t < shape.threads; ++t)
    begin(fibers[t], block, t, slot * static_cast<size_t>(shape.threads) + static_cast<size_t>(t));
}

std::string who_waits() {
  std::string text;
  int named = 0, waiting = 0;
  for (const Block& block : machine.blocks)
    for (int t = 0; t < machine.shape->threads; ++t) {
      const Fiber& fiber = block.fibers[t];
      if (fiber.state == State::done || fiber.state == State::runnable) continue;
      ++waiting;
      const bool new_place =
          t == 0 || block.fibers[t - 1].state != fiber.state || block.fibers[t - 1].where.line != fiber.where.line;
      if (!new_place || ++named > 8) continue;
      const char* what = fiber.state == State::at_barrier ? "the other threads of its block"
                         : fiber.state == State::at_warp  ? "the other lanes of its mask"
                                                          : "a flag that nobody sets any more";
      text += "\n  " + name_of(fiber) + " waits for " + what + " at " + describe(fiber.where);
    }
  return std::to_string(waiting) + " threads wait for ever" + (machine.cooperative ? "" : " (a plain launch)") + text;
}

void run_resident() {
  const bool reverse = options().schedule == Schedule::reverse;
  const size_t n = machine.blocks.size();
  for (size_t i = 0; i < n; ++i) make_all_runnable(machine.blocks[reverse ? n - 1 - i : i]);
  run_next(machine.host);
  self = nullptr;
  if (!machine.fault.empty()) return;
  for (const Block& block : machine.blocks)
    if (block.exited < machine.shape->threads) {
      machine.fault = "deadlock: " + who_waits();
      return;
    }
}

void run_grid(int64_t blocks) {
  const auto threads = static_cast<size_t>(machine.shape->threads);
  const size_t resident = machine.cooperative ? static_cast<size_t>(blocks) : 1;
  machine.blocks.resize(resident);
  std::vector<Fiber>& fibers = machine.fibers;
  if (fibers.size() < resident * threads) fibers.resize(resident * threads);
  machine.stacks.reserve(resident * threads);
  queue.reserve(resident * threads);
  favoured_queue.reserve(resident * threads);
  flag_waiters.clear();
  begin_races(blocks);
  for (int64_t first = 0; first < blocks && machine.fault.empty(); first += static_cast<int64_t>(resident)) {
    begin_shared();
    for (size_t i = 0; i < resident; ++i) {
      const int64_t number = first + static_cast<int64_t>(i);
      const bool reverse = !machine.cooperative && options().schedule == Schedule::reverse;
      begin(machine.blocks[i], reverse ? blocks - 1 - number : number, fibers.data() + i * threads, i);
    }
    run_resident();
  }
}

}  // namespace

Options& options() { return all_options; }

void set_schedule(const std::string& name, uint64_t seed) {
  const char* const names[] = {"in_order", "reverse", "random", "thread_ahead", "block_ahead"};
  for (int i = 0; i < 5; ++i)
    if (name == names[i]) {
      options().schedule = static_cast<Schedule>(i);
      options().seed = seed;
      return;
    }
  throw std::invalid_argument("schedule must be in_order, reverse, random, thread_ahead or block_ahead, got " + name);
}

bool left_out(Where where) { return where.line == left_out_line && describe(where) == left_out_site; }

Statistics statistics() { return machine.statistics; }

void run(const Work& work) {
  machine.kernel = work.kernel;
  machine.shape = work.shape;
  machine.arguments = work.arguments;
  machine.cooperative = work.cooperative;
  machine.fault.clear();
  counting = options().count;
  ++machine.statistics.launches;
  machine.statistics.threads += static_cast<uint64_t>(work.blocks * work.shape->threads);
  random_state = options().seed;
  favoured_block = static_cast<int>(chance() % static_cast<uint64_t>(work.blocks));
  favoured_thread = static_cast<int>(chance() % static_cast<uint64_t>(work.shape->threads));
  run_grid(work.blocks);
  if (!machine.fault.empty()) throw Fault(std::string("kernel ") + work.kernel->name + ": " + machine.fault);
}

uint64_t chance() {  // splitmix64
  uint64_t x = random_state += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

int thread_index() { return self->thread; }
int block_threads() { return machine.shape->threads; }
int block_index() { return self->block->number; }
int grid_blocks() { return static_cast<int>(machine.shape->blocks); }
unsigned char* shared_memory() { return reinterpret_cast<unsigned char*>(self->block->shared->begin); }

void report(const std::string& what, const void* pc) {
  machine.fault = what + (pc != nullptr ? "\n  in " + source_of(pc) : "");
}

void stop() {
  Context& from = self->context;
  self = nullptr;
  switch_context(from, machine.host);
  __builtin_unreachable();
}

void make_runnable(Block& block, int first_thread, unsigned lanes) {
  const bool reverse = options().schedule == Schedule::reverse;
  for (int i = 0; i < kLanes; ++i) {
    const int lane = reverse ? kLanes - 1 - i : i;
    if (lanes >> lane & 1) push(block.fibers[first_thread + lane]);
  }
}

void make_all_runnable(Block& block) {
  const bool reverse = options().schedule == Schedule::reverse;
  const int n = machine.shape->threads;
  for (int i = 0; i < n; ++i) push(block.fibers[reverse ? n - 1 - i : i]);
}

void park() {
  if (machine.stacks.left(self->stack, __builtin_frame_address(0)) < kLeastStack) overran_stack(*self);
  if (self->state == State::at_flag) flag_waiters.push_back(self);
  run_next(self->context);
}

}  // namespace rnnfast::emulate
