// Runs launches, one after the other, until its standard input ends: reads one from there, writes the buffers as it
// leaves them to standard output.
//
// In (little-endian): u32 length and entry name; u32 order of threads (0 ascending, 1 descending, 2 both, which must
// agree); u32 grid x, y, z; u32 threads; u32 shared bytes; u32 buffers, each u32 address modulo 16, u64 bytes and the
// bytes; u32 arguments, each u32 kind (0 buffer, 1 four-byte value, 2 eight-byte value, 3 null) and u64 value. Out: all
// buffers, in order. Every buffer is an allocation of its own, so that the sanitizer sees every access beyond it.
#include "shim.h"

#include <ucontext.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

namespace shim {
uint3 block_index, thread_index, block_size, grid_size;

std::map<std::string, Entry>& entries() {
    static std::map<std::string, Entry> all;
    return all;
}

namespace {
constexpr size_t STACK = 128 * 1024, SLOT = 64;

struct Copy {
    void* shared;
    const void* global;
    bool there;
};
struct Fiber {
    ucontext_t context;
    u8* stack;
    void* fake_stack;
    bool done;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
};
// Threads that meet: a block, or a warp.
struct Meeting {
    u32 members, arrived;
    const char* what;
    std::vector<u32> waiting;
    bool any, result;
    // Two sets of slots in turn: a lane can be one operation ahead of the others, never two.
    std::vector<u8> slots[2];
    u32 turn;
};

std::vector<Fiber> fibers;
std::vector<Meeting> warps;
Meeting block;
std::vector<u32> ready;  // a queue: `next` is its head
size_t next_ready;
u32 current;
ucontext_t scheduler;
void* scheduler_fake_stack;
const void* scheduler_stack;
size_t scheduler_stack_size;
const Entry* entry;
void** arguments;
u8* shared_memory;
bool descending;

[[noreturn]] void fail(const std::string& why) {
    fprintf(stderr, "shim: %s (block %u %u %u, thread %u)\n", why.c_str(), block_index.x, block_index.y, block_index.z,
            thread_index.x);
    fflush(stderr);
    _exit(3);
}

void to_scheduler(bool for_good) {
    Fiber& fiber = fibers[current];
#if SANITIZED
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.fake_stack, scheduler_stack, scheduler_stack_size);
#endif
    (void)for_good;
    swapcontext(&fiber.context, &scheduler);
#if SANITIZED
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &scheduler_stack, &scheduler_stack_size);
#endif
}

void run_fiber() {
#if SANITIZED
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
#endif
    (*entry)(arguments);
    if (!fibers[current].open.empty() || !fibers[current].groups.empty()) {
        bool pending = !fibers[current].open.empty();
        for (auto& group : fibers[current].groups) pending |= !group.empty();
        if (pending) fail("the thread ends with copies that nobody waited for");
    }
    fibers[current].done = true;
    to_scheduler(true);
}

void meet(Meeting& meeting, const char* what) {
    if (meeting.arrived == 0) meeting.what = what;
    if (meeting.what != what && strcmp(meeting.what, what) != 0)
        fail(std::string("threads meet in ") + meeting.what + " and in " + what);
    if (++meeting.arrived == meeting.members) {
        meeting.arrived = 0;
        std::vector<u32> released;
        released.swap(meeting.waiting);
        for (u32 thread : released) ready.push_back(thread);
        return;
    }
    meeting.waiting.push_back(current);
    to_scheduler(false);
}

void run_block(u32 threads) {
    ready.clear();
    next_ready = 0;
    warps.assign((threads + 31) / 32, Meeting());
    for (u32 w = 0; w < warps.size(); w++) {
        warps[w].members = threads - 32 * w < 32 ? threads - 32 * w : 32;
        for (auto& slots : warps[w].slots) slots.resize(32 * SLOT);
    }
    block = Meeting();
    block.members = threads;
    for (u32 i = 0; i < threads; i++) {
        Fiber& fiber = fibers[i];
        fiber.done = false;
        fiber.groups.clear();
        fiber.open.clear();
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack;
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run_fiber, 0);
        // It is in the registers now. The sanitizer would forget its guards on so many bytes at every switch.
        fiber.context.uc_stack.ss_size = 0;
        ready.push_back(descending ? threads - 1 - i : i);
    }
    while (next_ready < ready.size()) {
        current = ready[next_ready++];
        thread_index = {current, 0, 0};
#if SANITIZED
        __sanitizer_start_switch_fiber(&scheduler_fake_stack, fibers[current].stack, STACK);
#endif
        swapcontext(&scheduler, &fibers[current].context);
#if SANITIZED
        __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
        if (next_ready > 4096) {
            ready.erase(ready.begin(), ready.begin() + next_ready);
            next_ready = 0;
        }
    }
    for (u32 i = 0; i < threads; i++)
        if (!fibers[i].done) fail("thread " + std::to_string(i) + " waits for threads that never come");
}

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
std::vector<std::string> run(const Request& request) {
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
    arguments = pointers.data();
    grid_size = request.grid;
    block_size = {request.threads, 1, 1};
    for (u32 z = 0; z < request.grid.z; z++)
        for (u32 y = 0; y < request.grid.y; y++)
            for (u32 x = 0; x < request.grid.x; x++) {
                block_index = {x, y, z};
                // What is not written first is not a number.
                if (posix_memalign((void**)&shared_memory, 128, request.shared)) fail("no memory");
                memset(shared_memory, 0xff, request.shared);
                run_block(request.threads);
                free(shared_memory);
            }
    std::vector<std::string> out;
    for (size_t i = 0; i < memory.size(); i++) {
        out.emplace_back((char*)memory[i], request.buffers[i].bytes.size());
        free(memory[i] - request.buffers[i].skip);
    }
    return out;
}

// Memory for the threads of a block, none of which runs.
void make_fibers(u32 threads) {
    for (u32 i = fibers.size(); i < threads; i++) {
        fibers.emplace_back();
        fibers[i].stack = (u8*)malloc(STACK);
    }
#if SANITIZED
    // Threads end without returning, so that guards around what an earlier kernel had there would be left.
    for (u32 i = 0; i < threads; i++) ASAN_UNPOISON_MEMORY_REGION(fibers[i].stack, STACK);
#endif
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
    entry = &found->second;
    make_fibers(request.threads);
    descending = request.order == 1;
    auto result = run(request);
    if (request.order == 2) {
        descending = true;
        if (result != run(request)) fail("the result depends on the order of threads: a barrier is missing");
    }
    for (auto& buffer : result) fwrite(buffer.data(), 1, buffer.size(), stdout);
    if (fflush(stdout) != 0) fail("the result cannot be written");
}
}  // namespace

u8* dynamic_shared() { return shared_memory; }

void barrier(const char* what) { meet(block, what); }

bool barrier_any(bool value) {
    block.any |= value;
    if (block.arrived + 1 == block.members) {
        block.result = block.any;
        block.any = false;
    }
    meet(block, "block_any");
    const bool result = block.result;
    // The result stays until everybody has read it.
    meet(block, "block_any, read");
    return result;
}

const u8* exchange(const char* what, const void* value, size_t bytes) {
    Meeting& warp = warps[thread_index.x / 32];
    u8* slots = warp.slots[warp.turn % 2].data();
    memcpy(slots + SLOT * (thread_index.x % 32), value, bytes);
    if (warp.arrived + 1 == warp.members) warp.turn++;
    meet(warp, what);
    return slots;
}

void copy_begin(void* shared, const void* global, bool there) {
    if ((uintptr_t)shared % 16 || (there && (uintptr_t)global % 16)) fail("a copy is not aligned to 16 bytes");
    fibers[thread_index.x].open.push_back({shared, global, there});
}
void copy_commit() {
    Fiber& fiber = fibers[thread_index.x];
    fiber.groups.emplace_back();
    fiber.groups.back().swap(fiber.open);
}
void copy_wait(int groups) {
    Fiber& fiber = fibers[thread_index.x];
    while (fiber.groups.size() > (size_t)groups) {
        for (auto& copy : fiber.groups.front())
            copy.there ? memcpy(copy.shared, copy.global, 16) : memset(copy.shared, 0, 16);
        fiber.groups.erase(fiber.groups.begin());
    }
}
}  // namespace shim

int main() {
    u32 name_bytes;
    while (fread(&name_bytes, sizeof name_bytes, 1, stdin) == 1) shim::serve(name_bytes);
}
