// What a compiled kernel and the engine say to each other: C functions and plain structs only.
//
// A kernel's source, translated to C++ and compiled by g++, becomes a shared library. It exports
// emu_module() and imports everything else that is declared here from the engine, which is loaded
// with global symbols. g++ also makes it call __tsan_read4 and its kin before every access to
// memory (-fsanitize=thread, without that sanitizer's own library): engine/instrument.cc.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct EmuDim {
  uint32_t x, y, z;
};

// ---- What a module holds -----------------------------------------------------------------------

struct EmuSharedVariable {  // one `__shared__ T name[...]`
  uint32_t bytes;
  uint32_t alignment;
};

struct EmuKernel {
  const char* name;
  const char* parameters;        // names, separated by commas
  void (*invoke)(void** arguments);
  const uint32_t* argument_bytes;
  uint32_t argument_count;
  uint32_t max_threads;          // __launch_bounds__; 0: not given
  uint32_t min_ctas;             // its second argument; 0: not given
  uint32_t max_registers;        // __maxnreg__; 0: not given
  EmuDim cluster;                // __cluster_dims__; x = 0: not given
  const uint32_t* shared;        // indices into EmuModule::shared
  uint32_t shared_count;
};

struct EmuModule {
  const EmuKernel* kernels;
  uint32_t kernel_count;
  const EmuSharedVariable* shared;
  const char* const* shared_names;
  uint32_t arch;                 // __CUDA_ARCH__
};

// ---- Where a thread is -------------------------------------------------------------------------
// Constant for the life of a thread, so that the compiler may call them once and keep the result.

#define EMU_CONSTANT __attribute__((const))
EMU_CONSTANT uint32_t emu_thread_index(int axis);
EMU_CONSTANT uint32_t emu_block_index(int axis);
EMU_CONSTANT uint32_t emu_block_dim(int axis);
EMU_CONSTANT uint32_t emu_grid_dim(int axis);
EMU_CONSTANT uint32_t emu_cluster_index(int axis);      // of this cluster in the grid
EMU_CONSTANT uint32_t emu_cluster_count(int axis);      // clusters in the grid
EMU_CONSTANT uint32_t emu_cluster_block_index(int axis);  // of this CTA in its cluster
EMU_CONSTANT uint32_t emu_cluster_dim(int axis);        // CTAs in a cluster
EMU_CONSTANT uint32_t emu_cluster_rank();
EMU_CONSTANT uint32_t emu_lane();
EMU_CONSTANT uint32_t emu_warp();

// ---- Memory ------------------------------------------------------------------------------------

EMU_CONSTANT void* emu_shared_variable(uint32_t index);
EMU_CONSTANT void* emu_dynamic_shared();
EMU_CONSTANT uint32_t emu_dynamic_shared_bytes();
// The 32-bit addresses of PTX's .shared windows; the rank of the CTA in its cluster is in the top
// byte, so that own and distributed shared memory have different addresses, as on the device.
uint32_t emu_to_shared_address(const void* pointer);
void* emu_from_shared_address(uint32_t address);
void* emu_map_shared(const void* pointer, uint32_t rank);      // mapa on generic addresses
uint32_t emu_map_shared_address(uint32_t address, uint32_t rank);
int emu_is_shared(const void* pointer);
int emu_is_global(const void* pointer);
void emu_read(void* result, const void* address, uint32_t bytes);        // checked; aligned
void emu_write(void* address, const void* value, uint32_t bytes);

// ---- Order and atomics -------------------------------------------------------------------------

enum EmuOrder : uint32_t { EMU_RELAXED = 0, EMU_ACQUIRE = 1, EMU_RELEASE = 2, EMU_ACQ_REL = 3 };
enum EmuScope : uint32_t { EMU_CTA = 0, EMU_CLUSTER = 1, EMU_DEVICE = 2, EMU_SYSTEM = 3 };
enum EmuAtomic : uint32_t {
  EMU_LOAD, EMU_STORE, EMU_ADD, EMU_SUB, EMU_EXCHANGE, EMU_MIN, EMU_MAX, EMU_INC, EMU_DEC,
  EMU_CAS, EMU_AND, EMU_OR, EMU_XOR,
};
enum EmuType : uint32_t { EMU_U32, EMU_S32, EMU_U64, EMU_S64, EMU_F32, EMU_F64 };

uint64_t emu_atomic(uint32_t operation, uint32_t type, uint32_t order, uint32_t scope,
                    void* address, uint64_t operand, uint64_t compare);  // the old value's bits
void emu_fence(uint32_t scope);

// ---- Barriers ----------------------------------------------------------------------------------

enum EmuReduction : uint32_t { EMU_NONE, EMU_COUNT, EMU_ALL, EMU_ANY };

// bar.sync and barrier.sync: threads < 0 stands for all that have not ended.
int emu_cta_barrier(uint32_t index, int threads, uint32_t reduction, int predicate);
void emu_cta_arrive(uint32_t index, int threads);
void emu_warp_barrier(uint32_t mask);
void emu_grid_barrier();
void emu_cluster_arrive(uint32_t order);
void emu_cluster_wait(uint32_t order);

// ---- Warps -------------------------------------------------------------------------------------

enum EmuVote : uint32_t { EMU_BALLOT, EMU_VOTE_ALL, EMU_VOTE_ANY, EMU_VOTE_UNIFORM };
uint64_t emu_shuffle(uint32_t mask, uint64_t value, uint32_t source_lane);
uint32_t emu_vote(uint32_t mask, uint32_t kind, int predicate);
uint32_t emu_match_any(uint32_t mask, uint64_t value);
uint32_t emu_reduce(uint32_t mask, uint32_t operation, uint32_t type, uint32_t value);
uint32_t emu_elect(uint32_t mask);  // 1 for the lowest lane of the mask
uint32_t emu_active_mask();

enum EmuMma : uint32_t { EMU_MMA_F16_K16, EMU_MMA_BF16_K16, EMU_MMA_TF32_K8, EMU_MMA_F16_K8,
                         EMU_MMA_BF16_K8, EMU_MMA_TF32_K4, EMU_MMA_KINDS };
// D = A x B + C of one warp, row.col, 16 x 8, fp32 accumulators; fragments laid out as in PTX.
void emu_mma(uint32_t kind, float* d, const uint32_t* a, const uint32_t* b, const float* c);
// ldmatrix.x1/.x2/.x4(.trans).b16: each lane gives the shared address of one row of 16 bytes.
void emu_load_matrix(uint32_t count, int transposed, uint32_t* result, uint32_t address);
void emu_store_matrix(uint32_t count, int transposed, const uint32_t* values, uint32_t address);

// ---- Asynchronous copies -----------------------------------------------------------------------

void emu_async_copy(uint32_t to_shared, const void* from, uint32_t bytes, uint32_t source_bytes);
void emu_async_commit();
void emu_async_wait(uint32_t pending_groups);  // all but so many of the newest groups
void emu_async_wait_all();

void emu_mbarrier_init(void* barrier, uint32_t count);
void emu_mbarrier_invalidate(void* barrier);
uint64_t emu_mbarrier_arrive(void* barrier, uint32_t count, uint32_t expected_bytes,
                             uint32_t order, uint32_t scope);
void emu_mbarrier_expect(void* barrier, uint32_t bytes);
int emu_mbarrier_test(void* barrier, uint32_t parity, uint32_t order, uint32_t scope);
int emu_mbarrier_test_state(void* barrier, uint64_t state, uint32_t order, uint32_t scope);
void emu_mbarrier_after_copies(void* barrier, int increment);  // cp.async.mbarrier.arrive

// cp.async.bulk and st.async: done at some later time, which the barrier's byte count tells.
void emu_bulk_copy(void* to, const void* from, uint32_t bytes, void* barrier);
void emu_bulk_commit();
void emu_bulk_wait(uint32_t pending_groups, int only_read);
void emu_async_store(void* to, const void* value, uint32_t bytes, void* barrier);

// ---- Time and ends -----------------------------------------------------------------------------

uint64_t emu_clock();
void emu_sleep();
__attribute__((noreturn)) void emu_trap(const char* reason);

}  // extern "C"
