#define RNNFAST_TARGET neon
#include "vec_neon.h"

#include "isa_kernels.h"
