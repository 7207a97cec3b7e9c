// A stand-in for libcuda.so.1 without a GPU. Device memory is memory, machine code is the path of a library whose `launch`
// takes the kernel's parameters as cuLaunchKernel has them, and a launch runs it on a thread of its own, so that whoever
// launches goes on meanwhile. A copy from page-locked memory is made as late as a GPU may make it: when its stream is
// waited for. What a driver refuses or a GPU would stumble over is refused here: a call on a thread without a context,
// memory, streams and code of another device, memory that was given back, a block with more shared memory or threads than
// there may be. What the devices are, and what goes wrong, environment variables say:
//   FAKE_CUDA_DEVICES   how many there are (1)         FAKE_CUDA_CAPABILITY  90
//   FAKE_CUDA_VERSION   of the driver (13000)          FAKE_CUDA_SHARED      bytes of a block's shared memory (232448)
//   FAKE_CUDA_MEMORY    bytes of each one's memory (2^30); FAKE_CUDA_FULL the number of one that has none (-1)
//   FAKE_CUDA_OWNER     number of the only process that may use them (any)
//   FAKE_CUDA_HOLD      while this file is there, kernels that were launched wait
//   FAKE_CUDA_FAULT     while this file is there, launches fail; on the device whose number it holds, or on all
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <thread>
#include <vector>

typedef void (*Launch)(int blocks, int backwards, void** parameters);

enum Result {
  OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, DEVICE_UNAVAILABLE = 46, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201, NO_BINARY_FOR_GPU = 209,
  UNSUPPORTED_PTX_VERSION = 222, INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700
};
static const int MOST_DEVICES = 8, HOST = -1, MOST_THREADS = 1024, SHARED_UNLESS_ASKED = 48 * 1024;

struct Block { size_t size; int device; };
struct Copy { void* there; const void* here; size_t size; };
struct Stream { int device; std::vector<Copy> copies; std::thread running; };
struct Module { int device; void* library; };
struct Function { int device; Module* module; Launch launch; const int* count; int shared; };

static std::mutex guard;  // of all that follows
static std::map<char*, Block> held;
static std::map<void*, Stream*> streams;
static std::map<void*, Module*> modules;
static std::map<void*, Function*> functions;
static size_t used[MOST_DEVICES];
static int fault[MOST_DEVICES];  // of which nothing recovers
static thread_local int current = HOST;  // the device of this thread's context

static long setting(const char* name, long otherwise) { const char* text = getenv(name); return text ? atol(text) : otherwise; }
static int devices() { return (int)setting("FAKE_CUDA_DEVICES", 1); }
static size_t memory(int device) { return setting("FAKE_CUDA_FULL", -1) == device ? 0 : setting("FAKE_CUDA_MEMORY", 1L << 30); }

// Whether so many bytes from an address on lie within one block that a device can read.
static bool readable(const void* address, size_t size, int device) {
  auto after = held.upper_bound((char*)address);
  if (after == held.begin()) return false;
  auto [begin, block] = *--after;
  return (block.device == HOST || block.device == device) && (char*)address + size <= begin + block.size;
}
template <typename T> static T* known(const std::map<void*, T*>& all, void* handle) {
  auto found = all.find(handle);
  return found == all.end() || found->second->device != current ? nullptr : found->second;
}

#define IN_A_CONTEXT                      \
  if (current == HOST) return INVALID_CONTEXT; \
  std::lock_guard<std::mutex> lock(guard)

extern "C" {
int cuGetErrorName(int code, const char** text) {
  static const std::map<int, const char*> names = {
      {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"}, {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"}, {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
      {DEVICE_UNAVAILABLE, "CUDA_ERROR_DEVICE_UNAVAILABLE"}, {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"}, {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
      {NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU"}, {UNSUPPORTED_PTX_VERSION, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"},
      {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"}, {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"}, {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"}};
  auto found = names.find(code);
  if (found == names.end()) return INVALID_VALUE;
  *text = found->second;
  return OK;
}
int cuInit(unsigned) { return devices() ? OK : NO_DEVICE; }
int cuDriverGetVersion(int* version) { *version = setting("FAKE_CUDA_VERSION", 13000); return OK; }
int cuDeviceGetCount(int* count) { *count = devices(); return OK; }
int cuDeviceGet(int* device, int number) { *device = number; return number < devices() ? OK : INVALID_DEVICE; }
int cuDeviceGetUuid_v2(unsigned char* uuid, int device) { memset(uuid, 0, 16); uuid[15] = device; return OK; }
int cuDeviceGetName(char* name, int size, int) { strncpy(name, "no GPU, a stand-in", size); return OK; }
int cuDeviceGetAttribute(int* value, int number, int) {
  const long capability = setting("FAKE_CUDA_CAPABILITY", 90);
  *value = number == 16 ? 2 : number == 75 ? capability / 10 : number == 76 ? capability % 10
      : number == 97 ? setting("FAKE_CUDA_SHARED", 232448) : 0;
  return OK;
}
int cuDevicePrimaryCtxRetain(void** context, int device) {
  const long owner = setting("FAKE_CUDA_OWNER", 0);
  if (owner && owner != getpid()) return DEVICE_UNAVAILABLE;
  *context = (void*)(intptr_t)(device + 1);
  return OK;
}
int current_device() { return current; }  // the tests ask, of their thread
int cuCtxSetCurrent(void* context) {
  std::lock_guard<std::mutex> lock(guard);
  current = (int)(intptr_t)context - 1;
  return current == HOST ? OK : fault[current];
}
int cuMemGetInfo_v2(size_t* free_, size_t* total) {
  IN_A_CONTEXT;
  *total = memory(current);
  *free_ = *total - used[current];
  return OK;
}
int cuModuleLoadDataEx(void** module, const char* path, unsigned count, const int* options, void** values) {
  IN_A_CONTEXT;
  if (setting("FAKE_CUDA_VERSION", 13000) < 13000) {
    char* log = nullptr;
    for (unsigned i = 0; i < count; ++i)
      if (options[i] == 5) log = (char*)values[i];
    for (unsigned i = 0; log && i < count; ++i)
      if (options[i] == 6) snprintf(log, (size_t)values[i], "ptxas fatal: Unsupported .version 9.0\nand more\n");
    return UNSUPPORTED_PTX_VERSION;
  }
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return NO_BINARY_FOR_GPU;
  Module* made = new Module{current, library};
  modules[*module = made] = made;
  return OK;
}
int cuModuleUnload(void* module) {
  IN_A_CONTEXT;
  Module* ours = known(modules, module);
  if (!ours) return INVALID_HANDLE;
  for (auto each = functions.begin(); each != functions.end();) each = each->second->module == ours ? functions.erase(each) : ++each;
  dlclose(ours->library);
  modules.erase(module);
  return OK;
}
int cuModuleGetFunction(void** function, void* module, const char* entry) {
  IN_A_CONTEXT;
  Module* ours = known(modules, module);
  if (!ours) return INVALID_HANDLE;
  Launch launch = strcmp(entry, "paint_row") ? nullptr : (Launch)dlsym(ours->library, "launch");
  if (!launch) return NOT_FOUND;
  Function* made = new Function{current, ours, launch, (const int*)dlsym(ours->library, "parameter_count"), SHARED_UNLESS_ASKED};
  functions[*function = made] = made;
  return OK;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
  IN_A_CONTEXT;
  Function* ours = known(functions, function);
  if (!ours) return INVALID_HANDLE;
  if (attribute != 8 || value > setting("FAKE_CUDA_SHARED", 232448)) return INVALID_VALUE;
  ours->shared = value;
  return OK;
}
static int take(void** address, size_t size, int device) {
  IN_A_CONTEXT;
  if (!size) return INVALID_VALUE;
  if (device != HOST && used[device] + size > memory(device)) return OUT_OF_MEMORY;
  *address = aligned_alloc(256, (size + 255) / 256 * 256);
  memset(*address, 0xff, size);  // what nobody wrote must not matter
  if (device != HOST) used[device] += size;
  held[(char*)*address] = {size, device};
  return OK;
}
static int give_back(void* address, int device) {
  IN_A_CONTEXT;
  auto found = held.find((char*)address);
  if (found == held.end() || found->second.device != device) return INVALID_VALUE;
  if (device != HOST) used[device] -= found->second.size;
  memset(address, 0xff, found->second.size);
  held.erase(found);
  free(address);
  return OK;
}
int cuMemAlloc_v2(void** address, size_t size) { return take(address, size, current); }
int cuMemFree_v2(void* address) { return give_back(address, current); }
int cuMemHostAlloc(void** address, size_t size, unsigned) { return take(address, size, HOST); }
int cuMemHostGetDevicePointer_v2(void** there, void* here, unsigned) {
  IN_A_CONTEXT;
  *there = here;
  return readable(here, 1, HOST) ? OK : INVALID_VALUE;
}
int cuMemFreeHost(void* address) { return give_back(address, HOST); }
int cuMemcpyHtoDAsync_v2(void* there, const void* here, size_t size, void* stream) {
  IN_A_CONTEXT;
  Stream* ours = known(streams, stream);
  if (!ours) return INVALID_HANDLE;
  if (!readable(there, size, current)) return INVALID_VALUE;
  if (readable(here, size, HOST)) ours->copies.push_back({there, here, size});
  else memcpy(there, here, size);  // pageable memory was read when the call returns
  return fault[current];
}
int cuStreamCreate(void** stream, unsigned flags) {
  IN_A_CONTEXT;
  if (flags != 1) return INVALID_VALUE;  // one that waits for the default stream would wait for onnxruntime
  Stream* made = new Stream{current, {}, {}};
  streams[*stream = made] = made;
  return OK;
}
int cuStreamSynchronize(void* stream) {
  Stream* ours;
  {
    IN_A_CONTEXT;
    if (!(ours = known(streams, stream))) return INVALID_HANDLE;
    for (const Copy& copy : ours->copies) memcpy(copy.there, copy.here, copy.size);
    ours->copies.clear();
  }
  if (ours->running.joinable()) ours->running.join();
  std::lock_guard<std::mutex> lock(guard);
  return fault[ours->device];
}
int cuStreamDestroy_v2(void* stream) {
  cuStreamSynchronize(stream);
  IN_A_CONTEXT;
  if (!known(streams, stream)) return INVALID_HANDLE;
  delete (Stream*)stream;
  streams.erase(stream);
  return OK;
}
int cuLaunchKernel(void* function, unsigned blocks, unsigned y, unsigned z, unsigned threads, unsigned threads_y, unsigned threads_z,
                   unsigned shared, void* stream, void** parameters, void**) {
  Function* ours;
  Stream* on;
  {
    IN_A_CONTEXT;
    if (!(ours = known(functions, function)) || !(on = known(streams, stream))) return INVALID_HANDLE;
    if (!blocks || y != 1 || z != 1 || !threads || threads * threads_y * threads_z > MOST_THREADS || (int)shared > ours->shared)
      return INVALID_VALUE;
    FILE* file = getenv("FAKE_CUDA_FAULT") ? fopen(getenv("FAKE_CUDA_FAULT"), "r") : nullptr;
    if (file) {
      int device = current;
      if (fscanf(file, "%d", &device) != 1 || device == current) fault[current] = ILLEGAL_ADDRESS;
      fclose(file);
    }
    // All but the last, a count, are addresses.
    for (int i = 0; ours->count && i < *ours->count - 1; ++i)
      if (!readable(*(void**)parameters[i], 1, current)) fault[current] = ILLEGAL_ADDRESS;
    // A GPU tells of a fault when it is waited for.
    if (fault[current]) return OK;
  }
  if (on->running.joinable()) on->running.join();
  // The driver has taken the values of the parameters when the call returns.
  std::vector<int64_t> values;
  const int count = ours->count ? *ours->count : 0;
  for (int i = 0; i < count; ++i) values.push_back(i < count - 1 ? *(int64_t*)parameters[i] : *(int32_t*)parameters[i]);
  on->running = std::thread([launch = ours->launch, blocks, values, parameters]() mutable {
    const char* hold = getenv("FAKE_CUDA_HOLD");
    while (hold && !access(hold, F_OK)) usleep(1000);
    std::vector<void*> taken;
    for (int64_t& value : values) taken.push_back(&value);
    launch(blocks, 0, taken.empty() ? parameters : taken.data());
  });
  return OK;
}
}
