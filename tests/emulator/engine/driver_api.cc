// libcuda.so.1, as far as TVM's runtime and the tests call it: modules, functions, launches.
#include <cuda.h>

#include <cstring>
#include <memory>
#include <vector>

#include "launch.h"
#include "limits.h"
#include "module.h"
#include "report.h"
#include "stream.h"

using namespace emu;

namespace {

using Lock = std::lock_guard<std::recursive_mutex>;

CUresult result(Status status) {
  if (status != Status::success) device().last_error = status;
  return static_cast<CUresult>(status);
}

struct LoadedModule {  // a CUmodule
  std::shared_ptr<Module> module;
  std::vector<std::unique_ptr<Function>> functions;
};

// A launch to be, with copies of the arguments.
struct Prepared {
  std::shared_ptr<Module> module;
  const EmuKernel* kernel;
  LaunchShape shape;
  std::vector<std::vector<char>> values;
};

Status run(const Prepared& prepared) {
  std::vector<void*> arguments;
  for (const auto& value : prepared.values) {
    arguments.push_back(const_cast<char*>(value.data()));
  }
  Launch launch(*prepared.module, *prepared.kernel, prepared.shape, arguments.data());
  return launch.run();
}

// All modules that were loaded; a function only points to its own.
std::vector<LoadedModule*>& modules() {
  static auto* all = new std::vector<LoadedModule*>;
  return *all;
}

std::shared_ptr<Module> owner(const Function* function) {
  for (const LoadedModule* loaded : modules()) {
    if (loaded->module.get() == function->module) return loaded->module;
  }
  return nullptr;
}

Status submit(const Function* function, const LaunchShape& shape, void** arguments,
              Stream* stream) {
  if (const Status status = check_launch(*function, shape); status != Status::success) {
    return status;
  }
  Prepared prepared{owner(function), function->kernel, shape, {}};
  for (uint32_t i = 0; i < function->kernel->argument_count; ++i) {
    const char* value = static_cast<const char*>(arguments[i]);
    prepared.values.emplace_back(value, value + function->kernel->argument_bytes[i]);
  }
  return device().submit(stream, [prepared] { return run(prepared); });
}

}  // namespace

#define API extern "C" __attribute__((visibility("default"))) CUresult

API cuInit(unsigned) { return CUDA_SUCCESS; }
API cuDriverGetVersion(int* version) { return *version = 13000, CUDA_SUCCESS; }

API cuDeviceGetName(char* name, int length, CUdevice) {
  strncpy(name, settings.model->name(), size_t(length));
  return CUDA_SUCCESS;
}

// TVM shows the name of an error, not its text: so the name carries both.
API cuGetErrorName(CUresult error, const char** name) {
  static thread_local std::string text;
  text = error == CUDA_SUCCESS ? "CUDA_SUCCESS" : "CUDA error " + std::to_string(int(error));
  if (error != CUDA_SUCCESS && !last_report().empty()) text += ": " + last_report();
  *name = text.c_str();
  return CUDA_SUCCESS;
}
API cuGetErrorString(CUresult error, const char** text) { return cuGetErrorName(error, text); }

API cuModuleLoadData(CUmodule* module, const void* image) {
  Lock lock(device().mutex);
  Module* loaded = Module::load(image);
  if (!loaded) return result(Status::invalid_image);
  modules().push_back(new LoadedModule{std::shared_ptr<Module>(loaded), {}});
  *module = reinterpret_cast<CUmodule>(modules().back());
  if (loaded->arch() <= settings.model->arch) return CUDA_SUCCESS;
  report("the module was compiled for sm_" + std::to_string(loaded->arch()) +
         ", the device is sm_" + std::to_string(settings.model->arch));
  return result(Status::no_binary_for_gpu);
}

API cuModuleUnload(CUmodule module) {
  Lock lock(device().mutex);
  auto* loaded = reinterpret_cast<LoadedModule*>(module);
  device().synchronize_all();
  for (size_t i = 0; i < modules().size(); ++i) {
    if (modules()[i] == loaded) modules().erase(modules().begin() + ptrdiff_t(i));
  }
  delete loaded;
  return CUDA_SUCCESS;
}

API cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  Lock lock(device().mutex);
  auto* loaded = reinterpret_cast<LoadedModule*>(module);
  const EmuKernel* kernel = loaded->module->kernel(name);
  if (!kernel) {
    report(std::string("the module has no kernel ") + name);
    return result(Status::not_found);
  }
  loaded->functions.push_back(std::make_unique<Function>(Function{loaded->module.get(), kernel}));
  *function = reinterpret_cast<CUfunction>(loaded->functions.back().get());
  return CUDA_SUCCESS;
}

API cuFuncSetAttribute(CUfunction handle, CUfunction_attribute attribute, int value) {
  auto* function = reinterpret_cast<Function*>(handle);
  const DeviceModel& model = *settings.model;
  if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
    const uint32_t fixed = function->module->static_shared_bytes(*function->kernel);
    if (value < 0 || uint32_t(value) + fixed > model.shared_bytes_per_cta) {
      report(std::to_string(value) + " bytes of dynamic and " + std::to_string(fixed) +
             " of static shared memory: the device has " +
             std::to_string(model.shared_bytes_per_cta) + " per CTA");
      return result(Status::invalid_value);
    }
    function->max_dynamic_shared_bytes = uint32_t(value);
  } else if (attribute == CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED) {
    function->non_portable_cluster = value != 0;
  } else if (attribute != CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) {
    report("function attribute " + std::to_string(attribute) + " is not emulated");
    return result(Status::not_supported);
  }
  return CUDA_SUCCESS;
}

API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* ctas, CUfunction handle, int threads,
                                                size_t dynamic_shared_bytes) {
  const auto* function = reinterpret_cast<const Function*>(handle);
  *ctas = int(ctas_per_multiprocessor(*function, uint32_t(threads), uint32_t(dynamic_shared_bytes)));
  return CUDA_SUCCESS;
}

API cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction handle, void** arguments, void**) {
  Lock lock(device().mutex);
  auto* function = reinterpret_cast<Function*>(handle);
  LaunchShape shape;
  shape.grid = {config->gridDimX, config->gridDimY, config->gridDimZ};
  shape.block = {config->blockDimX, config->blockDimY, config->blockDimZ};
  shape.cluster = function->kernel->cluster.x ? function->kernel->cluster : EmuDim{1, 1, 1};
  shape.dynamic_shared_bytes = config->sharedMemBytes;
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const CUlaunchAttribute& attribute = config->attrs[i];
    switch (attribute.id) {
      case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
        shape.cooperative = attribute.value.cooperative != 0;
        break;
      case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
        shape.cluster = {attribute.value.clusterDim.x, attribute.value.clusterDim.y,
                         attribute.value.clusterDim.z};
        break;
      case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:  // only lets kernels overlap
      case CU_LAUNCH_ATTRIBUTE_PRIORITY:
      case CU_LAUNCH_ATTRIBUTE_IGNORE:
        break;
      default:
        report("launch attribute " + std::to_string(int(attribute.id)) + " is not emulated");
        return result(Status::not_supported);
    }
  }
  return result(submit(function, shape, arguments, device().resolve(config->hStream)));
}

API cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                   CUstream stream, void** arguments, void** extra) {
  CUlaunchConfig config{};
  config.gridDimX = grid_x, config.gridDimY = grid_y, config.gridDimZ = grid_z;
  config.blockDimX = block_x, config.blockDimY = block_y, config.blockDimZ = block_z;
  config.sharedMemBytes = shared_bytes;
  config.hStream = stream;
  return cuLaunchKernelEx(&config, function, arguments, extra);
}

API cuTensorMapEncodeTiled(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                           const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                           const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                           CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  report("tensor maps (the bulk tensor copy engine) are not emulated");
  return result(Status::not_supported);
}
