#include "atomics.h"

#include <cstring>

#include "barriers.h"
#include "memory.h"
#include "report.h"

namespace emu {
namespace {

// The number of the CTA or cluster within which an operation of this scope takes effect.
uint64_t group_of(const Launch& launch, const Thread& thread, uint32_t scope) {
  const Cta& cta = *thread.cta;
  if (scope == EMU_CTA) return cta.linear;
  if (scope == EMU_CLUSTER) {
    const EmuDim& index = cta.cluster->index;
    return (uint64_t{index.z} * launch.shape.grid.y + index.y) * launch.shape.grid.x + index.x;
  }
  return 0;
}

uint32_t narrow(uint32_t scope) { return scope == EMU_SYSTEM ? uint32_t{EMU_DEVICE} : scope; }

Fences& fences_of(Thread& thread) {
  if (!thread.fences) thread.fences = std::make_unique<Fences>();
  return *thread.fences;
}

// What an acquire of this scope would learn. Writer and reader must each be within the scope that
// the other names, so what was published to a wider scope counts for it, too: publish() stores it
// once for every scope up to its own.
Clock visible(Launch& launch, const Thread& thread, const std::vector<Published>& all,
              uint32_t scope) {
  Clock clock;
  for (const Published& one : all) {
    if (one.scope <= scope && one.group == group_of(launch, thread, one.scope)) {
      clock = clock.joined(one.clock);
    }
  }
  return clock;
}

void add(std::vector<Published>& all, uint32_t scope, uint64_t group, const Clock& clock) {
  for (Published& one : all) {
    if (one.scope == scope && one.group == group) {
      one.clock = one.clock.joined(clock);
      return;
    }
  }
  all.push_back({scope, group, clock});
}

template <class T>
T compute(uint32_t operation, T old, T operand, T compare) {
  switch (operation) {
    case EMU_LOAD: return old;
    case EMU_ADD: return T(old + operand);
    case EMU_SUB: return T(old - operand);
    case EMU_MIN: return operand < old ? operand : old;
    case EMU_MAX: return old < operand ? operand : old;
    case EMU_INC: return old >= operand ? T(0) : T(old + 1);
    case EMU_DEC: return old == T(0) || operand < old ? operand : T(old - 1);
    case EMU_CAS: return old == compare ? operand : old;
    default: return operand;  // store, exchange
  }
}

template <class T>
T compute_bits(uint32_t operation, T old, T operand, T compare) {
  switch (operation) {
    case EMU_AND: return old & operand;
    case EMU_OR: return old | operand;
    case EMU_XOR: return old ^ operand;
    default: return compute(operation, old, operand, compare);
  }
}

template <class T>
uint64_t apply(uint32_t operation, void* address, uint64_t operand, uint64_t compare,
               bool* changed, T (*function)(uint32_t, T, T, T)) {
  T old, with, expected;
  memcpy(&old, address, sizeof old);
  memcpy(&with, &operand, sizeof with);
  memcpy(&expected, &compare, sizeof expected);
  const T result = function(operation, old, with, expected);
  *changed = memcmp(&result, &old, sizeof old) != 0;
  if (operation != EMU_LOAD) memcpy(address, &result, sizeof result);
  uint64_t bits = 0;
  memcpy(&bits, &old, sizeof old);
  return bits;
}

uint64_t apply(uint32_t operation, uint32_t type, void* address, uint64_t operand,
               uint64_t compare, bool* changed) {
  switch (type) {
    case EMU_S32: return apply(operation, address, operand, compare, changed, compute<int32_t>);
    case EMU_U64:
      return apply(operation, address, operand, compare, changed, compute_bits<uint64_t>);
    case EMU_S64: return apply(operation, address, operand, compare, changed, compute<int64_t>);
    case EMU_F32: return apply(operation, address, operand, compare, changed, compute<float>);
    case EMU_F64: return apply(operation, address, operand, compare, changed, compute<double>);
    default: return apply(operation, address, operand, compare, changed, compute_bits<uint32_t>);
  }
}

// A thread that reads again what nobody changed waits for others, so that these must run first.
void let_others_run(Launch& launch, Thread& thread, const void* address, bool changed,
                    const void* pc) {
  if (changed) {
    ++launch.progress;
    launch.maybe_yield();
  } else if (thread.spin_pc == pc && thread.spin_address == address) {
    launch.spin("an atomic access", pc);
  } else {
    thread.spin_pc = pc;
    thread.spin_address = address;
  }
}

}  // namespace

void publish(Launch& launch, Thread& thread, uintptr_t address, uint32_t order, uint32_t scope,
             bool extends) {
  auto& all = launch.published[address];
  // A plain store ends what was published there before; an atomic update extends it.
  if (!extends) all.clear();
  scope = narrow(scope);
  for (uint32_t s = EMU_CTA; s <= scope; ++s) {
    Clock clock;
    if (order & EMU_RELEASE) {
      clock = telling(thread);
    } else if (thread.fences) {
      clock = thread.fences->released[s];
    }
    if (clock.same_as(Clock())) continue;
    add(all, s, group_of(launch, thread, s), clock);
  }
  launch.tick();
}

void learn(Launch& launch, Thread& thread, uintptr_t address, uint32_t order, uint32_t scope) {
  const auto found = launch.published.find(address);
  if (found == launch.published.end() || found->second.empty()) return;
  scope = narrow(scope);
  if (order & EMU_ACQUIRE) {
    const Clock clock = visible(launch, thread, found->second, scope);
    thread.clock = thread.clock.joined(clock).raised(launch.cta_count);
    return;
  }
  Fences& fences = fences_of(thread);
  for (uint32_t s = EMU_CTA; s <= scope; ++s) {
    fences.seen[s] = fences.seen[s].joined(visible(launch, thread, found->second, s));
  }
}

void volatile_access(uintptr_t address, size_t bytes, bool write, const void* pc) {
  Launch& launch = *current_launch;
  Thread& me = *current_thread;
  check_access(address, bytes, write ? kAtomicWrite : kAtomicRead, pc);
  if (write) {
    publish(launch, me, address, EMU_RELAXED, EMU_SYSTEM, false);
    ++launch.progress;
  } else {
    let_others_run(launch, me, reinterpret_cast<void*>(address), false, pc);
    learn(launch, me, address, EMU_RELAXED, EMU_SYSTEM);
  }
}

}  // namespace emu

using namespace emu;

extern "C" {

uint64_t emu_atomic(uint32_t operation, uint32_t type, uint32_t order, uint32_t scope,
                    void* address, uint64_t operand, uint64_t compare) {
  Launch& launch = *current_launch;
  Thread& me = *current_thread;
  const void* pc = __builtin_return_address(0);
  const auto key = reinterpret_cast<uintptr_t>(address);
  const size_t bytes = type == EMU_U64 || type == EMU_S64 || type == EMU_F64 ? 8 : 4;
  check_alignment(key, bytes, pc);
  check_access(key, bytes, operation == EMU_LOAD ? kAtomicRead : kAtomicWrite, pc);
  bool changed = false;
  const uint64_t old = apply(operation, type, address, operand, compare, &changed);
  if (operation != EMU_STORE) learn(launch, me, key, order, scope);
  if (operation != EMU_LOAD) publish(launch, me, key, order, scope, operation != EMU_STORE);
  let_others_run(launch, me, address, changed || operation == EMU_STORE, pc);
  return old;
}

void emu_fence(uint32_t scope) {
  Launch& launch = *current_launch;
  Thread& me = *current_thread;
  Fences& fences = fences_of(me);
  scope = narrow(scope);
  me.clock = me.clock.joined(fences.seen[scope]).raised(launch.cta_count);
  const Clock clock = telling(me);
  for (uint32_t s = EMU_CTA; s <= scope; ++s) fences.released[s] = clock;
  launch.tick();
}

}  // extern "C"
