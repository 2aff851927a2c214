// A compiled kernel source: loading it, its kernels, and the lines that its instructions come from.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "launch.h"

namespace emu {

struct Module {
  // Load the bytes that compile.py made. Null, and a report, if they are nothing of the kind.
  static Module* load(const void* image);
  ~Module();

  const EmuKernel* kernel(const std::string& name) const;
  const EmuSharedVariable& shared(size_t index) const { return table_->shared[index]; }
  const char* shared_name(size_t index) const { return table_->shared_names[index]; }
  SharedLayout shared_layout(const EmuKernel& kernel, uint32_t dynamic_bytes) const;
  // Bytes that the device would count for the kernel's own shared variables.
  uint32_t static_shared_bytes(const EmuKernel& kernel) const;

  // True for the module's own constants and variables.
  bool contains(uintptr_t address) const { return address - begin_ < end_ - begin_; }
  uint32_t arch() const { return table_->arch / 10; }
  uint32_t offset(const void* pc) const {
    return uint32_t(reinterpret_cast<uintptr_t>(pc) - begin_);
  }
  // "\n    kernel.cu:12: the line", or nothing if it is not known.
  std::string source_line(const void* pc) const;
  std::string source_line(uint32_t offset) const;
  // Names of the pointers among the launch's arguments that lie in a range of addresses.
  std::string parameters_in(const Launch& launch, uintptr_t begin, uintptr_t end) const;

 private:
  Module() = default;
  bool open(const char* elf, size_t bytes);

  int file_ = -1;
  void* handle_ = nullptr;
  const EmuModule* table_ = nullptr;
  uintptr_t begin_ = 0, end_ = 0;
  std::vector<std::string> lines_;
  mutable std::unordered_map<uint32_t, std::string> known_lines_;
};

}  // namespace emu
