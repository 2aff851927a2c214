// The calls that g++ -fsanitize=thread puts before every access to memory in a kernel, and the
// other functions of device/abi.h that only look at where a thread is.
#include <cstring>

#include "atomics.h"
#include "launch.h"
#include "memory.h"
#include "module.h"
#include "report.h"

using namespace emu;

namespace {

// Most accesses that remain in memory on the host's side are of the thread's own stack.
inline bool own_stack(const void* address) {
  const auto offset = reinterpret_cast<uintptr_t>(address) -
                      reinterpret_cast<uintptr_t>(current_thread->stack);
  return offset < kStackBytes;
}

inline void plain(const void* address, size_t bytes, Access access, const void* pc) {
  if (!current_thread || own_stack(address)) return;
  if (bytes > 4) check_alignment(reinterpret_cast<uintptr_t>(address), bytes, pc);
  check_access(address, bytes, access, pc);
}

// g++ knows nothing of the alignment, or the bytes are those of a structure.
inline void range(const void* address, size_t bytes, Access access, const void* pc) {
  if (!current_thread || own_stack(address)) return;
  check_access(address, bytes, access, pc);
}

inline void volatile_object(void* address, size_t bytes, bool write, const void* pc) {
  if (!current_thread || own_stack(address)) return;
  volatile_access(reinterpret_cast<uintptr_t>(address), bytes, write, pc);
}

const EmuDim& cluster_index() { return current_thread->cta->cluster->index; }

uint32_t component(const EmuDim& dim, int axis) {
  return axis == 0 ? dim.x : axis == 1 ? dim.y : dim.z;
}

}  // namespace

#define PC __builtin_return_address(0)

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

#define EMU_HOOKS(bytes)                                                                       \
  void __tsan_read##bytes(void* address) { plain(address, bytes, kRead, PC); }                 \
  void __tsan_write##bytes(void* address) { plain(address, bytes, kWrite, PC); }               \
  void __tsan_unaligned_read##bytes(void* address) { range(address, bytes, kRead, PC); }       \
  void __tsan_unaligned_write##bytes(void* address) { range(address, bytes, kWrite, PC); }     \
  void __tsan_volatile_read##bytes(void* address) { volatile_object(address, bytes, false, PC); } \
  void __tsan_volatile_write##bytes(void* address) { volatile_object(address, bytes, true, PC); } \
  void __tsan_unaligned_volatile_read##bytes(void* address) {                                  \
    volatile_object(address, bytes, false, PC);                                                \
  }                                                                                            \
  void __tsan_unaligned_volatile_write##bytes(void* address) {                                 \
    volatile_object(address, bytes, true, PC);                                                 \
  }
EMU_HOOKS(1)
EMU_HOOKS(2)
EMU_HOOKS(4)
EMU_HOOKS(8)
EMU_HOOKS(16)

void __tsan_read_range(void* address, size_t bytes) { range(address, bytes, kRead, PC); }
void __tsan_write_range(void* address, size_t bytes) { range(address, bytes, kWrite, PC); }

uint32_t emu_thread_index(int axis) { return component(current_thread->index, axis); }
uint32_t emu_block_index(int axis) { return component(current_thread->cta->index, axis); }
uint32_t emu_block_dim(int axis) { return component(current_launch->shape.block, axis); }
uint32_t emu_grid_dim(int axis) { return component(current_launch->shape.grid, axis); }
uint32_t emu_cluster_index(int axis) { return component(cluster_index(), axis); }
uint32_t emu_cluster_count(int axis) {
  return emu_grid_dim(axis) / component(current_launch->shape.cluster, axis);
}
uint32_t emu_cluster_block_index(int axis) {
  return emu_block_index(axis) % component(current_launch->shape.cluster, axis);
}
uint32_t emu_cluster_dim(int axis) { return component(current_launch->shape.cluster, axis); }
uint32_t emu_cluster_rank() { return current_thread->cta->rank; }
uint32_t emu_lane() { return current_thread->lane; }
uint32_t emu_warp() { return current_thread->warp->index; }

// ---- shared memory and its addresses -----------------------------------------------------------

void* emu_shared_variable(uint32_t index) {
  const auto& offsets = current_launch->layout.offsets;
  if (index >= offsets.size() || offsets[index] == ~0u) {
    current_launch->fail(Status::launch_failure,
                         std::string("uses the shared variable ") +
                             current_launch->module.shared_name(index) +
                             ", which the translator did not find in this kernel");
  }
  return current_thread->cta->shared + offsets[index];
}

void* emu_dynamic_shared() {
  return current_thread->cta->shared + current_launch->layout.dynamic_offset;
}

uint32_t emu_dynamic_shared_bytes() { return current_launch->layout.dynamic_bytes; }

constexpr uint32_t kRankShift = 24;

uint32_t emu_to_shared_address(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const uint32_t slot = shared_windows.slot_of(address);
  if (!shared_windows.contains(address) || slot >= current_launch->slots.size() ||
      !current_launch->slots[slot]) {
    current_launch->fail(Status::illegal_address,
                         "takes the shared address of what is not shared: " +
                             describe_address(address) + current_launch->module.source_line(PC));
  }
  return (current_launch->slots[slot]->rank + 1) << kRankShift | shared_windows.offset_of(address);
}

void* emu_from_shared_address(uint32_t address) {
  const uint32_t rank = (address >> kRankShift) - 1;
  const auto& ctas = current_thread->cta->cluster->ctas;
  if (rank >= ctas.size()) {
    char text[16];
    snprintf(text, sizeof text, "0x%x", address);
    current_launch->fail(Status::illegal_address,
                         std::string("uses ") + text + ", which is no address of shared memory" +
                             current_launch->module.source_line(PC));
  }
  return ctas[rank]->shared + (address & ((1u << kRankShift) - 1));
}

void* emu_map_shared(const void* pointer, uint32_t rank) {
  return emu_from_shared_address(emu_map_shared_address(emu_to_shared_address(pointer), rank));
}

uint32_t emu_map_shared_address(uint32_t address, uint32_t rank) {
  const size_t ctas = current_thread->cta->cluster->ctas.size();
  if (rank >= ctas) {
    current_launch->fail(Status::illegal_address,
                         "mapa to rank " + std::to_string(rank) + " of a cluster of " +
                             std::to_string(ctas) + " CTAs" +
                             current_launch->module.source_line(PC));
  }
  return (address & ((1u << kRankShift) - 1)) | (rank + 1) << kRankShift;
}

int emu_is_shared(const void* pointer) {
  return shared_windows.contains(reinterpret_cast<uintptr_t>(pointer));
}

int emu_is_global(const void* pointer) {
  return device_heap.contains(reinterpret_cast<uintptr_t>(pointer));
}

void emu_read(void* result, const void* address, uint32_t bytes) {
  check_alignment(reinterpret_cast<uintptr_t>(address), bytes, PC);
  check_access(address, bytes, kRead, PC);
  memcpy(result, address, bytes);
}

void emu_write(void* address, const void* value, uint32_t bytes) {
  check_alignment(reinterpret_cast<uintptr_t>(address), bytes, PC);
  check_access(address, bytes, kWrite, PC);
  memcpy(address, value, bytes);
}

// ---- time and ends -----------------------------------------------------------------------------

uint64_t emu_clock() {
  // Time passes by being looked at, so that loops with a time limit end.
  current_launch->check_deadline();
  return current_launch->tick() * 64;
}

void emu_sleep() { current_launch->spin("__nanosleep", PC); }

void emu_trap(const char* reason) {
  current_launch->fail(Status::launch_failure,
                       std::string(reason) + current_launch->module.source_line(PC));
}

}  // extern "C"
