// Weights in the order in which the kernels read them, and one-hot input as columns of them.
#pragma once

#include "rnn.h"

namespace rnnfast {

// Which of its parts a pack shall have.
struct PackParts {
  int64_t first_columns;  // of the first layer's w: its inputs, or the distinct tokens of a call
  bool dense, one_hot;    // the first layer's w, for which input
  bool above, recurrent;  // the other layers' w, and all r
  bool backward, dx;      // what the gradients of h and of the layers' inputs need; with dx, of the first one's too
  bool in_turn;           // these later, in the memory of the forward ones
  int64_t held;           // layers and directions at once: all, or fewer, which are packed one after the other
  bool w(int layer) const { return layer > 0 ? above : dense; }
  bool w_back(int layer) const { return backward && (dx || layer > 0); }
};

// Room for what pack_part fills.
template <class T, class E>
std::shared_ptr<PackedRnn<T, E>> empty_pack(const RnnConfig&, const PackParts&);

// This thread's share of the packing of layer and direction `index`. `ids`: the tokens that the first w's columns stand
// for, or null for all.
template <class T, class E>
void pack_part(const RnnConfig&, const PackParts&, const RnnWeights<T>* weights, const int32_t* ids, int64_t index,
               PackedRnn<T, E>& packed, const Team&);

// This thread's share of what comes in turn, of a layer with whose forward weights all threads have done.
template <class T, class E>
void pack_in_turn(const RnnConfig&, const PackParts&, const RnnWeights<T>* weights, int layer, PackedRnn<T, E>& packed,
                  const Team&);

// After that: gives it its name, and lets all forward weights go.
template <class T, class E>
void leave_backward(const RnnConfig&, const PackParts&, PackedRnn<T, E>& packed);

// The distinct tokens of a call in ascending order, and each row's place among them.
void number_tokens(const Schedule&, const int32_t* tokens, const Strides&, int64_t vocabulary, Buffer<int32_t>& token,
                   Buffer<int32_t>& ids);

}  // namespace rnnfast
