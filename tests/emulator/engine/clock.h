// What a thread knows of the past of the others: vector clocks, compressed along the hierarchy of
// threads. One counter of ticks serves the whole device, so a clock is a set of statements "all
// that <a CTA, a warp, a thread> did up to tick t has happened before".
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace emu {

using Tick = uint64_t;

// Whom a statement is about. Keys sort by CTA; within it the CTA itself comes first.
struct Subject {
  static uint64_t cta(uint64_t cta) { return cta << 16; }
  static uint64_t warp(uint64_t cta, uint32_t warp) { return cta << 16 | 0x4000 | warp; }
  static uint64_t thread(uint64_t cta, uint32_t rank) { return cta << 16 | 0x8000 | rank; }
  static uint64_t cta_of(uint64_t key) { return key >> 16; }
  static bool is_cta(uint64_t key) { return (key & 0xffff) == 0; }
};

// An immutable, shared clock. A null clock knows nothing.
class Clock {
 public:
  Clock() = default;
  explicit Clock(Tick floor) : data_(new Data) { data_->floor = floor; }
  Clock(const Clock& other) : data_(other.data_) {
    if (data_) ++data_->references;
  }
  Clock(Clock&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  Clock& operator=(Clock other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~Clock() { release(); }

  // Everything by everybody up to this tick has happened before.
  Tick floor() const { return data_ ? data_->floor : 0; }
  // The last tick known of a thread.
  Tick known(uint64_t cta, uint32_t warp, uint32_t rank) const;
  bool same_as(const Clock& other) const { return data_ == other.data_; }

  // What both know, taken together.
  Clock joined(const Clock& other) const;
  // The same, and all that `subject` did up to `tick`.
  Clock with(uint64_t subject, Tick tick) const;
  // Once something is known of every one of `ctas` CTAs, the least of it is the floor.
  Clock raised(uint64_t ctas) const;

 private:
  using Statement = std::pair<uint64_t, Tick>;
  struct Data {
    uint32_t references = 1;
    Tick floor = 0;
    std::vector<Statement> statements;  // sorted by subject; none is implied by its CTA's
    Statement last_cta = {~uint64_t{0}, 0};  // while it is being built
  };

  explicit Clock(Data* data) : data_(data) {}
  void release() {
    if (data_ && --data_->references == 0) delete data_;
    data_ = nullptr;
  }
  static void append(Data& data, Statement statement);

  Data* data_ = nullptr;
};

}  // namespace emu
