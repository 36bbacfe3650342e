#include "limits.h"

#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "buffer.h"
#include "cpu/dispatch.h"
#include "error.h"

namespace rnnfast {

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Keeps a thread on the id-th processor that it may run on, for as long as it lives: two that were put on the same one
// would measure the scheduler.
class Pinned {
 public:
#ifdef __linux__
  explicit Pinned(int id) {
    if (sched_getaffinity(0, sizeof(before_), &before_) != 0) return;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &before_) || id-- > 0) continue;
      cpu_set_t one;
      CPU_ZERO(&one);
      CPU_SET(cpu, &one);
      pinned_ = sched_setaffinity(0, sizeof(one), &one) == 0;
      return;
    }
  }
  ~Pinned() {
    if (pinned_) sched_setaffinity(0, sizeof(before_), &before_);
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

 private:
  cpu_set_t before_;
  bool pinned_ = false;
#else
  explicit Pinned(int) {}
#endif
};

constexpr int kLeastRounds = 8;

// The highest rate of a round, in which each thread does work(team) and says how much that was.
template <class F>
double best_rate(int threads, double seconds, F&& work) {
  struct alignas(64) Share {
    double amount, time;
  };
  std::vector<Share> shares(static_cast<size_t>(threads));
  double best = 0;
  int rounds = 0;  // of which the first ones may have seen threads come to their processors
  std::atomic<bool> over{false};
  const auto began = Clock::now();
  const bool stopped = parallel(threads, [&](Team& team) {
    const Pinned pinned(team.id);
    Share& mine = shares[static_cast<size_t>(team.id)];
    while (!over) {
      if (team_barrier(team)) return;
      const auto start = Clock::now();
      mine.amount = static_cast<double>(work(team));
      mine.time = since(start);
      if (team_barrier(team)) return;
      if (team.id == 0) {
        Share all{0, 0};
        for (int i = 0; i < team.count; ++i) {
          all.amount += shares[static_cast<size_t>(i)].amount;
          all.time = std::max(all.time, shares[static_cast<size_t>(i)].time);
        }
        best = std::max(best, all.amount / all.time);
        over = ++rounds >= kLeastRounds && since(began) >= seconds;
      }
      if (team_barrier(team)) return;
    }
  });
  if (stopped) throw Interrupted();
  return best;
}

constexpr int64_t kSink = 512;  // floats, more than any loop takes
constexpr int64_t kRounds = 50'000;

// Of multiply-adds of x and x.
template <class E>
double peak(E x, int threads, double seconds) {
  Buffer<float> sink(kSink * threads);
  std::fill_n(sink.data(), sink.size(), 1.0f);
  return best_rate(threads, seconds,
                   [&](Team& team) { return kernels<float, E>().fma_loop(kRounds, x, sink.data() + team.id * kSink); });
}

}  // namespace

double peak_float32(int threads, double seconds) { return peak(1.0f, threads, seconds); }

double peak_bfloat16(int threads, double seconds) {
  // An instruction set that has an instruction for it has a table of its own.
  const bool emulated = std::strcmp(kernels<float, Bf16x2>().isa, kernels<float>().isa) == 0;
  return emulated ? 0 : peak(Bf16x2{0x3f803f80}, threads, seconds);  // two ones
}

double read_bandwidth(int64_t bytes, int threads, double seconds) {
  constexpr int64_t kAtLeast = 16 << 20;  // bytes of a round, so that the clock costs nothing
  const int64_t n = (bytes + 2047) / 2048 * 2048 / static_cast<int64_t>(sizeof(float));
  const int64_t size = n * static_cast<int64_t>(sizeof(float)), times = std::max<int64_t>(1, kAtLeast / size);
  Buffer<float> data(n * threads), sink(kSink * threads);
  std::fill_n(data.data(), data.size(), 1.0f);  // pages that nobody wrote are all one page
  std::fill_n(sink.data(), sink.size(), 1.0f);
  return best_rate(threads, seconds, [&](Team& team) {
    kernels<float>().read_loop(data.data() + team.id * n, n, times, sink.data() + team.id * kSink);
    return size * times;
  });
}

double exchange_time(double seconds) {
  constexpr uint32_t kTimes = 200;
  struct alignas(64) Flag {
    std::atomic<uint32_t> count{0};
  };
  Flag flags[2];
  uint32_t count[2] = {0, 0};
  const double rate = best_rate(2, seconds, [&](Team& team) {
    if (team.count < 2) return uint32_t{0};
    const size_t me = static_cast<size_t>(team.id);
    std::atomic<uint32_t>&mine = flags[me].count, &other = flags[1 - me].count;
    for (uint32_t i = 0; i < kTimes; ++i) {
      mine.store(++count[me], std::memory_order_release);
      for (int spins = 0; static_cast<int32_t>(other.load(std::memory_order_acquire) - count[me]) < 0; ++spins)
        if (spins > 100'000) std::this_thread::yield();  // where there is one processor, the other one waits for it
    }
    return me == 0 ? kTimes : 0;
  });
  return rate > 0 ? 1 / rate : 0;
}

}  // namespace rnnfast
