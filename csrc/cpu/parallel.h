// All of the threading: one parallel region a call, a spin barrier inside it, and a flag that stops it.
//
// OpenMP is named in parallel.cpp alone (a build without it has one thread). A region runs with denormals flushed to
// zero in every thread, the caller's floating-point mode restored behind it. Where a region cannot be had (nested in
// another one, or in a forked child, where OpenMP may hang) it has one thread.
#pragma once

#include <cstdint>

namespace rnnfast {

struct Region;

// One thread's place in a region. Kernels get it by reference and call the functions below.
struct Team {
  int id;     // 0 is the calling thread
  int count;  // threads in the region: never assume the number that was asked for
  Region* region;
  uint32_t epoch;  // barriers passed by this thread
};

// Wait for all threads. Returns true, to all of them alike, when the region shall stop.
bool team_barrier(Team& team);

// For work without barriers: true when the region shall stop. Thread 0 asks the caller now and then.
bool team_stopped(Team& team);

// Runs body(context, team) on up to `threads` threads and returns true if it was stopped.
bool run_region(int threads, void (*body)(void*, Team&), void* context);

template <class F>
bool parallel(int threads, F&& f) {
  return run_region(threads, [](void* context, Team& team) { (*static_cast<F*>(context))(team); }, &f);
}

// Asked by thread 0 about every 20 ms while a region runs; returns true to stop it. Set by the bindings.
void set_interrupt_check(bool (*check)());

// min(affinity, cgroup quota, RNNFAST_NUM_THREADS, OMP_NUM_THREADS); 1 in a forked child
int default_threads();
// Threads that run at the same time: the processors, or RNNFAST_NUM_THREADS where that is more. With a barrier every
// few microseconds, more would spend their time on taking turns.
int threads_at_once();
bool has_openmp();

// Part `id` of `count` nearly equal parts of [0, n), each but the last starting at a multiple of `grain`.
struct Span {
  int64_t begin, end;
};
inline __attribute__((always_inline)) Span part_of(int64_t n, int id, int count, int64_t grain = 1) {
  const int64_t grains = (n + grain - 1) / grain;
  const int64_t begin = grains * id / count * grain, end = grains * (id + 1) / count * grain;
  return {begin < n ? begin : n, end < n ? end : n};
}

}  // namespace rnnfast
