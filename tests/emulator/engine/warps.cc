#include "warps.h"

#include <algorithm>
#include <cstring>

#include "memory.h"
#include "report.h"

namespace emu {
namespace {

std::string hex(uint32_t value) {
  char text[16];
  snprintf(text, sizeof text, "0x%08x", value);
  return text;
}

template <class Visit>
void each_lane(uint32_t lanes, Visit visit) {
  for (; lanes; lanes &= lanes - 1) visit(uint32_t(__builtin_ctz(lanes)));
}

// Everybody who is still there has come: combine their operands and wake those that wait.
bool complete(Launch& launch, Warp& warp, size_t i) {
  Rendezvous& meeting = warp.meetings[i];
  const uint32_t arrived = meeting.arrived;
  if ((meeting.mask & warp.live) != arrived || !arrived) return false;
  ++launch.progress;
  meeting.combine(meeting.slots, arrived);
  warp.meetings.erase(warp.meetings.begin() + ptrdiff_t(i));
  each_lane(arrived, [&](uint32_t lane) {
    if (&warp.lanes[lane] != current_thread) launch.make_ready(warp.lanes[lane]);
  });
  return true;
}

// Wait for all lanes of the mask, and let one of them run `combine` on what all have brought.
void meet(Rendezvous::Combine combine, const char* name, uint32_t mask, void* slot,
          const void* pc) {
  Launch& launch = *current_launch;
  Thread& me = *current_thread;
  Warp& warp = *me.warp;
  launch.check_deadline();
  if (!(mask & me.lane_bit())) {
    launch.fail(Status::launch_failure, std::string(name) + " with the mask " + hex(mask) +
                                            ", which leaves out the lane that calls it, " +
                                            std::to_string(me.lane));
  }
  mask &= warp.present;
  size_t i = 0;
  while (i < warp.meetings.size() && warp.meetings[i].mask != mask) ++i;
  if (i == warp.meetings.size()) {
    warp.meetings.push_back({combine, name, mask, 0, {}});
  } else if (warp.meetings[i].combine != combine) {
    launch.fail(Status::launch_failure,
                std::string("lanes of one warp have diverged: some are in ") +
                    warp.meetings[i].name + ", lane " + std::to_string(me.lane) + " in " + name);
  }
  Rendezvous& meeting = warp.meetings[i];
  meeting.arrived |= me.lane_bit();
  meeting.slots[me.lane] = slot;
  if (!complete(launch, warp, i)) launch.wait(name, pc);
}

// ---- __syncwarp --------------------------------------------------------------------------------

void combine_barrier(void* const* slots, uint32_t lanes) {
  Launch& launch = *current_launch;
  const Tick now = launch.tick();
  Clock clock;
  Warp* warp = nullptr;
  each_lane(lanes, [&](uint32_t lane) {
    const Thread& thread = *static_cast<Thread*>(slots[lane]);
    clock = clock.joined(thread.clock);
    warp = thread.warp;
  });
  const uint64_t cta = warp->cta->linear;
  if (lanes == warp->present) {
    clock = clock.with(Subject::warp(cta, warp->index), now);
  } else {
    each_lane(lanes, [&](uint32_t lane) {
      clock = clock.with(Subject::thread(cta, warp->lanes[lane].rank), now);
    });
  }
  each_lane(lanes, [&](uint32_t lane) { warp->lanes[lane].clock = clock; });
  launch.tick();
}

// ---- shuffles, votes, reductions ---------------------------------------------------------------

struct ShuffleSlot {
  uint64_t value;
  uint32_t source;
  uint64_t result;
};

void combine_shuffle(void* const* slots, uint32_t lanes) {
  each_lane(lanes, [&](uint32_t lane) {
    auto& slot = *static_cast<ShuffleSlot*>(slots[lane]);
    if (lanes >> slot.source & 1) {
      slot.result = static_cast<const ShuffleSlot*>(slots[slot.source])->value;
    } else {
      poison(&slot.result, sizeof slot.result);  // a lane that takes no part: undefined
    }
  });
}

struct VoteSlot {
  uint32_t kind;
  bool predicate;
  uint32_t result;
};

void combine_vote(void* const* slots, uint32_t lanes) {
  uint32_t ballot = 0;
  each_lane(lanes, [&](uint32_t lane) {
    ballot |= uint32_t(static_cast<const VoteSlot*>(slots[lane])->predicate) << lane;
  });
  each_lane(lanes, [&](uint32_t lane) {
    auto& slot = *static_cast<VoteSlot*>(slots[lane]);
    switch (slot.kind) {
      case EMU_VOTE_ALL: slot.result = ballot == lanes; break;
      case EMU_VOTE_ANY: slot.result = ballot != 0; break;
      case EMU_VOTE_UNIFORM: slot.result = ballot == 0 || ballot == lanes; break;
      default: slot.result = ballot;
    }
  });
}

struct MatchSlot {
  uint64_t value;
  uint32_t result;
};

void combine_match(void* const* slots, uint32_t lanes) {
  each_lane(lanes, [&](uint32_t lane) {
    auto& mine = *static_cast<MatchSlot*>(slots[lane]);
    mine.result = 0;
    each_lane(lanes, [&](uint32_t other) {
      const bool equal = static_cast<const MatchSlot*>(slots[other])->value == mine.value;
      mine.result |= uint32_t(equal) << other;
    });
  });
}

struct ReduceSlot {
  uint32_t operation;
  uint32_t type;
  uint32_t value;
  uint32_t result;
};

uint32_t reduce_two(uint32_t operation, bool is_signed, uint32_t a, uint32_t b) {
  const bool less = is_signed ? int32_t(a) < int32_t(b) : a < b;
  switch (operation) {
    case EMU_ADD: return a + b;
    case EMU_MIN: return less ? a : b;
    case EMU_MAX: return less ? b : a;
    case EMU_AND: return a & b;
    case EMU_OR: return a | b;
    default: return a ^ b;
  }
}

void combine_reduce(void* const* slots, uint32_t lanes) {
  const auto& first = *static_cast<const ReduceSlot*>(slots[__builtin_ctz(lanes)]);
  uint32_t total = first.value;
  each_lane(lanes & (lanes - 1), [&](uint32_t lane) {
    const uint32_t value = static_cast<const ReduceSlot*>(slots[lane])->value;
    total = reduce_two(first.operation, first.type == EMU_S32, total, value);
  });
  each_lane(lanes, [&](uint32_t lane) { static_cast<ReduceSlot*>(slots[lane])->result = total; });
}

void combine_elect(void* const* slots, uint32_t lanes) {
  each_lane(lanes, [&](uint32_t lane) {
    *static_cast<uint32_t*>(slots[lane]) = lane == uint32_t(__builtin_ctz(lanes));
  });
}

}  // namespace

void complete_meetings(Launch& launch, Warp& warp) {
  for (size_t i = warp.meetings.size(); i-- > 0;) complete(launch, warp, i);
}

void meet_whole_warp(Rendezvous::Combine combine, const char* name, void* slot, const void* pc) {
  if (current_thread->warp->live != ~0u) {
    current_launch->fail(Status::launch_failure,
                         std::string(name) + " in a warp that lacks some of its 32 lanes");
  }
  meet(combine, name, ~0u, slot, pc);
}

}  // namespace emu

using namespace emu;

extern "C" {

void emu_warp_barrier(uint32_t mask) {
  meet(combine_barrier, "__syncwarp", mask, current_thread, __builtin_return_address(0));
}

uint64_t emu_shuffle(uint32_t mask, uint64_t value, uint32_t source_lane) {
  ShuffleSlot slot{value, source_lane & 31, 0};
  meet(combine_shuffle, "a warp shuffle", mask, &slot, __builtin_return_address(0));
  return slot.result;
}

uint32_t emu_vote(uint32_t mask, uint32_t kind, int predicate) {
  VoteSlot slot{kind, predicate != 0, 0};
  meet(combine_vote, "a warp vote", mask, &slot, __builtin_return_address(0));
  return slot.result;
}

uint32_t emu_match_any(uint32_t mask, uint64_t value) {
  MatchSlot slot{value, 0};
  meet(combine_match, "a warp match", mask, &slot, __builtin_return_address(0));
  return slot.result;
}

uint32_t emu_reduce(uint32_t mask, uint32_t operation, uint32_t type, uint32_t value) {
  ReduceSlot slot{operation, type, value, 0};
  meet(combine_reduce, "a warp reduction", mask, &slot, __builtin_return_address(0));
  return slot.result;
}

uint32_t emu_elect(uint32_t mask) {
  uint32_t elected = 0;
  meet(combine_elect, "elect.sync", mask, &elected, __builtin_return_address(0));
  return elected;
}

uint32_t emu_active_mask() { return current_thread->warp->live; }

}  // extern "C"
