#include "parallel.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#ifdef RNNFAST_OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace rnnfast {

namespace {

constexpr int kMaxThreads = 256;
constexpr int kPausesBeforeSleep = 2000;  // tens of microseconds, more than a step takes
constexpr auto kInterruptInterval = std::chrono::milliseconds(20);

std::atomic<bool (*)()> interrupt_check{nullptr};

// OpenMP's threads are gone in a forked child, and a region hangs there if anyone (torch, say) had used them before.
std::atomic<bool> forked{false};
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

#if defined(__x86_64__)
using FloatMode = unsigned;
constexpr FloatMode kFlush = 0x8040;  // FTZ and DAZ
FloatMode float_mode() { return _mm_getcsr(); }
void set_float_mode(FloatMode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__)
using FloatMode = uint64_t;
constexpr FloatMode kFlush = FloatMode{1} << 24;  // FZ
FloatMode float_mode() {
  FloatMode mode;
  asm volatile("mrs %0, fpcr" : "=r"(mode));
  return mode;
}
void set_float_mode(FloatMode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
using FloatMode = unsigned;
constexpr FloatMode kFlush = 0;
FloatMode float_mode() { return 0; }
void set_float_mode(FloatMode) {}
#endif

// This thread's floating-point mode, for as long as it lives.
class InFloatMode {
 public:
  explicit InFloatMode(FloatMode mode) : before_(float_mode()) { set_float_mode(mode); }
  ~InFloatMode() { set_float_mode(before_); }
  InFloatMode(const InFloatMode&) = delete;
  InFloatMode& operator=(const InFloatMode&) = delete;

 private:
  FloatMode before_;
};

// Denormals are flushed in a region: vanishing gradients would otherwise cost up to twenty times the time.
FloatMode flushing() { return float_mode() | kFlush; }

}  // namespace

struct Region {
  struct alignas(64) Arrival {
    std::atomic<uint32_t> epoch{0};
  };
  explicit Region(int threads) : arrived(threads > 1 ? static_cast<size_t>(threads) : 0) {}
  std::vector<Arrival> arrived;
  alignas(64) std::atomic<bool> stop{false};
  // What thread 0 says at a barrier, by the parity of the epoch: it is at most one barrier ahead of the others, so a
  // slow thread still reads what all the others read there.
  std::atomic<bool> stop_at[2] = {false, false};
  std::chrono::steady_clock::time_point next_check = std::chrono::steady_clock::now() + kInterruptInterval;
  uint32_t calls = 0;
  const FloatMode callers_mode = float_mode();
};

bool team_stopped(Team& team) {
  Region& region = *team.region;
  if (team.id == 0) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= region.next_check) {
      region.next_check = now + kInterruptInterval;
      const auto check = interrupt_check.load(std::memory_order_relaxed);
      const InFloatMode callers(region.callers_mode);  // what asks may run the caller's own functions
      if (check != nullptr && check()) region.stop.store(true, std::memory_order_relaxed);
    }
  }
  return region.stop.load(std::memory_order_relaxed);
}

namespace {

// Spins while the others are about to come. Then it sleeps, so that where processes share the cores a waiting thread
// does not use up the time of the one it waits for.
void wait_for(const std::atomic<uint32_t>& arrived, uint32_t epoch) {
  int spins = 0;
  for (uint32_t at = arrived.load(std::memory_order_acquire); static_cast<int32_t>(at - epoch) < 0;
       at = arrived.load(std::memory_order_acquire)) {
    if (++spins < kPausesBeforeSleep) {
      pause();
    } else {
      arrived.wait(at, std::memory_order_acquire);
    }
  }
}

}  // namespace

bool team_barrier(Team& team) {
  Region& region = *team.region;
  const uint32_t epoch = ++team.epoch;
  std::atomic<bool>& said = region.stop_at[epoch & 1];
  if (team.id == 0) {
    // A clock at every sixteenth barrier is enough where steps are short, and costs nothing where they are long.
    const bool stop = (region.calls++ % 16 == 0) ? team_stopped(team) : region.stop.load(std::memory_order_relaxed);
    said.store(stop, std::memory_order_relaxed);
  }
  if (team.count > 1) {
    std::atomic<uint32_t>& mine = region.arrived[static_cast<size_t>(team.id)].epoch;
    mine.store(epoch, std::memory_order_release);
    mine.notify_all();  // a load where nobody sleeps
    for (int other = 0; other < team.count; ++other) wait_for(region.arrived[static_cast<size_t>(other)].epoch, epoch);
  }
  return said.load(std::memory_order_relaxed);
}

bool run_region(int threads, void (*body)(void*, Team&), void* context) {
#ifdef RNNFAST_OPENMP
  threads = threads < kMaxThreads ? threads : kMaxThreads;
  if (threads > 1 && !omp_in_parallel() && !forked) {
    Region region(threads);
#pragma omp parallel num_threads(threads)
    {
      const InFloatMode flush(flushing());
      Team team{omp_get_thread_num(), omp_get_num_threads(), &region, 0};
      body(context, team);
    }
    return region.stop;
  }
#else
  (void)threads;
#endif
  Region region(1);
  const InFloatMode flush(flushing());
  Team team{0, 1, &region, 0};
  body(context, team);
  return region.stop;
}

void set_interrupt_check(bool (*check)()) { interrupt_check = check; }

bool has_openmp() {
#ifdef RNNFAST_OPENMP
  return true;
#else
  return false;
#endif
}

namespace {

int from_environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  const int n = text != nullptr ? std::atoi(text) : 0;
  return n > 0 ? n : otherwise;
}

// Processors' worth of time that the control group allows (v2, then v1), rounded up.
int cgroup_quota() {
  double quota = -1, period = -1;
  if (FILE* f = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
    if (std::fscanf(f, "%lf %lf", &quota, &period) != 2) quota = -1;  // "max" means none
    std::fclose(f);
  } else {
    for (auto [path, value] : {std::pair{"/sys/fs/cgroup/cpu/cpu.cfs_quota_us", &quota},
                               std::pair{"/sys/fs/cgroup/cpu/cpu.cfs_period_us", &period}}) {
      if (FILE* g = std::fopen(path, "r")) {
        if (std::fscanf(g, "%lf", value) != 1) *value = -1;
        std::fclose(g);
      }
    }
  }
  return quota > 0 && period > 0 ? static_cast<int>(std::ceil(quota / period)) : kMaxThreads;
}

int allowed_processors() {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
#endif
  const int n = static_cast<int>(std::thread::hardware_concurrency());
  return n > 0 ? n : 1;
}

}  // namespace

int default_threads() {
  if (!has_openmp() || forked) return 1;
  static const int limit = std::min({cgroup_quota(), from_environment("RNNFAST_NUM_THREADS", kMaxThreads),
                                     from_environment("OMP_NUM_THREADS", kMaxThreads)});
  return std::max(1, std::min(limit, allowed_processors()));
}

int threads_at_once() {
  static const int asked = from_environment("RNNFAST_NUM_THREADS", 1);
  return std::max(asked, allowed_processors());
}

}  // namespace rnnfast
