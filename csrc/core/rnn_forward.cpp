// Forward: one parallel region a call. Packing, then layer by layer the recurrence (with its input product in chunks)
// of both directions, with a barrier between layers.
#include <algorithm>
#include <atomic>

#include "dropout.h"
#include "packed.h"
#include "plan.h"

namespace rnnfast {

namespace {

constexpr double kFlopsOfPacking = 50;         // a weight; it is copied at about 4 GB/s
constexpr int64_t kInPlaceBytes = 512 * 1024;  // of pre-activations, which are read once, in order: half of L2

template <class T, class E>
class ForwardPass {
 public:
  ForwardPass(const RnnConfig& config, const RnnWeights<T>* weights, std::shared_ptr<const PackedRnn<T, E>> packed,
              const RnnInput<T>& in, const T* const* state0, const RnnOutput<T>& out, RnnCache<T, E>& cache, bool keep,
              int threads)
      : config_(config),
        weights_(weights),
        cell_(cell_shape(config.cell)),
        in_(in),
        state0_(state0),
        out_(out),
        cache_(cache),
        schedule_(cache.schedule),
        keep_(keep),
        plan_(cell_, kernels<T>().lanes, config.hidden, config.directions, schedule_, flops(packed != nullptr),
              threads) {
    padded_ = plan_.panels * kernels<T>().lanes;
    take_input(packed != nullptr);
    unpacked_ = packed == nullptr && schedule_.longest() == 1;
    w_in_place_ = unpacked_ || (packed == nullptr && takes_w_in_place());
    if (packed == nullptr) {
      const bool tokens = in.tokens != nullptr;
      const bool backward = keep && !cache.reads_weights();
      parts_ = {.first_columns = tokens ? cache.ids.size() : config.input,
                .dense = !tokens && !w_in_place_,
                .one_hot = tokens,
                .above = !w_in_place_,
                .recurrent = !unpacked_,
                .backward = backward,
                .dx = !tokens,
                .in_turn = backward && !unpacked_ && !cache.recomputes(),
                // Where nothing is kept, in the memory of those before, which is in a cache.
                .held = keep || unpacked_ ? config.layers * config.directions : directions_at_once()};
      fresh_ = empty_pack<T, E>(config, parts_);
      packed = cache_.own_weights = fresh_;
    }
    static std::atomic<unsigned> single_steps{0};  // calls of one step go through the weights from either end in turn
    from_last_ = schedule_.longest() == 1 && single_steps++ % 2 == 1;
    cache_.weights = std::move(packed);
    saves_ = keep_ && cell_.saved > 0 && !cache_.recomputes();
    if (!keeps_y()) {
      for (int d = 0; d < config.directions; ++d)
        y_[d] = rows_in_place(schedule_, out.y, out.strides, config.directions * config.hidden, d * config.hidden,
                              y_index_[d]);
    }
    for (int layer = 0; layer < config.layers; ++layer) allocate(layer);
    // Backward, which packs its inputs, finds the memory of this pass's input products idle.
    const int64_t reserved =
        keep_ && schedule_.rows() >= kSumBlock ? packed_inputs(config, in.tokens != nullptr, kernels<T>().lanes) : 0;
    for (int i = 0; i < plan_.threads; ++i) {
      scratch_.emplace_back(plan_, cell_, schedule_.rows(), input_weight_bytes<T, E>(config), w_in_place_, reserved);
      dropped_.emplace_back(!kSame && drops(0) ? config.directions * config.hidden : 0);
    }
  }

  void run() {
    const bool stopped = parallel(plan_.threads, [this](Team& team) {
      copy_input(team);
      clear_past_ends(schedule_, out_.y, out_.strides, config_.directions * config_.hidden, team);
      if (unpacked_) pack(0, config_.layers * config_.directions, team);
      if (team_barrier(team)) return;
      const int at_once = directions_at_once();
      for (int layer = 0; layer < config_.layers; ++layer) {
        for (int d = 0; d < config_.directions; ++d) {
          if (fresh_ != nullptr && !unpacked_ && d % at_once == 0) {
            if (d > 0 && team_barrier(team)) return;  // this may write over what the other direction's product reads
            pack(layer * config_.directions + d, at_once, team);
            if (team_barrier(team)) return;
          }
          recur(layer, d, team);
        }
        if (team_barrier(team)) return;
        if (parts_.in_turn) pack_in_turn(config_, parts_, weights_, layer, *fresh_, team);
        if (has_out(layer)) {
          make_out(layer, team);
          if (team_barrier(team)) return;
        }
      }
      copy_output(team);
    });
    if (stopped) throw Interrupted();
    if (!keep_ || fresh_ == nullptr || cache_.recomputes()) return;
    leave_backward(config_, parts_, *fresh_);
  }

 private:
  static constexpr bool kSame = std::is_same_v<T, E>;

  // Of the products, and what packing the weights costs as if it were products.
  double flops(bool packed) const {
    const double packing = packed ? 0 : kFlopsOfPacking * static_cast<double>(weights_of(config_, false));
    return product_flops(config_, schedule_, in_.tokens != nullptr) + packing;
  }

  bool drops(int layer) const { return keep_ && config_.dropout > 0 && layer + 1 < config_.layers; }
  // Pairs of two directions do not lie side by side, so the layer above has a copy of both.
  bool has_out(int layer) const {
    return drops(layer) || (!kSame && config_.directions > 1 && layer + 1 < config_.layers);
  }

  // The last layer's y is written to a copy; where backward runs the layer again it writes y again, too.
  bool keeps_y() const { return keep_ && (!config_.y_stays || cache_.recomputes()); }

  // Where few rows wait for their steps, W is needed once; were the sequences dealt to threads, each would pack it.
  bool takes_w_in_place() const {
    if (!kSame || plan_.split == Split::batch || cache_.recomputes()) return false;
    return schedule_.rows() * padded_ * cell_.pre_activations * static_cast<int64_t>(sizeof(T)) <= kInPlaceBytes;
  }

  int directions_at_once() const { return plan_.split == Split::directions ? config_.directions : 1; }

  void pack(int64_t first, int64_t count, const Team& team) {
    for (int64_t index = first; index < first + count; ++index)
      pack_part(config_, parts_, weights_, ids_, index, *fresh_, team);
  }

  // Rows of layer 0's input: where the caller has them, or copies.
  void take_input(bool packed) {
    const int64_t rows = schedule_.rows();
    if (in_.tokens != nullptr) {
      if (packed) {
        cache_.token = Buffer<int32_t>(rows);
        schedule_.each_row(0, schedule_.longest(), [&](int64_t row, int64_t t, int64_t j) {
          cache_.token[row] = in_.tokens[schedule_.place(in_.strides, row, t, j)];
        });
      } else {
        number_tokens(schedule_, in_.tokens, in_.strides, config_.input, cache_.token, cache_.ids);
        ids_ = cache_.ids.data();
      }
    } else if (!kSame || (keep_ && !config_.inputs_stay)) {
      const int64_t stride = operand_stride<T, E>(config_.input);
      cache_.x = Buffer<E>(rows * stride);
      x_ = {cache_.x.data(), stride, nullptr};
    } else if constexpr (kSame) {
      x_ = rows_in_place(schedule_, in_.x, in_.strides, config_.input, 0, x_index_);
    }
  }

  void allocate(int layer) {
    const int64_t rows = schedule_.rows(), width = config_.directions * config_.hidden, batch = schedule_.batch();
    cache_.layers.emplace_back();
    auto& to = cache_.layers.back();
    if (keeps_y() || layer + 1 < config_.layers) to.y = Buffer<T>(rows * width);
    if (has_out(layer)) to.out = Buffer<E>(rows * operand_stride<T, E>(width));
    for (int d = 0; d < config_.directions; ++d) {
      to.direction.emplace_back();
      auto& direction = to.direction.back();
      for (int k = 0; k < cell_.states; ++k) {
        direction.state0[k] = Buffer<T>(batch * padded_);
        copy_state0(layer * config_.directions + d, k, direction.state0[k].data());
        if constexpr (!kSame) {
          if (k == 0) allocate_operands(direction);
        }
        if (keep_ && k > 0) direction.state[k] = Buffer<T>(rows * padded_);
      }
      if (saves_) direction.saved = Buffer<T>(panel_rows_of(rows) * padded_ * cell_.saved);
    }
  }

  void copy_state0(int64_t index, int k, T* to) const {
    const int64_t hidden = config_.hidden;
    for (int64_t j = 0; j < schedule_.batch(); ++j, to += padded_) {
      std::fill_n(to, padded_, T(0));
      if (state0_[k] != nullptr)
        std::copy_n(state0_[k] + (index * schedule_.batch() + schedule_.caller(j)) * hidden, hidden, to);
    }
  }

  void copy_input(const Team& team) {
    if (cache_.x.size() == 0) return;
    const Span span = part_of(schedule_.longest(), team.id, team.count);
    schedule_.each_row(span.begin, span.end, [&](int64_t row, int64_t t, int64_t j) {
      to_operands(in_.x + schedule_.place(in_.strides, row, t, j), config_.input,
                  cache_.x.data() + row * operand_stride<T, E>(config_.input));
    });
  }

  // Rows of layer `layer`'s output in direction d.
  Rows<T> y_rows(int layer, int d) {
    const int64_t width = config_.directions * config_.hidden;
    auto& y = cache_.layers[static_cast<size_t>(layer)].y;
    return y.size() > 0 ? Rows<T>{y.data() + d * config_.hidden, width, nullptr} : y_[d];
  }

  void recur(int layer, int d, Team& team) {
    ForwardArgs<T, E> args = cache_.forward_args(layer, d);
    if (w_in_place_) {
      const RnnWeights<T>& from = weights_[layer * config_.directions + d];
      args.w = nullptr, args.w_rows = {from.w_ih, config_.hidden, config_.input_of(layer), cell_.input};
      if (unpacked_) args.r_rows = {from.w_hh, config_.hidden, config_.hidden, cell_.recurrent};
    }
    if (layer == 0 && in_.tokens == nullptr) args.x = x_;
    args.y = y_rows(layer, d);
    args.keep_states = keep_;
    if (!keep_) {  // c is updated in place
      auto& at = cache_.layers[static_cast<size_t>(layer)].direction[static_cast<size_t>(d)];
      for (int k = 1; k < cell_.states; ++k) args.state[k] = at.state0[k].data();
    }
    const Scratch<T, E> scratch = scratch_[static_cast<size_t>(team.id)].view();
    if (schedule_.longest() == 1) {
      single_step(config_, args, scratch, plan_.part(team, d), from_last_, team);
    } else {
      kernels<T, E>().cell[config_.cell].forward(args, scratch, plan_.part(team, d), team);
    }
  }

  void make_out(int layer, const Team& team) {
    auto& at = cache_.layers[static_cast<size_t>(layer)];
    const Span span = part_of(schedule_.longest(), team.id, team.count);
    if constexpr (kSame) {
      drop_rows(config_, schedule_, cache_.seed, cache_.step, layer, span, at.y.data(), at.out.data());
    } else {
      const int64_t width = config_.directions * config_.hidden;
      T* dropped = dropped_[static_cast<size_t>(team.id)].data();
      schedule_.each_row(span.begin, span.end, [&](int64_t row, int64_t t, int64_t j) {
        const T* y = at.y.data() + row * width;
        if (drops(layer)) drop_row(config_, cache_.seed, cache_.step, layer, t, schedule_.caller(j), y, dropped);
        to_operands(drops(layer) ? dropped : y, width, at.out.data() + row * operand_stride<T, E>(width));
      });
    }
  }

  // n numbers as a row of operands.
  static void to_operands(const T* in, int64_t n, E* out) {
    if constexpr (kSame) {
      std::copy_n(in, n, out);
    } else {
      kernels<T, E>().to_operands(in, n, out, operand_stride<T, E>(n));
    }
  }

  void allocate_operands(typename RnnCache<T, E>::Layer::Direction& at) const {
    const int64_t stride = operand_stride<T, E>(config_.hidden), batch = schedule_.batch();
    at.h = Buffer<E>(schedule_.rows() * stride);
    at.h0 = Buffer<E>(batch * stride);
    for (int64_t j = 0; j < batch; ++j)
      to_operands(at.state0[0].data() + j * padded_, config_.hidden, at.h0.data() + j * stride);
  }

  // The last states, and y where the kernels wrote to a copy.
  void copy_output(const Team& team) {
    const int last = config_.layers - 1;
    const int64_t width = config_.directions * config_.hidden, hidden = config_.hidden;
    if (keeps_y()) {
      const Span span = part_of(schedule_.longest(), team.id, team.count);
      const T* y = cache_.layers.back().y.data();
      schedule_.each_row(span.begin, span.end, [&](int64_t row, int64_t t, int64_t j) {
        std::copy_n(y + row * width, width, out_.y + schedule_.place(out_.strides, row, t, j));
      });
    }
    const Span sequences = part_of(schedule_.batch(), team.id, team.count);
    const ScheduleView view = schedule_.view();
    for (int layer = 0; layer <= last; ++layer) {
      for (int d = 0; d < config_.directions; ++d) {
        const auto& at = cache_.layers[static_cast<size_t>(layer)].direction[static_cast<size_t>(d)];
        const Rows<T> y = y_rows(layer, d);
        for (int64_t j = sequences.begin; j < sequences.end; ++j) {
          const int64_t length = schedule_.length(j);
          const int64_t row = length == 0 ? -1 : view.offset[d == 1 ? 0 : length - 1] + j;
          for (int k = 0; k < cell_.states; ++k) {
            if (out_.state[k] == nullptr) continue;
            const T* from = row < 0  ? at.state0[k].data() + j * padded_
                            : k == 0 ? row_at(y, row)
                            : keep_  ? at.state[k].data() + row * padded_
                                     : at.state0[k].data() + j * padded_;
            std::copy_n(
                from, hidden,
                out_.state[k] + ((layer * config_.directions + d) * schedule_.batch() + schedule_.caller(j)) * hidden);
          }
        }
      }
    }
  }

  const RnnConfig& config_;
  const RnnWeights<T>* weights_;
  CellShape cell_;
  const RnnInput<T>& in_;
  const T* const* state0_;
  const RnnOutput<T>& out_;
  RnnCache<T, E>& cache_;
  const Schedule& schedule_;
  bool keep_, saves_ = false;
  Plan plan_;
  int64_t padded_ = 0;
  bool unpacked_ = false, w_in_place_ = false;  // weights that are needed once are taken where they are
  bool from_last_ = false;
  PackParts parts_{};
  std::shared_ptr<PackedRnn<T, E>> fresh_;
  const int32_t* ids_ = nullptr;
  Rows<const E> x_{};
  std::vector<const E*> x_index_;
  Rows<T> y_[2];  // of each direction
  std::vector<T*> y_index_[2];
  std::vector<ThreadScratch<T, E>> scratch_;
  std::vector<Buffer<T>> dropped_;  // a thread's row
};

}  // namespace

template <class T, class E>
Rows<const E> RnnCache<T, E>::outputs(int layer) const {
  const Layer& at = layers[static_cast<size_t>(layer)];
  const int64_t stride = operand_stride<T, E>(config.directions * config.hidden);
  if (at.out.size() > 0) return {at.out.data(), stride, nullptr};
  if constexpr (std::is_same_v<T, E>)
    return {at.y.data(), stride, nullptr};
  else
    return {at.direction[0].h.data(), stride, nullptr};
}

template <class T, class E>
size_t RnnCache<T, E>::bytes() const {
  size_t sum = x.bytes() + token.bytes() + ids.bytes() + (weights != nullptr ? weights->bytes() : 0);
  for (const Layer& layer : layers) {
    sum += layer.y.bytes() + layer.out.bytes();
    for (const auto& direction : layer.direction) {
      sum += direction.saved.bytes() + direction.h0.bytes() + direction.h.bytes();
      for (int k = 0; k < kMaxStates; ++k) sum += direction.state0[k].bytes() + direction.state[k].bytes();
    }
  }
  return sum;
}

template <class T, class E>
bool RnnCache<T, E>::recomputes() const {
  return config.recompute && schedule.longest() > 1 && cell_shape(config.cell).saved > 0;
}

template <class T, class E>
bool RnnCache<T, E>::reads_weights() const {
  return config.inputs_stay && schedule.longest() == 1;
}

template <class T, class E>
ForwardArgs<T, E> RnnCache<T, E>::forward_args(int layer, int d) {
  Layer& own = layers[static_cast<size_t>(layer)];
  auto& at = own.direction[static_cast<size_t>(d)];
  const auto& packed = weights->of(layer * config.directions + d);
  ForwardArgs<T, E> args{};
  args.input = layer > 0 ? config.input_of(layer) : weights->first_columns, args.hidden = config.hidden;
  args.schedule = schedule.view(), args.reverse = d == 1;
  args.w = packed.w.data(), args.r = packed.r.data(), args.bias = packed.bias.data();
  if (layer > 0) {
    args.x = outputs(layer - 1);
  } else {
    args.x = {x.data(), operand_stride<T, E>(config.input), nullptr};
    args.token = token.data(), args.columns = packed.one_hot();
  }
  args.y = {own.y.data() + d * config.hidden, config.directions * config.hidden, nullptr};
  for (int k = 0; k < kMaxStates; ++k) args.state0[k] = at.state0[k].data(), args.state[k] = at.state[k].data();
  args.from_zeros = from_zeros;
  args.h0 = at.h0.data(), args.h = at.h.data(), args.h_stride = operand_stride<T, E>(config.hidden);
  args.keep_states = true;
  args.saved = at.saved.data();
  args.panel_rows = panel_rows_of(schedule.rows());
  args.zeros = weights->zeros.data(), args.zero_row = weights->zero_row.data();
  return args;
}

template <class T, class E>
void rnn_forward(const RnnConfig& config, const RnnWeights<T>* weights, std::shared_ptr<const PackedRnn<T, E>> packed,
                 const RnnInput<T>& in, const T* const state0[kMaxStates], const RnnOutput<T>& out,
                 RnnCache<T, E>* cache, const DropoutState& dropout, int threads) {
  std::unique_ptr<RnnCache<T, E>> temporary;
  if (cache == nullptr) temporary = std::make_unique<RnnCache<T, E>>(in.layout);
  RnnCache<T, E>& to = cache != nullptr ? *cache : *temporary;
  to.config = config;
  to.seed = dropout.seed, to.step = dropout.step;
  to.from_zeros = state0[0] == nullptr;
  ForwardPass<T, E>(config, weights, std::move(packed), in, state0, out, to, cache != nullptr, threads).run();
}

#define RNNFAST_INSTANTIATE(T, E)                                                                                 \
  template struct RnnCache<T, E>;                                                                                 \
  template void rnn_forward(const RnnConfig&, const RnnWeights<T>*, std::shared_ptr<const PackedRnn<T, E>>,       \
                            const RnnInput<T>&, const T* const[kMaxStates], const RnnOutput<T>&, RnnCache<T, E>*, \
                            const DropoutState&, int);
RNNFAST_INSTANTIATE(float, float)
RNNFAST_INSTANTIATE(double, double)
RNNFAST_INSTANTIATE(float, Bf16x2)

}  // namespace rnnfast
