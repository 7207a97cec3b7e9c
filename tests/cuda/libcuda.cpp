// A stand-in for libcuda.so.1 without a GPU. Device memory is memory, machine code is the path of a library whose `launch`
// takes the kernel's parameters as cuLaunchKernel has them, and a launch runs it on a thread of its own, so that whoever
// launches goes on meanwhile. What the device is, and what goes wrong, environment variables say:
//   FAKE_CUDA_DEVICES   how many there are (1)         FAKE_CUDA_CAPABILITY  90
//   FAKE_CUDA_VERSION   of the driver (13000)          FAKE_CUDA_SHARED      bytes of a block's shared memory (232448)
//   FAKE_CUDA_MEMORY    bytes of its memory (2^30)     FAKE_CUDA_FAULT       while this file is there, launches fail
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <thread>

typedef void (*Launch)(int blocks, int backwards, void** parameters);

static const int OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NO_BINARY = 209, UNSUPPORTED_PTX = 222, NOT_FOUND = 500,
                 ILLEGAL_ADDRESS = 700;
static std::atomic<int> fault{OK};  // of which nothing recovers
static std::mutex guard;
static std::map<void*, size_t> held;
static size_t used = 0;
static thread_local bool entered = false;
struct Stream { std::thread running; };

static long setting(const char* name, long otherwise) { const char* text = getenv(name); return text ? atol(text) : otherwise; }
static size_t memory() { return setting("FAKE_CUDA_MEMORY", 1L << 30); }

extern "C" {
int cuGetErrorName(int code, const char** text) {
  *text = code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : code == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE"
      : code == NO_BINARY ? "CUDA_ERROR_NO_BINARY_FOR_GPU" : code == UNSUPPORTED_PTX ? "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
      : code == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : code == NOT_FOUND ? "CUDA_ERROR_NOT_FOUND"
      : "CUDA_ERROR_INVALID_VALUE";
  return OK;
}
int cuInit(unsigned) { return setting("FAKE_CUDA_DEVICES", 1) ? OK : NO_DEVICE; }
int cuDriverGetVersion(int* version) { *version = setting("FAKE_CUDA_VERSION", 13000); return OK; }
int cuDeviceGetCount(int* count) { *count = setting("FAKE_CUDA_DEVICES", 1); return OK; }
int cuDeviceGet(int* device, int number) { *device = number; return number < setting("FAKE_CUDA_DEVICES", 1) ? OK : INVALID_VALUE; }
int cuDeviceGetUuid_v2(unsigned char* uuid, int device) { memset(uuid, 0, 16); uuid[15] = device; return OK; }
int cuDeviceGetName(char* name, int size, int) { strncpy(name, "no GPU, a stand-in", size); return OK; }
int cuDeviceGetAttribute(int* value, int number, int) {
  const long capability = setting("FAKE_CUDA_CAPABILITY", 90);
  *value = number == 16 ? 2 : number == 75 ? capability / 10 : number == 76 ? capability % 10
      : number == 97 ? setting("FAKE_CUDA_SHARED", 232448) : 0;
  return OK;
}
int cuDevicePrimaryCtxRetain(void** context, int) { *context = (void*)1; return OK; }
int cuCtxSetCurrent(void*) { entered = true; return fault; }
int cuMemGetInfo_v2(size_t* free_, size_t* total) {
  std::lock_guard<std::mutex> lock(guard);
  *total = memory();
  *free_ = *total - used;
  return OK;
}
int cuModuleLoadData(void** module, const char* path) {
  if (!entered) return INVALID_VALUE;
  if (setting("FAKE_CUDA_VERSION", 13000) < 13000) return UNSUPPORTED_PTX;
  *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  return *module ? OK : NO_BINARY;
}
int cuModuleUnload(void* module) { dlclose(module); return OK; }
int cuModuleGetFunction(void** function, void* module, const char* entry) {
  *function = strcmp(entry, "paint_row") ? nullptr : dlsym(module, "launch");
  return *function ? OK : NOT_FOUND;
}
int cuFuncSetAttribute(void*, int, int) { return OK; }
static int take(void** address, size_t size, bool device) {
  if (!entered) return INVALID_VALUE;
  std::lock_guard<std::mutex> lock(guard);
  if (device && used + size > memory()) return OUT_OF_MEMORY;
  *address = aligned_alloc(256, (size + 255) / 256 * 256);
  memset(*address, 0xff, size);  // what nobody wrote must not matter
  if (device) used += size, held[*address] = size;
  return OK;
}
int cuMemAlloc_v2(void** address, size_t size) { return take(address, size, true); }
int cuMemFree_v2(void* address) {
  std::lock_guard<std::mutex> lock(guard);
  used -= held[address];
  held.erase(address);
  free(address);
  return OK;
}
int cuMemHostAlloc(void** address, size_t size, unsigned) { return take(address, size, false); }
int cuMemHostGetDevicePointer_v2(void** there, void* here, unsigned) { *there = here; return OK; }
int cuMemFreeHost(void* address) { free(address); return OK; }
int cuMemcpyHtoDAsync_v2(void* there, const void* here, size_t size, void*) {
  if (!entered) return INVALID_VALUE;
  memcpy(there, here, size);
  return fault;
}
int cuStreamCreate(void** stream, unsigned) { *stream = new Stream; return OK; }
int cuStreamSynchronize(void* stream) {
  Stream* ours = (Stream*)stream;
  if (ours->running.joinable()) ours->running.join();
  return fault;
}
int cuStreamDestroy_v2(void* stream) { cuStreamSynchronize(stream); delete (Stream*)stream; return OK; }
int cuLaunchKernel(void* function, unsigned blocks, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void* stream,
                   void** parameters, void**) {
  if (!entered) return INVALID_VALUE;
  const char* file = getenv("FAKE_CUDA_FAULT");
  if (file && !access(file, F_OK)) fault = ILLEGAL_ADDRESS;
  Stream* ours = (Stream*)stream;
  if (ours->running.joinable()) ours->running.join();
  // A GPU tells of a fault when it is waited for.
  if (fault == OK) ours->running = std::thread([=]() { ((Launch)function)(blocks, 0, parameters); });
  return OK;
}
}
