#include "plan.h"

#include <algorithm>
#include <atomic>
#include <limits>

#include "limits.h"

namespace rnnfast {

namespace {

// Below these a second thread costs more than it brings; see benchmarks/ for the measurements.
constexpr double kFlopsForThreads = 1e7;          // of a call
constexpr double kFlopsForExchange = 3e11;        // of a step, for each second of an exchange between two cores
constexpr int64_t kRowsOfStep = 16;               // that a single step of fewer counts as
constexpr int64_t kSequencesForBatchSplit = 4;    // a thread
constexpr int64_t kSequencesForWeights = 16;      // a thread: up to here weights from beyond L2 may come too late, and
constexpr int64_t kSequencesForManyWeights = 32;  // up to here where R is more than two L2
constexpr int64_t kWeightsOfACore = 128 * 1024;   // of R: they stay in a core's L2 beside the rest
constexpr int64_t kSweptCaches = 4;               // beyond so many L2 of weights hardly anything is found there again
constexpr int64_t kSweptSequences = 6;            // more take several tiles: time enough to fetch what is next from L3
constexpr int64_t kSweptPanels = 4;               // of a group; in larger ones the last read is W's alone
// Of pre-activations that wait for their step in L2: as many as W has, which is read again for each chunk, but at least
// these and at most a quarter of L2 or, in bf16, whose products do not hide that W is read, kMostChunkBytes.
constexpr int64_t kChunkBytes = 256 * 1024;
constexpr int64_t kMostChunkBytes = 2 << 20;

// Between 40 ns and half a microsecond, by where the cores lie. Measured in less than a millisecond, when it is first
// asked for; and where that was not soon done, which also comes of other threads on these cores, such as another
// library's that wait for work, again at the 2nd, 4th, 8th ... time: the least counts.
double seconds_of_exchange() {
  constexpr double kSoon = 1.5e-7;
  constexpr unsigned kTimes = 4096;
  // Stays infinite where there is no second thread.
  static std::atomic<double> least{std::numeric_limits<double>::infinity()};
  static std::atomic<unsigned> asked{0};
  if (least.load(std::memory_order_relaxed) <= kSoon || asked.load(std::memory_order_relaxed) >= kTimes) return least;
  const unsigned now = ++asked;
  if ((now & (now - 1)) != 0) return least;
  const double seconds = exchange_time(1e-4);
  double before = least;
  while (seconds > 0 && seconds < before && !least.compare_exchange_weak(before, seconds)) {
  }
  return least;
}

}  // namespace

Plan::Plan(const CellShape& cell, int64_t lanes, int64_t hidden, int directions, const Schedule& schedule, double flops,
           int max_threads)
    : split(Split::none), threads(max_threads), batch(schedule.batch()), ragged(schedule.ragged()) {
  panels = (hidden + lanes - 1) / lanes;
  if (flops < kFlopsForThreads) threads = 1;
  const double step_flops =
      2.0 * cell.recurrent.count * static_cast<double>(hidden) * static_cast<double>(hidden * batch);
  const int64_t r_weights = cell.recurrent.count * hidden * hidden;
  const int64_t r_bytes = r_weights * static_cast<int64_t>(sizeof(float)), cache = core_cache_bytes();
  const int64_t few = r_bytes > 2 * cache ? kSequencesForManyWeights : r_bytes > cache / 2 ? kSequencesForWeights : 0;
  const bool deal_weights = (schedule.longest() == 1 && r_weights > kWeightsOfACore) || batch <= few * threads;
  if (threads > 1 && batch >= kSequencesForBatchSplit * threads && !deal_weights) {
    split = Split::batch;
  } else if (directions == 2 && (threads == 2 || threads == 3) && r_weights <= kWeightsOfACore) {
    split = Split::directions;
  } else if (threads > 1 && panels > 1 && step_flops > kFlopsForExchange * seconds_of_exchange()) {
    split = Split::panels;
  }
  if (split != Split::batch) threads = std::min(threads, threads_at_once());
}

Part Plan::part(const Team& team, int direction) const {
  const Part all{{0, 1, batch}, {0, panels}, false};
  switch (split) {
    case Split::batch: {
      // Sorted sequences are dealt in turn, so that all threads have long and short ones; equal ones in blocks, so
      // that no two threads write to one cache line.
      if (ragged) return {{team.id, team.count, batch}, {0, panels}, false};
      const Span span = part_of(batch, team.id, team.count);
      return {{span.begin, 1, span.end}, {0, panels}, false};
    }
    case Split::panels: {
      if (team.count == 1) return all;
      return {{0, 1, batch}, part_of(panels, team.id, team.count), true};
    }
    case Split::directions:
      if (team.id == direction % team.count) return all;
      break;
    case Split::none:
      if (team.id == 0) return all;
      break;
  }
  return {{0, 1, 0}, {0, 0}, false};
}

int64_t weights_of(const RnnConfig& config, bool one_hot) {
  const CellShape cell = cell_shape(config.cell);
  int64_t sum = 0;
  for (int layer = 0; layer < config.layers; ++layer) {
    const int64_t inputs = layer == 0 && one_hot ? 0 : cell.input.count * config.input_of(layer);
    sum += config.directions * config.hidden * (cell.recurrent.count * config.hidden + inputs);
  }
  return sum;
}

double product_flops(const RnnConfig& config, const Schedule& schedule, bool one_hot) {
  const int64_t rows = schedule.longest() == 1 ? std::max(schedule.rows(), kRowsOfStep) : schedule.rows();
  return 2.0 * static_cast<double>(rows) * static_cast<double>(weights_of(config, one_hot));
}

int64_t packed_inputs(const RnnConfig& config, bool one_hot, int64_t lanes) {
  int64_t width = std::max(lanes, one_hot ? config.hidden : std::max(config.input, config.hidden));
  if (config.layers > 1) width = std::max(width, config.directions * config.hidden);
  return kSumBlock * width;
}

template <class T, class E>
ThreadScratch<T, E>::ThreadScratch(const Plan& plan, const CellShape& cell, int64_t rows, int64_t input_bytes,
                                   bool unpacked, int64_t reserved) {
  const Kernels<T, E>& k = kernels<T, E>();
  // The team may turn out smaller than planned, so a thread has room for any part.
  const int64_t row_bytes = plan.panels * cell.pre_activations * k.lanes * static_cast<int64_t>(sizeof(T));
  const int64_t most = std::is_same_v<T, E> ? std::max(kChunkBytes, core_cache_bytes() / 4) : kMostChunkBytes;
  const int64_t chunk = unpacked ? rows : std::clamp(input_bytes, kChunkBytes, most) / row_bytes;
  chunk_rows_ = input_bytes > 0 ? std::min(std::max(plan.batch, chunk), std::max<int64_t>(rows, 1)) : 0;
  pre_ = Buffer<T>(std::max(chunk_rows_ * plan.panels * cell.pre_activations * k.lanes, reserved));
  step_rows_ = Buffer<unsigned char>(plan.batch * k.step_row_bytes);
  x_rows_ = Buffer<const E*>(std::max(chunk_rows_, unpacked ? plan.batch : 0));
  if (unpacked) weights_ = Buffer<E>(kUnpackedBytes / static_cast<int64_t>(sizeof(E)));
}

template <class T, class E>
Scratch<T, E> ThreadScratch<T, E>::view() {
  return {pre_.data(), chunk_rows_, step_rows_.data(), x_rows_.data(), weights_.data()};
}

template <class T, class E>
int64_t input_weight_bytes(const RnnConfig& config) {
  const int64_t inputs = std::max(config.input, config.layers > 1 ? config.directions * config.hidden : 0);
  return inputs * cell_shape(config.cell).input.count * config.hidden * static_cast<int64_t>(sizeof(E)) /
         kernels<T, E>().depth;
}

template <class T, class E>
void single_step(const RnnConfig& config, const ForwardArgs<T, E>& args, const Scratch<T, E>& scratch, Part part,
                 bool from_last, Team& team) {
  const Kernels<T, E>& k = kernels<T, E>();
  const auto forward = k.cell[config.cell].forward;
  const CellShape cell = cell_shape(config.cell);
  const Span own = part.panels;
  const int64_t inputs = args.token != nullptr ? 0 : args.input;
  const int64_t per_unit = cell.input.count * inputs + (args.from_zeros ? 0 : cell.recurrent.count * args.hidden);
  const int64_t bytes = (own.end - own.begin) * k.lanes * per_unit * static_cast<int64_t>(sizeof(E));
  const int64_t cache = core_cache_bytes() * k.depth;
  const int64_t most = args.schedule.batch > kSweptSequences ? cache : kSweptCaches * cache;
  if (bytes <= cache / 2 || bytes > most) return forward(args, scratch, part, team);
  const int64_t groups = (own.end - own.begin + kSweptPanels - 1) / kSweptPanels;
  const bool barrier = part.barrier;
  for (int64_t i = 0; i < groups; ++i) {
    const int64_t first = own.begin + (from_last ? groups - 1 - i : i) * kSweptPanels;
    part.panels = {first, std::min(first + kSweptPanels, own.end)};
    part.barrier = barrier && i + 1 == groups;
    forward(args, scratch, part, team);
  }
}

#define RNNFAST_INSTANTIATE(T, E)                              \
  template class ThreadScratch<T, E>;                          \
  template int64_t input_weight_bytes<T, E>(const RnnConfig&); \
  template void single_step(const RnnConfig&, const ForwardArgs<T, E>&, const Scratch<T, E>&, Part, bool, Team&);
RNNFAST_INSTANTIATE(float, float)
RNNFAST_INSTANTIATE(double, double)
RNNFAST_INSTANTIATE(float, Bf16x2)

}  // namespace rnnfast
