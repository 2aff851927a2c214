// The devices that can be emulated, by what limits a launch on them, and the settings of a session.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emu {

struct DeviceModel {
  uint32_t arch;  // 90 for sm_90
  uint32_t multiprocessors;
  uint32_t threads_per_multiprocessor;
  uint32_t ctas_per_multiprocessor;
  uint32_t shared_bytes_per_multiprocessor;
  uint32_t shared_bytes_per_cta;  // at most, after opting in
  uint32_t l2_bytes;
  bool clusters;

  const char* name() const;
};

constexpr uint32_t kWarpSize = 32;
constexpr uint32_t kMaxThreads = 1024;
constexpr uint32_t kRegisters = 65536;            // per multiprocessor and per CTA
constexpr uint32_t kMaxRegisters = 255;           // per thread
constexpr uint32_t kSharedBytesWithoutOptIn = 48 << 10;
constexpr uint32_t kSharedBytesReserved = 1 << 10;  // per CTA, from sm_80 on
constexpr uint32_t kPortableCluster = 8;
constexpr uint32_t kMaxCluster = 16;

// Null if there is no such model.
const DeviceModel* find_model(uint32_t arch);

struct Settings {
  const DeviceModel* model = find_model(90);
  uint32_t multiprocessors = 0;   // 0: the model's
  uint64_t seed = 0;              // orders CTAs, warps, lanes, streams
  bool check_races = true;
  bool lazy_streams = false;      // run what was queued only when the host waits for it
  uint32_t resident_ctas = 4;     // at a time, in a launch that isn't cooperative
  uint32_t time_limit_ms = 60000;  // per launch

  uint32_t sm_count() const { return multiprocessors ? multiprocessors : model->multiprocessors; }
};

extern Settings settings;

}  // namespace emu
