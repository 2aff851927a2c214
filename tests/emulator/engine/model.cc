#include "model.h"

namespace emu {
namespace {

// From the tables "Technical Specifications per Compute Capability" and the data sheets of the
// largest part of each: T4, A100, A40, L40, H100 SXM and H200, B200.
constexpr DeviceModel kModels[] = {
    // arch SMs threads CTAs  shared/SM  shared/CTA  L2          clusters
    {75, 40, 1024, 16, 64 << 10, 64 << 10, 4 << 20, false},
    {80, 108, 2048, 32, 164 << 10, 163 << 10, 40 << 20, false},
    {86, 84, 1536, 16, 100 << 10, 99 << 10, 6 << 20, false},
    {89, 142, 1536, 24, 100 << 10, 99 << 10, 96 << 20, false},
    {90, 132, 2048, 32, 228 << 10, 227 << 10, 50 << 20, true},
    {100, 148, 2048, 32, 228 << 10, 227 << 10, 126 << 20, true},
};

}  // namespace

const char* DeviceModel::name() const {
  switch (arch) {
    case 75: return "emulated sm_75";
    case 80: return "emulated sm_80";
    case 86: return "emulated sm_86";
    case 89: return "emulated sm_89";
    case 90: return "emulated sm_90";
    default: return "emulated sm_100";
  }
}

const DeviceModel* find_model(uint32_t arch) {
  for (const DeviceModel& model : kModels) {
    if (model.arch == arch) return &model;
  }
  return nullptr;
}

Settings settings;

}  // namespace emu
