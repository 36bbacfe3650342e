// Recurrent networks of several layers and directions: the plain C++ interface to the kernels.
//
//   forward   (x, state0, weights, lengths, reset) -> y, state_n [, cache]
//   backward  (dy, dstate_n, cache) -> dx, dstate0, += gradients
//
// Arrays are C-contiguous unless strides are given. G = blocks of H rows of a weight matrix (1 RNN, 4 LSTM, 3 GRU),
// D = directions, H = hidden. T and E are the types of numbers and of operands, as cpu/kernels.h has them. Weights come
// per (layer, direction), at index layer * D + direction, in PyTorch's layout. Nothing is checked here: Python has done
// it, by name.
#pragma once

#include <memory>
#include <type_traits>
#include <vector>

#include "../cpu/kernels.h"
#include "buffer.h"
#include "error.h"
#include "schedule.h"

namespace rnnfast {

// What the shared code must know of a cell, from its declarations.
struct CellShape {
  int pre_activations, states, saved, gates;
  Run input, recurrent;
};
CellShape cell_shape(CellId cell);
const char* cell_name(CellId cell);

struct RnnConfig {
  CellId cell;
  int64_t input, hidden;
  int layers, directions;
  double dropout;  // on the output of every layer but the last, in training
  bool recompute;  // caches do without the saved values; backward runs forward again to have them
  // The caller's x and weights, and y, stay as they are until backward, which gets them again: x and y are not copied,
  // and in a call of one step neither are weights.
  bool inputs_stay = false, y_stays = false;
  int64_t input_of(int layer) const { return layer == 0 ? input : directions * hidden; }
};

template <class T>
struct RnnWeights {
  const T* w_ih;  // [G * H, input_of(layer)]
  const T* w_hh;  // [G * H, H]
  const T* b_ih;  // [G * H] or null
  const T* b_hh;
};

template <class T>
struct RnnGradients {  // added to; null: not wanted
  T *w_ih, *w_hh, *b_ih, *b_hh;
};

// Elements from one row of operands of n numbers to the next. Pairs begin a cache line, so that no two threads write to
// one.
template <class T, class E>
int64_t operand_stride(int64_t n) {
  if (std::is_same_v<T, E>) return n;
  const int64_t line = 64 / static_cast<int64_t>(sizeof(E)), depth = kernels<T, E>().depth;
  return ((n + depth - 1) / depth + line - 1) / line * line;
}

// A network's weights as the kernels read them.
template <class T, class E = T>
struct PackedRnn {
  struct Layer {
    Buffer<E> w, r;       // forward; see ForwardArgs. Empty where a call takes the caller's
    Buffer<T> w_columns;  // w for one-hot input, where E is not T
    Buffer<T> bias;
    Buffer<E> w_back, r_back;  // for the gradients of x and h; empty without `backward` and until forward ends
    const T* one_hot() const {
      if constexpr (std::is_same_v<T, E>)
        return w.data();
      else
        return w_columns.data();
    }
  };
  std::vector<Layer> layers;  // layer * D + direction; or fewer, each for several of these in turn
  int64_t first_columns = 0;  // of the first w: the inputs, or the distinct tokens of a call
  Buffer<T> zeros;
  Buffer<E> zero_row;
  Layer& of(int64_t index) { return layers[static_cast<size_t>(index) % layers.size()]; }
  const Layer& of(int64_t index) const { return layers[static_cast<size_t>(index) % layers.size()]; }
  size_t bytes() const;
};

template <class T>
struct RnnInput {
  BatchLayout layout;
  const T* x;             // (t, b) -> [I]; or
  const int32_t* tokens;  // (t, b) -> a token below I: a one-hot row
  Strides strides;
};

template <class T>
struct RnnOutput {
  T* y;  // (t, b) -> [D * H]
  Strides strides;
  T* state[kMaxStates];  // [layers * D, B, H] or null
};

// Everything that backward needs. It owns all of it, so any number of caches may be alive and no array of the caller
// is looked at again, but for those that stay.
template <class T, class E = T>
struct RnnCache {
  explicit RnnCache(const BatchLayout& layout) : schedule(layout) {}
  RnnConfig config{};
  Schedule schedule;
  uint64_t seed = 0, step = 0;  // of dropout
  bool from_zeros = false;      // no initial state was given
  std::shared_ptr<const PackedRnn<T, E>> weights;
  std::shared_ptr<PackedRnn<T, E>> own_weights;  // the same, where they were packed for this call
  Buffer<E> x;                                   // [rows][operand_stride(I)]; empty where it is read in place
  Buffer<int32_t> token;                         // [rows] into `ids`
  Buffer<int32_t> ids;                           // the distinct tokens
  struct Layer {
    Buffer<T> y;    // [rows][D * H]; of the last layer empty where it is read in place
    Buffer<E> out;  // the next layer's input, [rows][operand_stride(D * H)]; empty where that is y or h as it is
    struct Direction {
      Buffer<T> state0[kMaxStates];  // [B][padded H] sorted
      Buffer<E> h0, h;               // where E is not T: [B] and [rows][operand_stride(H)]
      Buffer<T> state[kMaxStates];   // k >= 1: [rows][padded H]
      Buffer<T> saved;               // [panel][panel rows][saved][L]; empty where backward computes it again
    };
    std::vector<Direction> direction;
  };
  std::vector<Layer> layers;
  Rows<const E> outputs(int layer) const;  // what the next layer reads
  size_t bytes() const;
  bool recomputes() const;
  bool reads_weights() const;  // backward takes them where they are
  // What the forward kernel of a layer gets, but for the dense x of a call without a cache.
  ForwardArgs<T, E> forward_args(int layer, int d);
};

// Packs weights for calls that follow (freeze, stream, sample).
template <class T, class E>
std::shared_ptr<const PackedRnn<T, E>> pack_rnn(const RnnConfig&, const RnnWeights<T>* weights, int threads);

struct DropoutState {
  uint64_t seed, step;
};

// `packed` from pack_rnn, or null to take `weights` as they are now. With `cache` all that backward needs is kept in
// it.
template <class T, class E>
void rnn_forward(const RnnConfig&, const RnnWeights<T>* weights, std::shared_ptr<const PackedRnn<T, E>> packed,
                 const RnnInput<T>&, const T* const state0[kMaxStates], const RnnOutput<T>&, RnnCache<T, E>* cache,
                 const DropoutState& dropout, int threads);

template <class T>
struct RnnBackward {
  const T* dy;  // strides of y; or null for zeros
  Strides dy_strides;
  const T* dstate_n[kMaxStates];  // [layers * D, B, H] or null for zeros
  T* dx;                          // strides of x; or null; or x's place
  Strides dx_strides;
  T* dstate0[kMaxStates];  // or null
  const RnnGradients<T>* gradients;
  bool assign;  // gradients are not added to what is there
  // Those of forward: read where the configuration says that they stay.
  const RnnWeights<T>* weights;
  const T *x, *y;
  Strides x_strides, y_strides;
};

// Where dx may be written, [T, B, I], if the cache is not kept: over the copy of x. Null where that has another layout.
template <class T, class E>
T* place_for_dx(RnnCache<T, E>& cache);

// Consumes the cache unless `keep`. An interrupt leaves the gradients as they were.
template <class T, class E>
void rnn_backward(RnnCache<T, E>& cache, const RnnBackward<T>&, bool keep, int threads);

}  // namespace rnnfast
