// How a translated source describes itself to the engine, and its shared memory.
#pragma once

#include "abi.h"

constexpr unsigned kEmuMostSharedVariables = 256;  // translate.py knows it, too
static EmuSharedVariable emu_shared_variables[kEmuMostSharedVariables];

namespace emu {

// `Index` numbers the declarations in the source; T is a type that may be local to a function.
template <class T, unsigned Alignment, unsigned Index>
struct SharedVariable {
  static bool enter() {
    emu_shared_variables[Index] = {uint32_t(sizeof(T)),
                                   uint32_t(Alignment > alignof(T) ? Alignment : alignof(T))};
    return true;
  }
  static inline const bool entered = enter();
};

template <class T, unsigned Alignment, unsigned Index>
EMU_INLINE T& shared_variable() {
  static_assert(&SharedVariable<T, Alignment, Index>::entered != nullptr, "");
  return *static_cast<T*>(emu_shared_variable(Index));
}

// `extern __shared__ T name[]` outside of functions.
template <class T>
struct DynamicShared {
  EMU_INLINE operator T*() const { return static_cast<T*>(emu_dynamic_shared()); }
  template <class U, class = std::enable_if_t<!std::is_same<T, U>::value>>
  EMU_INLINE explicit operator U*() const {
    return static_cast<U*>(emu_dynamic_shared());
  }
  EMU_INLINE T* operator&() const { return static_cast<T*>(emu_dynamic_shared()); }
};

// A vector access must be aligned, also where g++ takes it apart into scalar ones.
template <class V, class Address>
EMU_INLINE V* aligned(Address address) {
  if (uintptr_t(address) % alignof(V)) {
    emu_trap("a vector access at an address that is no multiple of its alignment");
  }
  return (V*)(address);
}

template <class... Parameters>
struct Signature {
  static inline const uint32_t bytes[sizeof...(Parameters) + 1] = {sizeof(Parameters)..., 0};
  template <void (*kernel)(Parameters...), size_t... I>
  __attribute__((no_sanitize("thread"))) static void call(void** arguments,
                                                          std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<Parameters>*>(arguments[I])...);
  }
  template <void (*kernel)(Parameters...)>
  __attribute__((no_sanitize("thread"))) static void invoke(void** arguments) {
    call<kernel>(arguments, std::index_sequence_for<Parameters...>());
  }
};

template <auto kernel, class... Parameters>
EmuKernel describe(void (*)(Parameters...), const char* name, const char* parameters,
                   uint32_t max_threads, uint32_t min_ctas, uint32_t max_registers,
                   EmuDim cluster, const uint32_t* shared, uint32_t shared_count) {
  using S = Signature<Parameters...>;
  return {name,     parameters,    S::template invoke<kernel>, S::bytes,
          sizeof...(Parameters),   max_threads, min_ctas,      max_registers,
          cluster,  shared,        shared_count};
}

}  // namespace emu
