// Stacks, and switching between them: what makes a CUDA thread an ordinary function call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

extern "C" {
// Save the callee-saved registers on the current stack, store the stack pointer, and continue on
// the other stack.
void emu_switch_stack(void** saved, void* resumed);
}

namespace emu {

constexpr size_t kStackBytes = 64 << 10;

// Stacks stay mapped from launch to launch: touching fresh pages costs more than running a thread.
class StackPool {
 public:
  // The lowest address of stack `index`.
  char* get(size_t index);

 private:
  static constexpr size_t kStacksPerChunk = 2048;
  std::vector<char*> chunks_;
};

// A stack pointer for emu_switch_stack that starts `entry`, which must not return.
void* prepare_stack(char* stack, size_t index, void (*entry)());
// False if the lowest words of the stack were overwritten.
bool stack_intact(const char* stack);

}  // namespace emu
