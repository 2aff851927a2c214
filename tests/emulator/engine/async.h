// Copies that are done in the background, and the barriers that count them.
#pragma once

#include "launch.h"

namespace emu {

// Carry out one of the bulk copies that are under way.
void deliver_bulk_copy(Launch& launch);

}  // namespace emu
