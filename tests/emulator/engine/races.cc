#include "races.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>
#include <string>

#include "launch.h"
#include "memory.h"
#include "module.h"
#include "report.h"

namespace emu {
namespace {

constexpr uint64_t kMostThreads = 1 << 24;  // that a mark can name

void* reserve(size_t bytes) {
  void* range = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) throw std::bad_alloc();
  madvise(range, bytes, MADV_NOHUGEPAGE);
  return range;
}

bool conflict(Mark mark, Access access) {
  return !(mark.has(Mark::atomic) && access.atomic);
}

}  // namespace

RaceDetector race_detector;

RaceDetector::RaceDetector() {}

void RaceDetector::begin_launch(const Launch& launch) {
  launch_ = &launch;
  on_ = launch.agent() < kMostThreads;
  if (!device_cells_) {
    device_cells_ = static_cast<Cell*>(reserve(device_heap.size() / 4 * sizeof(Cell)));
  }
  if (shared_base_ == shared_windows.base() && shared_size_ == shared_windows.size()) return;
  if (shared_cells_) munmap(shared_cells_, shared_size_ / 4 * sizeof(Cell));
  shared_base_ = shared_windows.base();
  shared_size_ = shared_windows.size();
  shared_cells_ = static_cast<Cell*>(reserve(shared_size_ / 4 * sizeof(Cell)));
}

void RaceDetector::end_launch() {
  readers_.clear();
  splits_.clear();
  launch_ = nullptr;
}

void RaceDetector::device_access(uintptr_t address, size_t bytes, Access access, const void* pc) {
  words(device_cells_, device_heap.base(), address, bytes, access, launch_->start, pc);
}

void RaceDetector::shared_access(uintptr_t address, size_t bytes, Access access, const Cta& owner,
                                 const void* pc) {
  words(shared_cells_, shared_base_, address, bytes, access, owner.start, pc);
}

void RaceDetector::forget(uintptr_t address, size_t bytes) {
  if (!device_cells_) return;
  // Marks are older than any launch to come; only the memory that they take is given back.
  constexpr uintptr_t kPage = 4096;
  const auto begin = reinterpret_cast<uintptr_t>(device_cells_ + (address - device_heap.base()) / 4);
  const uintptr_t end = begin + bytes / 4 * sizeof(Cell);
  const uintptr_t first = (begin + kPage - 1) & ~(kPage - 1), last = end & ~(kPage - 1);
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

// Marks up to `born` are from before the memory belonged to those who use it now.
void RaceDetector::words(Cell* cells, uintptr_t base, uintptr_t address, size_t bytes,
                         Access access, Tick born, const void* pc) {
  if (!on_) return;
  for (const uintptr_t end = address + bytes; address < end;) {
    Cell& cell = cells[(address - base) / 4];
    const uintptr_t next = std::min(end, (address & ~uintptr_t{3}) + 4);
    bool split = cell.write.has(Mark::split);
    if (split && cell.write.tick() <= born) {
      cell = Cell();
      split = false;
    }
    if (!split && next - address == 4) {
      check(cell, address, access, born, pc);
    } else {
      if (!split) {
        splits_.push_back(Bytes(4, cell));
        cell.write = Mark(launch_->now, splits_.size() - 1, Mark::split);
      }
      const uint64_t index = cell.write.thread();
      cell.write = Mark(launch_->now, index, Mark::split);
      for (uintptr_t a = address; a < next; ++a) {
        check(splits_[index][a & 3], a, access, born, pc);
      }
    }
    address = next;
  }
}

bool RaceDetector::ordered(Mark mark, Tick born) const {
  const Thread& me = *current_thread;
  const Tick tick = mark.tick();
  if (tick <= born || mark.thread() == me.id || tick <= me.clock.floor()) return true;
  const uint64_t cta = mark.thread() / launch_->ids_per_cta();
  const uint32_t rank = uint32_t(mark.thread() % launch_->ids_per_cta());
  return tick <= me.clock.known(cta, rank / kWarpSize, rank);
}

void RaceDetector::check(Cell& cell, uintptr_t address, Access access, Tick born, const void* pc) {
  const Thread& me = *current_thread;
  const uint32_t here = launch_->module.offset(pc);
  const Mark mine(launch_->now, me.id,
                  uint64_t{access.atomic} * Mark::atomic |
                      uint64_t{access.stage == Access::begins} * Mark::pending);
  if (!access.write && cell.read.tick() == mine.tick() && cell.read.thread() == me.id &&
      !cell.read.has(Mark::many)) {
    return;
  }
  const Mark written = cell.write;
  if (!written.empty() && written.tick() > born) {
    const bool pending = written.has(Mark::pending) &&
                         !(access.stage == Access::ends && written.thread() == me.id);
    if (pending || (conflict(written, access) && !ordered(written, born))) {
      fail(address, written, cell.write_pc, true, access, pc);
    }
  }
  if (!access.write) {
    add_reader(cell, mine, born, here);
    return;
  }
  if (cell.read.has(Mark::many)) {
    if (cell.read.tick() > born) {
      const Readers& readers = readers_[cell.read.thread()];
      for (size_t i = 0; i < readers.marks.size(); ++i) {
        if (conflict(readers.marks[i], access) && !ordered(readers.marks[i], born)) {
          fail(address, readers.marks[i], readers.pcs[i], false, access, pc);
        }
      }
    }
  } else if (!cell.read.empty() && conflict(cell.read, access) && !ordered(cell.read, born)) {
    fail(address, cell.read, cell.read_pc, false, access, pc);
  }
  cell.write = mine;
  cell.write_pc = here;
  cell.read = Mark();
}

void RaceDetector::add_reader(Cell& cell, Mark mark, Tick born, uint32_t pc) {
  const Mark before = cell.read;
  const bool dead = before.empty() || before.tick() <= born ||
                    before.tick() <= current_thread->clock.floor();
  if (dead || (!before.has(Mark::many) && ordered(before, born))) {
    cell.read = mark;
    cell.read_pc = pc;
    return;
  }
  if (!before.has(Mark::many)) {
    readers_.push_back({{before}, {cell.read_pc}, 0});
    cell.read = Mark(mark.tick(), readers_.size() - 1, Mark::many);
  }
  const uint64_t index = cell.read.thread();
  cell.read = Mark(mark.tick(), index, Mark::many);  // no reader is younger than this
  Readers& readers = readers_[index];
  const uint64_t warp = mark.thread() / kWarpSize;
  for (size_t i = readers.marks.size(); i-- > 0;) {
    if (readers.marks[i].thread() / kWarpSize != warp) continue;
    readers.marks[i] = mark;
    readers.pcs[i] = pc;
    return;
  }
  if (readers.marks.size() < Readers::kMost) {
    readers.marks.push_back(mark);
    readers.pcs.push_back(pc);
  } else {
    readers.marks[readers.next] = mark;
    readers.pcs[readers.next] = pc;
    readers.next = (readers.next + 1) % Readers::kMost;
  }
}

void RaceDetector::agent_writes(uintptr_t address, size_t bytes) {
  if (!on_) return;
  const bool shared = shared_windows.contains(address);
  Cell* cells = shared ? shared_cells_ : device_cells_;
  const uintptr_t base = shared ? shared_base_ : device_heap.base();
  const Mark mark(launch_->now, launch_->agent(), 0);
  for (uintptr_t a = address; a < address + bytes; a += 4) {
    Cell& cell = cells[(a - base) / 4];
    cell = Cell();
    cell.write = mark;
  }
}

void RaceDetector::fail(uintptr_t address, Mark other, uint32_t other_pc, bool other_writes,
                        Access access, const void* pc) const {
  const bool agent = other.thread() == launch_->agent();
  const std::string verb = std::string(access.write ? "written" : "read") +
                           (access.atomic ? " atomically" : "");
  std::string message = "race on " + describe_address(address) + "\n  " + verb +
                        launch_->module.source_line(pc) + "\n  ";
  if (other.has(Mark::pending)) {
    message += "while an asynchronous copy by " + describe_thread(other.thread()) +
               " is still writing it" + launch_->module.source_line(other_pc);
  } else {
    message += std::string(other_writes ? "written" : "read") +
               (other.has(Mark::atomic) ? " atomically" : "") + " before by " +
               (agent ? "an asynchronous copy" : describe_thread(other.thread())) +
               ", with nothing to order the two" + launch_->module.source_line(other_pc);
  }
  current_launch->fail(Status::launch_failure, message);
}

}  // namespace emu
