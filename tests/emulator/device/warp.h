// Shuffles, votes, reductions of a warp.
#pragma once

#include "abi.h"

EMU_INLINE void __syncwarp(unsigned mask = ~0u) { emu_warp_barrier(mask); }
EMU_INLINE unsigned __activemask() { return emu_active_mask(); }
EMU_INLINE int __all_sync(unsigned mask, int p) { return int(emu_vote(mask, EMU_VOTE_ALL, p)); }
EMU_INLINE int __any_sync(unsigned mask, int p) { return int(emu_vote(mask, EMU_VOTE_ANY, p)); }
EMU_INLINE int __uni_sync(unsigned mask, int p) { return int(emu_vote(mask, EMU_VOTE_UNIFORM, p)); }
EMU_INLINE unsigned __ballot_sync(unsigned mask, int p) { return emu_vote(mask, EMU_BALLOT, p); }

namespace emu {

template <class T>
EMU_INLINE uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable<T>::value, "at most 64 bits");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  return bits;
}

template <class T>
EMU_INLINE T from_bits(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
EMU_INLINE T shuffle(unsigned mask, T value, unsigned source) {
  return from_bits<T>(emu_shuffle(mask, to_bits(value), source));
}

// The lane at `wanted` in this lane's segment of `width` lanes, or the lane itself.
EMU_INLINE unsigned in_segment(int wanted, int width) {
  const int lane = int(emu_lane());
  const int first = lane / width * width;
  return unsigned(wanted >= first && wanted < first + width ? wanted : lane);
}

}  // namespace emu

template <class T>
EMU_INLINE T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int first = int(emu_lane()) / width * width;
  return emu::shuffle(mask, value, unsigned(first + (source & (width - 1))));
}
template <class T>
EMU_INLINE T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return emu::shuffle(mask, value, emu::in_segment(int(emu_lane()) - int(delta), width));
}
template <class T>
EMU_INLINE T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return emu::shuffle(mask, value, emu::in_segment(int(emu_lane()) + int(delta), width));
}
template <class T>
EMU_INLINE T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
  // A lane of a later segment is read as well as one of an own, of an earlier one it is not.
  const int lane = int(emu_lane()), wanted = lane ^ lanes;
  const int end = lane / width * width + width;
  return emu::shuffle(mask, value, unsigned(wanted < end ? wanted : lane));
}

template <class T>
EMU_INLINE unsigned __match_any_sync(unsigned mask, T value) {
  return emu_match_any(mask, emu::to_bits(value));
}

EMU_INLINE unsigned __reduce_add_sync(unsigned mask, unsigned value) {
  return emu_reduce(mask, EMU_ADD, EMU_U32, value);
}
EMU_INLINE unsigned __reduce_min_sync(unsigned mask, unsigned value) {
  return emu_reduce(mask, EMU_MIN, EMU_U32, value);
}
EMU_INLINE unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  return emu_reduce(mask, EMU_MAX, EMU_U32, value);
}
EMU_INLINE int __reduce_add_sync(unsigned mask, int value) {
  return int(emu_reduce(mask, EMU_ADD, EMU_S32, unsigned(value)));
}
EMU_INLINE int __reduce_min_sync(unsigned mask, int value) {
  return int(emu_reduce(mask, EMU_MIN, EMU_S32, unsigned(value)));
}
EMU_INLINE int __reduce_max_sync(unsigned mask, int value) {
  return int(emu_reduce(mask, EMU_MAX, EMU_S32, unsigned(value)));
}
EMU_INLINE unsigned __reduce_and_sync(unsigned mask, unsigned value) {
  return emu_reduce(mask, EMU_AND, EMU_U32, value);
}
EMU_INLINE unsigned __reduce_or_sync(unsigned mask, unsigned value) {
  return emu_reduce(mask, EMU_OR, EMU_U32, value);
}
EMU_INLINE unsigned __reduce_xor_sync(unsigned mask, unsigned value) {
  return emu_reduce(mask, EMU_XOR, EMU_U32, value);
}
