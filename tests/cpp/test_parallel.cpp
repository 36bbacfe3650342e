// Regions: how many threads they have, barriers that every thread passes alike, and the caller's floating-point mode.
#include "cpu/parallel.h"

#include <cstdio>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

using namespace rnnfast;

int failures = 0;

void check(bool right, const char* what) {
  if (right) return;
  ++failures;
  std::printf("%s\n", what);
}

// The whole register on x86: the bits that say what has happened stay as they were too.
uint64_t floating_point_mode() {
#if defined(__x86_64__)
  return _mm_getcsr();
#elif defined(__aarch64__)
  uint64_t mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
#else
  return 0;
#endif
}

void flushed_inside_restored_outside() {
  volatile double tiny = 1e-310, one = 1;
  const uint64_t before = floating_point_mode();
  for (int threads : {1, 3}) {
    bool flushed[3] = {true, true, true};
    parallel(threads, [&](Team& team) { flushed[team.id] = tiny * one == 0; });
    check(floating_point_mode() == before, "a region leaves another floating-point mode");
    check(flushed[0] && flushed[1] && flushed[2], "a thread of a region does not flush denormals");
  }
  check(tiny * one != 0, "denormals are flushed outside a region");
}

void a_nested_region_has_one_thread() {
  int counts[3] = {1, 1, 1};
  parallel(3, [&](Team& team) { parallel(3, [&](Team& inner) { counts[team.id] = inner.count; }); });
  check(counts[0] == 1 && counts[1] == 1 && counts[2] == 1, "a nested region has several threads");
}

// More threads than processors, thousands of barriers: each sees what the others wrote before it.
void barriers_order_what_threads_write() {
  constexpr int kThreads = 5, kSteps = 3000;
  std::vector<int> step(kThreads, 0);
  bool right[kThreads] = {true, true, true, true, true};
  parallel(kThreads, [&](Team& team) {
    for (int s = 1; s <= kSteps; ++s) {
      step[static_cast<size_t>(team.id)] = s;
      if (team_barrier(team)) right[team.id] = false;
      for (int other = 0; other < team.count; ++other)
        if (step[static_cast<size_t>(other)] != s) right[team.id] = false;
      if (team_barrier(team)) right[team.id] = false;
    }
  });
  for (bool each : right) check(each, "a barrier let a thread pass too early, or stopped it");
}

void a_stop_reaches_all_threads_at_the_same_barrier() {
  set_interrupt_check([] { return true; });
  int stopped_at[3] = {0, 0, 0}, count = 0;
  const bool stopped = parallel(3, [&](Team& team) {
    if (team.id == 0) count = team.count;
    while (!team_barrier(team)) ++stopped_at[team.id];
  });
  set_interrupt_check(nullptr);
  check(stopped, "a region that was stopped does not say so");
  for (int id = 1; id < count; ++id) check(stopped_at[id] == stopped_at[0], "threads stop at different barriers");
  check(!parallel(3, [](Team& team) { team_barrier(team); }), "the next region is stopped as well");
}

}  // namespace

int main() {
  flushed_inside_restored_outside();
  a_nested_region_has_one_thread();
  barriers_order_what_threads_write();
  a_stop_reaches_all_threads_at_the_same_barrier();
  return failures > 0;
}
