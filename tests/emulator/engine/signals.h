// Faults of the host's processor while a kernel runs, and the time limit of a launch.
#pragma once

#include <csignal>
#include <cstdint>
#include <ctime>
#include <vector>

namespace emu {

// While it lives, a fault or an endless loop in a fiber ends the launch, not the process.
class SignalGuard {
 public:
  explicit SignalGuard(uint32_t time_limit_ms);
  ~SignalGuard();
  SignalGuard(const SignalGuard&) = delete;
  SignalGuard& operator=(const SignalGuard&) = delete;

 private:
  std::vector<char> stack_;
  stack_t old_stack_;
  timer_t timer_;
  bool has_timer_ = false;
};

}  // namespace emu
