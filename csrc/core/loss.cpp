// The loss in one parallel region a call: rows are dealt to threads, each row's loss is kept, and they are added in
// blocks of kSumBlock rows whatever the threads. Fused, a share of rows goes through product, loss and the gradient of
// x while its logits are in cache; then, behind a barrier, come the sums over all rows for the weights.
#include "loss.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rnnfast {

namespace {

constexpr int64_t kLogitBytes = int64_t{1} << 20;      // of one thread's rows at a time
constexpr int64_t kGradientBytes = int64_t{32} << 20;  // of dlogits that wait for the weights' gradient

// Blocks of kSumBlock numbers, each summed in order, then the blocks.
double blocked_sum(const double* values, int64_t n) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kSumBlock) {
    double sum = 0;
    for (int64_t i = begin; i < std::min(begin + kSumBlock, n); ++i) sum += values[i];
    total += sum;
  }
  return total;
}

template <class T>
class RowLosses {
 public:
  RowLosses(const LossTargets<T>& of, bool gradient)
      : of_(of), weight_(of.rows), loss_(of.rows), denominator_(of.rows), target_logit_(of.rows) {
    for (int64_t r = 0; r < of.rows; ++r) {
      const int32_t target = of.target[r];
      weight_[r] = target < 0 ? 0.0 : of.class_weight != nullptr ? static_cast<double>(of.class_weight[target]) : 1.0;
    }
    total_weight_ = blocked_sum(weight_.data(), of.rows);
    if (!gradient) return;
    const double divisor = of.reduction == Reduction::mean && total_weight_ != 0 ? total_weight_ : 1;
    scale_ = Buffer<T>(of.rows);
    for (int64_t r = 0; r < of.rows; ++r) scale_[r] = static_cast<T>(weight_[r] / divisor);
  }

  // Losses of rows [begin, begin + count), whose logits these are; dlogits (null, or as wide as `width`) too.
  void take(int64_t begin, int64_t count, const T* logits, int64_t stride, int64_t classes, T* dlogits, int64_t width) {
    CrossEntropyArgs<T> args{};
    args.classes = classes, args.width = width, args.smoothing = static_cast<T>(of_.smoothing);
    args.logits = logits, args.stride = stride;
    args.dlogits = dlogits, args.dlogits_stride = width;
    args.target = of_.target + begin;
    args.scale = dlogits != nullptr ? scale_.data() + begin : nullptr;
    args.denominator = denominator_.data() + begin;
    args.target_logit = target_logit_.data() + begin;
    ops_kernels<T>().cross_entropy(args, 0, count);
    for (int64_t r = begin; r < begin + count; ++r) {
      loss_[r] = 0;
      if (of_.target[r] >= 0)
        loss_[r] =
            weight_[r] * (std::log(static_cast<double>(denominator_[r])) - static_cast<double>(target_logit_[r]));
      if (of_.row_loss != nullptr) of_.row_loss[r] = static_cast<T>(loss_[r]);
    }
  }

  double result() const {
    const double sum = blocked_sum(loss_.data(), of_.rows);
    if (of_.reduction != Reduction::mean) return sum;
    return total_weight_ != 0 ? sum / total_weight_ : std::numeric_limits<double>::quiet_NaN();
  }

 private:
  const LossTargets<T>& of_;
  Buffer<double> weight_, loss_;
  Buffer<T> scale_, denominator_, target_logit_;
  double total_weight_ = 0;
};

template <class T>
class LinearLossPass {
 public:
  LinearLossPass(const LossTargets<T>& targets, const LinearLoss<T>& io, int threads)
      : rows_(targets.rows),
        io_(io),
        gradient_(io.dx != nullptr),
        packed_(io.in, io.classes, gradient_),
        losses_(targets, gradient_),
        threads_(threads_for(packed_.flops(rows_), threads)) {
    const int64_t row_bytes = packed_.padded_out() * static_cast<int64_t>(sizeof(T));
    chunk_ = std::clamp<int64_t>(kLogitBytes / row_bytes, 128, kSumBlock);
    // Sums over rows restart with each group, so its size depends on nothing but the number of classes.
    group_ = std::max<int64_t>(kGradientBytes / row_bytes / kSumBlock, 1) * kSumBlock;
    if (!gradient_) group_ = std::max<int64_t>(rows_, 1);
    if (gradient_) {
      logits_.emplace_back(std::min(rows_, group_) * packed_.padded_out());
      gradients_.emplace_back(packed_, rows_ > group_, threads_);
    } else {
      for (int i = 0; i < threads_; ++i) logits_.emplace_back(chunk_ * packed_.padded_out());
    }
  }

  double run() {
    const bool stopped = parallel(threads_, [this](Team& team) {
      packed_.pack(io_.weight, io_.bias, team);
      if (team_barrier(team)) return;
      for (int64_t begin = 0; begin < rows_; begin += group_) {
        const int64_t count = std::min(group_, rows_ - begin);
        const Span own = part_of(count, team.id, team.count);
        for (int64_t r = own.begin; r < own.end; r += chunk_) {
          chunk(begin, r, std::min(chunk_, own.end - r), team);
          if (team_stopped(team)) break;
        }
        if (team_barrier(team)) return;
        if (!gradient_) continue;
        gradients_[0].add(logits_[0].data(), {io_.x + begin * io_.in, io_.in, nullptr}, count, begin == 0, team);
        if (team_barrier(team)) return;
      }
      if (gradient_ && rows_ > 0) gradients_[0].commit(io_.dweight, io_.dbias, team);
    });
    if (stopped) throw Interrupted();
    return losses_.result();
  }

 private:
  // Rows begin + first ... of x: product, loss, gradient of x.
  void chunk(int64_t begin, int64_t first, int64_t count, Team& team) {
    const int64_t width = packed_.padded_out(), row = begin + first;
    T* logits = gradient_ ? logits_[0].data() + first * width : logits_[static_cast<size_t>(team.id)].data();
    packed_.forward({io_.x + row * io_.in, io_.in, nullptr}, {logits, width, nullptr}, -1, {0, count},
                    {0, packed_.panels()}, team);
    losses_.take(row, count, logits, width, io_.classes, gradient_ ? logits : nullptr, width);
    if (gradient_) packed_.input_gradient(logits, {io_.dx + row * io_.in, io_.in, nullptr}, {0, count}, team);
  }

  int64_t rows_;
  const LinearLoss<T>& io_;
  bool gradient_;
  PackedLinear<T> packed_;
  RowLosses<T> losses_;
  int threads_;
  int64_t chunk_ = 0, group_ = 0;              // rows
  std::vector<Buffer<T>> logits_;              // with gradients one for a group of rows, else one a thread
  std::vector<LinearGradients<T>> gradients_;  // one or none
};

}  // namespace

template <class T>
double softmax_cross_entropy(const LossTargets<T>& targets, const T* logits, int64_t classes, T* dlogits, int threads) {
  constexpr int64_t kChunk = 64;
  RowLosses<T> losses(targets, dlogits != nullptr);
  const double flops = 64.0 * static_cast<double>(targets.rows * classes);  // an exponential costs about as much
  const bool stopped = parallel(threads_for(flops, threads), [&](Team& team) {
    const Span own = part_of(targets.rows, team.id, team.count);
    for (int64_t r = own.begin; r < own.end && !team_stopped(team); r += kChunk)
      losses.take(r, std::min(kChunk, own.end - r), logits + r * classes, classes, classes,
                  dlogits != nullptr ? dlogits + r * classes : nullptr, classes);
  });
  if (stopped) throw Interrupted();
  return losses.result();
}

template <class T>
double linear_cross_entropy(const LossTargets<T>& targets, const LinearLoss<T>& io, int threads) {
  return LinearLossPass<T>(targets, io, threads).run();
}

#define RNNFAST_INSTANTIATE(T)                                                              \
  template double softmax_cross_entropy(const LossTargets<T>&, const T*, int64_t, T*, int); \
  template double linear_cross_entropy(const LossTargets<T>&, const LinearLoss<T>&, int);
RNNFAST_INSTANTIATE(float)
RNNFAST_INSTANTIATE(double)

}  // namespace rnnfast
