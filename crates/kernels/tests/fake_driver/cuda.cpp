// A libcuda.so.1 whose device is the processor and whose memory is the host's.
//
// Work of the stream waits in a queue until the host waits for it, the latest that a device may do it, so that memory of the
// host that changes too early is seen. Memory of the device is not a number until it is written. Kernels are those that
// shim.h has registered; of a real cubin, what it says of them is held to: parameters, threads, registers, shared memory.
// What a device refuses is refused here, with the reason on standard error.
//
// FAKE_CUDA_VERSION       of the driver, 13000
// FAKE_CUDA_ARCHITECTURE  of the device, 90
// FAKE_CUDA_MIB           of its memory, 4096
// FAKE_CUDA_PLAIN=1       no addresses without memory
// FAKE_CUDA_REFUSE=NAME   kernels whose names begin so are refused; the device goes on
// FAKE_CUDA_BREAK=NAME    ... break the context: all that is asked after them fails
// FAKE_CUDA_DIE=NAME      ... end the process
// FAKE_CUDA_THREADS=N     launches of more threads are taken and not run: a rehearsal of timings, whose results nobody reads
// FAKE_CUDA_COUNTS=FILE   to which the calls are added, by name, when the process ends
#include <cxxabi.h>
#include <elf.h>
#include <sys/mman.h>

#include <deque>
#include <memory>
#include <mutex>

#include "fibers.h"

#define API extern "C" __attribute__((visibility("default"))) int

namespace {
// Of CUresult.
enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    OUT_OF_RESOURCES = 701,
};

// What a cubin says of a kernel; of other modules, what every kernel may have.
struct Kernel {
    std::string entry;
    const shim::Entry* code = nullptr;
    std::vector<size_t> parameter_bytes;
    u32 most_threads = 1024, registers = 0, static_shared = 0, dynamic_shared = 48 << 10;
};
struct Event {
    size_t after = 0;
};
struct Piece {
    size_t bytes;
    bool accessible;
};

constexpr u64 UNIT = 2 << 20;
std::recursive_mutex one_at_a_time;
std::map<std::string, u64> counts;
std::deque<std::function<void()>> queue;
size_t asked, done;
bool initialized, broken;
thread_local void* current;
char the_context, the_stream;
u64 reserved, reserved_bytes;
std::map<u64, Piece> mapped;
std::map<u64, size_t> plain, pinned, handles;
size_t used;

u64 setting(const char* name, u64 otherwise) {
    const char* value = getenv(name);
    return value ? strtoull(value, nullptr, 10) : otherwise;
}
bool chosen(const char* setting, const std::string& entry) {
    const char* name = getenv(setting);
    return name && *name && entry.rfind(name, 0) == 0;
}
// What a block may have: on Hopper, and the least of supported devices.
u32 most_shared() { return (setting("FAKE_CUDA_ARCHITECTURE", 90) == 90 ? 227 : 99) << 10; }
size_t total_bytes() { return setting("FAKE_CUDA_MIB", 4096) << 20; }

int refuse(int status, const std::string& why) {
    fprintf(stderr, "fake driver: refused (%d): %s\n", status, why.c_str());
    return status;
}

// Every call: one at a time, counted, in a context, of a device that is not broken.
#define CALL(NAME)                                                        \
    std::lock_guard<std::recursive_mutex> guard(one_at_a_time);           \
    counts[NAME]++
#define CALL_IN_CONTEXT(NAME)                                             \
    CALL(NAME);                                                           \
    if (!current) return refuse(INVALID_CONTEXT, NAME " outside of a context"); \
    if (broken) return ILLEGAL_ADDRESS

void work_until(size_t end) {
    for (; done < end && !broken; done++) {
        auto next = std::move(queue.front());
        queue.pop_front();
        next();
    }
}
int waited() {
    work_until(asked);
    return broken ? ILLEGAL_ADDRESS : SUCCESS;
}
void ask(std::function<void()> work) {
    queue.push_back(std::move(work));
    asked++;
}

bool within(const std::map<u64, size_t>& allocations, u64 at, size_t bytes) {
    auto next = allocations.upper_bound(at);
    return next != allocations.begin() && at + bytes <= std::prev(next)->first + std::prev(next)->second;
}
bool is_device_memory(u64 at, size_t bytes) {
    if (within(plain, at, bytes)) return true;
    for (const u64 end = at + bytes; at < end;) {
        auto next = mapped.upper_bound(at);
        if (next == mapped.begin()) return false;
        const auto& [from, piece] = *std::prev(next);
        if (!piece.accessible || at >= from + piece.bytes) return false;
        at = from + piece.bytes;
    }
    return true;
}

// "void f<float, 64u>(float const*)" of a mangled name as entries are called: "f<float, 64>".
std::string entry_of(const std::string& mangled) {
    int status;
    char* demangled = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
    std::string text = status ? mangled : demangled, entry;
    free(demangled);
    if (text.rfind("void ", 0) == 0) text = text.substr(5);
    for (const char* cast : {"(int)", "(unsigned int)"})
        for (size_t at; (at = text.find(cast)) != std::string::npos;) text.erase(at, strlen(cast));
    int depth = 0;
    for (size_t i = 0; i < text.size() && !(text[i] == '(' && depth == 0); i++) {
        depth += (text[i] == '<') - (text[i] == '>');
        const bool suffix = text[i] == 'u' && i && isdigit(text[i - 1]) && (text[i + 1] == ',' || text[i + 1] == '>');
        if (!suffix) entry += text[i];
    }
    // Entries leave out what is so by default.
    const std::string by_default = ", false>";
    if (entry.size() > by_default.size() && entry.rfind(by_default) == entry.size() - by_default.size())
        entry.replace(entry.size() - by_default.size(), by_default.size(), ">");
    return entry;
}

using Module = std::map<std::string, Kernel>;

// Sections of a cubin: the code of a kernel, its static shared memory, and attributes of it.
void read_cubin(const u8* image, Module& kernels) {
    const auto* header = (const Elf64_Ehdr*)image;
    const auto* sections = (const Elf64_Shdr*)(image + header->e_shoff);
    const char* names = (const char*)image + sections[header->e_shstrndx].sh_offset;
    const u32 reserved_shared = setting("FAKE_CUDA_ARCHITECTURE", 90) >= 90 ? 1024 : 0;
    for (int i = 0; i < header->e_shnum; i++) {
        const std::string name = names + sections[i].sh_name;
        const auto of = [&](const char* kind) -> Kernel* {
            return name.rfind(kind, 0) == 0 ? &kernels[name.substr(strlen(kind))] : nullptr;
        };
        if (Kernel* kernel = of(".text.")) kernel->registers = sections[i].sh_info >> 24;
        if (name == ".nv.shared.reserved.0") continue;
        if (Kernel* kernel = of(".nv.shared.")) {
            kernel->static_shared = sections[i].sh_size;
            if (kernel->static_shared >= reserved_shared) kernel->static_shared -= reserved_shared;
        }
        if (Kernel* kernel = of(".nv.info.")) {
            // u8 format, u8 attribute, u16 value or, in format 4, length of the data that follows.
            const u8 *at = image + sections[i].sh_offset, *end = at + sections[i].sh_size;
            while (at + 4 <= end) {
                u16 bytes;
                u32 words[3];
                memcpy(&bytes, at + 2, sizeof bytes);
                memcpy(words, at + 4, at[0] == 4 && bytes >= 12 ? sizeof words : 0);
                if (at[0] == 4 && at[1] == 0x17) {  // a parameter: index, ordinal and offset, space and size
                    const u32 ordinal = words[1] & 0xffff;
                    if (kernel->parameter_bytes.size() <= ordinal) kernel->parameter_bytes.resize(ordinal + 1);
                    kernel->parameter_bytes[ordinal] = words[2] >> 18;
                }
                if (at[0] == 4 && at[1] == 0x05) kernel->most_threads = words[0] * words[1] * words[2];
                at += 4 + (at[0] == 4 ? bytes : 0);
            }
        }
    }
}

// Names that follow `mark`, up to the next of `ends`.
void read_names(const std::string& text, const std::string& mark, const char* ends, Module& kernels) {
    for (size_t at = 0; (at = text.find(mark, at)) != std::string::npos;) {
        at += mark.size();
        kernels[text.substr(at, text.find_first_of(ends, at) - at)];
    }
}

struct AtEnd {
    ~AtEnd() {
        FILE* file = getenv("FAKE_CUDA_COUNTS") ? fopen(getenv("FAKE_CUDA_COUNTS"), "a") : nullptr;
        if (!file) return;
        for (auto& [name, count] : counts) fprintf(file, "%s\t%llu\n", name.c_str(), (unsigned long long)count);
        fclose(file);
    }
} at_end;
}  // namespace

API cuInit(unsigned flags) {
    CALL("cuInit");
    initialized = true;
    return flags ? INVALID_VALUE : SUCCESS;
}
API cuDriverGetVersion(int* version) {
    CALL("cuDriverGetVersion");
    *version = setting("FAKE_CUDA_VERSION", 13000);
    return SUCCESS;
}
API cuDeviceGetCount(int* count) {
    CALL("cuDeviceGetCount");
    *count = 1;
    return initialized ? SUCCESS : NOT_INITIALIZED;
}
API cuDeviceGet(int* device, int ordinal) {
    CALL("cuDeviceGet");
    *device = ordinal;
    return ordinal ? INVALID_DEVICE : SUCCESS;
}
API cuDeviceGetAttribute(int* value, int attribute, int) {
    CALL("cuDeviceGetAttribute");
    const int architecture = setting("FAKE_CUDA_ARCHITECTURE", 90);
    switch (attribute) {
        case 75: *value = architecture / 10; return SUCCESS;
        case 76: *value = architecture % 10; return SUCCESS;
        case 102: *value = !setting("FAKE_CUDA_PLAIN", 0); return SUCCESS;
        default: return refuse(INVALID_VALUE, "attribute " + std::to_string(attribute));
    }
}
API cuDeviceGetName(char* name, int bytes, int) {
    CALL("cuDeviceGetName");
    snprintf(name, bytes, "the processor as a device");
    return SUCCESS;
}
API cuDevicePrimaryCtxRetain(void** context, int) {
    CALL("cuDevicePrimaryCtxRetain");
    *context = &the_context;
    return SUCCESS;
}
API cuCtxSetCurrent(void* context) {
    CALL("cuCtxSetCurrent");
    current = context;
    return context == &the_context ? SUCCESS : INVALID_CONTEXT;
}
API cuStreamCreate(void** stream, unsigned flags) {
    CALL_IN_CONTEXT("cuStreamCreate");
    *stream = &the_stream;
    return flags == 1 ? SUCCESS : refuse(INVALID_VALUE, "flags of a stream");
}
API cuStreamSynchronize(void* stream) {
    CALL_IN_CONTEXT("cuStreamSynchronize");
    return stream == &the_stream ? waited() : INVALID_HANDLE;
}
API cuEventCreate(void** event, unsigned flags) {
    CALL_IN_CONTEXT("cuEventCreate");
    *event = new Event;
    return flags == 2 ? SUCCESS : refuse(INVALID_VALUE, "flags of an event");
}
API cuEventRecord(void* event, void* stream) {
    CALL_IN_CONTEXT("cuEventRecord");
    ((Event*)event)->after = asked;
    return stream == &the_stream ? SUCCESS : INVALID_HANDLE;
}
API cuEventSynchronize(void* event) {
    CALL_IN_CONTEXT("cuEventSynchronize");
    work_until(((Event*)event)->after);
    return broken ? ILLEGAL_ADDRESS : SUCCESS;
}

API cuMemGetInfo_v2(size_t* free, size_t* total) {
    CALL_IN_CONTEXT("cuMemGetInfo");
    *total = total_bytes();
    *free = *total - used;
    return SUCCESS;
}
API cuMemAlloc_v2(u64* at, size_t bytes) {
    CALL_IN_CONTEXT("cuMemAlloc");
    if (used + bytes > total_bytes()) return OUT_OF_MEMORY;
    void* memory = nullptr;
    if (!bytes || posix_memalign(&memory, 512, bytes)) return refuse(INVALID_VALUE, "bytes of an allocation");
    memset(memory, 0xff, bytes);
    *at = (u64)memory;
    plain[*at] = bytes;
    used += bytes;
    return SUCCESS;
}
API cuMemFree_v2(u64 at) {
    CALL_IN_CONTEXT("cuMemFree");
    if (!plain.count(at)) return refuse(INVALID_VALUE, "what is freed was not allocated");
    const int status = waited();
    used -= plain[at];
    plain.erase(at);
    free((void*)at);
    return status;
}
API cuMemHostAlloc(void** at, size_t bytes, unsigned flags) {
    CALL_IN_CONTEXT("cuMemHostAlloc");
    if (flags || posix_memalign(at, 4096, bytes)) return refuse(INVALID_VALUE, "flags or bytes of pinned memory");
    pinned[(u64)*at] = bytes;
    return SUCCESS;
}
API cuMemAddressReserve(u64* at, size_t bytes, size_t alignment, u64 hint, u64 flags) {
    CALL_IN_CONTEXT("cuMemAddressReserve");
    if (!bytes || bytes % UNIT || alignment || hint || flags || setting("FAKE_CUDA_PLAIN", 0))
        return refuse(INVALID_VALUE, "addresses of " + std::to_string(bytes) + " bytes");
    const int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* range = mmap(nullptr, bytes + UNIT, PROT_NONE, kind, -1, 0);
    if (range == MAP_FAILED) return OUT_OF_MEMORY;
    *at = reserved = ((u64)range + UNIT - 1) / UNIT * UNIT;
    reserved_bytes = bytes;
    return SUCCESS;
}
struct Properties {
    int type, handle_types, location_type, location;
    void* windows;
    u8 flags[8];
};
API cuMemCreate(u64* handle, size_t bytes, const Properties* of, u64 flags) {
    CALL_IN_CONTEXT("cuMemCreate");
    const bool of_device = of->type == 1 && !of->handle_types && of->location_type == 1 && of->location == 0;
    if (!of_device || flags || !bytes || bytes % UNIT) return refuse(INVALID_VALUE, "properties of memory");
    if (used + bytes > total_bytes()) return OUT_OF_MEMORY;
    used += bytes;
    *handle = handles.size() + 1;
    handles[*handle] = bytes;
    return SUCCESS;
}
API cuMemMap(u64 at, size_t bytes, size_t offset, u64 handle, u64 flags) {
    CALL_IN_CONTEXT("cuMemMap");
    const bool inside = at % UNIT == 0 && at >= reserved && at + bytes <= reserved + reserved_bytes;
    if (!inside || offset || flags || !handles.count(handle) || handles[handle] != bytes)
        return refuse(INVALID_VALUE, "what is mapped");
    for (auto& [from, piece] : mapped)
        if (at < from + piece.bytes && from < at + bytes) return refuse(INVALID_VALUE, "mapped twice");
    mapped[at] = {bytes, false};
    return SUCCESS;
}
struct Access {
    int location_type, location, flags;
};
API cuMemSetAccess(u64 at, size_t bytes, const Access* access, size_t count) {
    CALL_IN_CONTEXT("cuMemSetAccess");
    const bool of_device = count == 1 && access->location_type == 1 && access->location == 0 && access->flags == 3;
    auto found = mapped.find(at);
    if (!of_device || found == mapped.end() || found->second.bytes != bytes)
        return refuse(INVALID_VALUE, "access to memory");
    if (mprotect((void*)at, bytes, PROT_READ | PROT_WRITE)) return OUT_OF_MEMORY;
    memset((void*)at, 0xff, bytes);
    found->second.accessible = true;
    return SUCCESS;
}

API cuMemsetD8Async(u64 at, unsigned char value, size_t bytes, void* stream) {
    CALL_IN_CONTEXT("cuMemsetD8Async");
    if (stream != &the_stream || !is_device_memory(at, bytes)) return refuse(INVALID_VALUE, "what is cleared");
    ask([=] { memset((void*)at, value, bytes); });
    return SUCCESS;
}
API cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t bytes, void* stream) {
    CALL_IN_CONTEXT("cuMemcpyDtoDAsync");
    if (stream != &the_stream || !is_device_memory(to, bytes) || !is_device_memory(from, bytes))
        return refuse(INVALID_VALUE, "a copy on the device");
    ask([=] { memmove((void*)to, (const void*)from, bytes); });
    return SUCCESS;
}
API cuMemcpyHtoDAsync_v2(u64 to, const void* from, size_t bytes, void* stream) {
    CALL_IN_CONTEXT("cuMemcpyHtoDAsync");
    if (stream != &the_stream || !is_device_memory(to, bytes)) return refuse(INVALID_VALUE, "a copy to the device");
    // Real drivers copy from elsewhere too, and wait meanwhile: what should run beside work would not.
    if (!within(pinned, (u64)from, bytes)) return refuse(INVALID_VALUE, "a copy from memory that is not pinned");
    ask([=] { memcpy((void*)to, from, bytes); });
    return SUCCESS;
}
API cuMemcpyDtoHAsync_v2(void* to, u64 from, size_t bytes, void* stream) {
    CALL_IN_CONTEXT("cuMemcpyDtoHAsync");
    if (stream != &the_stream || !is_device_memory(from, bytes)) return refuse(INVALID_VALUE, "a copy to the host");
    ask([=] { memcpy(to, (const void*)from, bytes); });
    return SUCCESS;
}

// A cubin, PTX, or what the fake NVRTC gives: a line for each entry, which is its name, too.
API cuModuleLoadData(void** module, const void* image) {
    CALL_IN_CONTEXT("cuModuleLoadData");
    const char* text = (const char*)image;
    auto* kernels = new Module;
    if (!strncmp(text, "\x7f" "ELFfake\n", 9)) {
        const std::string entries(text + 9);
        for (size_t at = 0, end; (end = entries.find('\n', at)) != std::string::npos; at = end + 1)
            (*kernels)[entries.substr(at, end - at)];
    } else if (!memcmp(text, "\x7f" "ELF", 4) && ((const Elf64_Ehdr*)image)->e_machine == 190) {
        read_cubin((const u8*)image, *kernels);
    } else if (!strncmp(text, "//", 2)) {
        read_names(text, ".entry ", "(\n", *kernels);
    } else {
        return refuse(INVALID_IMAGE, "neither a cubin nor PTX");
    }
    for (auto& [name, kernel] : *kernels) {
        kernel.entry = name.rfind("_Z", 0) == 0 ? entry_of(name) : name;
        auto found = shim::entries().find(kernel.entry);
        if (found == shim::entries().end()) return refuse(INVALID_IMAGE, "there is no kernel " + kernel.entry);
        kernel.code = &found->second;
        if (kernel.parameter_bytes.empty()) kernel.parameter_bytes = kernel.code->parameter_bytes;
        if (kernel.parameter_bytes != kernel.code->parameter_bytes)
            return refuse(INVALID_IMAGE, kernel.entry + " has other parameters than its text");
    }
    *module = kernels;
    return SUCCESS;
}
API cuModuleGetFunction(void** function, void* module, const char* name) {
    CALL_IN_CONTEXT("cuModuleGetFunction");
    auto found = ((Module*)module)->find(name);
    if (found == ((Module*)module)->end()) return refuse(NOT_FOUND, name);
    *function = &found->second;
    return SUCCESS;
}
API cuFuncSetAttribute(void* function, int attribute, int value) {
    CALL_IN_CONTEXT("cuFuncSetAttribute");
    auto* kernel = (Kernel*)function;
    if (attribute != 8 || value + kernel->static_shared > most_shared())
        return refuse(INVALID_VALUE, kernel->entry + " with " + std::to_string(value) + " bytes of shared memory");
    kernel->dynamic_shared = value;
    return SUCCESS;
}
API cuLaunchKernel(void* function, u32 x, u32 y, u32 z, u32 threads, u32 threads_y, u32 threads_z, u32 shared, void* stream,
                   void** parameters, void** extra) {
    CALL_IN_CONTEXT("cuLaunchKernel");
    const auto* kernel = (const Kernel*)function;
    counts["launch of " + kernel->entry]++;
    const auto wrong = [&](const char* what) { return refuse(INVALID_VALUE, kernel->entry + ": " + what); };
    if (chosen("FAKE_CUDA_REFUSE", kernel->entry)) return wrong("FAKE_CUDA_REFUSE");
    if (stream != &the_stream || extra) return INVALID_HANDLE;
    if (threads_y != 1 || threads_z != 1 || !threads || threads > kernel->most_threads) return wrong("threads");
    if ((u64)kernel->registers * threads > 65536) return refuse(OUT_OF_RESOURCES, kernel->entry + ": registers");
    const u32 most = kernel->dynamic_shared > (48u << 10) ? most_shared() : 48 << 10;
    if (shared > kernel->dynamic_shared || shared + kernel->static_shared > most) return wrong("shared memory");
    if (!x || !y || !z || x > 0x7fffffff || y > 65535 || z > 65535) return wrong("grid");
    // Values are taken now, as many bytes as the kernel has of each.
    auto values = std::make_shared<std::vector<u64>>();
    for (size_t i = 0; i < kernel->parameter_bytes.size(); i++) {
        u64 value = 0;
        memcpy(&value, parameters[i], kernel->parameter_bytes[i]);
        if (value >= reserved && value < reserved + reserved_bytes && !is_device_memory(value, 1))
            return wrong("an address without memory");
        values->push_back(value);
    }
    static bool descending;
    descending = !descending;
    ask([=, order = descending] {
        if (chosen("FAKE_CUDA_DIE", kernel->entry)) shim::fail("FAKE_CUDA_DIE");
        if (chosen("FAKE_CUDA_BREAK", kernel->entry)) {
            broken = true;
            return;
        }
        if ((u64)x * y * z * threads > setting("FAKE_CUDA_THREADS", ~0ull)) return;
        std::vector<void*> arguments;
        for (u64& value : *values) arguments.push_back(&value);
        shim::run_grid(*kernel->code, {x, y, z}, threads, shared, order, arguments.data());
    });
    return SUCCESS;
}

API cuGetErrorName(int status, const char** text) {
    const char* known = status == ILLEGAL_ADDRESS  ? "CUDA_ERROR_ILLEGAL_ADDRESS"
                        : status == OUT_OF_MEMORY  ? "CUDA_ERROR_OUT_OF_MEMORY"
                        : status == INVALID_VALUE  ? "CUDA_ERROR_INVALID_VALUE"
                                                   : nullptr;
    if (known) *text = known;
    return known ? SUCCESS : INVALID_VALUE;
}
API cuGetErrorString(int, const char** text) {
    *text = "of the fake driver";
    return SUCCESS;
}

// NVRTC opens the driver for tables that no header has, and does without where there are none.
API cuGetExportTable(const void** table, const void*) {
    *table = nullptr;
    return NOT_FOUND;
}

// For the fake cuBLASLt: asks the stream for work, whose operands were found to be device memory.
API fake_ask(void* stream, void (*work)(void*), void* with) {
    CALL_IN_CONTEXT("cublasLtMatmul");
    if (stream != &the_stream) return INVALID_HANDLE;
    ask([=] { work(with); });
    return SUCCESS;
}
API fake_is_device_memory(u64 at, size_t bytes) {
    std::lock_guard<std::recursive_mutex> guard(one_at_a_time);
    return is_device_memory(at, bytes);
}
