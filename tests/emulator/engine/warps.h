// Lanes of a warp that meet, to synchronise or to exchange values.
#pragma once

#include "launch.h"

namespace emu {

// A lane has ended: what waited for it only may go on.
void complete_meetings(Launch& launch, Warp& warp);

// Wait for the other 31 lanes; one of them runs `combine` on the operands and results, `slot`, that
// each has brought. It orders no accesses to memory.
void meet_whole_warp(Rendezvous::Combine combine, const char* name, void* slot, const void* pc);

}  // namespace emu
