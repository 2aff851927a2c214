#include "barriers.h"

#include <algorithm>

#include "report.h"
#include "warps.h"

namespace emu {
namespace {

// ---- CTA ---------------------------------------------------------------------------------------

// After a barrier: all that its participants knew, and all that they did up to now.
Clock meet(Launch& launch, const std::vector<Thread*>& threads, Clock told) {
  const Tick now = launch.tick();
  for (size_t i = 0; i < threads.size(); ++i) {
    if (i == 0 || !threads[i]->clock.same_as(threads[i - 1]->clock)) {
      told = told.joined(threads[i]->clock);
    }
  }
  const Cta& cta = *threads[0]->cta;
  if (threads.size() == cta.threads.size()) {
    told = told.with(Subject::cta(cta.linear), now);
  } else {
    std::vector<uint32_t> lanes(cta.warps.size(), 0);
    for (const Thread* thread : threads) lanes[thread->warp->index] |= thread->lane_bit();
    for (const Warp& warp : cta.warps) {
      const uint32_t present = lanes[warp.index];
      if (present == warp.present) {
        told = told.with(Subject::warp(cta.linear, warp.index), now);
        continue;
      }
      for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
        if (present >> lane & 1) {
          told = told.with(Subject::thread(cta.linear, warp.index * kWarpSize + lane), now);
        }
      }
    }
  }
  launch.tick();
  return told.raised(launch.cta_count);
}

int reduce(const std::vector<Thread*>& threads, uint32_t reduction) {
  const auto count = std::count_if(threads.begin(), threads.end(),
                                   [](const Thread* thread) { return thread->predicate != 0; });
  switch (reduction) {
    case EMU_COUNT: return int(count);
    case EMU_ALL: return count == int64_t(threads.size());
    case EMU_ANY: return count > 0;
    default: return 0;
  }
}

// True if the barrier has everybody it waits for; then it is open again.
bool complete(Launch& launch, CtaBarrier& barrier, const Cta& cta) {
  if (barrier.arrived == 0) return false;
  if (barrier.arrived < (barrier.expected < 0 ? cta.live : uint32_t(barrier.expected))) return false;
  ++launch.progress;
  std::vector<Thread*> threads = std::exchange(barrier.waiting, {});
  if (!threads.empty()) {
    const Clock clock = meet(launch, threads, barrier.told);
    const int answer = reduce(threads, barrier.reduction);
    for (Thread* thread : threads) {
      thread->clock = clock;
      thread->answer = answer;
      if (thread != current_thread) launch.make_ready(*thread);
    }
  }
  barrier.arrived = 0;
  barrier.told = Clock();
  threads.clear();
  barrier.waiting = std::move(threads);  // keeps its memory
  return true;
}

CtaBarrier& arrive(Launch& launch, Cta& cta, uint32_t index, int expected, uint32_t reduction) {
  if (index >= kNamedBarriers) {
    launch.fail(Status::launch_failure, "there is no barrier " + std::to_string(index) +
                                            ": a CTA has " + std::to_string(kNamedBarriers));
  }
  if (expected >= 0 && (expected == 0 || expected % int(kWarpSize))) {
    launch.fail(Status::launch_failure, "barrier " + std::to_string(index) + " for " +
                                            std::to_string(expected) +
                                            " threads: not a multiple of the warp size");
  }
  CtaBarrier& barrier = cta.barriers[index];
  if (barrier.arrived && (expected < 0) != (barrier.expected < 0)) {
    // All threads, said by some with their number and by others without.
    const int all = int(cta.threads.size());
    if (expected < 0) expected = all;
    if (barrier.expected < 0) barrier.expected = all;
  }
  if (barrier.arrived && (barrier.expected != expected ||
                          (reduction != EMU_NONE && barrier.reduction != reduction))) {
    launch.fail(Status::launch_failure,
                "barrier " + std::to_string(index) + " is used with different numbers of threads (" +
                    std::to_string(expected) + ", others " + std::to_string(barrier.expected) +
                    "; -1 stands for all) or different reductions at once");
  }
  barrier.expected = expected;
  if (!barrier.arrived) barrier.reduction = reduction;
  ++barrier.arrived;
  return barrier;
}

// ---- cluster -----------------------------------------------------------------------------------

bool complete_cluster(Launch& launch, Cluster& cluster) {
  if (cluster.arrived == 0 || cluster.arrived < cluster.live) return false;
  ++launch.progress;
  const Tick now = launch.tick();
  Clock told = std::exchange(cluster.arriving, Clock());
  // A thread that has touched no memory since it arrived is known up to now: then one statement
  // does for its whole CTA.
  for (const Cta* cta : cluster.ctas) {
    Tick least = now;
    std::vector<std::pair<uint32_t, Tick>> exact;
    for (const Thread& thread : cta->threads) {
      const bool told_by = thread.cluster_arrivals > cluster.completed &&
                           thread.cluster_arrived_at != 0;
      const Tick upto = !told_by ? 0
                        : thread.last_access <= thread.cluster_arrived_at ? now
                                                                          : thread.cluster_arrived_at;
      least = std::min(least, upto);
      exact.push_back({thread.rank, upto});
    }
    if (least) told = told.with(Subject::cta(cta->linear), least);
    for (const auto& [rank, upto] : exact) {
      if (upto > least) told = told.with(Subject::thread(cta->linear, rank), upto);
    }
  }
  launch.tick();
  cluster.told = told.raised(launch.cta_count);
  cluster.arrived = 0;
  ++cluster.completed;
  for (Thread* thread : std::exchange(cluster.waiting, {})) {
    if (thread != current_thread) launch.make_ready(*thread);
  }
  return true;
}

// ---- grid --------------------------------------------------------------------------------------

// A CTA that has ended never comes: the device's barrier would hang.
bool complete_grid(Launch& launch) {
  auto& waiting = launch.grid_waiting;
  if (waiting.empty() || waiting.size() < launch.live_threads || launch.ended_ctas) return false;
  ++launch.progress;
  const Clock clock(launch.tick());
  launch.tick();
  for (Thread* thread : waiting) {
    thread->clock = clock;
    if (thread != current_thread) launch.make_ready(*thread);
  }
  waiting.clear();
  return true;
}

}  // namespace

Clock telling(const Thread& thread) {
  const Clock& clock = thread.clock;
  const uint64_t cta = thread.cta->linear;
  if (thread.last_access <= clock.known(cta, thread.warp->index, thread.rank)) return clock;
  return clock.with(Subject::thread(cta, thread.rank), thread.last_access);
}

void thread_ended(Launch& launch, Thread& thread) {
  Warp& warp = *thread.warp;
  Cta& cta = *thread.cta;
  Cluster& cluster = *cta.cluster;
  complete_meetings(launch, warp);
  for (CtaBarrier& barrier : cta.barriers) complete(launch, barrier, cta);
  if (thread.cluster_arrivals > cluster.completed) --cluster.arrived;
  --cluster.live;
  complete_cluster(launch, cluster);
  complete_grid(launch);
}

}  // namespace emu

using namespace emu;

extern "C" {

int emu_cta_barrier(uint32_t index, int threads, uint32_t reduction, int predicate) {
  Launch& launch = *current_launch;
  Thread& me = *current_thread;
  CtaBarrier& barrier = arrive(launch, *me.cta, index, threads, reduction);
  me.predicate = predicate;
  barrier.waiting.push_back(&me);
  if (!complete(launch, barrier, *me.cta)) {
    launch.wait(index == 0 && threads < 0 ? "__syncthreads" : "bar.sync",
                __builtin_return_address(0));
  }
  return me.answer;
}

void emu_cta_arrive(uint32_t index, int threads) {
  Launch& launch = *current_launch;
  Thread& me = *current_thread;
  CtaBarrier& barrier = arrive(launch, *me.cta, index, threads, EMU_NONE);
  barrier.told = barrier.told.joined(telling(me));
  launch.tick();
  complete(launch, barrier, *me.cta);
}

void emu_grid_barrier() {
  Launch& launch = *current_launch;
  if (!launch.shape.cooperative) {
    launch.fail(Status::launch_failure,
                "a grid barrier in a kernel that was not launched cooperatively");
  }
  launch.grid_waiting.push_back(current_thread);
  if (!complete_grid(launch)) launch.wait("the grid barrier", __builtin_return_address(0));
}

void emu_cluster_arrive(uint32_t order) {
  Launch& launch = *current_launch;
  Thread& me = *current_thread;
  Cluster& cluster = *me.cta->cluster;
  if (me.cluster_arrivals != me.cluster_waits) {
    launch.fail(Status::launch_failure,
                "barrier.cluster.arrive twice without barrier.cluster.wait in between");
  }
  ++me.cluster_arrivals;
  me.cluster_arrived_at = order & EMU_RELEASE ? launch.tick() : 0;
  if (order & EMU_RELEASE) {
    cluster.arriving = cluster.arriving.joined(me.clock);
  } else if (me.fences) {
    cluster.arriving = cluster.arriving.joined(me.fences->released[EMU_CLUSTER]);
  }
  launch.tick();
  ++cluster.arrived;
  complete_cluster(launch, cluster);
}

void emu_cluster_wait(uint32_t order) {
  Launch& launch = *current_launch;
  Thread& me = *current_thread;
  Cluster& cluster = *me.cta->cluster;
  if (me.cluster_arrivals != me.cluster_waits + 1) {
    launch.fail(Status::launch_failure,
                "barrier.cluster.wait without barrier.cluster.arrive before it");
  }
  ++me.cluster_waits;
  if (cluster.completed < me.cluster_waits) {
    cluster.waiting.push_back(&me);
    launch.wait("barrier.cluster.wait", __builtin_return_address(0));
  }
  if (order & EMU_ACQUIRE) me.clock = me.clock.joined(cluster.told);
}

}  // extern "C"
