// Device memory, the CTAs' shared memory, and the check of every access to either.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "launch.h"
#include "races.h"

namespace emu {

// What unwritten memory holds: a NaN in every floating-point format, and as an integer an index
// far out of any bounds.
constexpr unsigned char kPoison[2] = {0xff, 0x7f};
void poison(void* memory, size_t bytes);

struct Allocation {
  uint64_t number;
  uintptr_t begin;
  size_t bytes;
  uintptr_t pages;     // the first
  size_t page_bytes;   // all, without the guard page behind them
  bool host;           // pinned
  bool live;

  uintptr_t end() const { return begin + bytes; }
};

// One reserved range of addresses. Every allocation has pages of its own, ends (but for alignment)
// where the next, inaccessible page begins, and its addresses are not used again for long.
class DeviceHeap {
 public:
  DeviceHeap();
  bool contains(uintptr_t address) const { return address - base_ < size_; }
  // Null when out of addresses.
  void* allocate(size_t bytes, bool host);
  bool free(void* pointer);
  // The allocation whose pages hold the address, live or not; null if none ever did.
  const Allocation* find(uintptr_t address) const;
  // The last allocation that begins before the address.
  const Allocation* before(uintptr_t address) const;
  // True if [address, address + bytes) lies in one live allocation.
  bool holds(const void* address, size_t bytes) const;
  uintptr_t base() const { return base_; }
  size_t size() const { return size_; }
  size_t live_bytes() const { return live_bytes_; }
  size_t live_count() const { return live_count_; }

 private:
  uintptr_t base_ = 0;
  size_t size_ = 0;
  size_t next_ = 0;
  uint64_t count_ = 0;
  size_t live_bytes_ = 0;
  size_t live_count_ = 0;
  std::map<uintptr_t, Allocation> by_page_;  // by first page
  struct CacheLine {
    uintptr_t page = 0;
    const Allocation* allocation = nullptr;
  };
  mutable CacheLine cache_[256];  // of find()
};

extern DeviceHeap device_heap;

// The shared memory of resident CTAs, one window for each slot.
class SharedWindows {
 public:
  static constexpr size_t kStride = 512 << 10;
  void reserve(uint32_t slots);
  // Fill slot's window with poison.
  char* start(uint32_t slot, const SharedLayout& layout);
  bool contains(uintptr_t address) const { return address - base_ < size_; }
  uint32_t slot_of(uintptr_t address) const { return uint32_t((address - base_) / kStride); }
  uint32_t offset_of(uintptr_t address) const { return uint32_t((address - base_) % kStride); }
  uintptr_t base() const { return base_; }
  size_t size() const { return size_; }

 private:
  uintptr_t base_ = 0;
  size_t size_ = 0;
};

extern SharedWindows shared_windows;

// Fail the launch unless the running thread may access these bytes now.
void check_access(uintptr_t address, size_t bytes, Access access, const void* pc);
inline void check_access(const void* address, size_t bytes, Access access, const void* pc) {
  check_access(reinterpret_cast<uintptr_t>(address), bytes, access, pc);
}
void check_alignment(uintptr_t address, size_t bytes, const void* pc);

// "byte 20 of the shared variable tile (1024 bytes)".
std::string describe_address(uintptr_t address);

}  // namespace emu
