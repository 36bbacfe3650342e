#include "launches.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include "gemm.h"
#include "rows.h"

namespace rnnfast::cuda {

namespace {

constexpr int kMostSequences = 16;  // of a block of `small`; more take turns at the sums in its shared memory
// Of R in the shared memory of `small`: reading more each step takes as long as a barrier of the grid does.
constexpr int64_t kMostFloats = 32 * 1024;
// Sequences of a batch group of `persistent` from which on cuBLAS's tiles are faster (docs/cuda.md has the
// measurement).
constexpr int64_t kManyForward = 64, kManyBackward = 48;

int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }

const DeviceInfo& device() { return device_info(current_device()); }

// Sequences in rows of `floats` beside `fixed` floats; the most that fit, in steps of `granule`, or 0.
int chunk_that_fits(int64_t fixed, int64_t floats, int granule, int wanted) {
  int chunk = static_cast<int>(ceil_div(wanted, granule)) * granule;
  const int64_t room = static_cast<int64_t>(device().shared_per_block / sizeof(float)) - fixed;
  if (room < floats * granule) return 0;
  return static_cast<int>(std::min<int64_t>(chunk, room / floats / granule * granule));
}

// Asked once for each kernel, size and device: the answer takes longer than a launch.
template <class Kernel>
int64_t resident(const char* name, Kernel kernel, size_t shared_bytes) {
  static std::mutex mutex;
  static std::map<std::tuple<Kernel, size_t, int, int>, int64_t> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [found, fresh] = known.try_emplace({kernel, shared_bytes, current_device(), device().sms}, 0);
  if (fresh) found->second = resident_blocks(name, kernel, kThreads, shared_bytes);
  return found->second;
}

template <class Kernel>
bool plan_small(Kernel kernel, int64_t fixed, int64_t floats, int64_t batch, LaunchPlan& plan) {
  const int wanted = static_cast<int>(std::min<int64_t>(ceil_div(batch, device().sms), kMostSequences));
  const int chunk = chunk_that_fits(fixed, floats, 4, wanted);
  if (chunk == 0) return false;
  const int64_t blocks = ceil_div(batch, std::min(wanted, chunk));
  plan = {Recurrence::small,
          false,
          0,
          static_cast<int>(blocks),
          static_cast<size_t>(fixed + chunk * floats) * sizeof(float),
          {1, static_cast<int>(blocks), chunk, nullptr}};
  return resident("small", kernel, plan.shared_bytes) > 0;
}

template <class Kernel>
bool plan_persistent(const Kernel* kernels, const PersistentShape* shapes, int64_t hidden, int64_t batch, bool back,
                     LaunchPlan& plan) {
  int size = 0;
  while (size < kPersistentSizes && hidden > 32 * kLaneWeights[size]) ++size;
  if (size == kPersistentSizes) return false;
  const PersistentShape& shape = shapes[size];
  const int granule = back ? shape.backward_rows : shape.forward_rows;
  const int64_t floats = back ? shape.backward_floats : shape.forward_floats;
  const int64_t unit_groups = ceil_div(hidden, shape.units);
  const auto groups_of = [&](int chunk) {
    const int64_t at_once = resident("persistent", kernels[size], static_cast<size_t>(chunk * floats) * sizeof(float));
    return std::min(at_once / unit_groups, ceil_div(batch, granule));
  };
  int chunk = chunk_that_fits(0, floats, granule, 16);
  if (chunk == 0) return false;
  int64_t batch_groups = groups_of(chunk);
  if (batch_groups == 0) return false;
  chunk = std::min<int>(chunk, static_cast<int>(ceil_div(ceil_div(batch, batch_groups), granule)) * granule);
  plan = {Recurrence::persistent,
          false,
          size,
          static_cast<int>(unit_groups * batch_groups),
          static_cast<size_t>(chunk * floats) * sizeof(float),
          {static_cast<int>(unit_groups), static_cast<int>(batch_groups), chunk, nullptr}};
  return true;
}

// In bf16: `sums` numbers of a unit and sequence come out of the products, 1 or one a gate.
template <class Kernel>
bool plan_tensor(Kernel kernel, int sums, int64_t hidden, int64_t batch, LaunchPlan& plan) {
  if (hidden > int64_t{kTensorBlocks} * kWarps * kTensorK) return false;
  const int64_t unit_groups = ceil_div(hidden, kTensorUnits);
  const size_t shared_bytes = sizeof(float) * kWarps * kTensorSequences * kTensorUnits * static_cast<size_t>(sums);
  const int64_t batch_groups = std::min(resident("tensor", kernel, shared_bytes) / unit_groups, batch);
  if (batch_groups == 0) return false;
  plan = {Recurrence::persistent,
          true,
          0,
          static_cast<int>(unit_groups * batch_groups),
          shared_bytes,
          {static_cast<int>(unit_groups), static_cast<int>(batch_groups), kTensorSequences, nullptr}};
  return true;
}

template <class Small, class Persistent>
LaunchPlan first_of(Choice choice, int64_t batch, int64_t many, Small small, Persistent persistent) {
  const LaunchPlan step{Recurrence::step, choice.bf16, 0, 0, 0, {}};
  LaunchPlan plan = step;
  const bool any = choice.wish == Recurrence::automatic;
  if ((any || choice.wish == Recurrence::small) && !choice.bf16 && small(plan)) return plan;
  if ((any || choice.wish == Recurrence::persistent) && persistent(plan) &&
      (!any || ceil_div(batch, plan.grid.batch_groups) < many))
    return plan;
  return step;
}

// A zeroed counter for each batch group, each in a cache line of its own.
DeviceBuffer<unsigned> counters(const LaunchPlan& plan, const Context& context) {
  return zeros<unsigned>(context, int64_t{plan.grid.batch_groups} * 32);
}

int64_t blocks_of(int64_t elements) { return ceil_div(elements, kThreads); }

void step_by_step(const CellKernels& kernels, const ForwardParams& f, const Context& context, const int32_t* active,
                  bool bf16) {
  const int64_t hidden = f.hidden, width = kernels.gates * hidden, batch = f.seq.batch;
  const DeviceBuffer<float> operand(context, batch * hidden), product(context, batch * width);
  first_operand({f.seq, {}, hidden, {f.state0[0]}, f.y, f.y_stride, operand.data()}, context.stream);
  const Operand r(f.r, width, hidden, bf16, context);
  const DeviceBuffer<Bf16> rounded(context, bf16 ? batch * hidden : 0);
  if (bf16) round_rows(operand.data(), batch, hidden, rounded.data(), hidden, context.stream);
  ForwardLaunch p{f, {0, product.data(), operand.data()}, {}, {nullptr, rounded.data(), static_cast<int>(hidden)}};
  for (int64_t s = 0; s < f.seq.steps; ++s) {
    const int64_t rows = active != nullptr ? active[s] : batch;
    gemm({rows, width, hidden, bf16 ? static_cast<const void*>(rounded.data()) : operand.data(), hidden, false,
          r.data(), hidden, true, product.data(), width, 0, bf16},
         context.stream);
    p.step.step = s;
    launch("step_forward", kernels.step_forward, {blocks_of(rows * hidden), kThreads, 0, context.stream}, p);
  }
}

void step_by_step(const CellKernels& kernels, const BackwardParams& b, const Context& context, const int32_t* active,
                  bool bf16) {
  const int64_t hidden = b.hidden, width = kernels.gates * hidden, batch = b.seq.batch;
  const DeviceBuffer<float> operand(context, bf16 ? 0 : batch * width), product(context, batch * hidden);
  const DeviceBuffer<Bf16> rounded(context, bf16 ? batch * width : 0);
  const Operand r(b.r, width, hidden, bf16, context);
  BackwardLaunch p{b, {0, product.data(), operand.data()}, {}, {nullptr, rounded.data(), static_cast<int>(width)}};
  for (int64_t s = b.seq.steps - 1; s >= -1; --s) {
    const auto rows_at = [&](int64_t t) { return t >= b.seq.steps ? 0 : active != nullptr ? active[t] : batch; };
    gemm({rows_at(s + 1), hidden, width, bf16 ? static_cast<const void*>(rounded.data()) : operand.data(), width, false,
          r.data(), hidden, false, product.data(), hidden, 0, bf16},
         context.stream);
    p.step.step = s;
    launch("step_backward", kernels.step_backward,
           {blocks_of(rows_at(std::max<int64_t>(s, 0)) * hidden), kThreads, 0, context.stream}, p);
  }
}

// What `tensor` reads, in memory of its own: R, and both halves of the operand, zeros.
struct TensorMemory {
  TensorMemory(const Context& context, int64_t rows, int64_t k, int64_t batch)
      : padded(ceil_div(k, kTensorK) * kTensorK),
        r(context, rows * padded),
        operand(zeros<Bf16>(context, 2 * batch * padded)) {}
  Bf16Params params() const { return {r.data(), operand.data(), static_cast<int>(padded)}; }
  int64_t padded;
  DeviceBuffer<Bf16> r, operand;
};

bool run_tensor(const CellKernels& kernels, const Launch& shape, ForwardLaunch p, const Context& context) {
  const ForwardParams& f = p.f;
  const int64_t hidden = f.hidden, rows = kernels.gates * hidden, batch = f.seq.batch;
  const TensorMemory memory(context, rows, hidden, batch);
  const DeviceBuffer<float> first(context, batch * hidden);
  first_operand({f.seq, {}, hidden, {f.state0[0]}, f.y, f.y_stride, first.data()}, context.stream);
  round_rows(first.data(), batch, hidden, memory.operand.data(), memory.padded, context.stream);
  round_rows(f.r, rows, hidden, memory.r.data(), memory.padded, context.stream);
  p.bf16 = memory.params();
  return launch_cooperative("tensor_forward", kernels.tensor_forward, shape, p);
}

bool run_tensor(const CellKernels& kernels, const Launch& shape, BackwardLaunch p, const Context& context) {
  const int64_t hidden = p.b.hidden, width = kernels.gates * hidden;
  const TensorMemory memory(context, hidden, width, p.b.seq.batch);
  const DeviceBuffer<float> across(context, hidden * width);
  transpose(p.b.r, width, hidden, across.data(), false, context.stream);
  round_rows(across.data(), hidden, width, memory.r.data(), memory.padded, context.stream);
  p.bf16 = memory.params();
  return launch_cooperative("tensor_backward", kernels.tensor_backward, shape, p);
}

}  // namespace

LaunchPlan plan_forward(const CellKernels& k, int64_t hidden, int64_t batch, Choice choice) {
  return first_of(
      choice, batch, kManyForward,
      [&](LaunchPlan& plan) {
        if (hidden > 256) return false;
        const SmallSize size = k.small_forward_size(static_cast<int>(hidden));
        if (choice.wish == Recurrence::automatic && size.fixed > kMostFloats) return false;
        return plan_small(k.small_forward, size.fixed, size.sequence, batch, plan);
      },
      [&](LaunchPlan& plan) {
        return choice.bf16 ? plan_tensor(k.tensor_forward, k.gates, hidden, batch, plan)
                           : plan_persistent(k.persistent_forward, k.shapes, hidden, batch, false, plan);
      });
}

LaunchPlan plan_backward(const CellKernels& k, int64_t hidden, int64_t batch, Choice choice) {
  return first_of(
      choice, batch, kManyBackward,
      [&](LaunchPlan& plan) {
        if (hidden > 256) return false;
        const SmallSize size = k.small_backward_size(static_cast<int>(hidden));
        if (choice.wish == Recurrence::automatic && size.fixed > kMostFloats) return false;
        return plan_small(k.small_backward, size.fixed, size.sequence, batch, plan);
      },
      [&](LaunchPlan& plan) {
        return choice.bf16 ? plan_tensor(k.tensor_backward, 1, hidden, batch, plan)
                           : plan_persistent(k.persistent_backward, k.shapes, hidden, batch, true, plan);
      });
}

void run_forward(const CellKernels& kernels, const LaunchPlan& plan, const ForwardParams& f, const Context& context,
                 const int32_t* active) {
  if (plan.kind == Recurrence::step) return step_by_step(kernels, f, context, active, plan.bf16);
  const Launch shape{plan.blocks, kThreads, plan.shared_bytes, context.stream};
  ForwardLaunch p{f, {}, plan.grid, {}};
  if (plan.kind == Recurrence::small) {
    const DeviceBuffer<float> r(context, kernels.gates * f.hidden * f.hidden);
    transpose(f.r, kernels.gates * f.hidden, f.hidden, r.data(), false, context.stream);
    p.f.r = r.data();
    launch("small_forward", kernels.small_forward, shape, p);
  } else {
    const DeviceBuffer<unsigned> arrived = counters(plan, context);
    p.grid.arrived = arrived.data();
    const bool runs = plan.bf16
                          ? run_tensor(kernels, shape, p, context)
                          : launch_cooperative("persistent_forward", kernels.persistent_forward[plan.size], shape, p);
    if (!runs) step_by_step(kernels, f, context, active, plan.bf16);
  }
}

void run_backward(const CellKernels& kernels, const LaunchPlan& plan, const BackwardParams& b, const Context& context,
                  const int32_t* active) {
  if (plan.kind == Recurrence::step) return step_by_step(kernels, b, context, active, plan.bf16);
  const Launch shape{plan.blocks, kThreads, plan.shared_bytes, context.stream};
  BackwardLaunch p{b, {}, plan.grid, {}};
  if (plan.kind == Recurrence::small) {
    launch("small_backward", kernels.small_backward, shape, p);
  } else {
    const DeviceBuffer<unsigned> arrived = counters(plan, context);
    p.grid.arrived = arrived.data();
    const bool runs = plan.bf16
                          ? run_tensor(kernels, shape, p, context)
                          : launch_cooperative("persistent_backward", kernels.persistent_backward[plan.size], shape, p);
    if (!runs) step_by_step(kernels, b, context, active, plan.bf16);
  }
}

const char* recurrence_name(Recurrence r) {
  static const char* const names[] = {"automatic", "small", "persistent", "step"};
  return names[static_cast<int>(r)];
}

}  // namespace rnnfast::cuda
