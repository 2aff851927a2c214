// A small reproducible generator (splitmix64).
#pragma once

#include <cstdint>

namespace emu {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15ULL;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
    return z ^ z >> 31;
  }
  // Uniform in [0, bound).
  uint32_t below(uint32_t bound) { return static_cast<uint64_t>(uint32_t(next())) * bound >> 32; }
  bool one_in(uint32_t n) { return below(n) == 0; }

 private:
  uint64_t state_;
};

}  // namespace emu
