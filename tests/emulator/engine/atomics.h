// What atomic accesses and fences tell one thread of another.
#pragma once

#include "launch.h"

namespace emu {

// The thread publishes what it knows through an address (or anything else with a number).
void publish(Launch& launch, Thread& thread, uintptr_t address, uint32_t order, uint32_t scope,
             bool extends);
// The thread learns what others have published there.
void learn(Launch& launch, Thread& thread, uintptr_t address, uint32_t order, uint32_t scope);
// A plain access to a volatile object: relaxed, of the widest scope.
void volatile_access(uintptr_t address, size_t bytes, bool write, const void* pc);

}  // namespace emu
