// threadIdx and its kin, barriers of the CTA, clocks.
#pragma once

#include "abi.h"

namespace emu {

template <uint32_t (*component)(int), int axis>
struct Component {
  EMU_INLINE operator unsigned() const { return component(axis); }
};

template <uint32_t (*component)(int), class Vector>
struct Index {
  [[no_unique_address]] Component<component, 0> x;
  [[no_unique_address]] Component<component, 1> y;
  [[no_unique_address]] Component<component, 2> z;
  EMU_INLINE operator Vector() const { return Vector{component(0), component(1), component(2)}; }
};

}  // namespace emu

static constexpr emu::Index<emu_thread_index, uint3> threadIdx{};
static constexpr emu::Index<emu_block_index, uint3> blockIdx{};
static constexpr emu::Index<emu_block_dim, dim3> blockDim{};
static constexpr emu::Index<emu_grid_dim, dim3> gridDim{};
static constexpr int warpSize = 32;

EMU_INLINE void __syncthreads() { emu_cta_barrier(0, -1, EMU_NONE, 0); }
EMU_INLINE int __syncthreads_count(int p) { return emu_cta_barrier(0, -1, EMU_COUNT, p); }
EMU_INLINE int __syncthreads_and(int p) { return emu_cta_barrier(0, -1, EMU_ALL, p); }
EMU_INLINE int __syncthreads_or(int p) { return emu_cta_barrier(0, -1, EMU_ANY, p); }

EMU_INLINE void __threadfence_block() { emu_fence(EMU_CTA); }
EMU_INLINE void __threadfence() { emu_fence(EMU_DEVICE); }
EMU_INLINE void __threadfence_system() { emu_fence(EMU_SYSTEM); }

EMU_INLINE long long clock64() { return static_cast<long long>(emu_clock()); }
#define clock() static_cast<int>(emu_clock())
EMU_INLINE unsigned long long __globaltimer() { return emu_clock(); }
EMU_INLINE void __nanosleep(unsigned) { emu_sleep(); }
EMU_INLINE void __trap() { emu_trap("__trap()"); }
EMU_INLINE void __brkpt() { emu_trap("__brkpt()"); }
#define assert(condition) ((condition) ? void() : emu_trap("assertion failed: " #condition))

EMU_INLINE size_t __cvta_generic_to_shared(const void* p) { return emu_to_shared_address(p); }
EMU_INLINE void* __cvta_shared_to_generic(size_t a) { return emu_from_shared_address(uint32_t(a)); }
EMU_INLINE size_t __cvta_generic_to_global(const void* p) { return reinterpret_cast<size_t>(p); }
EMU_INLINE void* __cvta_global_to_generic(size_t a) { return reinterpret_cast<void*>(a); }
EMU_INLINE unsigned __isShared(const void* p) { return unsigned(emu_is_shared(p)); }
EMU_INLINE unsigned __isGlobal(const void* p) { return unsigned(emu_is_global(p)); }
EMU_INLINE void* __cluster_map_shared_rank(const void* p, unsigned rank) {
  return emu_map_shared(p, rank);
}
EMU_INLINE unsigned __clusterRelativeBlockRank() { return emu_cluster_rank(); }
EMU_INLINE unsigned __clusterSizeInBlocks() {
  return emu_cluster_dim(0) * emu_cluster_dim(1) * emu_cluster_dim(2);
}
EMU_INLINE void __cluster_barrier_arrive() { emu_cluster_arrive(EMU_RELEASE); }
EMU_INLINE void __cluster_barrier_arrive_relaxed() { emu_cluster_arrive(EMU_RELAXED); }
EMU_INLINE void __cluster_barrier_wait() { emu_cluster_wait(EMU_ACQUIRE); }
EMU_INLINE void cudaGridDependencySynchronize() {}
EMU_INLINE void cudaTriggerProgrammaticLaunchCompletion() {}
