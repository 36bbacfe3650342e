// Backward: the mirror of rnn_forward.cpp, in one parallel region. From the last layer to the first, the recurrence of
// both directions (where the cache has no saved values, after that of forward, which writes the same states again),
// then over all rows at once, or those of a chunk of steps, the gradients of the weights and of the layer's input.
// Weight gradients gather in scratch and are added to the caller's at the very end, so that an interrupt changes
// nothing.
#include <algorithm>

#include "backward_pass.h"

namespace rnnfast {

namespace {

constexpr int64_t kChunkBytes = 1 << 20;  // of da, where a layer is taken in chunks of steps
// Up to here weight gradients are added as products of rows, without a packed sum; with wide layers, whose rows of
// weights fill several vectors, up to kSomeRows.
constexpr int64_t kFewRows = 8, kSomeRows = 64, kWide = 64;

template <class T, class E>
bool takes_few_rows(const RnnCache<T, E>& cache) {
  const RnnConfig& config = cache.config;
  const bool wide = config.hidden >= kWide && (cache.token.size() > 0 || config.input >= kWide);
  return cache.schedule.rows() <= (wide ? kSomeRows : kFewRows);
}

}  // namespace

template <class T, class E>
BackwardPass<T, E>::BackwardPass(RnnCache<T, E>& cache, const RnnBackward<T>& io, bool keep, int threads)
    : cache_(cache),
      config_(cache.config),
      cell_(cell_shape(cache.config.cell)),
      schedule_(cache.schedule),
      view_(schedule_.view()),
      io_(io),
      keep_(keep),
      L_(kernels<T>().lanes),
      few_(takes_few_rows(cache)),
      plan_(cell_, L_, config_.hidden, 1, schedule_, 2 * product_flops(config_, schedule_, cache.token.size() > 0),
            threads) {
  padded_ = plan_.panels * L_;
  row_size_ = padded_ * cell_.pre_activations;
  depth_ = kernels<T, E>().depth;
  da_row_ = cell_.pre_activations * L_ / depth_;
  cut_into_chunks();
  da_panel_ = panel_rows_of(most_rows_) * da_row_;
  // One layer and direction at a time needs them, but a few rows' da is needed at the end.
  for (int i = 0; i < (few_ ? config_.directions * config_.layers : 1); ++i) {
    saved_.emplace_back(cache.recomputes() ? panel_rows_of(most_rows_) * padded_ * cell_.saved : 0);
    da_.emplace_back(da_in_place() ? 0 : plan_.panels * da_panel_);
  }
  take_callers_rows();
  for (int i = 0; i < config_.layers * config_.directions; ++i) allocate(i);
  for (int i = 0; i < std::min(config_.layers - 1, 2); ++i)
    dy_below_[i] = Buffer<T>(schedule_.rows() * config_.directions * config_.hidden);
  for (int i = 0; i < plan_.threads; ++i) {
    scratch_.emplace_back(plan_, cell_, schedule_.rows(), cache.recomputes() ? input_weight_bytes<T, E>(config_) : 0,
                          cache.reads_weights());
    x_packed_.emplace_back(few_ ? 0 : packed_inputs(config_, cache.token.size() > 0, L_));
    packed_.emplace_back(kSame ? 0 : kMaxTilePanels * kSumBlock / 2 * kMaxPre * L_);
  }
  if (!kSame && !few_) allocate_pairs();
  if (cache.token.size() > 0) group_tokens();
}

template <class T, class E>
void BackwardPass<T, E>::run() {
  const bool stopped = parallel(plan_.threads, [this](Team& team) {
    clear_past_ends(schedule_, io_.dx, io_.dx_strides, config_.input, team);
    for (int layer = config_.layers - 1; layer >= 0; --layer) {
      for (int d = 0; d < config_.directions; ++d) {
        const size_t chunks = takes_chunks(layer, d) ? chunks_.size() : 1;
        for (size_t i = chunks; i-- > 0;) {
          const Span times = chunks > 1 ? chunks_[i] : Span{0, view_.steps};
          if (chunks > 1) {
            begin_chunk(layer, d, times, team);
            if (team_barrier(team)) return;
          }
          if (cache_.recomputes()) recompute(layer, d, times, team);
          recur(layer, d, times, team);
          if (!kSame && !few_) {
            if (cache_.recomputes() && team_barrier(team)) return;  // all rows of h have been written again
            make_pairs(layer, d, team);
          }
          if (team_barrier(team)) return;
          // The layer's input may give its memory to its gradient, and the weights theirs to their own.
          if (over_x(layer)) {
            weight_gradients(layer, d, times, team);
            if (team_barrier(team)) return;
            input_gradient(layer, d, times, team);
          } else {
            input_gradient(layer, d, times, team);
            if (team_barrier(team)) return;
            weight_gradients(layer, d, times, team);
          }
          if (team_barrier(team)) return;
        }
      }
    }
    commit(team);
  });
  if (stopped) throw Interrupted();
}

template <class T, class E>
void BackwardPass<T, E>::cut_into_chunks() {
  const int64_t rows = std::max<int64_t>(kChunkBytes / (row_size_ * static_cast<int64_t>(sizeof(T))), 1);
  int64_t begin = 0;
  for (int64_t t = 1; t <= view_.steps; ++t) {
    const bool block_ends = view_.offset[t] % kSumBlock == 0 && view_.offset[t] - view_.offset[begin] >= rows;
    if (t < view_.steps && !block_ends) continue;
    chunks_.push_back({begin, t});
    begin = t;
  }
  for (const Span& times : chunks_) most_rows_ = std::max(most_rows_, rows_of(times).end - rows_of(times).begin);
  for (int layer = 0; layer < config_.layers; ++layer)
    for (int d = 0; d < config_.directions; ++d)
      if (!takes_chunks(layer, d)) most_rows_ = view_.rows;
  for (int k = 0; k < cell_.states && chunks_.size() > 1; ++k) before_[k] = Buffer<T>(view_.batch * padded_);
}

template <class T, class E>
void BackwardPass<T, E>::allocate(int index) {
  const int layer = index / config_.directions, d = index % config_.directions;
  Direction& at = direction_of(layer, d);
  DirectionWork<T, E> to;
  const auto own = static_cast<size_t>(few_ ? index : 0);
  to.saved = cache_.recomputes() ? saved_[own].data() : at.saved.data();
  to.da = da_[own].data();
  if constexpr (kSame) {
    if (da_in_place()) to.da = to.saved;
  }
  for (int64_t panel = 0; panel < plan_.panels; ++panel)
    std::fill_n(to.da + panel * da_panel_ + most_rows_ * da_row_, da_row_, E{});
  for (int k = 0; k < cell_.states; ++k) {
    to.dstate[k] = Buffer<T>(schedule_.batch() * padded_);
    T* row = to.dstate[k].data();
    for (int64_t j = 0; j < schedule_.batch(); ++j, row += padded_) {
      std::fill_n(row, padded_, T(0));
      if (io_.dstate_n[k] != nullptr)
        std::copy_n(io_.dstate_n[k] + (index * schedule_.batch() + schedule_.caller(j)) * config_.hidden,
                    config_.hidden, row);
    }
  }
  place_gradients(layer, d, to);
  to.sums = Buffer<T>(row_size_);

  to.h_prev.resize(static_cast<size_t>(schedule_.rows()));
  const Rows<const E> h = operand_rows(layer, d);
  schedule_.each_row(0, schedule_.longest(), [&](int64_t row, int64_t t, int64_t j) {
    const bool first = d == 0 ? t == 0 : t == schedule_.length(j) - 1;
    const int64_t prev = first ? -1 : view_.offset[d == 0 ? t - 1 : t + 1] + j;
    // The cut before time t lies on the row of t; for the backward direction the step before is t + 1.
    const bool cut = view_.cut != nullptr && (d == 0 ? view_.cut[row] : !first && view_.cut[prev]);
    to.h_prev[static_cast<size_t>(row)] = cut     ? cache_.weights->zero_row.data()
                                          : first ? first_operand(at, j)
                                                  : row_at(h, prev);
  });
  work_.push_back(std::move(to));
}

template <class T, class E>
void BackwardPass<T, E>::take_callers_rows() {
  if constexpr (kSame) {
    if (cache_.x.size() == 0 && cache_.token.size() == 0)
      x_ = rows_in_place(schedule_, io_.x, io_.x_strides, config_.input, 0, x_index_);
  }
  for (int d = 0; d < config_.directions; ++d) {
    const int64_t first = d * config_.hidden;
    if (cache_.layers.back().y.size() == 0)
      y_[d] = rows_in_place(schedule_, io_.y, io_.y_strides, out_width(), first, y_index_[d]);
    if (io_.dy != nullptr) dy_[d] = rows_in_place(schedule_, io_.dy, io_.dy_strides, out_width(), first, dy_index_[d]);
  }
  if (io_.dx != nullptr) dx_ = rows_in_place(schedule_, io_.dx, io_.dx_strides, config_.input, 0, dx_index_);
}

template <class T, class E>
void BackwardPass<T, E>::place_gradients(int layer, int d, DirectionWork<T, E>& to) {
  const auto place = [](int64_t size, Buffer<T>* spent, Buffer<T>& own) {
    if (spent != nullptr && spent->size() >= size) return spent->data();
    own = Buffer<T>(size);
    return own.data();
  };
  if (one_hot(layer)) to.dw = place(cache_.ids.size() * row_size_, nullptr, to.own_dw);
  if (few_) return;
  // After recur r_back, and w_back too once dx is made; where dx lies over x, which dw needs, the second state.
  Buffer<T>*w = nullptr, *r = nullptr;
  if (!keep_ && (!takes_chunks(layer, d) || chunks_.size() == 1)) {
    if constexpr (kSame) {
      if (cache_.own_weights != nullptr) {
        auto& weights = cache_.own_weights->of(layer * config_.directions + d);
        w = &weights.w_back, r = &weights.r_back;
      }
    }
    if (over_x(layer)) w = cell_.states > 1 ? &direction_of(layer, d).state[1] : nullptr;
  }
  if (!one_hot(layer)) to.dw = place(padded_ * cell_.input.count * config_.input_of(layer), w, to.own_dw);
  to.dr = place(padded_ * cell_.recurrent.count * config_.hidden, r, to.own_dr);
}

template <class T, class E>
void BackwardPass<T, E>::begin_chunk(int layer, int d, const Span& times, const Team& team) {
  const Span rows = rows_of(times), panels = part_of(plan_.panels, team.id, team.count);
  E* zeros = work(layer, d).da + (rows.end - rows.begin) * da_row_;
  for (int64_t panel = panels.begin; panel < panels.end; ++panel) std::fill_n(zeros + panel * da_panel_, da_row_, E{});
  if (times.begin == 0) return;
  const Direction& at = direction_of(layer, d);
  const Rows<const T> y = y_rows(layer, d);
  const Span sequences = part_of(view_.active[times.begin], team.id, team.count);
  for (int64_t j = sequences.begin; j < sequences.end; ++j) {
    const int64_t row = view_.offset[times.begin - 1] + j;
    std::copy_n(row_at(y, row), config_.hidden, before_[0].data() + j * padded_);
    std::fill_n(before_[0].data() + j * padded_ + config_.hidden, padded_ - config_.hidden, T(0));
    for (int k = 1; k < cell_.states; ++k)
      std::copy_n(at.state[k].data() + row * padded_, padded_, before_[k].data() + j * padded_);
  }
}

template <class T, class E>
void BackwardPass<T, E>::recompute(int layer, int d, const Span& times, Team& team) {
  ForwardArgs<T, E> args = cache_.forward_args(layer, d);
  args.schedule = view_of(times);
  for (int k = 0; k < cell_.states && times.begin > 0; ++k) args.state0[k] = before_[k].data();
  args.from_zeros = args.from_zeros && times.begin == 0;
  args.x = layer_input(layer);
  args.saved = work(layer, d).saved - rows_of(times).begin * cell_.saved * L_;
  args.panel_rows = panel_rows_of(most_rows_);
  kernels<T, E>().cell[config_.cell].forward(args, scratch_[static_cast<size_t>(team.id)].view(), plan_.part(team, 0),
                                             team);
}

template <class T, class E>
void BackwardPass<T, E>::recur(int layer, int d, const Span& times, Team& team) {
  Direction& at = direction_of(layer, d);
  DirectionWork<T, E>& to = work(layer, d);
  BackwardArgs<T, E> args{};
  args.hidden = config_.hidden;
  args.schedule = view_of(times), args.reverse = d == 1;
  args.r = weights(layer, d).r_back.data();
  if (cache_.reads_weights())
    args.r_rows = {callers_weights(layer, d).w_hh, config_.hidden, config_.hidden, cell_.recurrent};
  args.y = y_rows(layer, d);
  for (int k = 0; k < cell_.states; ++k) {
    args.state0[k] = times.begin > 0 ? before_[k].data() : at.state0[k].data();
    args.state[k] = at.state[k].data();
    args.dstate[k] = to.dstate[k].data();
  }
  const Span rows = rows_of(times);
  args.saved = to.saved - rows.begin * cell_.saved * L_;
  if (layer + 1 < config_.layers) {
    args.dy = {dy_of(layer) + d * config_.hidden, out_width(), nullptr};
  } else {
    args.dy = dy_[d];
  }
  args.da = to.da - rows.begin * da_row_, args.panel_rows = panel_rows_of(most_rows_);
  args.dstate0 = times.begin > 0 || io_.dstate0[0] != nullptr;
  args.zeros = cache_.weights->zeros.data();
  kernels<T, E>().cell[config_.cell].backward(args, scratch_[static_cast<size_t>(team.id)].view(), plan_.part(team, 0),
                                              team);
}

template <class T, class E>
T* place_for_dx(RnnCache<T, E>& cache) {
  // A few rows of x are needed at the very end, and those of the first direction again for the second.
  const bool last_use = !takes_few_rows(cache) && cache.config.directions == 1;
  if constexpr (std::is_same_v<T, E>)
    return last_use && !cache.schedule.ragged() ? cache.x.data() : nullptr;
  else
    return nullptr;
}

template <class T, class E>
void rnn_backward(RnnCache<T, E>& cache, const RnnBackward<T>& io, bool keep, int threads) {
  BackwardPass<T, E>(cache, io, keep, threads).run();
}

template float* place_for_dx(RnnCache<float>&);
template double* place_for_dx(RnnCache<double>&);
template float* place_for_dx(RnnCache<float, Bf16x2>&);
template void rnn_backward(RnnCache<float>&, const RnnBackward<float>&, bool, int);
template void rnn_backward(RnnCache<double>&, const RnnBackward<double>&, bool, int);
template void rnn_backward(RnnCache<float, Bf16x2>&, const RnnBackward<float>&, bool, int);

}  // namespace rnnfast
