// The text of the last error, and how reports name threads.
#pragma once

#include <string>

namespace emu {

struct Thread;

// Keep the message for those who ask the API for the error's text.
void report(const std::string& message);
const std::string& last_report();
void clear_report();

std::string describe(const Thread& thread);
// The thread of the current launch with this number in the grid.
std::string describe_thread(uint64_t id);

}  // namespace emu
