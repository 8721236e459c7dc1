// A libnvrtc that compiles nothing: a module is the names of its entries, whose code the fake driver has. It is for machines
// without the real one, and knows no device after Hopper; what of the arguments can be wrong is refused as there.
#include <dlfcn.h>

#include <cstring>
#include <set>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {
// Of nvrtcResult.
enum { SUCCESS = 0, INVALID_INPUT = 3, INVALID_OPTION = 5, COMPILATION = 6, NO_BUILTINS = 7, NAME_NOT_VALID = 10 };
const std::vector<int> ARCHITECTURES = {80, 86, 89, 90};

struct Program {
    std::string text;
    std::set<std::string> names;
    bool machine_code = false, compiled = false;

    std::string module(const std::string& mark, const std::string& before) const {
        std::string all = mark;
        for (auto& name : names) all += before + name + "\n";
        return all + '\0';
    }
    std::string cubin() const { return module("\x7f" "ELFfake\n", ""); }
    std::string ptx() const { return module("// PTX of names alone\n", ".entry "); }
};
}  // namespace

API nvrtcVersion(int* major, int* minor) {
    *major = FAKE_VERSION;
    *minor = 0;
    return SUCCESS;
}
extern "C" __attribute__((visibility("default"))) const char* nvrtcGetErrorString(int status) {
    return status == INVALID_OPTION ? "NVRTC_ERROR_INVALID_OPTION"
           : status == NO_BUILTINS  ? "NVRTC_ERROR_BUILTIN_OPERATION_FAILURE"
                                    : "an error of the fake NVRTC";
}
API nvrtcGetNumSupportedArchs(int* count) {
    *count = ARCHITECTURES.size();
    return SUCCESS;
}
API nvrtcGetSupportedArchs(int* architectures) {
    memcpy(architectures, ARCHITECTURES.data(), ARCHITECTURES.size() * sizeof(int));
    return SUCCESS;
}
API nvrtcCreateProgram(Program** program, const char* text, const char*, int headers, const char* const*, const char* const*) {
    *program = new Program;
    (*program)->text = text;
    return headers ? INVALID_INPUT : SUCCESS;
}
API nvrtcDestroyProgram(Program** program) {
    delete *program;
    *program = nullptr;
    return SUCCESS;
}
API nvrtcAddNameExpression(Program* program, const char* name) {
    const std::string kernel(name, strcspn(name, "<"));
    if (program->compiled || program->text.find(kernel + "(") == std::string::npos) return NAME_NOT_VALID;
    program->names.insert(name);
    return SUCCESS;
}
API nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    // As the real one: by a name that is found only if the library is open already, or on the library path.
    const std::string builtins = "libnvrtc-builtins.so." + std::to_string(FAKE_VERSION) + ".0";
    if (!dlopen(builtins.c_str(), RTLD_LAZY)) return NO_BUILTINS;
    bool known = false, warpgroups = false;
    for (int i = 0; i < count; i++)
        for (int architecture : ARCHITECTURES) {
            const std::string option = options[i], number = std::to_string(architecture);
            // Whose warpgroups multiply in the code of Hopper alone.
            warpgroups |= option == "--gpu-architecture=sm_90a";
            program->machine_code |= warpgroups || option == "--gpu-architecture=sm_" + number;
            known |= program->machine_code || option == "--gpu-architecture=compute_" + number;
        }
    for (auto& name : program->names)
        if (name.find("_warpgroups<") != std::string::npos && !warpgroups) return COMPILATION;
    program->compiled = known;
    return known ? SUCCESS : INVALID_OPTION;
}
API nvrtcGetLoweredName(Program* program, const char* name, const char** lowered) {
    auto found = program->names.find(name);
    if (!program->compiled || found == program->names.end()) return NAME_NOT_VALID;
    *lowered = found->c_str();
    return SUCCESS;
}
API nvrtcGetCUBINSize(Program* program, size_t* bytes) {
    *bytes = program->cubin().size();
    return program->machine_code ? SUCCESS : INVALID_INPUT;
}
API nvrtcGetCUBIN(Program* program, char* module) {
    memcpy(module, program->cubin().data(), program->cubin().size());
    return SUCCESS;
}
API nvrtcGetPTXSize(Program* program, size_t* bytes) {
    *bytes = program->ptx().size();
    return SUCCESS;
}
API nvrtcGetPTX(Program* program, char* module) {
    memcpy(module, program->ptx().data(), program->ptx().size());
    return SUCCESS;
}
API nvrtcGetProgramLogSize(Program*, size_t* bytes) {
    *bytes = 1;
    return SUCCESS;
}
API nvrtcGetProgramLog(Program*, char* log) {
    *log = 0;
    return SUCCESS;
}
