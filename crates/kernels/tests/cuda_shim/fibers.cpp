// Blocks of threads that are fibers: what shim.h declares, and a grid of them.
#include "fibers.h"

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
    size_t bytes;
};
struct Fiber {
    ucontext_t context;
    u8* stack;
    void* fake_stack;
    bool done;
    std::vector<std::vector<Copy>> groups;
    std::vector<Copy> open;
    // Products that were begun, and whether this thread has copies that they do not see.
    std::vector<std::vector<std::function<void()>>> product_groups;
    std::vector<std::function<void()>> open_products;
    bool unfenced;
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
std::vector<Meeting> warps, warpgroups;
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
    entry->call(arguments);
    if (!fibers[current].open.empty() || !fibers[current].groups.empty()) {
        bool pending = !fibers[current].open.empty();
        for (auto& group : fibers[current].groups) pending |= !group.empty();
        if (pending) fail("the thread ends with copies that nobody waited for");
    }
    if (!fibers[current].open_products.empty() || !fibers[current].product_groups.empty())
        fail("the thread ends with products that nobody waited for");
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
    warpgroups.assign(threads / 128, Meeting());
    for (auto& group : warpgroups) {
        group.members = 128;
        for (auto& slots : group.slots) slots.resize(128 * SLOT);
    }
    block = Meeting();
    block.members = threads;
    for (u32 i = 0; i < threads; i++) {
        Fiber& fiber = fibers[i];
        fiber.done = false;
        fiber.groups.clear();
        fiber.open.clear();
        fiber.product_groups.clear();
        fiber.open_products.clear();
        fiber.unfenced = false;
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

}  // namespace

void fail(const std::string& why) {
    fprintf(stderr, "shim: %s (block %u %u %u, thread %u)\n", why.c_str(), block_index.x, block_index.y, block_index.z,
            thread_index.x);
    fflush(stderr);
    _exit(3);
}

void run_grid(const Entry& of, uint3 grid, u32 threads, u32 shared_bytes, bool in_descending_order, void** with) {
    make_fibers(threads);
    entry = &of;
    arguments = with;
    descending = in_descending_order;
    grid_size = grid;
    block_size = {threads, 1, 1};
    for (u32 z = 0; z < grid.z; z++)
        for (u32 y = 0; y < grid.y; y++)
            for (u32 x = 0; x < grid.x; x++) {
                block_index = {x, y, z};
                // What is not written first is not a number.
                if (posix_memalign((void**)&shared_memory, 1024, shared_bytes)) fail("no memory");
                memset(shared_memory, 0xff, shared_bytes);
                run_block(threads);
                free(shared_memory);
            }
}

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

namespace {
const u8* leave(Meeting& meeting, u32 place, const char* what, const void* value, size_t bytes) {
    u8* slots = meeting.slots[meeting.turn % 2].data();
    memcpy(slots + SLOT * place, value, bytes);
    if (meeting.arrived + 1 == meeting.members) meeting.turn++;
    meet(meeting, what);
    return slots;
}
}  // namespace

const u8* exchange(const char* what, const void* value, size_t bytes) {
    return leave(warps[thread_index.x / 32], thread_index.x % 32, what, value, bytes);
}

void agree(const char* what, const void* value, size_t bytes) {
    if (thread_index.x / 128 >= warpgroups.size()) fail("a warpgroup has fewer than four warps");
    const u8* left = leave(warpgroups[thread_index.x / 128], thread_index.x % 128, what, value, bytes);
    if (memcmp(left, value, bytes)) fail(std::string("the threads of a warpgroup disagree in ") + what);
}

void product_begin(std::function<void()> product) {
    for (auto& fiber : fibers)
        if (fiber.unfenced) fail("a product of a warpgroup reads copies without a shared_fence");
    fibers[thread_index.x].open_products.push_back(std::move(product));
}
void product_commit() {
    Fiber& fiber = fibers[thread_index.x];
    fiber.product_groups.emplace_back();
    fiber.product_groups.back().swap(fiber.open_products);
}
void product_wait(int groups) {
    Fiber& fiber = fibers[thread_index.x];
    while (fiber.product_groups.size() > (size_t)groups) {
        for (auto& product : fiber.product_groups.front()) product();
        fiber.product_groups.erase(fiber.product_groups.begin());
    }
}
void fence() { fibers[thread_index.x].unfenced = false; }

void copy_begin(void* shared, const void* global, bool there, size_t bytes) {
    if ((uintptr_t)shared % bytes || (there && (uintptr_t)global % bytes)) fail("a copy is not aligned to its bytes");
    fibers[thread_index.x].open.push_back({shared, global, there, bytes});
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
            copy.there ? memcpy(copy.shared, copy.global, copy.bytes) : memset(copy.shared, 0, copy.bytes);
        fiber.unfenced |= !fiber.groups.front().empty();
        fiber.groups.erase(fiber.groups.begin());
    }
}
}  // namespace shim
