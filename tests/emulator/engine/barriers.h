// Barriers of CTAs, clusters and grids.
#pragma once

#include "launch.h"

namespace emu {

// Barriers no longer wait for a thread that has ended.
void thread_ended(Launch& launch, Thread& thread);
// The thread's clock, with what the thread itself has done so far: what it tells others.
Clock telling(const Thread& thread);

}  // namespace emu
