#include "signals.h"

#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstring>

#include "launch.h"

namespace emu {
namespace {

constexpr int kFaults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
struct sigaction old_actions[sizeof kFaults / sizeof *kFaults + 1];
int deadline_signal() { return SIGRTMIN + 7; }

const void* program_counter(const void* context) {
  const auto* c = static_cast<const ucontext_t*>(context);
#if defined(__x86_64__)
  return reinterpret_cast<const void*>(c->uc_mcontext.gregs[REG_RIP] + 1);
#else
  return reinterpret_cast<const void*>(c->uc_mcontext.pc + 4);
#endif
}

[[noreturn]] void leave_fiber() { siglongjmp(current_launch->scheduler_context, 1); }

void on_fault(int signal, siginfo_t* info, void* context) {
  if (current_thread && syscall(SYS_gettid) == current_launch->host_thread) {
    const void* pc = program_counter(context);
    if (signal == SIGSEGV || signal == SIGBUS) {
      current_launch->interrupt(Status::illegal_address, "accesses memory that it may not", pc,
                                info->si_addr);
    } else if (signal == SIGFPE) {
      current_launch->interrupt(Status::launch_failure, "divides an integer by zero", pc, nullptr);
    } else {
      current_launch->interrupt(Status::launch_failure, "ran into an illegal instruction", pc,
                                nullptr);
    }
    leave_fiber();
  }
  // Not a kernel's fault: what would have happened without us happens on return.
  for (size_t i = 0; i < sizeof kFaults / sizeof *kFaults; ++i) {
    if (kFaults[i] == signal) sigaction(signal, &old_actions[i], nullptr);
  }
}

void on_deadline(int, siginfo_t*, void* context) {
  if (!current_launch) return;
  // Every call into the engine and every access to memory looks at timed_out. A fiber that has
  // not done so when the timer fires again computes without end.
  if (current_launch->timed_out && current_thread) {
    current_launch->interrupt(Status::timeout, "ran longer than the time limit, in a loop",
                              program_counter(context), nullptr);
    leave_fiber();
  }
  current_launch->timed_out = true;
}

}  // namespace

SignalGuard::SignalGuard(uint32_t time_limit_ms) : stack_(64 << 10) {
  stack_t stack{};
  stack.ss_sp = stack_.data();
  stack.ss_size = stack_.size();
  sigaltstack(&stack, &old_stack_);
  struct sigaction action {};
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  action.sa_sigaction = on_fault;
  sigemptyset(&action.sa_mask);
  size_t i = 0;
  for (const int signal : kFaults) sigaction(signal, &action, &old_actions[i++]);
  action.sa_sigaction = on_deadline;
  sigaction(deadline_signal(), &action, &old_actions[i]);

  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = deadline_signal();
  event._sigev_un._tid = int(syscall(SYS_gettid));
  if (timer_create(CLOCK_MONOTONIC, &event, &timer_)) return;
  has_timer_ = true;
  itimerspec when{};
  when.it_value.tv_sec = time_limit_ms / 1000;
  when.it_value.tv_nsec = long(time_limit_ms % 1000) * 1000000;
  when.it_interval.tv_sec = 1;
  timer_settime(timer_, 0, &when, nullptr);
}

SignalGuard::~SignalGuard() {
  if (has_timer_) timer_delete(timer_);
  size_t i = 0;
  for (const int signal : kFaults) sigaction(signal, &old_actions[i++], nullptr);
  sigaction(deadline_signal(), &old_actions[i], nullptr);
  sigaltstack(&old_stack_, nullptr);
}

}  // namespace emu
