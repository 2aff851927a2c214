#include "module.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <sstream>

#include "report.h"

namespace emu {
namespace {

// The image: this header, the shared library, the CUDA source.
struct Header {
  char magic[8];
  uint64_t elf_bytes;
  uint64_t source_bytes;
};
constexpr char kMagic[] = "EMUCUDA1";
constexpr uint32_t kGap = 32;  // between shared variables, so that running over one shows
constexpr size_t kLongestLine = 160;

uint32_t round_up(uint32_t n, uint32_t multiple) { return (n + multiple - 1) / multiple * multiple; }

struct Range {
  uintptr_t base, begin, end;
};

int find_segments(dl_phdr_info* info, size_t, void* result) {
  Range& range = *static_cast<Range*>(result);
  if (info->dlpi_addr != range.base) return 0;
  range.begin = ~uintptr_t{0};
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    const uintptr_t first = info->dlpi_addr + segment.p_vaddr;
    range.begin = std::min(range.begin, first);
    range.end = std::max(range.end, first + segment.p_memsz);
  }
  return 1;
}

// A path of the file that was never used before: dlopen goes by the name first, and would return
// what an earlier file of the same descriptor held, had that not been unloaded for some reason.
std::string fresh_path(int file) {
  static uint32_t count = 0;
  std::string path = "/proc/self/fd";
  for (uint32_t bits = ++count; bits; bits >>= 1) path += bits & 1 ? "/." : "//";
  return path + "/" + std::to_string(file);
}

std::string run(const std::string& command) {
  std::string output;
  FILE* pipe = popen(command.c_str(), "r");
  if (!pipe) return output;
  char buffer[512];
  while (fgets(buffer, sizeof buffer, pipe)) output += buffer;
  pclose(pipe);
  return output;
}

}  // namespace

Module* Module::load(const void* image) {
  Header header;
  memcpy(&header, image, sizeof header);
  if (memcmp(header.magic, kMagic, sizeof header.magic)) {
    report("the module was not compiled for the emulator");
    return nullptr;
  }
  const char* elf = static_cast<const char*>(image) + sizeof header;
  auto* module = new Module;
  if (!module->open(elf, header.elf_bytes)) {
    delete module;
    return nullptr;
  }
  std::istringstream source(std::string(elf + header.elf_bytes, header.source_bytes));
  for (std::string line; std::getline(source, line);) module->lines_.push_back(line);
  return module;
}

bool Module::open(const char* elf, size_t bytes) {
  file_ = memfd_create("emulated-module", MFD_CLOEXEC);
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = write(file_, elf + done, bytes - done);
    if (n <= 0) {
      report("cannot write the module to memory");
      return false;
    }
    done += size_t(n);
  }
  handle_ = dlopen(fresh_path(file_).c_str(), RTLD_NOW | RTLD_LOCAL);
  const auto entry = handle_ ? reinterpret_cast<const EmuModule* (*)()>(dlsym(handle_, "emu_module"))
                             : nullptr;
  if (!entry) {
    report(std::string("cannot load the module: ") + dlerror());
    return false;
  }
  table_ = entry();
  Dl_info info;
  dladdr(reinterpret_cast<const void*>(entry), &info);
  Range range{reinterpret_cast<uintptr_t>(info.dli_fbase), 0, 0};
  dl_iterate_phdr(find_segments, &range);
  begin_ = range.begin;
  end_ = range.end;
  return true;
}

Module::~Module() {
  if (handle_) dlclose(handle_);
  if (file_ >= 0) close(file_);
}

const EmuKernel* Module::kernel(const std::string& name) const {
  for (uint32_t i = 0; i < table_->kernel_count; ++i) {
    if (name == table_->kernels[i].name) return &table_->kernels[i];
  }
  return nullptr;
}

uint32_t Module::static_shared_bytes(const EmuKernel& kernel) const {
  uint32_t bytes = 0;
  for (uint32_t i = 0; i < kernel.shared_count; ++i) {
    const EmuSharedVariable& variable = shared(kernel.shared[i]);
    bytes = round_up(bytes, std::max(variable.alignment, 1u)) + variable.bytes;
  }
  return bytes;
}

SharedLayout Module::shared_layout(const EmuKernel& kernel, uint32_t dynamic_bytes) const {
  SharedLayout layout;
  layout.counted_bytes = static_shared_bytes(kernel) + dynamic_bytes;
  const auto place = [&layout](uint32_t bytes, uint32_t alignment) {
    const uint32_t offset = round_up(layout.bytes + kGap, std::max(alignment, 16u));
    layout.bytes = offset + bytes;
    layout.valid.resize(layout.bytes, 0);
    std::fill(layout.valid.begin() + offset, layout.valid.end(), uint8_t{1});
    return offset;
  };
  for (uint32_t i = 0; i < kernel.shared_count; ++i) {
    const uint32_t index = kernel.shared[i];
    if (index >= layout.offsets.size()) layout.offsets.resize(index + 1, ~0u);
    layout.offsets[index] = place(shared(index).bytes, shared(index).alignment);
  }
  layout.dynamic_bytes = dynamic_bytes;
  layout.dynamic_offset = place(dynamic_bytes, 1024);
  return layout;
}

std::string Module::source_line(const void* pc) const { return source_line(offset(pc)); }

std::string Module::source_line(uint32_t offset) const {
  const auto known = known_lines_.find(offset);
  if (known != known_lines_.end()) return known->second;
  if (begin_ + offset >= end_) return "";
  char command[160];
  // The return address may already belong to the next line; inlined functions are listed from the
  // inside out, and the first that is the kernel's own source is wanted.
  snprintf(command, sizeof command, "addr2line -i -e /proc/%d/fd/%d 0x%x 2>/dev/null", getpid(),
           file_, offset - 1);
  std::istringstream answer(run(command));  // "/some/path/kernel.cu:12 (discriminator 3)"
  std::string text;
  for (std::string frame; text.empty() && std::getline(answer, frame);) {
    const size_t name = frame.rfind("kernel.cu:");
    const size_t line = name == std::string::npos ? 0 : size_t(atoi(frame.c_str() + name + 10));
    if (line == 0 || line > lines_.size()) continue;
    std::string code = lines_[line - 1];
    code.erase(0, std::min(code.find_first_not_of(" \t"), code.size()));
    if (code.size() > kLongestLine) code = code.substr(0, kLongestLine) + " ...";
    text = "\n    kernel.cu:" + std::to_string(line) + ": " + code;
  }
  return known_lines_[offset] = text;
}

std::string Module::parameters_in(const Launch& launch, uintptr_t begin, uintptr_t end) const {
  std::istringstream names(launch.kernel.parameters);
  std::string name, found;
  for (uint32_t i = 0; i < launch.kernel.argument_count && std::getline(names, name, ','); ++i) {
    uintptr_t value;
    if (launch.kernel.argument_bytes[i] != sizeof value) continue;
    memcpy(&value, launch.arguments[i], sizeof value);
    if (value >= begin && value < std::max(end, begin + 1)) found += (found.empty() ? "" : ", ") + name;
  }
  return found;
}

}  // namespace emu
