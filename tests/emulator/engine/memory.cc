#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "module.h"
#include "report.h"

namespace emu {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlignment = 256;  // cudaMalloc's
constexpr size_t kSmallestHeap = size_t{1} << 30;

size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

uintptr_t reserve_addresses(size_t bytes, int protection) {
  void* range = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return 0;
  madvise(range, bytes, MADV_NOHUGEPAGE);
  return reinterpret_cast<uintptr_t>(range);
}

std::string hex(uintptr_t value) {
  char text[24];
  snprintf(text, sizeof text, "0x%zx", static_cast<size_t>(value));
  return text;
}

[[noreturn]] void refuse(const char* why, uintptr_t address, size_t bytes, Access access,
                         const void* pc) {
  const char* verb = access.write ? "writes " : "reads ";
  current_launch->fail(Status::illegal_address,
                       verb + std::to_string(bytes) + " bytes " + why + ": " +
                           describe_address(address) + current_launch->module.source_line(pc));
}

void check_device(uintptr_t address, size_t bytes, Access access, const void* pc) {
  const Allocation* allocation = device_heap.find(address);
  if (!allocation || address < allocation->begin || address + bytes > allocation->end()) {
    refuse("out of bounds", address, bytes, access, pc);
  }
  if (!allocation->live) refuse("after cudaFree", address, bytes, access, pc);
  if (settings.check_races) race_detector.device_access(address, bytes, access, pc);
}

void check_shared(uintptr_t address, size_t bytes, Access access, const void* pc) {
  const Launch& launch = *current_launch;
  const uint32_t slot = shared_windows.slot_of(address);
  const Cta* owner = slot < launch.slots.size() ? launch.slots[slot] : nullptr;
  const Thread& thread = *current_thread;
  if (!owner || owner->cluster != thread.cta->cluster) {
    refuse("of shared memory of another cluster", address, bytes, access, pc);
  }
  const uint32_t offset = shared_windows.offset_of(address);
  const auto& valid = launch.layout.valid;
  if (offset + bytes > valid.size() || !valid[offset] || !valid[offset + bytes - 1]) {
    refuse("out of bounds", address, bytes, access, pc);
  }
  if (owner != thread.cta) {
    if (owner->ended) refuse("of a CTA that has ended", address, bytes, access, pc);
    if (settings.check_races && thread.clock.known(owner->linear, 0, 0) < owner->start) {
      refuse("of a CTA that may not have started", address, bytes, access, pc);
    }
  }
  if (settings.check_races) race_detector.shared_access(address, bytes, access, *owner, pc);
}

bool in_own_stack(uintptr_t address) {
  return address - reinterpret_cast<uintptr_t>(current_thread->stack) < kStackBytes;
}

// What a thread's local variables would fill if they were larger than its stack.
bool below_own_stack(uintptr_t address) {
  const auto stack = reinterpret_cast<uintptr_t>(current_thread->stack);
  return address < stack && stack - address < size_t{16} << 20;
}

std::string describe_shared(uintptr_t address) {
  const Launch& launch = *current_launch;
  const SharedLayout& layout = launch.layout;
  const uint32_t offset = shared_windows.offset_of(address);
  std::string text;
  for (size_t i = 0; i < layout.offsets.size(); ++i) {
    const uint32_t bytes = launch.module.shared(i).bytes;
    const uint32_t begin = layout.offsets[i];
    if (begin == ~0u || offset < begin || offset >= begin + bytes) continue;
    text = "byte " + std::to_string(offset - begin) + " of the shared variable " +
           launch.module.shared_name(i) + " (" + std::to_string(bytes) + " bytes)";
  }
  if (text.empty() && offset >= layout.dynamic_offset) {
    text = "byte " + std::to_string(offset - layout.dynamic_offset) +
           " of the dynamic shared memory (" + std::to_string(layout.dynamic_bytes) + " bytes)";
  }
  if (text.empty()) text = "shared memory between two variables";
  const uint32_t slot = shared_windows.slot_of(address);
  const Cta* owner = slot < launch.slots.size() ? launch.slots[slot] : nullptr;
  if (owner && current_thread && owner != current_thread->cta) {
    text += " of the CTA of rank " + std::to_string(owner->rank);
  }
  return text;
}

std::string describe_device(uintptr_t address) {
  const Allocation* allocation = device_heap.find(address);
  if (!allocation) allocation = device_heap.before(address);
  if (!allocation) return hex(address) + ", no allocation";
  std::string text;
  if (address < allocation->begin) {
    text = std::to_string(allocation->begin - address) + " bytes before ";
  } else if (address >= allocation->end()) {
    text = std::to_string(address - allocation->end()) + " bytes past the end of ";
  } else {
    text = "byte " + std::to_string(address - allocation->begin) + " of ";
  }
  text += allocation->host ? "pinned host memory" : "device memory";
  text += " (allocation " + std::to_string(allocation->number) + ", " +
          std::to_string(allocation->bytes) + " bytes";
  std::string names;
  if (current_launch) {
    names = current_launch->module.parameters_in(*current_launch, allocation->begin,
                                                 allocation->end());
  }
  return text + (names.empty() ? ")" : ", argument " + names + ")");
}

}  // namespace

DeviceHeap device_heap;
SharedWindows shared_windows;

void poison(void* memory, size_t bytes) {
  unsigned char* p = static_cast<unsigned char*>(memory);
  size_t done = std::min<size_t>(bytes, 2);
  memcpy(p, kPoison, done);
  for (; done < bytes; done += std::min(done, bytes - done)) {
    memcpy(p + done, p, std::min(done, bytes - done));
  }
}

DeviceHeap::DeviceHeap() {
  for (size_ = size_t{64} << 30; size_ >= kSmallestHeap; size_ /= 2) {
    base_ = reserve_addresses(size_, PROT_NONE);
    if (base_) return;
  }
  size_ = 0;
}

void* DeviceHeap::allocate(size_t bytes, bool host) {
  const size_t page_bytes = round_up(std::max<size_t>(bytes, 1), kPage);
  const size_t taken = page_bytes + kPage;
  if (taken > size_) return nullptr;
  if (next_ + taken > size_) next_ = 0;  // round again: by now the oldest are long free
  // Step over what is still allocated there.
  while (true) {
    auto it = by_page_.lower_bound(base_ + next_);
    if (it != by_page_.begin()) {
      auto before = std::prev(it);
      if (before->second.pages + before->second.page_bytes + kPage > base_ + next_) it = before;
    }
    while (it != by_page_.end() && it->second.pages < base_ + next_ + taken && !it->second.live) {
      it = by_page_.erase(it);
    }
    if (it == by_page_.end() || it->second.pages >= base_ + next_ + taken) break;
    next_ = it->second.pages + it->second.page_bytes + kPage - base_;
    if (next_ + taken > size_) return nullptr;
  }
  std::fill(std::begin(cache_), std::end(cache_), CacheLine());
  const uintptr_t pages = base_ + next_;
  void* memory = reinterpret_cast<void*>(pages);
  if (mprotect(memory, page_bytes, PROT_READ | PROT_WRITE)) return nullptr;
  next_ += taken;
  poison(memory, page_bytes);
  const uintptr_t begin = pages + page_bytes - round_up(std::max<size_t>(bytes, 1), kAlignment);
  by_page_[pages] = {++count_, begin, bytes, pages, page_bytes, host, true};
  live_bytes_ += bytes;
  ++live_count_;
  return reinterpret_cast<void*>(begin);
}

bool DeviceHeap::free(void* pointer) {
  auto* allocation = const_cast<Allocation*>(find(reinterpret_cast<uintptr_t>(pointer)));
  if (!allocation || !allocation->live ||
      allocation->begin != reinterpret_cast<uintptr_t>(pointer)) {
    return false;
  }
  allocation->live = false;
  live_bytes_ -= allocation->bytes;
  --live_count_;
  void* pages = reinterpret_cast<void*>(allocation->pages);
  madvise(pages, allocation->page_bytes, MADV_DONTNEED);
  mprotect(pages, allocation->page_bytes, PROT_NONE);
  race_detector.forget(allocation->pages, allocation->page_bytes);
  return true;
}

const Allocation* DeviceHeap::find(uintptr_t address) const {
  const uintptr_t page = address / kPage;
  CacheLine& line = cache_[page % std::size(cache_)];
  if (line.page == page) return line.allocation;
  auto it = by_page_.upper_bound(address);
  if (it == by_page_.begin()) return nullptr;
  const Allocation& allocation = (--it)->second;
  if (address >= allocation.pages + allocation.page_bytes + kPage) return nullptr;
  line = {page, &allocation};
  return &allocation;
}

const Allocation* DeviceHeap::before(uintptr_t address) const {
  const auto it = by_page_.upper_bound(address);
  return it == by_page_.begin() ? nullptr : &std::prev(it)->second;
}

bool DeviceHeap::holds(const void* address, size_t bytes) const {
  const uintptr_t a = reinterpret_cast<uintptr_t>(address);
  if (!contains(a)) return false;
  const Allocation* allocation = find(a);
  return allocation && allocation->live && a >= allocation->begin &&
         a + bytes <= allocation->end();
}

void SharedWindows::reserve(uint32_t slots) {
  const size_t wanted = std::max<size_t>(slots, 256) * kStride;
  if (wanted <= size_) return;
  if (base_) munmap(reinterpret_cast<void*>(base_), size_);
  base_ = reserve_addresses(wanted, PROT_READ | PROT_WRITE);
  size_ = base_ ? wanted : 0;
  if (!base_) throw std::bad_alloc();
}

char* SharedWindows::start(uint32_t slot, const SharedLayout& layout) {
  char* window = reinterpret_cast<char*>(base_) + slot * kStride;
  poison(window, layout.bytes);
  return window;
}

void check_access(uintptr_t address, size_t bytes, Access access, const void* pc) {
  Launch& launch = *current_launch;
  launch.check_deadline();
  current_thread->last_access = launch.now;
  if (device_heap.contains(address)) {
    check_device(address, bytes, access, pc);
  } else if (shared_windows.contains(address)) {
    check_shared(address, bytes, access, pc);
  } else if (!in_own_stack(address) && !launch.module.contains(address)) {
    refuse("that are not in device memory", address, bytes, access, pc);
  }
}

void check_alignment(uintptr_t address, size_t bytes, const void* pc) {
  if (address % bytes == 0) return;
  current_launch->fail(Status::misaligned_address,
                       "accesses " + std::to_string(bytes) + " bytes at an address that is no " +
                           "multiple of it: " + describe_address(address) +
                           current_launch->module.source_line(pc));
}

std::string describe_address(uintptr_t address) {
  if (device_heap.contains(address)) return describe_device(address);
  if (shared_windows.contains(address)) return describe_shared(address);
  if (current_thread && in_own_stack(address)) return "the thread's own local memory";
  if (current_thread && below_own_stack(address)) {
    return "a thread's local variables, beyond the " + std::to_string(kStackBytes >> 10) +
           " KiB that the emulator gives them";
  }
  if (address < kPage) return address ? "address " + hex(address) : "the null pointer";
  return hex(address) + ", an address of the host";
}

}  // namespace emu
