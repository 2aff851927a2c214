// libcudart.so.13, as far as TVM's runtime and the tests call it.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "limits.h"
#include "memory.h"
#include "report.h"
#include "stream.h"

#undef cudaGetDeviceProperties  // older headers rename it; the library has both names

using namespace emu;

namespace {

using Lock = std::lock_guard<std::recursive_mutex>;

cudaError_t result(Status status) {
  if (status != Status::success && status != Status::not_ready) device().last_error = status;
  return static_cast<cudaError_t>(status);
}

cudaError_t invalid(const std::string& why) {
  report(why);
  return result(Status::invalid_value);
}

std::shared_ptr<Event>& event_of(cudaEvent_t event) {
  return *reinterpret_cast<std::shared_ptr<Event>*>(event);
}

// Pageable memory of the host is read before the call returns, device and pinned memory when the
// stream gets there.
cudaError_t copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, Stream* stream,
                 bool wait) {
  if (bytes == 0) return cudaSuccess;
  const bool to_device = device_heap.contains(reinterpret_cast<uintptr_t>(to));
  const bool from_device = device_heap.contains(reinterpret_cast<uintptr_t>(from));
  if (to_device && !device_heap.holds(to, bytes)) {
    return invalid("a copy of " + std::to_string(bytes) + " bytes writes " +
                   describe_address(reinterpret_cast<uintptr_t>(to)));
  }
  if (from_device && !device_heap.holds(from, bytes)) {
    return invalid("a copy of " + std::to_string(bytes) + " bytes reads " +
                   describe_address(reinterpret_cast<uintptr_t>(from)));
  }
  const bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault && ((wants_to && !to_device) || (wants_from && !from_device))) {
    return invalid("a copy whose kind does not fit its pointers");
  }
  const bool capturing = bool(stream->capture);
  Operation operation;
  if (!from_device && !capturing) {
    const char* bytes_of = static_cast<const char*>(from);
    auto snapshot = std::make_shared<std::vector<char>>(bytes_of, bytes_of + bytes);
    operation = [to, snapshot] {
      memcpy(to, snapshot->data(), snapshot->size());
      return Status::success;
    };
  } else {
    operation = [to, from, bytes] {
      memmove(to, from, bytes);
      return Status::success;
    };
  }
  const Status status = device().submit(stream, std::move(operation));
  if (status != Status::success) return result(status);
  // A copy to pageable memory has happened when the call returns.
  if (!capturing && (wait || !to_device)) return result(device().synchronize(stream));
  return cudaSuccess;
}

cudaError_t fill(void* to, int value, size_t bytes, Stream* stream) {
  if (bytes == 0) return cudaSuccess;
  if (!device_heap.holds(to, bytes)) {
    return invalid("cudaMemset of " + std::to_string(bytes) + " bytes writes " +
                   describe_address(reinterpret_cast<uintptr_t>(to)));
  }
  return result(device().submit(stream, [to, value, bytes] {
    memset(to, value, bytes);
    return Status::success;
  }));
}

cudaError_t allocate(void** pointer, size_t bytes, bool host) {
  Lock lock(device().mutex);
  *pointer = nullptr;
  if (const Status status = device().check_capture(nullptr, "an allocation");
      status != Status::success) {
    return result(status);
  }
  if (bytes == 0) return cudaSuccess;
  *pointer = device_heap.allocate(bytes, host);
  if (*pointer) return cudaSuccess;
  report("no memory for " + std::to_string(bytes) + " bytes");
  return result(Status::out_of_memory);
}

// Freeing waits for all that might still use the memory.
cudaError_t release(void* pointer) {
  Lock lock(device().mutex);
  if (!pointer) return cudaSuccess;
  if (const Status status = device().check_capture(nullptr, "freeing memory");
      status != Status::success) {
    return result(status);
  }
  const Status status = device().synchronize_all();
  if (!device_heap.free(pointer)) return invalid("freeing what is not, or no longer, allocated");
  return result(status);
}

}  // namespace

#define API extern "C" __attribute__((visibility("default"))) cudaError_t

API cudaGetDevice(int* id) { return *id = 0, cudaSuccess; }
API cudaSetDevice(int id) {
  return id == 0 ? cudaSuccess : result(static_cast<Status>(cudaErrorInvalidDevice));
}
API cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
API cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
API cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }

API cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const DeviceModel& model = *settings.model;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = kMaxThreads; break;
    case cudaDevAttrMaxBlockDimX: *value = 1024; break;
    case cudaDevAttrMaxBlockDimY: *value = 1024; break;
    case cudaDevAttrMaxBlockDimZ: *value = 64; break;
    case cudaDevAttrMaxGridDimX: *value = 0x7fffffff; break;
    case cudaDevAttrMaxGridDimY: *value = 65535; break;
    case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrWarpSize: *value = kWarpSize; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = kSharedBytesWithoutOptIn; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(model.shared_bytes_per_cta); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = int(model.shared_bytes_per_multiprocessor);
      break;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      *value = model.arch >= 80 ? int(kSharedBytesReserved) : 0;
      break;
    case cudaDevAttrMaxRegistersPerBlock: *value = kRegisters; break;
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = kRegisters; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = int(model.threads_per_multiprocessor);
      break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = int(model.ctas_per_multiprocessor); break;
    case cudaDevAttrMultiProcessorCount: *value = int(settings.sm_count()); break;
    case cudaDevAttrL2CacheSize: *value = int(model.l2_bytes); break;
    case cudaDevAttrClockRate: *value = 1980000; break;
    case cudaDevAttrComputeCapabilityMajor: *value = int(model.arch / 10); break;
    case cudaDevAttrComputeCapabilityMinor: *value = int(model.arch % 10); break;
    case cudaDevAttrCooperativeLaunch: *value = 1; break;
    case cudaDevAttrClusterLaunch: *value = model.clusters; break;
    case cudaDevAttrUnifiedAddressing: *value = 1; break;
    case cudaDevAttrMemoryPoolsSupported: *value = 0; break;
    default: return invalid("device attribute " + std::to_string(attribute) + " is not emulated");
  }
  return cudaSuccess;
}

extern "C" __attribute__((visibility("default"))) cudaError_t cudaGetDeviceProperties(
    cudaDeviceProp* properties, int) {
  const DeviceModel& model = *settings.model;
  // Only up to where the layouts of CUDA 12 and 13 agree.
  memset(properties, 0, offsetof(cudaDeviceProp, maxGridSize) + sizeof properties->maxGridSize);
  strcpy(properties->name, model.name());
  properties->totalGlobalMem = device_heap.size();
  properties->sharedMemPerBlock = kSharedBytesWithoutOptIn;
  properties->regsPerBlock = kRegisters;
  properties->warpSize = kWarpSize;
  properties->maxThreadsPerBlock = kMaxThreads;
#if CUDART_VERSION >= 13000
  properties->major = int(model.arch / 10);
  properties->minor = int(model.arch % 10);
  properties->multiProcessorCount = int(settings.sm_count());
#endif
  return cudaSuccess;
}

extern "C" __attribute__((visibility("default"))) const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess ? "cudaSuccess" : "CUDA error";
}
extern "C" __attribute__((visibility("default"))) const char* cudaGetErrorString(
    cudaError_t error) {
  static thread_local std::string text;
  text = error == cudaSuccess ? "no error" : last_report();
  if (text.empty()) text = "error " + std::to_string(int(error)) + " of the emulated device";
  return text.c_str();
}
API cudaGetLastError() {
  return static_cast<cudaError_t>(std::exchange(device().last_error, Status::success));
}
API cudaPeekAtLastError() { return static_cast<cudaError_t>(device().last_error); }

// ---- memory ------------------------------------------------------------------------------------

API cudaMalloc(void** pointer, size_t bytes) { return allocate(pointer, bytes, false); }
API cudaFree(void* pointer) { return release(pointer); }
API cudaMallocHost(void** pointer, size_t bytes) { return allocate(pointer, bytes, true); }
API cudaHostAlloc(void** pointer, size_t bytes, unsigned) { return allocate(pointer, bytes, true); }
API cudaFreeHost(void* pointer) { return release(pointer); }
API cudaMemGetInfo(size_t* available, size_t* total) {
  *total = device_heap.size();
  *available = *total - device_heap.live_bytes();
  return cudaSuccess;
}
API cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  Lock lock(device().mutex);
  Stream* stream = device().resolve(nullptr);
  return copy(to, from, bytes, kind, stream, true);
}
API cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                    cudaStream_t stream) {
  Lock lock(device().mutex);
  return copy(to, from, bytes, kind, device().resolve(stream), false);
}
API cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}
API cudaMemset(void* to, int value, size_t bytes) {
  Lock lock(device().mutex);
  return fill(to, value, bytes, device().resolve(nullptr));
}
API cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  Lock lock(device().mutex);
  return fill(to, value, bytes, device().resolve(stream));
}

// ---- streams and events ------------------------------------------------------------------------

API cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  Lock lock(device().mutex);
  *stream = reinterpret_cast<cudaStream_t>(
      device().create_stream(!(flags & cudaStreamNonBlocking)));
  return cudaSuccess;
}
API cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}
API cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
API cudaStreamDestroy(cudaStream_t stream) {
  Lock lock(device().mutex);
  device().destroy_stream(reinterpret_cast<Stream*>(stream));
  return cudaSuccess;
}
API cudaStreamSynchronize(cudaStream_t handle) {
  Lock lock(device().mutex);
  Stream* stream = device().resolve(handle);
  if (const Status status = device().check_capture(stream, "cudaStreamSynchronize");
      status != Status::success) {
    return result(status);
  }
  return result(device().synchronize(stream));
}
API cudaStreamQuery(cudaStream_t stream) {
  Lock lock(device().mutex);
  return result(device().idle(device().resolve(stream)) ? Status::success : Status::not_ready);
}
API cudaDeviceSynchronize() {
  Lock lock(device().mutex);
  if (const Status status = device().check_capture(nullptr, "cudaDeviceSynchronize");
      status != Status::success) {
    return result(status);
  }
  return result(device().synchronize_all());
}
API cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Lock lock(device().mutex);
  return result(device().wait(device().resolve(stream), event_of(event)));
}
API cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new std::shared_ptr<Event>(std::make_shared<Event>()));
  return cudaSuccess;
}
API cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
API cudaEventDestroy(cudaEvent_t event) {
  Lock lock(device().mutex);
  delete &event_of(event);
  return cudaSuccess;
}
API cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock(device().mutex);
  return result(device().record(device().resolve(stream), event_of(event)));
}
API cudaEventSynchronize(cudaEvent_t event) {
  Lock lock(device().mutex);
  return result(device().synchronize(*event_of(event)));
}
API cudaEventQuery(cudaEvent_t event) {
  Lock lock(device().mutex);
  const Event& e = *event_of(event);
  return result(e.done == e.recorded ? Status::success : Status::not_ready);
}
API cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  Lock lock(device().mutex);
  *milliseconds = float(event_of(to)->time_ms - event_of(from)->time_ms);
  return cudaSuccess;
}

// ---- graphs ------------------------------------------------------------------------------------

API cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  Lock lock(device().mutex);
  return result(device().begin_capture(device().resolve(stream), int(mode)));
}
API cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Lock lock(device().mutex);
  return result(
      device().end_capture(device().resolve(stream), reinterpret_cast<Graph**>(graph)));
}
API cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  Lock lock(device().mutex);
  const auto& capture = device().resolve(stream)->capture;
  *status = !capture           ? cudaStreamCaptureStatusNone
            : capture->invalid ? cudaStreamCaptureStatusInvalidated
                               : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
API cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable =
      reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<const Graph*>(graph)));
  return cudaSuccess;
}
API cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  Lock lock(device().mutex);
  const Graph graph = *reinterpret_cast<const Graph*>(executable);
  return result(device().submit(device().resolve(stream), [graph] {
    for (const Operation& operation : graph.operations) {
      if (const Status status = operation(); status != Status::success) return status;
    }
    return Status::success;
  }));
}
API cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
API cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete reinterpret_cast<Graph*>(executable);
  return cudaSuccess;
}
