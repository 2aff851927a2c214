// What the emulated device refuses to launch, as a real one would.
#pragma once

#include "launch.h"
#include "module.h"

namespace emu {

struct Function {  // a CUfunction
  const Module* module;
  const EmuKernel* kernel;
  uint32_t max_dynamic_shared_bytes = kSharedBytesWithoutOptIn;
  bool non_portable_cluster = false;
};

// CTAs of so many threads that a multiprocessor holds at a time. How many registers the compiler
// would use is not known here: the most that the kernel's launch bounds allow are assumed.
uint32_t ctas_per_multiprocessor(const Function& function, uint32_t threads,
                                 uint32_t dynamic_shared_bytes);
// success, or why not, with a report.
Status check_launch(const Function& function, const LaunchShape& shape);

}  // namespace emu
