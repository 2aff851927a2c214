#include "launch.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>

#include "async.h"
#include "barriers.h"
#include "memory.h"
#include "module.h"
#include "races.h"
#include "report.h"
#include "signals.h"
#include "warps.h"

namespace emu {

Launch* current_launch = nullptr;
Thread* current_thread = nullptr;

namespace {

// Rounds in which every thread that can run only looked again at memory that nobody changed. Loops
// that give up after some tries, or that wait for the clock, need some.
constexpr uint32_t kIdleRounds = 4000;
Tick last_tick = 0;  // ticks go on from launch to launch, so that old marks on memory stay old
StackPool stacks;
std::vector<std::unique_ptr<Cta>> cta_pool;

uint64_t volume(const EmuDim& dim) { return uint64_t{dim.x} * dim.y * dim.z; }

EmuDim unflatten(uint64_t i, const EmuDim& dim) {
  return {uint32_t(i % dim.x), uint32_t(i / dim.x % dim.y), uint32_t(i / dim.x / dim.y)};
}

Cta& pooled_cta(uint32_t slot) {
  while (cta_pool.size() <= slot) cta_pool.push_back(std::make_unique<Cta>());
  return *cta_pool[slot];
}

void thread_main() {
  current_launch->kernel.invoke(current_launch->arguments);
  current_launch->end_thread();
}

}  // namespace

Launch::Launch(const Module& module_, const EmuKernel& kernel_, const LaunchShape& shape_,
               void** arguments_)
    : random(settings.seed), now(last_tick + 1), start(now), module(module_), kernel(kernel_),
      shape(shape_), layout(module_.shared_layout(kernel_, shape_.dynamic_shared_bytes)),
      arguments(arguments_), threads_per_cta(uint32_t(volume(shape_.block))),
      warps_per_cta((threads_per_cta + kWarpSize - 1) / kWarpSize),
      ctas_per_cluster(uint32_t(volume(shape_.cluster))), cta_count(volume(shape_.grid)) {
  ++now;
  fixed_priorities_ = random.one_in(2);
  order_.resize(cta_count / ctas_per_cluster);
  std::iota(order_.begin(), order_.end(), 0);
  for (size_t i = order_.size(); i > 1; --i) {
    std::swap(order_[i - 1], order_[random.below(uint32_t(i))]);
  }
  const uint64_t wanted = shape.cooperative ? cta_count : settings.resident_ctas;
  const uint64_t resident = std::max<uint64_t>(1, wanted / ctas_per_cluster);
  resident_clusters_ = uint32_t(std::min<uint64_t>(resident, order_.size()));
  slots.resize(size_t{resident_clusters_} * ctas_per_cluster);
  clusters_.resize(resident_clusters_);
  for (uint32_t i = resident_clusters_; i-- > 0;) free_slots_.push_back(i * ctas_per_cluster);
  shared_windows.reserve(uint32_t(slots.size()));
  race_detector.begin_launch(*this);
}

Launch::~Launch() {
  race_detector.end_launch();
  for (Cta* cta : slots) {
    if (!cta) continue;
    for (Thread& thread : cta->threads) thread = Thread();
    for (CtaBarrier& barrier : cta->barriers) barrier = CtaBarrier();
  }
  last_tick = now;
}

Status Launch::run() {
  current_launch = this;
  host_thread = int(syscall(SYS_gettid));
  SignalGuard guard(settings.time_limit_ms);
  if (sigsetjmp(scheduler_context, 1) == 0) {
    while (status_ == Status::success) {
      admit();
      if (Warp* warp = pop()) {
        run_warp(*warp);
        if (!bulk_copies.empty() && random.one_in(4)) deliver_bulk_copy(*this);
      } else if (ended_ctas == cta_count) {
        break;
      } else if (!bulk_copies.empty()) {
        deliver_bulk_copy(*this);
      } else if (!resume_spinners()) {
        report_deadlock();
      }
      if (timed_out && status_ == Status::success) {
        stop(Status::timeout, "ran longer than the time limit of " +
                                  std::to_string(settings.time_limit_ms) + " ms");
      }
    }
  }
  current_thread = nullptr;
  current_launch = nullptr;
  return status_;
}

// ---- CTAs come and go --------------------------------------------------------------------------

void Launch::admit() {
  while (admitted_ < order_.size() && !free_slots_.empty()) {
    const uint32_t first = free_slots_.back();
    free_slots_.pop_back();
    const EmuDim counts = {shape.grid.x / shape.cluster.x, shape.grid.y / shape.cluster.y,
                           shape.grid.z / shape.cluster.z};
    auto cluster = std::make_unique<Cluster>();
    cluster->index = unflatten(order_[admitted_++], counts);
    for (uint32_t rank = 0; rank < ctas_per_cluster; ++rank) {
      const EmuDim inner = unflatten(rank, shape.cluster);
      const EmuDim index = {cluster->index.x * shape.cluster.x + inner.x,
                            cluster->index.y * shape.cluster.y + inner.y,
                            cluster->index.z * shape.cluster.z + inner.z};
      start_cta(pooled_cta(first + rank), first + rank, index, *cluster, rank);
    }
    clusters_[first / ctas_per_cluster] = std::move(cluster);
  }
}

void Launch::start_cta(Cta& cta, uint32_t slot, const EmuDim& index, Cluster& cluster,
                       uint32_t rank) {
  slots[slot] = &cta;
  cluster.ctas.push_back(&cta);
  cluster.live += threads_per_cta;
  live_threads += threads_per_cta;
  cta.cluster = &cluster;
  cta.index = index;
  cta.linear = (uint64_t{index.z} * shape.grid.y + index.y) * shape.grid.x + index.x;
  cta.rank = rank;
  cta.slot = slot;
  cta.live = threads_per_cta;
  cta.ended = false;
  cta.start = tick();
  tick();
  cta.shared = shared_windows.start(slot, layout);
  cta.threads.resize(threads_per_cta);
  cta.warps.resize(warps_per_cta);
  for (CtaBarrier& barrier : cta.barriers) barrier = CtaBarrier();
  const Clock clock(start);
  for (uint32_t w = 0; w < warps_per_cta; ++w) {
    Warp& warp = cta.warps[w];
    const uint32_t lanes = std::min(kWarpSize, threads_per_cta - w * kWarpSize);
    warp.cta = &cta;
    warp.lanes = &cta.threads[w * kWarpSize];
    warp.index = w;
    warp.present = warp.live = warp.ready = uint32_t((uint64_t{1} << lanes) - 1);
    warp.priority = uint32_t(random.next());
    warp.meetings.clear();
    warp.queued = false;
    push(warp);
  }
  for (uint32_t rank_in_cta = 0; rank_in_cta < threads_per_cta; ++rank_in_cta) {
    Thread& thread = cta.threads[rank_in_cta];
    const size_t stack = size_t{slot} * threads_per_cta + rank_in_cta;
    thread = Thread();
    thread.stack = stacks.get(stack);
    thread.stack_pointer = prepare_stack(thread.stack, stack, thread_main);
    thread.cta = &cta;
    thread.warp = &cta.warps[rank_in_cta / kWarpSize];
    thread.lane = rank_in_cta % kWarpSize;
    thread.rank = rank_in_cta;
    thread.id = cta.linear * ids_per_cta() + rank_in_cta;
    thread.index = unflatten(rank_in_cta, shape.block);
    thread.clock = clock;
  }
}

void Launch::end_thread() {
  Thread& thread = *current_thread;
  Cta& cta = *thread.cta;
  if (!stack_intact(thread.stack)) {
    fail(Status::launch_failure, "a thread's local variables need more than " +
                                     std::to_string(kStackBytes >> 10) +
                                     " KiB, which is all that the emulator gives them");
  }
  thread.state = State::ended;
  thread.warp->live &= ~thread.lane_bit();
  --cta.live;
  --live_threads;
  ++progress;
  thread_ended(*this, thread);
  if (cta.live == 0) end_cta(cta);
  suspend();
  __builtin_unreachable();
}

void Launch::end_cta(Cta& cta) {
  Cluster& cluster = *cta.cluster;
  cta.ended = true;
  ++ended_ctas;
  const bool all = std::all_of(cluster.ctas.begin(), cluster.ctas.end(),
                               [](const Cta* other) { return other->ended; });
  if (all) free_slots_.push_back(cluster.ctas[0]->slot);
}

// ---- the scheduler -----------------------------------------------------------------------------

void Launch::push(Warp& warp) {
  if (warp.queued) return;
  warp.queued = true;
  // With fresh priorities each time, warps advance at about the same pace; with fixed ones, some
  // run far ahead of the others. Different mistakes show.
  const uint32_t priority = fixed_priorities_ ? warp.priority : uint32_t(random.next());
  queue_.push_back({priority, &warp});
  std::push_heap(queue_.begin(), queue_.end());
}

Warp* Launch::pop() {
  if (queue_.empty()) return nullptr;
  std::pop_heap(queue_.begin(), queue_.end());
  Warp* warp = queue_.back().second;
  queue_.pop_back();
  warp->queued = false;
  return warp;
}

void Launch::run_warp(Warp& warp) {
  const uint32_t lanes = std::exchange(warp.ready, 0);
  const uint32_t bits = uint32_t(random.next());
  const uint32_t first = bits & 31;
  const uint32_t step = bits & 32 ? 1 : 31;
  for (uint32_t i = 0; i < kWarpSize && status_ == Status::success; ++i) {
    const uint32_t lane = (first + i * step) & 31;
    if (lanes >> lane & 1) resume(warp.lanes[lane]);
  }
}

void Launch::resume(Thread& thread) {
  thread.state = State::running;
  current_thread = &thread;
  emu_switch_stack(&scheduler_stack_, thread.stack_pointer);
  current_thread = nullptr;
}

void Launch::suspend() {
  emu_switch_stack(&current_thread->stack_pointer, scheduler_stack_);
}

void Launch::wait(const char* what, const void* pc) {
  Thread& thread = *current_thread;
  if (!stack_intact(thread.stack)) {
    fail(Status::launch_failure, "a thread's local variables overflow its stack");
  }
  thread.state = State::waiting;
  thread.waits_for = what;
  thread.wait_pc = pc;
  suspend();
}

void Launch::spin(const char* what, const void* pc) {
  Thread& thread = *current_thread;
  thread.state = State::spinning;
  thread.waits_for = what;
  thread.wait_pc = pc;
  spinners_.push_back(&thread);
  suspend();
}

void Launch::maybe_yield() {
  if (!random.one_in(4)) return;
  make_ready(*current_thread);
  suspend();
}

void Launch::make_ready(Thread& thread) {
  thread.state = State::ready;
  thread.warp->ready |= thread.lane_bit();
  push(*thread.warp);
}

bool Launch::resume_spinners() {
  if (spinners_.empty()) return false;
  idle_rounds_ = progress == progress_seen_ ? idle_rounds_ + 1 : 0;
  progress_seen_ = progress;
  if (idle_rounds_ > kIdleRounds) return false;
  for (Thread* thread : std::exchange(spinners_, {})) make_ready(*thread);
  return true;
}

// ---- errors ------------------------------------------------------------------------------------

void Launch::stop(Status status, const std::string& message) {
  status_ = status;
  report(std::string("kernel ") + kernel.name + ": " + message);
}

void Launch::fail(Status status, const std::string& message) {
  stop(status, message + "\n  by " + describe(*current_thread));
  suspend();  // for ever
  __builtin_unreachable();
}

void Launch::check_deadline() {
  if (timed_out) {
    fail(Status::timeout,
         "ran longer than the time limit of " + std::to_string(settings.time_limit_ms) + " ms");
  }
}

void Launch::interrupt(Status status, const char* what, const void* pc, const void* address) {
  std::string message = what;
  if (address) message += " at " + describe_address(reinterpret_cast<uintptr_t>(address));
  stop(status, message + module.source_line(pc) + "\n  by " + describe(*current_thread));
}

void Launch::report_deadlock() {
  struct Group {
    uint32_t count = 0;
    const Thread* example = nullptr;
  };
  std::map<std::string, Group> groups;
  for (const Cta* cta : slots) {
    if (!cta) continue;
    for (const Thread& thread : cta->threads) {
      if (thread.state == State::ended) continue;
      const std::string where = std::string(thread.state == State::spinning ? "spin in " : "") +
                                thread.waits_for + module.source_line(thread.wait_pc);
      Group& group = groups[where];
      ++group.count;
      if (!group.example) group.example = &thread;
    }
  }
  std::string message = "deadlock: no thread can go on";
  for (const auto& [where, group] : groups) {
    message += "\n  " + std::to_string(group.count) + " wait in " + where + "\n    such as " +
               describe(*group.example);
  }
  const uint64_t ended = ended_ctas * threads_per_cta;
  if (ended) message += "\n  " + std::to_string(ended_ctas) + " CTAs have ended";
  if (admitted_ < order_.size()) {
    message += "\n  " + std::to_string((order_.size() - admitted_) * ctas_per_cluster) +
               " CTAs have not started: only a cooperative launch has all of them resident";
  }
  stop(Status::timeout, message);
}

}  // namespace emu
