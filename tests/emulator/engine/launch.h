// One launch of a kernel: its threads, warps, CTAs and clusters, and the scheduler that runs them.
//
// Everything runs on the thread that launched. Each CUDA thread is a fiber; it runs until it waits
// for others or ends. The scheduler then picks a warp that can go on, in an order that a seed
// fixes, and runs its lanes one after the other: the same seed gives the same run, and when no
// fiber can go on the launch is deadlocked for certain.
#pragma once

#include <array>
#include <csetjmp>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "../device/abi.h"
#include "clock.h"
#include "fiber.h"
#include "model.h"
#include "random.h"

namespace emu {

struct Cluster;
struct Cta;
struct Module;
struct Warp;
class Launch;

// How a launch ended; the values are CUresult's and cudaError_t's.
enum class Status : int {
  success = 0,
  invalid_value = 1,
  out_of_memory = 2,
  invalid_image = 200,
  no_binary_for_gpu = 209,
  invalid_handle = 400,
  not_found = 500,
  not_ready = 600,
  illegal_address = 700,
  out_of_resources = 701,
  timeout = 702,
  misaligned_address = 716,
  launch_failure = 719,
  cooperative_too_large = 720,
  not_supported = 801,
  capture_unsupported = 900,
  capture_invalidated = 901,
  capture_unmatched = 903,
  capture_implicit = 906,
  invalid_cluster_size = 912,
};

// cp.async of one thread: groups of copies that happen no earlier than the wait for them.
struct AsyncCopy {
  char* to;
  const char* from;
  uint32_t bytes;
  uint32_t source_bytes;
  const void* pc;
};
struct AsyncCopies {
  std::vector<AsyncCopy> open;               // not committed yet
  std::deque<std::vector<AsyncCopy>> groups;  // oldest first
  std::deque<uint64_t> bulk_groups;           // number of bulk copies issued up to each commit
  uint64_t bulk_issued = 0;
};

// What a thread would learn by an acquire fence, and tell by a relaxed write after a release one.
struct Fences {
  std::array<Clock, EMU_SYSTEM + 1> seen;      // by scope, from relaxed reads
  std::array<Clock, EMU_SYSTEM + 1> released;  // by scope, at the last fence
};

enum class State : uint8_t { ready, running, waiting, spinning, ended };

struct Thread {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  Warp* warp = nullptr;
  Cta* cta = nullptr;
  uint32_t lane = 0;
  uint32_t rank = 0;      // in the CTA
  uint64_t id = 0;        // in the grid
  EmuDim index = {};
  State state = State::ready;

  const char* waits_for = nullptr;  // what it called, for reports
  const void* wait_pc = nullptr;
  int answer = 0;                   // what a barrier with a reduction found
  int predicate = 0;
  const void* spin_address = nullptr;  // of the last atomic read
  const void* spin_pc = nullptr;

  Clock clock;
  Tick last_access = 0;
  uint64_t cluster_arrivals = 0;
  uint64_t cluster_waits = 0;
  Tick cluster_arrived_at = 0;
  std::unique_ptr<AsyncCopies> copies;
  std::unique_ptr<Fences> fences;

  uint32_t lane_bit() const { return 1u << lane; }
};

// Lanes of a warp that meet: a shuffle, a vote, a matrix instruction, __syncwarp.
struct Rendezvous {
  using Combine = void (*)(void* const* slots, uint32_t lanes);
  Combine combine = nullptr;
  const char* name = nullptr;
  uint32_t mask = 0;
  uint32_t arrived = 0;
  void* slots[kWarpSize] = {};  // operands and results, on each lane's stack
};

struct Warp {
  Cta* cta = nullptr;
  Thread* lanes = nullptr;
  uint32_t index = 0;
  uint32_t present = 0;  // lanes that exist
  uint32_t live = 0;     // lanes that have not ended
  uint32_t ready = 0;
  bool queued = false;
  uint32_t priority = 0;
  std::vector<Rendezvous> meetings;
};

struct CtaBarrier {
  int expected = 0;  // threads; < 0: all that have not ended; meaningful if `arrived`
  uint32_t arrived = 0;
  uint32_t reduction = EMU_NONE;
  std::vector<Thread*> waiting;
  Clock told;  // by those that arrived and went on
};

constexpr uint32_t kNamedBarriers = 16;

struct Cta {
  Cluster* cluster = nullptr;
  EmuDim index = {};
  uint64_t linear = 0;
  uint32_t rank = 0;  // in the cluster
  uint32_t slot = 0;
  uint32_t live = 0;
  bool ended = false;
  Tick start = 0;
  char* shared = nullptr;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::array<CtaBarrier, kNamedBarriers> barriers;
};

struct Cluster {
  EmuDim index = {};
  std::vector<Cta*> ctas;
  uint32_t live = 0;
  uint32_t arrived = 0;     // of the live threads, in this phase
  uint64_t completed = 0;   // phases
  std::vector<Thread*> waiting;
  Clock arriving;  // told by those who have arrived in this phase
  Clock told;      // by all, in the phase before
};

// What was published through one address by atomics, for the threads within a scope of the writer.
struct Published {
  uint32_t scope;
  uint64_t group;  // CTA or cluster number
  Clock clock;
};

struct Mbarrier {
  uint32_t count = 0;      // arrivals per phase
  int64_t pending = 0;     // arrivals still missing in this phase
  int64_t bytes = 0;       // still to come in this phase
  uint64_t phase = 0;      // completed
  Clock arriving;          // told by the arrivals of this phase
  Clock completed;         // by those of the phases before
};

struct BulkCopy {  // cp.async.bulk, st.async
  char* to;
  std::vector<char> data;  // st.async: the value itself
  const char* from;
  uint32_t bytes;
  char* barrier;           // null: counted by the issuing thread's groups
  Thread* issuer;
  uint64_t number;         // among the issuer's
};

struct LaunchShape {
  EmuDim grid, block, cluster;
  uint32_t dynamic_shared_bytes = 0;
  bool cooperative = false;
};

// Where the parts of a kernel's shared memory lie.
struct SharedLayout {
  std::vector<uint32_t> offsets;  // of the module's variables; ~0: not this kernel's
  uint32_t dynamic_offset = 0;
  uint32_t dynamic_bytes = 0;
  uint32_t bytes = 0;             // with the gaps between variables
  uint32_t counted_bytes = 0;     // as the device would count them
  std::vector<uint8_t> valid;     // per byte: part of a variable
};

class Launch {
 public:
  Launch(const Module& module, const EmuKernel& kernel, const LaunchShape& shape,
         void** arguments);
  ~Launch();
  // Run to the end, or to the first error, which report() then holds.
  Status run();

  // ---- for the fibers ----
  // Wait until another fiber, or the scheduler, makes this one ready.
  void wait(const char* what, const void* pc);
  // Nothing was changed by what this thread just did, and it may do it again: let others go first.
  void spin(const char* what, const void* pc);
  // Let the order of threads vary at a point that others can observe.
  void maybe_yield();
  void make_ready(Thread& thread);
  void end_thread();
  [[noreturn]] void fail(Status status, const std::string& message);
  void check_deadline();

  Tick tick() { return ++now; }
  // Threads are numbered as if every CTA had full warps; behind them comes the agent that does
  // asynchronous copies.
  uint64_t ids_per_cta() const { return uint64_t{warps_per_cta} * kWarpSize; }
  uint64_t agent() const { return cta_count * ids_per_cta(); }
  Random random;
  uint64_t progress = 0;  // counts what can end another thread's wait
  Tick now;
  Tick start;

  const Module& module;
  const EmuKernel& kernel;
  const LaunchShape shape;
  SharedLayout layout;
  void** arguments;
  uint32_t threads_per_cta, warps_per_cta, ctas_per_cluster;
  uint64_t cta_count;
  std::vector<Cta*> slots;  // resident CTAs
  uint64_t ended_ctas = 0;
  uint64_t live_threads = 0;

  std::vector<Thread*> grid_waiting;
  std::unordered_map<uintptr_t, std::vector<Published>> published;
  std::unordered_map<uintptr_t, Mbarrier> mbarriers;
  std::vector<BulkCopy> bulk_copies;

  // From a signal handler, for the thread that was interrupted.
  void interrupt(Status status, const char* what, const void* pc, const void* address);
  volatile bool timed_out = false;
  int host_thread;
  sigjmp_buf scheduler_context;

 private:
  void admit();
  void start_cta(Cta& cta, uint32_t slot, const EmuDim& index, Cluster& cluster, uint32_t rank);
  void push(Warp& warp);
  Warp* pop();
  void run_warp(Warp& warp);
  void resume(Thread& thread);
  void suspend();
  bool resume_spinners();
  void end_cta(Cta& cta);
  void report_deadlock();
  void stop(Status status, const std::string& message);

  std::vector<uint64_t> order_;  // of the clusters
  size_t admitted_ = 0;
  uint32_t resident_clusters_ = 0;
  std::vector<uint32_t> free_slots_;  // first slots of free clusters
  std::vector<std::unique_ptr<Cluster>> clusters_;
  std::vector<std::pair<uint32_t, Warp*>> queue_;  // a heap
  bool fixed_priorities_;
  std::vector<Thread*> spinners_;
  uint64_t progress_seen_ = 0;
  uint32_t idle_rounds_ = 0;
  void* scheduler_stack_ = nullptr;
  Status status_ = Status::success;
};

extern Launch* current_launch;
extern Thread* current_thread;  // null while the scheduler or the host runs

}  // namespace emu
