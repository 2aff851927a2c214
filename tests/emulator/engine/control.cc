// What the Python side calls: settings, reports, counts.
#include <cstring>

#include "memory.h"
#include "report.h"
#include "stream.h"

using namespace emu;

extern "C" {

// Returns 0 if there is no such device.
int emu_set_arch(uint32_t arch) {
  const DeviceModel* model = find_model(arch);
  if (!model) return 0;
  std::lock_guard<std::recursive_mutex> lock(device().mutex);
  settings.model = model;
  return 1;
}

void emu_configure(uint32_t multiprocessors, uint64_t seed, int check_races, int lazy_streams,
                   uint32_t resident_ctas, uint32_t time_limit_ms) {
  std::lock_guard<std::recursive_mutex> lock(device().mutex);
  device().synchronize_all();
  settings.multiprocessors = multiprocessors;
  settings.seed = seed;
  settings.check_races = check_races != 0;
  settings.lazy_streams = lazy_streams != 0;
  settings.resident_ctas = resident_ctas;
  settings.time_limit_ms = time_limit_ms;
}

const char* emu_last_report() { return last_report().c_str(); }
void emu_clear_report() { clear_report(); }
size_t emu_live_allocations() { return device_heap.live_count(); }
size_t emu_live_bytes() { return device_heap.live_bytes(); }

}  // extern "C"
