// Runs grids of kernels that shim.h has registered.
#pragma once
#include "shim.h"

namespace shim {
// Ends the process with the reason, and where it was found.
[[noreturn]] void fail(const std::string& why);

// Runs all blocks, one after the other, with threads that begin in ascending or descending order.
void run_grid(const Entry& entry, uint3 grid, u32 threads, u32 shared_bytes, bool descending, void** arguments);
}  // namespace shim
