// Which accesses to memory are ordered: a shadow of every word says who last wrote and read it.
//
// Two accesses of the same bytes by different threads, at least one of them a write and not both
// atomic, must be ordered by barriers or by release and acquire. Whether they are is told by the
// threads' clocks, not by the order in which this run happened to execute them, so that a missing
// barrier is found whatever the schedule was.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "clock.h"

namespace emu {

struct Cta;
class Launch;
struct Thread;

struct Access {
  bool write;
  bool atomic;
  enum Stage : uint8_t { whole, begins, ends } stage;  // of a copy that is done in the background
};
constexpr Access kRead{false, false, Access::whole};
constexpr Access kWrite{true, false, Access::whole};
constexpr Access kAtomicRead{false, true, Access::whole};
constexpr Access kAtomicWrite{true, true, Access::whole};
constexpr Access kWriteBegins{true, false, Access::begins};  // nobody may touch the bytes until
constexpr Access kWriteEnds{true, false, Access::ends};      // the write has ended

// Who touched a word, and when: packed into 64 bits.
class Mark {
 public:
  enum Flag : uint64_t { atomic = 1, pending = 2, many = 4, split = 8 };
  Mark() = default;
  Mark(Tick tick, uint64_t thread, uint64_t flags)
      : bits_(tick << 28 | (thread & 0xffffff) << 4 | flags) {}
  bool empty() const { return bits_ == 0; }
  Tick tick() const { return bits_ >> 28; }
  uint64_t thread() const { return bits_ >> 4 & 0xffffff; }  // or an index
  bool has(Flag flag) const { return bits_ & flag; }

 private:
  uint64_t bits_ = 0;
};

class RaceDetector {
 public:
  RaceDetector();
  void begin_launch(const Launch& launch);
  void end_launch();
  void device_access(uintptr_t address, size_t bytes, Access access, const void* pc);
  void shared_access(uintptr_t address, size_t bytes, Access access, const Cta& owner,
                     const void* pc);
  // The bytes were written by an asynchronous copy that `Subject::thread(launch's CTAs, 0)` does.
  void agent_writes(uintptr_t address, size_t bytes);
  // The memory has been freed.
  void forget(uintptr_t address, size_t bytes);

 private:
  struct Cell {
    Mark write, read;
    uint32_t write_pc = 0, read_pc = 0;
  };
  // The readers of a word since its last write, the last of each warp.
  struct Readers {
    static constexpr size_t kMost = 32;  // of more, the oldest are forgotten
    std::vector<Mark> marks;
    std::vector<uint32_t> pcs;
    size_t next = 0;
  };
  using Bytes = std::vector<Cell>;  // four, of a word whose bytes were accessed one by one

  void words(Cell* cells, uintptr_t base, uintptr_t address, size_t bytes, Access access,
             Tick born, const void* pc);
  void check(Cell& cell, uintptr_t address, Access access, Tick born, const void* pc);
  void add_reader(Cell& cell, Mark mark, Tick born, uint32_t pc);
  bool ordered(Mark mark, Tick born) const;
  [[noreturn]] void fail(uintptr_t address, Mark other, uint32_t other_pc, bool other_writes,
                         Access access, const void* pc) const;

  const Launch* launch_ = nullptr;
  bool on_ = false;
  Cell* device_cells_ = nullptr;
  Cell* shared_cells_ = nullptr;
  uintptr_t shared_base_ = 0;
  size_t shared_size_ = 0;
  std::vector<Readers> readers_;
  std::vector<Bytes> splits_;
};

extern RaceDetector race_detector;

}  // namespace emu
