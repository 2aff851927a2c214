#include "async.h"

#include <algorithm>
#include <cstring>

#include "barriers.h"
#include "memory.h"
#include "module.h"
#include "report.h"

namespace emu {
namespace {

AsyncCopies& copies_of(Thread& thread) {
  if (!thread.copies) thread.copies = std::make_unique<AsyncCopies>();
  return *thread.copies;
}

// ---- cp.async: as late as the waits allow ------------------------------------------------------

void carry_out(const std::vector<AsyncCopy>& group) {
  for (const AsyncCopy& copy : group) {
    check_access(copy.to, copy.bytes, kWriteEnds, copy.pc);
    if (copy.source_bytes) check_access(copy.from, copy.source_bytes, kRead, copy.pc);
    memcpy(copy.to, copy.from, copy.source_bytes);
    memset(copy.to + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
  }
}

void wait_for_groups(Thread& thread, uint32_t pending) {
  if (!thread.copies) return;
  auto& groups = thread.copies->groups;
  while (groups.size() > pending) {
    carry_out(groups.front());
    groups.pop_front();
  }
}

// ---- mbarrier ----------------------------------------------------------------------------------

Mbarrier& mbarrier_at(Launch& launch, const void* barrier, const void* pc) {
  const auto address = reinterpret_cast<uintptr_t>(barrier);
  check_alignment(address, 8, pc);
  const auto found = launch.mbarriers.find(address);
  if (found == launch.mbarriers.end()) {
    launch.fail(Status::launch_failure, "use of an mbarrier before mbarrier.init: " +
                                            describe_address(address) +
                                            launch.module.source_line(pc));
  }
  return found->second;
}

void finish_phase(Launch& launch, Mbarrier& barrier) {
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  barrier.completed = barrier.completed.joined(barrier.arriving);
  barrier.arriving = Clock();
  barrier.pending = barrier.count;
  ++barrier.phase;
  ++launch.progress;
}

bool completed(Launch& launch, void* barrier, bool done, uint32_t order, const void* pc) {
  if (done) {
    if (order & EMU_ACQUIRE) {
      Thread& me = *current_thread;
      me.clock = me.clock.joined(mbarrier_at(launch, barrier, pc).completed).raised(launch.cta_count);
    }
    return true;
  }
  launch.spin("a wait for an mbarrier", pc);
  return false;
}

// ---- bulk copies -------------------------------------------------------------------------------

bool older_pending(const Launch& launch, const Thread& thread, uint64_t upto) {
  return std::any_of(launch.bulk_copies.begin(), launch.bulk_copies.end(),
                     [&](const BulkCopy& copy) {
                       return !copy.barrier && copy.issuer == &thread && copy.number <= upto;
                     });
}

void start_bulk(BulkCopy copy, const void* pc) {
  Launch& launch = *current_launch;
  if (copy.barrier) mbarrier_at(launch, copy.barrier, pc);
  check_access(copy.to, copy.bytes, kWriteBegins, pc);
  poison(copy.to, copy.bytes);
  launch.bulk_copies.push_back(std::move(copy));
}

}  // namespace

void deliver_bulk_copy(Launch& launch) {
  const uint32_t i = launch.random.below(uint32_t(launch.bulk_copies.size()));
  BulkCopy copy = std::move(launch.bulk_copies[i]);
  launch.bulk_copies.erase(launch.bulk_copies.begin() + i);
  memcpy(copy.to, copy.from ? copy.from : copy.data.data(), copy.bytes);
  const Tick now = launch.tick();
  if (settings.check_races) {
    race_detector.agent_writes(reinterpret_cast<uintptr_t>(copy.to), copy.bytes);
  }
  launch.tick();
  ++launch.progress;
  if (!copy.barrier) return;
  const auto found = launch.mbarriers.find(reinterpret_cast<uintptr_t>(copy.barrier));
  if (found == launch.mbarriers.end()) return;  // invalidated meanwhile
  Mbarrier& barrier = found->second;
  const uint64_t agent_cta = launch.agent() / launch.ids_per_cta();
  barrier.arriving = barrier.arriving.with(Subject::thread(agent_cta, 0), now);
  barrier.bytes -= copy.bytes;
  finish_phase(launch, barrier);
}

}  // namespace emu

using namespace emu;

extern "C" {

void emu_async_copy(uint32_t to_shared, const void* from, uint32_t bytes, uint32_t source_bytes) {
  const void* pc = __builtin_return_address(0);
  char* to = static_cast<char*>(emu_from_shared_address(to_shared));
  check_alignment(reinterpret_cast<uintptr_t>(to), bytes, pc);
  check_alignment(reinterpret_cast<uintptr_t>(from), bytes, pc);
  check_access(to, bytes, kWriteBegins, pc);
  if (source_bytes) check_access(from, source_bytes, kRead, pc);
  poison(to, bytes);  // whoever reads it before the wait gets nothing sensible
  copies_of(*current_thread)
      .open.push_back({to, static_cast<const char*>(from), bytes, source_bytes, pc});
}

void emu_async_commit() {
  AsyncCopies& copies = copies_of(*current_thread);
  copies.groups.push_back(std::exchange(copies.open, {}));
}

void emu_async_wait(uint32_t pending_groups) { wait_for_groups(*current_thread, pending_groups); }

void emu_async_wait_all() {
  emu_async_commit();
  wait_for_groups(*current_thread, 0);
}

void emu_mbarrier_init(void* barrier, uint32_t count) {
  const void* pc = __builtin_return_address(0);
  const auto address = reinterpret_cast<uintptr_t>(barrier);
  check_alignment(address, 8, pc);
  check_access(address, 8, kWrite, pc);
  Mbarrier fresh;
  fresh.count = count;
  fresh.pending = count;
  current_launch->mbarriers[address] = fresh;
}

void emu_mbarrier_invalidate(void* barrier) {
  mbarrier_at(*current_launch, barrier, __builtin_return_address(0));
  current_launch->mbarriers.erase(reinterpret_cast<uintptr_t>(barrier));
}

uint64_t emu_mbarrier_arrive(void* address, uint32_t count, uint32_t expected_bytes,
                             uint32_t order, uint32_t) {
  Launch& launch = *current_launch;
  const void* pc = __builtin_return_address(0);
  check_access(address, 8, kAtomicWrite, pc);
  Mbarrier& barrier = mbarrier_at(launch, address, pc);
  const uint64_t state = barrier.phase;
  if (barrier.pending < int64_t(count)) {
    launch.fail(Status::launch_failure,
                "more arrivals at an mbarrier than it was initialised for, " +
                    std::to_string(barrier.count) + launch.module.source_line(pc));
  }
  if (order & EMU_RELEASE) barrier.arriving = barrier.arriving.joined(telling(*current_thread));
  launch.tick();
  barrier.bytes += expected_bytes;
  barrier.pending -= count;
  ++launch.progress;
  finish_phase(launch, barrier);
  launch.maybe_yield();
  return state;
}

void emu_mbarrier_expect(void* address, uint32_t bytes) {
  const void* pc = __builtin_return_address(0);
  check_access(address, 8, kAtomicWrite, pc);
  mbarrier_at(*current_launch, address, pc).bytes += bytes;
}

int emu_mbarrier_test(void* address, uint32_t parity, uint32_t order, uint32_t) {
  Launch& launch = *current_launch;
  const void* pc = __builtin_return_address(0);
  check_access(address, 8, kAtomicRead, pc);
  const Mbarrier& barrier = mbarrier_at(launch, address, pc);
  // The phase before the current one has the other parity.
  return completed(launch, address, (barrier.phase & 1) != (parity & 1), order, pc);
}

int emu_mbarrier_test_state(void* address, uint64_t state, uint32_t order, uint32_t) {
  Launch& launch = *current_launch;
  const void* pc = __builtin_return_address(0);
  check_access(address, 8, kAtomicRead, pc);
  const Mbarrier& barrier = mbarrier_at(launch, address, pc);
  return completed(launch, address, barrier.phase > state, order, pc);
}

void emu_mbarrier_after_copies(void* address, int increment) {
  // The arrival happens once the thread's copies so far are done; here they are done at once.
  const void* pc = __builtin_return_address(0);
  if (increment) mbarrier_at(*current_launch, address, pc).pending += 1;
  emu_async_wait_all();
  emu_mbarrier_arrive(address, 1, 0, EMU_RELEASE, EMU_CTA);
}

void emu_bulk_copy(void* to, const void* from, uint32_t bytes, void* barrier) {
  const void* pc = __builtin_return_address(0);
  Launch& launch = *current_launch;
  Thread& me = *current_thread;
  if (bytes % 16 || bytes == 0) {
    launch.fail(Status::launch_failure, "cp.async.bulk of " + std::to_string(bytes) +
                                            " bytes: not a multiple of 16" +
                                            launch.module.source_line(pc));
  }
  check_alignment(reinterpret_cast<uintptr_t>(to), 16, pc);
  check_alignment(reinterpret_cast<uintptr_t>(from), 16, pc);
  check_access(from, bytes, kRead, pc);
  start_bulk({static_cast<char*>(to), {}, static_cast<const char*>(from), bytes,
              static_cast<char*>(barrier), &me, ++copies_of(me).bulk_issued},
             pc);
}

void emu_bulk_commit() {
  AsyncCopies& copies = copies_of(*current_thread);
  copies.bulk_groups.push_back(copies.bulk_issued);
}

void emu_bulk_wait(uint32_t pending_groups, int) {
  Launch& launch = *current_launch;
  Thread& me = *current_thread;
  auto& groups = copies_of(me).bulk_groups;
  while (groups.size() > pending_groups) {
    while (older_pending(launch, me, groups.front())) {
      launch.spin("cp.async.bulk.wait_group", __builtin_return_address(0));
    }
    groups.pop_front();
  }
  const uint64_t agent_cta = launch.agent() / launch.ids_per_cta();
  me.clock = me.clock.with(Subject::thread(agent_cta, 0), launch.tick());
  launch.tick();
}

void emu_async_store(void* to, const void* value, uint32_t bytes, void* barrier) {
  const void* pc = __builtin_return_address(0);
  const char* data = static_cast<const char*>(value);
  check_alignment(reinterpret_cast<uintptr_t>(to), bytes, pc);
  Thread& me = *current_thread;
  start_bulk({static_cast<char*>(to), std::vector<char>(data, data + bytes), nullptr, bytes,
              static_cast<char*>(barrier), &me, ++copies_of(me).bulk_issued},
             pc);
}

}  // extern "C"
