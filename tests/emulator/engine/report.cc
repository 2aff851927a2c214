#include "report.h"

#include "launch.h"

namespace emu {
namespace {

std::string text;

std::string triple(const EmuDim& dim) {
  return "(" + std::to_string(dim.x) + "," + std::to_string(dim.y) + "," + std::to_string(dim.z) +
         ")";
}

std::string describe(const EmuDim& thread, const EmuDim& cta) {
  return "thread " + triple(thread) + " of CTA " + triple(cta);
}

EmuDim unflatten(uint64_t i, const EmuDim& dim) {
  return {uint32_t(i % dim.x), uint32_t(i / dim.x % dim.y), uint32_t(i / dim.x / dim.y)};
}

}  // namespace

void report(const std::string& message) { text = message; }
const std::string& last_report() { return text; }
void clear_report() { text.clear(); }

std::string describe(const Thread& thread) { return describe(thread.index, thread.cta->index); }

std::string describe_thread(uint64_t id) {
  const Launch& launch = *current_launch;
  return describe(unflatten(id % launch.ids_per_cta(), launch.shape.block),
                  unflatten(id / launch.ids_per_cta(), launch.shape.grid));
}

}  // namespace emu
