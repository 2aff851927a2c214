#include "fiber.h"

#include <sys/mman.h>

#include <cstring>
#include <new>

// Only what the ABI makes the callee save; the floating-point control words never change.
#if defined(__x86_64__)
asm(R"(
.text
.globl emu_switch_stack
.type emu_switch_stack, @function
emu_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch_stack, .-emu_switch_stack
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl emu_switch_stack
.type emu_switch_stack, %function
emu_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size emu_switch_stack, .-emu_switch_stack
)");
#else
#error "the emulator switches stacks on x86-64 and aarch64 only"
#endif

namespace emu {
namespace {

constexpr uint64_t kCanary = 0x5ac4ed0bad57ac4eULL;

}  // namespace

char* StackPool::get(size_t index) {
  while (index / kStacksPerChunk >= chunks_.size()) {
    const size_t bytes = kStacksPerChunk * kStackBytes;
    void* chunk = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (chunk == MAP_FAILED) throw std::bad_alloc();
    // A huge page would make every stack resident as soon as one of its neighbours is touched.
    madvise(chunk, bytes, MADV_NOHUGEPAGE);
    chunks_.push_back(static_cast<char*>(chunk));
  }
  return chunks_[index / kStacksPerChunk] + index % kStacksPerChunk * kStackBytes;
}

void* prepare_stack(char* stack, size_t index, void (*entry)()) {
  memcpy(stack, &kCanary, sizeof kCanary);
  // Stacks lie a power of two apart; without this shift their tops would share cache sets.
  uintptr_t top = reinterpret_cast<uintptr_t>(stack) + kStackBytes - index % 16 * 192;
  top &= ~uintptr_t{63};
#if defined(__x86_64__)
  uintptr_t* words = reinterpret_cast<uintptr_t*>(top) - 8;
  memset(words, 0, 8 * sizeof *words);  // six registers, the return address, the alignment
  words[6] = reinterpret_cast<uintptr_t>(entry);
#else
  uintptr_t* words = reinterpret_cast<uintptr_t*>(top) - 20;
  memset(words, 0, 20 * sizeof *words);
  words[11] = reinterpret_cast<uintptr_t>(entry);  // x30
#endif
  return words;
}

bool stack_intact(const char* stack) { return memcmp(stack, &kCanary, sizeof kCanary) == 0; }

}  // namespace emu
