#include "limits.h"

#include <algorithm>

#include "report.h"

namespace emu {
namespace {

constexpr uint32_t kMaxBlock[3] = {1024, 1024, 64};
constexpr uint32_t kMaxGrid[3] = {0x7fffffff, 65535, 65535};
constexpr uint32_t kRegisterUnit = 256;  // that a warp's registers are rounded up to

std::string text(const EmuDim& dim) {
  return "(" + std::to_string(dim.x) + "," + std::to_string(dim.y) + "," + std::to_string(dim.z) +
         ")";
}

uint32_t registers_per_thread(const EmuKernel& kernel, uint32_t threads) {
  if (kernel.max_registers) return kernel.max_registers;
  const uint32_t bound = kernel.max_threads ? kernel.max_threads : threads;
  const uint32_t ctas = std::max(kernel.min_ctas, 1u);
  const uint32_t warps = (bound + kWarpSize - 1) / kWarpSize;
  const uint32_t per_warp = kRegisters / ctas / warps / kRegisterUnit * kRegisterUnit;
  return std::min(kMaxRegisters, per_warp / kWarpSize);
}

class Refusal {
 public:
  Refusal(const EmuKernel& kernel) : kernel_(kernel) {}
  Status operator()(Status status, const std::string& why) const {
    report(std::string("kernel ") + kernel_.name + " is not launched: " + why);
    return status;
  }

 private:
  const EmuKernel& kernel_;
};

}  // namespace

uint32_t ctas_per_multiprocessor(const Function& function, uint32_t threads,
                                 uint32_t dynamic_shared_bytes) {
  const DeviceModel& model = *settings.model;
  const uint32_t warps = (threads + kWarpSize - 1) / kWarpSize;
  const uint32_t registers = registers_per_thread(*function.kernel, threads);
  const uint32_t per_warp =
      (registers * kWarpSize + kRegisterUnit - 1) / kRegisterUnit * kRegisterUnit;
  const uint32_t reserved = model.arch >= 80 ? kSharedBytesReserved : 0;
  const uint32_t shared =
      function.module->static_shared_bytes(*function.kernel) + dynamic_shared_bytes + reserved;
  uint32_t ctas = std::min(model.ctas_per_multiprocessor,
                           model.threads_per_multiprocessor / (warps * kWarpSize));
  ctas = std::min(ctas, kRegisters / (per_warp * warps));
  if (shared) ctas = std::min(ctas, model.shared_bytes_per_multiprocessor / shared);
  return ctas;
}

Status check_launch(const Function& function, const LaunchShape& shape) {
  const EmuKernel& kernel = *function.kernel;
  const Refusal refuse(kernel);
  const DeviceModel& model = *settings.model;
  const uint32_t block[] = {shape.block.x, shape.block.y, shape.block.z};
  const uint32_t grid[] = {shape.grid.x, shape.grid.y, shape.grid.z};
  const uint32_t cluster[] = {shape.cluster.x, shape.cluster.y, shape.cluster.z};
  for (int axis = 0; axis < 3; ++axis) {
    if (block[axis] == 0 || block[axis] > kMaxBlock[axis] || grid[axis] == 0 ||
        grid[axis] > kMaxGrid[axis]) {
      return refuse(Status::invalid_value,
                    "grid " + text(shape.grid) + " of CTAs of " + text(shape.block) + " threads");
    }
  }
  const uint32_t threads = block[0] * block[1] * block[2];
  if (threads > kMaxThreads) {
    return refuse(Status::invalid_value, std::to_string(threads) + " threads per CTA");
  }
  if (kernel.max_threads && threads > kernel.max_threads) {
    return refuse(Status::out_of_resources,
                  std::to_string(threads) + " threads per CTA, compiled for at most " +
                      std::to_string(kernel.max_threads));
  }
  const uint32_t fixed = function.module->static_shared_bytes(kernel);
  const uint32_t shared = fixed + shape.dynamic_shared_bytes;
  if (fixed > kSharedBytesWithoutOptIn) {
    return refuse(Status::invalid_value,
                  std::to_string(fixed) + " bytes of shared variables, more than 48 KiB");
  }
  if (shape.dynamic_shared_bytes > function.max_dynamic_shared_bytes) {
    return refuse(Status::invalid_value,
                  std::to_string(shape.dynamic_shared_bytes) +
                      " bytes of dynamic shared memory; the function's attribute allows " +
                      std::to_string(function.max_dynamic_shared_bytes));
  }
  if (shared > model.shared_bytes_per_cta) {
    return refuse(Status::invalid_value, std::to_string(shared) +
                                             " bytes of shared memory; the device has " +
                                             std::to_string(model.shared_bytes_per_cta));
  }
  const uint32_t ctas_per_cluster = cluster[0] * cluster[1] * cluster[2];
  if (ctas_per_cluster > 1 && !model.clusters) {
    return refuse(Status::invalid_value, "clusters need sm_90");
  }
  if (ctas_per_cluster > kMaxCluster ||
      (ctas_per_cluster > kPortableCluster && !function.non_portable_cluster)) {
    return refuse(Status::invalid_cluster_size,
                  "clusters of " + std::to_string(ctas_per_cluster) + " CTAs");
  }
  for (int axis = 0; axis < 3; ++axis) {
    if (cluster[axis] == 0 || grid[axis] % cluster[axis]) {
      return refuse(Status::invalid_cluster_size, "a grid of " + text(shape.grid) +
                                                      " is no whole number of clusters of " +
                                                      text(shape.cluster));
    }
  }
  const uint32_t per_sm = ctas_per_multiprocessor(function, threads, shape.dynamic_shared_bytes);
  if (per_sm == 0) {
    return refuse(Status::out_of_resources, "not even one CTA fits a multiprocessor");
  }
  const uint64_t ctas = uint64_t{grid[0]} * grid[1] * grid[2];
  const uint64_t resident = uint64_t{per_sm} * settings.sm_count();
  if (shape.cooperative && ctas > resident) {
    return refuse(Status::cooperative_too_large,
                  "a cooperative launch of " + std::to_string(ctas) + " CTAs; " +
                      std::to_string(resident) + " are resident at a time (" +
                      std::to_string(settings.sm_count()) + " multiprocessors, " +
                      std::to_string(per_sm) + " each)");
  }
  return Status::success;
}

}  // namespace emu
