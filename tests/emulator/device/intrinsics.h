// CUDA's arithmetic intrinsics, with exact or ordinary rounding whatever the name allows.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace emu {

template <class To, class From>
EMU_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace emu

template <class A, class B>
EMU_INLINE std::enable_if_t<std::is_arithmetic<A>::value && std::is_arithmetic<B>::value,
                            std::common_type_t<A, B>>
max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if (std::is_floating_point<T>::value) return T(std::fmax(T(a), T(b)));  // a NaN gives way
  return T(a) > T(b) ? T(a) : T(b);
}
template <class A, class B>
EMU_INLINE std::enable_if_t<std::is_arithmetic<A>::value && std::is_arithmetic<B>::value,
                            std::common_type_t<A, B>>
min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if (std::is_floating_point<T>::value) return T(std::fmin(T(a), T(b)));
  return T(a) < T(b) ? T(a) : T(b);
}

// Fast functions: what they approximate.
EMU_INLINE float __expf(float x) { return expf(x); }
EMU_INLINE float __exp10f(float x) { return powf(10.0f, x); }
EMU_INLINE float __logf(float x) { return logf(x); }
EMU_INLINE float __log2f(float x) { return log2f(x); }
EMU_INLINE float __log10f(float x) { return log10f(x); }
EMU_INLINE float __sinf(float x) { return sinf(x); }
EMU_INLINE float __cosf(float x) { return cosf(x); }
EMU_INLINE float __tanf(float x) { return tanf(x); }
EMU_INLINE float __tanhf(float x) { return tanhf(x); }
EMU_INLINE float __powf(float x, float y) { return powf(x, y); }
EMU_INLINE float __fdividef(float x, float y) { return x / y; }
EMU_INLINE float fdividef(float x, float y) { return x / y; }
EMU_INLINE float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
EMU_INLINE float rsqrtf(float x) { return 1.0f / sqrtf(x); }
EMU_INLINE double rsqrt(double x) { return 1.0 / std::sqrt(x); }
EMU_INLINE float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
EMU_INLINE float __frcp_rn(float x) { return 1.0f / x; }
EMU_INLINE float __fsqrt_rn(float x) { return sqrtf(x); }
EMU_INLINE float __fdiv_rn(float x, float y) { return x / y; }
EMU_INLINE float __fadd_rn(float x, float y) { return x + y; }
EMU_INLINE float __fsub_rn(float x, float y) { return x - y; }
EMU_INLINE float __fmul_rn(float x, float y) { return x * y; }
EMU_INLINE float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
EMU_INLINE double __fma_rn(double x, double y, double z) { return fma(x, y, z); }

// Bits.
EMU_INLINE int __float_as_int(float x) { return emu::bit_cast<int>(x); }
EMU_INLINE unsigned __float_as_uint(float x) { return emu::bit_cast<unsigned>(x); }
EMU_INLINE float __int_as_float(int x) { return emu::bit_cast<float>(x); }
EMU_INLINE float __uint_as_float(unsigned x) { return emu::bit_cast<float>(x); }
EMU_INLINE long long __double_as_longlong(double x) { return emu::bit_cast<long long>(x); }
EMU_INLINE double __longlong_as_double(long long x) { return emu::bit_cast<double>(x); }
EMU_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
EMU_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
EMU_INLINE int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
EMU_INLINE int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
EMU_INLINE int __ffs(int x) { return __builtin_ffs(x); }
EMU_INLINE unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; ++i) r |= (x >> i & 1u) << (31 - i);
  return r;
}
EMU_INLINE unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> 4 * i & 15;
    unsigned byte = unsigned(bytes >> 8 * (pick & 7)) & 255;
    if (pick & 8) byte = byte & 128 ? 255 : 0;
    r |= byte << 8 * i;
  }
  return r;
}
EMU_INLINE unsigned __funnelshift_l(unsigned low, unsigned high, unsigned n) {
  return unsigned((uint64_t{high} << 32 | low) << (n & 31) >> 32);
}
EMU_INLINE unsigned __funnelshift_r(unsigned low, unsigned high, unsigned n) {
  return unsigned((uint64_t{high} << 32 | low) >> (n & 31));
}
EMU_INLINE unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t{a} * b >> 32); }
EMU_INLINE int __mulhi(int a, int b) { return int(int64_t{a} * b >> 32); }
EMU_INLINE int __mul24(int a, int b) { return a * b; }
EMU_INLINE int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += int(int8_t(a >> 8 * i)) * int(int8_t(b >> 8 * i));
  return c;
}

// Conversions.
EMU_INLINE int __float2int_rn(float x) { return int(nearbyintf(x)); }
EMU_INLINE int __float2int_rz(float x) { return int(x); }
EMU_INLINE int __float2int_rd(float x) { return int(floorf(x)); }
EMU_INLINE int __float2int_ru(float x) { return int(ceilf(x)); }
EMU_INLINE float __int2float_rn(int x) { return float(x); }
EMU_INLINE float __uint2float_rn(unsigned x) { return float(x); }

// Loads and stores with hints for the caches. Called with g++'s instrumentation, being inlined.
template <class T> EMU_INLINE T __ldg(const T* p) { return *p; }
template <class T> EMU_INLINE T __ldca(const T* p) { return *p; }
template <class T> EMU_INLINE T __ldcg(const T* p) { return *p; }
template <class T> EMU_INLINE T __ldcs(const T* p) { return *p; }
template <class T> EMU_INLINE T __ldlu(const T* p) { return *p; }
template <class T> EMU_INLINE T __ldcv(const T* p) { return *p; }
template <class T> EMU_INLINE void __stwb(T* p, T v) { *p = v; }
template <class T> EMU_INLINE void __stcg(T* p, T v) { *p = v; }
template <class T> EMU_INLINE void __stcs(T* p, T v) { *p = v; }
template <class T> EMU_INLINE void __stwt(T* p, T v) { *p = v; }
