// PTX instructions as C++: what ptx.py turns inline assembly into.
#pragma once

#include "abi.h"

namespace emu {

// A register's value read as another type of its width, or cut to a narrower one.
template <class To, class From>
EMU_INLINE To reg(From from) {
  To to{};
  memcpy(&to, &from, sizeof(To) < sizeof(From) ? sizeof(To) : sizeof(From));
  return to;
}

// A result put into a register that may be wider: extended as its own type says.
template <class To, class From>
EMU_INLINE void set(To& to, From from) {
  if (sizeof(To) > sizeof(From) && std::is_integral<From>::value) {
    to = reg<To>(static_cast<std::conditional_t<std::is_signed<From>::value, int64_t, uint64_t>>(
        static_cast<std::conditional_t<std::is_integral<From>::value, From, int>>(from)));
  } else {
    to = reg<To>(from);
  }
}

// A C++ value as the register that a constraint asks for, and back. By value: arrays are pointers.
template <class To, class From>
EMU_INLINE To operand(From from) {
  return reg<To>(from);
}

namespace ptx {

// ---- addresses and memory ----------------------------------------------------------------------

EMU_INLINE void* generic(uint64_t address) { return reinterpret_cast<void*>(address); }
EMU_INLINE void* shared(uint64_t address) { return emu_from_shared_address(uint32_t(address)); }

template <class T>
EMU_INLINE T load(const void* address) {
  T value;
  emu_read(&value, address, sizeof value);
  return value;
}
template <class T>
EMU_INLINE void store(void* address, T value) {
  emu_write(address, &value, sizeof value);
}
// One access of a whole vector; then its elements.
template <class T, int n>
struct Vector {
  T element[n];
};

template <class T>
EMU_INLINE T atomic(uint32_t operation, uint32_t type, uint32_t order, uint32_t scope,
                    void* address, T operand, T compare = T()) {
  return from_bits<T>(
      emu_atomic(operation, type, order, scope, address, to_bits(operand), to_bits(compare)));
}

// ---- arithmetic --------------------------------------------------------------------------------

EMU_INLINE uint16_t to_f16(float x) { return bit_cast<uint16_t>(__half_raw(__float2half_rn(x))); }
EMU_INLINE uint16_t to_bf16(float x) {
  return bit_cast<uint16_t>(__nv_bfloat16_raw(__float2bfloat16_rn(x)));
}
EMU_INLINE float from_f16(uint16_t x) {
  __half_raw raw;
  raw.x = x;
  return __half2float(__half(raw));
}
EMU_INLINE float from_bf16(uint16_t x) { return bit_cast<float>(uint32_t{x} << 16); }
EMU_INLINE uint32_t pack(uint16_t high, uint16_t low) { return uint32_t{high} << 16 | low; }
// Round to nearest, ties away from zero, to 10 bits of mantissa.
EMU_INLINE uint32_t to_tf32(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits;
  return (bits + 0x1000u) & 0xffffe000u;
}
template <class F>
EMU_INLINE uint32_t each_f16(uint32_t x, F f) {
  return pack(to_f16(f(from_f16(uint16_t(x >> 16)))), to_f16(f(from_f16(uint16_t(x)))));
}
template <class F>
EMU_INLINE uint32_t each_bf16(uint32_t x, F f) {
  return pack(to_bf16(f(from_bf16(uint16_t(x >> 16)))), to_bf16(f(from_bf16(uint16_t(x)))));
}
EMU_INLINE float tanh(float x) { return tanhf(x); }

// Shifts by the width or more give 0, or the sign.
template <class T>
EMU_INLINE T shift_left(T x, uint32_t n) {
  return n >= 8 * sizeof(T) ? T(0) : T(x << n);
}
template <class T>
EMU_INLINE T shift_right(T x, uint32_t n) {
  if (n >= 8 * sizeof(T)) return std::is_signed<T>::value && x < T(0) ? T(-1) : T(0);
  return T(x >> n);
}

// ---- warps -------------------------------------------------------------------------------------

// shfl.sync's c operand: the segment mask in bits 8..12, the clamp in bits 0..4.
EMU_INLINE uint32_t shuffle(const char mode, uint32_t value, uint32_t b, uint32_t c, uint32_t mask,
                            bool* in_range) {
  const int lane = int(emu_lane());
  const int segment = int(c >> 8 & 31), clamp = int(c & 31);
  const int last = (lane & segment) | (clamp & ~segment);
  const int first = lane & segment;
  int source;
  bool inside;
  if (mode == 'u') {
    source = lane - int(b & 31);
    inside = source >= last;
  } else if (mode == 'd') {
    source = lane + int(b & 31);
    inside = source <= last;
  } else if (mode == 'b') {
    source = lane ^ int(b & 31);
    inside = source <= last;
  } else {
    source = first | (int(b & 31) & ~segment);
    inside = source <= last;
  }
  *in_range = inside;
  return uint32_t(emu_shuffle(mask, value, uint32_t(inside ? source : lane)));
}

}  // namespace ptx
}  // namespace emu
