#define RNNFAST_TARGET sse42
#include "vec_sse42.h"

#include "isa_kernels.h"
