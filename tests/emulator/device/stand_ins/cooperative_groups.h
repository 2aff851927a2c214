// Groups of threads: the grid, the cluster, the CTA, and tiles of a warp.
#pragma once

namespace cooperative_groups {

class thread_block {
 public:
  EMU_INLINE static void sync() { __syncthreads(); }
  EMU_INLINE static unsigned thread_rank() {
    return (emu_thread_index(2) * emu_block_dim(1) + emu_thread_index(1)) * emu_block_dim(0) +
           emu_thread_index(0);
  }
  EMU_INLINE static unsigned size() {
    return emu_block_dim(0) * emu_block_dim(1) * emu_block_dim(2);
  }
  EMU_INLINE static unsigned num_threads() { return size(); }
  EMU_INLINE static dim3 group_index() {
    return dim3(emu_block_index(0), emu_block_index(1), emu_block_index(2));
  }
  EMU_INLINE static dim3 thread_index() {
    return dim3(emu_thread_index(0), emu_thread_index(1), emu_thread_index(2));
  }
};

class cluster_group {
 public:
  EMU_INLINE static void sync() {
    barrier_arrive();
    barrier_wait();
  }
  EMU_INLINE static void barrier_arrive() { emu_cluster_arrive(EMU_RELEASE); }
  EMU_INLINE static void barrier_wait() { emu_cluster_wait(EMU_ACQUIRE); }
  EMU_INLINE static unsigned block_rank() { return emu_cluster_rank(); }
  EMU_INLINE static unsigned num_blocks() { return __clusterSizeInBlocks(); }
  EMU_INLINE static unsigned thread_rank() {
    return block_rank() * thread_block::size() + thread_block::thread_rank();
  }
  template <class T>
  EMU_INLINE static T* map_shared_rank(T* address, int rank) {
    return static_cast<T*>(emu_map_shared(address, unsigned(rank)));
  }
};

class grid_group {
 public:
  EMU_INLINE static bool is_valid() { return true; }
  EMU_INLINE static void sync() { emu_grid_barrier(); }
  EMU_INLINE static unsigned long long num_blocks() {
    return 1ull * emu_grid_dim(0) * emu_grid_dim(1) * emu_grid_dim(2);
  }
  EMU_INLINE static unsigned long long block_rank() {
    return (1ull * emu_block_index(2) * emu_grid_dim(1) + emu_block_index(1)) * emu_grid_dim(0) +
           emu_block_index(0);
  }
  EMU_INLINE static unsigned long long size() { return num_blocks() * thread_block::size(); }
  EMU_INLINE static unsigned long long thread_rank() {
    return block_rank() * thread_block::size() + thread_block::thread_rank();
  }
};

EMU_INLINE thread_block this_thread_block() { return {}; }
EMU_INLINE cluster_group this_cluster() { return {}; }
EMU_INLINE grid_group this_grid() { return {}; }
template <class Group>
EMU_INLINE void sync(const Group&) {
  Group::sync();
}

// `Size` neighbouring lanes of a warp.
template <unsigned Size>
class thread_block_tile {
 public:
  static_assert(Size <= 32 && (Size & (Size - 1)) == 0, "tiles of up to one warp");
  EMU_INLINE static unsigned thread_rank() { return emu_lane() % Size; }
  EMU_INLINE static constexpr unsigned size() { return Size; }
  EMU_INLINE static unsigned meta_group_rank() { return thread_block::thread_rank() / Size; }
  EMU_INLINE static void sync() { __syncwarp(mask()); }
  template <class T>
  EMU_INLINE static T shfl(T value, int source) {
    return __shfl_sync(mask(), value, source, Size);
  }
  template <class T>
  EMU_INLINE static T shfl_up(T value, unsigned delta) {
    return __shfl_up_sync(mask(), value, delta, Size);
  }
  template <class T>
  EMU_INLINE static T shfl_down(T value, unsigned delta) {
    return __shfl_down_sync(mask(), value, delta, Size);
  }
  template <class T>
  EMU_INLINE static T shfl_xor(T value, unsigned lanes) {
    return __shfl_xor_sync(mask(), value, int(lanes), Size);
  }
  EMU_INLINE static int any(int p) { return __any_sync(mask(), p); }
  EMU_INLINE static int all(int p) { return __all_sync(mask(), p); }
  EMU_INLINE static unsigned ballot(int p) {
    return __ballot_sync(mask(), p) >> (emu_lane() / Size * Size);
  }

 private:
  EMU_INLINE static unsigned mask() {
    return (Size == 32 ? ~0u : (1u << Size % 32) - 1) << (emu_lane() / Size * Size);
  }
};

template <unsigned Size>
EMU_INLINE thread_block_tile<Size> tiled_partition(const thread_block&) {
  return {};
}

}  // namespace cooperative_groups
