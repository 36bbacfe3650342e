#include "stepper.h"

#include <algorithm>

namespace rnnfast {

namespace {

// As a plan counts the work of a call. A step of few rows takes as long as its weights need to come from L2 or beyond,
// which is as long as some more rows take. A region of one step finds the threads of the one before still awake; in one
// of many steps (`in_loops`) only the first has to start them.
double flops_of(const RnnConfig& config, const CellShape& cell, int64_t batch, bool in_loops) {
  constexpr int64_t kRows = 8;
  const double awake = in_loops ? 8 : 2;
  const int64_t weights = config.layers * config.hidden * cell.recurrent.count * 2 * config.hidden;
  return awake * 2.0 * static_cast<double>(std::max(batch, kRows) * weights);
}

}  // namespace

template <class T, class E>
RnnStepper<T, E>::RnnStepper(const RnnConfig& config, std::shared_ptr<const PackedRnn<T, E>> packed, int64_t batch,
                             int max_threads, bool in_loops)
    : config_(config),
      packed_(std::move(packed)),
      batch_(batch),
      cell_(cell_shape(config.cell)),
      schedule_(BatchLayout{1, batch, nullptr, nullptr, 0, 0}),
      plan_(cell_, kernels<T>().lanes, config.hidden, 1, schedule_, flops_of(config, cell_, batch, in_loops),
            max_threads) {
  if (plan_.split == Split::none) plan_.threads = 1;
  set_rows(batch);
  padded_ = plan_.panels * kernels<T>().lanes;
  const int64_t size = config.layers * batch * padded_;
  for (auto& half : state_) {
    for (int k = 0; k < cell_.states; ++k) {
      half[k] = Buffer<T>(size);
      std::fill_n(half[k].data(), size, T(0));  // the padding is read as the cell's previous state
    }
  }
  for (int i = 0; i < plan_.threads; ++i) scratch_.emplace_back(plan_, cell_, batch, input_weight_bytes<T, E>(config));
  h_stride_ = operand_stride<T, E>(config.hidden);
  if constexpr (!kSame) {
    for (Buffer<E>& half : operand_) {
      half = Buffer<E>(config.layers * batch * h_stride_);
      std::fill_n(half.data(), half.size(), E{});
    }
    for (int i = 0; i < plan_.threads; ++i) x_.emplace_back(batch * operand_stride<T, E>(config.input));
  }
}

template <class T, class E>
const E* RnnStepper<T, E>::operand_of(const T* x, Team& team) {
  if constexpr (kSame) {
    return x;
  } else {
    E* out = x_[static_cast<size_t>(team.id)].data();
    const int64_t stride = operand_stride<T, E>(config_.input);
    const Share share = plan_.part(team, 0).share;
    for (int64_t b = share.first; b < share.end; b += share.stride)
      kernels<T, E>().to_operands(x + b * config_.input, config_.input, out + b * stride, stride);
    return out;
  }
}

template <class T, class E>
void RnnStepper<T, E>::to_operand(int layer, int64_t b) {
  if constexpr (!kSame)
    kernels<T, E>().to_operands(state(0, layer) + b * padded_, config_.hidden,
                                operand_[parity_].data() + (layer * batch_ + b) * h_stride_, h_stride_);
}

template <class T, class E>
bool RnnStepper<T, E>::step(const T* x, const int32_t* tokens, Team& team) {
  if (plan_.threads == 1 && team.count > 1) {
    Team alone{0, 1, team.region, team.epoch};
    const bool undone = team.id == 0 && step(x, tokens, alone);
    if (!team_barrier(team)) return false;
    if (team.id == 0 && !undone) parity_ = 1 - parity_;
    return true;
  }
  const int next = 1 - parity_;
  for (int layer = 0; layer < config_.layers; ++layer) {
    const auto& weights = packed_->of(layer);
    const int64_t at = layer * batch_ * padded_;
    T* to = state_[next][0].data() + at;
    ForwardArgs<T, E> args{};
    args.input = config_.input_of(layer), args.hidden = config_.hidden;
    args.schedule = schedule_.view();
    args.schedule.batch = args.schedule.rows = plan_.batch;
    args.schedule.offset = offset_, args.schedule.active = active_;
    args.w = weights.w.data(), args.r = weights.r.data(), args.bias = weights.bias.data();
    args.h_stride = h_stride_;
    args.h0 = operand_[parity_].data() + layer * batch_ * h_stride_;
    args.h = operand_[next].data() + layer * batch_ * h_stride_;
    if (layer > 0) {
      if constexpr (kSame)
        args.x = {to - batch_ * padded_, padded_, nullptr};
      else
        args.x = {args.h - batch_ * h_stride_, h_stride_, nullptr};
    } else if (tokens != nullptr) {
      args.token = tokens, args.columns = weights.one_hot();
    } else {
      args.x = {operand_of(x, team), operand_stride<T, E>(config_.input), nullptr};
    }
    args.y = {to, padded_, nullptr};
    for (int k = 0; k < cell_.states; ++k)
      args.state0[k] = state(k, layer), args.state[k] = state_[next][k].data() + at;
    args.zeros = packed_->zeros.data(), args.zero_row = packed_->zero_row.data();
    single_step(config_, args, scratch_[static_cast<size_t>(team.id)].view(), plan_.part(team, 0), parity_ == 1, team);
    // With a batch split the next layer needs this thread's rows only; the panels' split has passed its own barrier.
  }
  // Behind a barrier, such as that of dealt panels, every thread has read parity_.
  if (team.count == 1 ? team_stopped(team) : plan_.split != Split::panels && team_barrier(team)) return true;
  if (team.id == 0) parity_ = next;
  if (team.count == 1 || !team_barrier(team)) return false;
  if (team.id == 0) parity_ = 1 - next;
  return true;
}

template <class T, class E>
void RnnStepper<T, E>::get_state(int k, T* out) const {
  for (int layer = 0; layer < config_.layers; ++layer)
    for (int64_t b = 0; b < batch_; ++b, out += config_.hidden)
      std::copy_n(state(k, layer) + b * padded_, config_.hidden, out);
}

template <class T, class E>
void RnnStepper<T, E>::set_state(int k, const T* in) {
  for (int layer = 0; layer < config_.layers; ++layer) {
    for (int64_t b = 0; b < batch_; ++b) {
      T* to = state(k, layer) + b * padded_;
      if (in == nullptr) {
        std::fill_n(to, config_.hidden, T(0));
      } else {
        std::copy_n(in, config_.hidden, to);
        in += config_.hidden;
      }
      if (k == 0) to_operand(layer, b);
    }
  }
}

template <class T, class E>
void RnnStepper<T, E>::reset_row(int64_t b) {
  for (int layer = 0; layer < config_.layers; ++layer) {
    for (int k = 0; k < cell_.states; ++k) std::fill_n(state(k, layer) + b * padded_, config_.hidden, T(0));
    to_operand(layer, b);
  }
}

template <class T, class E>
void RnnStepper<T, E>::gather_rows(int64_t first, const int32_t* from, int64_t count, T* scratch) {
  bool same = true;
  for (int64_t i = 0; i < count; ++i) same = same && from[i] == i;
  if (same) return;
  for (int layer = 0; layer < config_.layers; ++layer) {
    for (int k = 0; k < cell_.states; ++k) {
      T* rows = state(k, layer) + first * padded_;
      for (int64_t i = 0; i < count; ++i) std::copy_n(rows + from[i] * padded_, padded_, scratch + i * padded_);
      std::copy_n(scratch, count * padded_, rows);
    }
    for (int64_t i = 0; i < count; ++i) to_operand(layer, first + i);
  }
}

template <class T, class E>
void RnnStepper<T, E>::copy_rows(int64_t from, int64_t to, int64_t count) {
  for (int layer = 0; layer < config_.layers; ++layer) {
    for (int k = 0; k < cell_.states; ++k) {
      T* rows = state(k, layer);
      std::copy_n(rows + from * padded_, count * padded_, rows + to * padded_);
    }
    for (int64_t i = 0; i < count; ++i) to_operand(layer, to + i);
  }
}

template <class T, class E>
void RnnStepper<T, E>::set_rows(int64_t rows) {
  plan_.batch = rows;
  offset_[0] = 0, offset_[1] = rows;
  active_[0] = static_cast<int32_t>(rows), active_[1] = 0;
}

template class RnnStepper<float>;
template class RnnStepper<double>;
template class RnnStepper<float, Bf16x2>;

}  // namespace rnnfast
