// y = x W^T + b over rows of x, and its gradients: the layer, and the building block of the loss and of sampling.
#pragma once

#include "../cpu/ops_kernels.h"
#include "buffer.h"
#include "error.h"
#include "rnn.h"

namespace rnnfast {

// A call gets a second thread from here on; see benchmarks/ for the measurement.
constexpr double kFlopsForSecondThread = 1e7;
inline int threads_for(double flops, int max_threads) { return flops < kFlopsForSecondThread ? 1 : max_threads; }

// The weights as the kernels read them: one vector a panel, as of a cell with a single gate.
template <class T>
class PackedLinear {
 public:
  static constexpr Run run{0, 1, {0}};

  // Allocates; `backward`: also what the gradient of x needs.
  PackedLinear(int64_t in, int64_t out, bool backward);
  // This thread's share of weight (out, in) and bias (out), which may be null.
  void pack(const T* weight, const T* bias, const Team& team);

  int64_t in() const { return in_; }
  int64_t out() const { return out_; }
  int64_t panels() const { return panels_; }
  int64_t padded_out() const { return panels_ * lanes_; }
  int64_t lanes() const { return lanes_; }
  double flops(int64_t rows) const { return 2.0 * static_cast<double>(rows) * static_cast<double>(in_ * out_); }

  // y = x W^T + b; with `width` = out() rows of y end there, with -1 they are padded_out() wide.
  void forward(Rows<const T> x, Rows<T> y, int64_t width, Span rows, Span panels, Team& team) const;
  // dx = dy W, dy (row -> padded_out(), zeros in the padding), dx (row -> in()).
  void input_gradient(const T* dy, Rows<T> dx, Span rows, Team& team) const;

 private:
  int64_t in_, out_, lanes_, panels_;
  Buffer<T> w_, w_back_, bias_, zeros_;
};

// Gradients of a linear layer's weights, gathered from one or several sets of rows and then given to the caller.
template <class T>
class LinearGradients {
 public:
  // `several`: add() is called more than once.
  LinearGradients(const PackedLinear<T>& packed, bool several, int threads);
  // The sums over `rows` rows of dy (row -> padded_out()) and x (row -> in()): this thread's share.
  void add(const T* dy, Rows<const T> x, int64_t rows, bool first, Team& team);
  // dweight (out, in) and dbias (out), or null, += what was gathered; behind a barrier.
  void commit(T* dweight, T* dbias, const Team& team) const;

 private:
  int64_t in_, out_, lanes_, panels_;
  Buffer<T> dw_, dw_part_, sums_, sums_part_;  // [panel][in][L], [panel][L]
  std::vector<Buffer<T>> x_packed_, packed_;   // a thread's block of rows of x and of dy
};

// Which rows of arrays of `all` rows take part: the `count` ones of `chosen`, in rising order, or, with null, all. The
// others are zeros where an array is assigned.
struct RowChoice {
  int64_t all;
  const int64_t* chosen;
  int64_t count;
};

// x [rows, in], y [rows, out].
template <class T>
void linear_forward(const PackedLinear<T>& packed, const T* x, const RowChoice& rows, T* y, int threads);

template <class T>
std::shared_ptr<PackedLinear<T>> pack_linear(const T* weight, const T* bias, int64_t in, int64_t out, bool backward,
                                             int threads);

// dx [rows, in] is assigned, dweight and dbias are added to; each may be null. `packed` has the weights of the forward.
template <class T>
struct LinearBackward {
  RowChoice rows;
  const T *dy, *x;  // [rows, out], [rows, in]
  T *dx, *dweight, *dbias;
};
template <class T>
void linear_backward(const PackedLinear<T>& packed, const LinearBackward<T>&, int threads);

}  // namespace rnnfast
