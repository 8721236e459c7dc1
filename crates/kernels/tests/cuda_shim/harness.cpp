// Runs launches, one after the other, until its standard input ends: reads one from there, writes the buffers as it
// leaves them to standard output.
//
// In (little-endian): u32 length and entry name; u32 order of threads (0 ascending, 1 descending, 2 both, which must
// agree); u32 grid x, y, z; u32 threads; u32 shared bytes; u32 buffers, each u32 address modulo 16, u64 bytes and the
// bytes; u32 arguments, each u32 kind (0 buffer, 1 four-byte value, 2 eight-byte value, 3 null) and u64 value. Out: all
// buffers, in order. Every buffer is an allocation of its own, so that the sanitizer sees every access beyond it.
#include "fibers.h"

namespace shim {
namespace {
std::string read_bytes(size_t bytes) {
    std::string data(bytes, 0);
    if (bytes && fread(&data[0], 1, bytes, stdin) != bytes) fail("the request is cut short");
    return data;
}
template <class T> T read_number() {
    T value;
    memcpy(&value, read_bytes(sizeof(T)).data(), sizeof(T));
    return value;
}

struct Argument {
    u32 kind;
    u64 value;
};
struct Buffer {
    // Of the address modulo 16: what lies before is no part of the buffer.
    u32 skip;
    std::string bytes;
};
struct Request {
    std::string name;
    u32 order;
    uint3 grid;
    u32 threads, shared;
    std::vector<Buffer> buffers;
    std::vector<Argument> arguments;
};

// The buffers after a run in which threads begin in ascending or descending order.
std::vector<std::string> run(const Entry& entry, const Request& request, bool descending) {
    std::vector<u8*> memory;
    for (auto& buffer : request.buffers) {
        // malloc aligns to 16 bytes, as kernels ask for at most.
        memory.push_back((u8*)malloc(buffer.skip + buffer.bytes.size()) + buffer.skip);
        memcpy(memory.back(), buffer.bytes.data(), buffer.bytes.size());
    }
    std::vector<u64> values;
    for (auto& argument : request.arguments)
        values.push_back(argument.kind == 0 ? (u64)memory.at(argument.value) : argument.value);
    std::vector<void*> pointers;
    for (auto& value : values) pointers.push_back(&value);
    run_grid(entry, request.grid, request.threads, request.shared, descending, pointers.data());
    std::vector<std::string> out;
    for (size_t i = 0; i < memory.size(); i++) {
        out.emplace_back((char*)memory[i], request.buffers[i].bytes.size());
        free(memory[i] - request.buffers[i].skip);
    }
    return out;
}

void serve(u32 name_bytes) {
    Request request;
    request.name = read_bytes(name_bytes);
    request.order = read_number<u32>();
    request.grid.x = read_number<u32>();
    request.grid.y = read_number<u32>();
    request.grid.z = read_number<u32>();
    request.threads = read_number<u32>();
    request.shared = read_number<u32>();
    request.buffers.resize(read_number<u32>());
    for (auto& buffer : request.buffers) {
        buffer.skip = read_number<u32>();
        buffer.bytes = read_bytes(read_number<u64>());
    }
    request.arguments.resize(read_number<u32>());
    for (auto& argument : request.arguments) {
        argument.kind = read_number<u32>();
        argument.value = read_number<u64>();
    }
    auto found = entries().find(request.name);
    if (found == entries().end()) fail("no kernel is called " + request.name);
    auto result = run(found->second, request, request.order == 1);
    if (request.order == 2) {
        if (result != run(found->second, request, true)) fail("the result depends on the order of threads: a barrier is missing");
    }
    for (auto& buffer : result) fwrite(buffer.data(), 1, buffer.size(), stdout);
    if (fflush(stdout) != 0) fail("the result cannot be written");
}
}  // namespace

}  // namespace shim

int main() {
    u32 name_bytes;
    while (fread(&name_bytes, sizeof name_bytes, 1, stdin) == 1) shim::serve(name_bytes);
}
