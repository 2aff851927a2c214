// What CUDA C++ has and C++ has not: included before every translated kernel source.
//
// Functions are always inlined and touch no memory but their own locals, so that the engine sees
// the kernel's accesses only; whatever waits, or touches device memory, is a call of abi.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include <vector_functions.h>
#include <vector_types.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "abi.h"

#undef __host__
#undef __device__
#undef __global__
#undef __shared__
#undef __constant__
#undef __managed__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __maxnreg__
#undef __cluster_dims__
#undef __grid_constant__
#undef __restrict__
#define __host__
#define __device__
#define __global__
#define __constant__
#define __managed__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __cluster_dims__(...)
#define __grid_constant__
// To g++, restrict would mean that no other thread writes there, whatever barriers lie between.
#define __restrict__
#define __builtin_align__(n) __attribute__((aligned(n)))
#undef __align__
#define __align__(n) __attribute__((aligned(n)))

#define EMU_INLINE inline __attribute__((always_inline))

#include "indices.h"
#include "intrinsics.h"
#include "half.h"
#include "warp.h"
#include "atomics.h"
#include "module_table.h"
#include "ptx.h"

// Last, since the CUDA headers above must be read as by a host compiler.
#undef __CUDACC_VER_MAJOR__
#undef __CUDACC_VER_MINOR__
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#define __CUDA_ARCH__ EMU_ARCH
