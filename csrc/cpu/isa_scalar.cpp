#define RNNFAST_TARGET scalar
#include "vec_scalar.h"

#include "isa_kernels.h"
