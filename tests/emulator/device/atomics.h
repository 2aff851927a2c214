// atomicAdd and its kin: relaxed, device scope unless the name says otherwise.
#pragma once

#include "abi.h"

namespace emu {

template <class T>
constexpr uint32_t type_code() {
  if (std::is_same<T, float>::value) return EMU_F32;
  if (std::is_same<T, double>::value) return EMU_F64;
  if (std::is_signed<T>::value) return sizeof(T) == 8 ? EMU_S64 : EMU_S32;
  return sizeof(T) == 8 ? EMU_U64 : EMU_U32;
}

template <class T>
struct Same {  // a parameter that takes no part in deduction
  using type = T;
};
template <class T>
using same_t = typename Same<T>::type;

template <class T>
EMU_INLINE T atomic(uint32_t operation, uint32_t scope, volatile T* address, T operand,
                    T compare = T()) {
  static_assert(std::is_arithmetic<T>::value && (sizeof(T) == 4 || sizeof(T) == 8),
                "atomics of 32 and 64 bits are emulated");
  return from_bits<T>(emu_atomic(operation, type_code<T>(), EMU_RELAXED, scope,
                                 const_cast<T*>(address), to_bits(operand), to_bits(compare)));
}

}  // namespace emu

#define EMU_ATOMIC(name, operation, scope)                              \
  template <class T>                                                    \
  EMU_INLINE T name(volatile T* address, emu::same_t<T> operand) {      \
    return emu::atomic<T>(operation, scope, address, operand);          \
  }
#define EMU_ATOMIC_SCOPES(name, operation)         \
  EMU_ATOMIC(name, operation, EMU_DEVICE)          \
  EMU_ATOMIC(name##_block, operation, EMU_CTA)     \
  EMU_ATOMIC(name##_system, operation, EMU_SYSTEM)
EMU_ATOMIC_SCOPES(atomicAdd, EMU_ADD)
EMU_ATOMIC_SCOPES(atomicSub, EMU_SUB)
EMU_ATOMIC_SCOPES(atomicExch, EMU_EXCHANGE)
EMU_ATOMIC_SCOPES(atomicMin, EMU_MIN)
EMU_ATOMIC_SCOPES(atomicMax, EMU_MAX)
EMU_ATOMIC_SCOPES(atomicInc, EMU_INC)
EMU_ATOMIC_SCOPES(atomicDec, EMU_DEC)
EMU_ATOMIC_SCOPES(atomicAnd, EMU_AND)
EMU_ATOMIC_SCOPES(atomicOr, EMU_OR)
EMU_ATOMIC_SCOPES(atomicXor, EMU_XOR)
#undef EMU_ATOMIC_SCOPES
#undef EMU_ATOMIC

#define EMU_COMPARE_AND_SWAP(name, scope)                                                                \
  template <class T>                                                                        \
  EMU_INLINE T name(volatile T* address, emu::same_t<T> compare, emu::same_t<T> value) {    \
    return emu::atomic<T>(EMU_CAS, scope, address, value, compare);                         \
  }
EMU_COMPARE_AND_SWAP(atomicCAS, EMU_DEVICE)
EMU_COMPARE_AND_SWAP(atomicCAS_block, EMU_CTA)
EMU_COMPARE_AND_SWAP(atomicCAS_system, EMU_SYSTEM)
#undef EMU_COMPARE_AND_SWAP
