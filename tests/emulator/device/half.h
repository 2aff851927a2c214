// What <cuda_fp16.h> and <cuda_bf16.h> offer to device code only, through float.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace emu {

EMU_INLINE float wide(__half x) { return __half2float(x); }
EMU_INLINE float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T> EMU_INLINE T narrow(float x);
template <> EMU_INLINE __half narrow<__half>(float x) { return __float2half(x); }
template <> EMU_INLINE __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16(x); }

}  // namespace emu

#define EMU_HALF_UNARY(name, expression)                                   \
  EMU_INLINE __half name(__half h) {                                       \
    const float x = emu::wide(h);                                          \
    return emu::narrow<__half>(expression);                                \
  }                                                                        \
  EMU_INLINE __nv_bfloat16 name(__nv_bfloat16 h) {                         \
    const float x = emu::wide(h);                                          \
    return emu::narrow<__nv_bfloat16>(expression);                         \
  }
EMU_HALF_UNARY(hexp, expf(x))
EMU_HALF_UNARY(hexp2, exp2f(x))
EMU_HALF_UNARY(hexp10, powf(10.0f, x))
EMU_HALF_UNARY(hlog, logf(x))
EMU_HALF_UNARY(hlog2, log2f(x))
EMU_HALF_UNARY(hlog10, log10f(x))
EMU_HALF_UNARY(hsin, sinf(x))
EMU_HALF_UNARY(hcos, cosf(x))
EMU_HALF_UNARY(htanh, tanhf(x))
EMU_HALF_UNARY(htanh_approx, tanhf(x))
EMU_HALF_UNARY(hrcp, 1.0f / x)
EMU_HALF_UNARY(hsqrt, sqrtf(x))
EMU_HALF_UNARY(hrsqrt, 1.0f / sqrtf(x))
EMU_HALF_UNARY(hfloor, floorf(x))
EMU_HALF_UNARY(hceil, ceilf(x))
EMU_HALF_UNARY(htrunc, truncf(x))
EMU_HALF_UNARY(hrint, rintf(x))
#undef EMU_HALF_UNARY
