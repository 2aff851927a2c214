// In a kernel's source only the driver's types matter.
#pragma once

#include <cstdint>

struct alignas(64) CUtensorMap_st {
  uint64_t opaque[16];
};
typedef CUtensorMap_st CUtensorMap;
