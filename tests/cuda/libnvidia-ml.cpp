// A stand-in for libnvidia-ml.so.1, for the GPUs that libcuda.cpp makes up. What goes wrong, environment variables say:
//   FAKE_NVML_KIND   GPU, or MIG: a part of one     FAKE_NVML_LACKS  figures that the device does not tell: "memory power"
//   FAKE_NVML_LOST   while this file is there, the GPU has fallen off the bus
//   FAKE_NVML_HANG   while this file is there, no call returns
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <string>

static const int OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, GPU_IS_LOST = 15;
struct Memory { unsigned long long total, free, used; };
struct Utilization { unsigned gpu, memory; };

static bool there(const char* name) { const char* file = getenv(name); return file && !access(file, F_OK); }
static int answer(const char* figure) {
  while (there("FAKE_NVML_HANG")) usleep(1000);
  if (there("FAKE_NVML_LOST")) return GPU_IS_LOST;
  const char* lacks = getenv("FAKE_NVML_LACKS");
  return lacks && strstr(lacks, figure) ? NOT_SUPPORTED : OK;
}

extern "C" {
const char* nvmlErrorString(int code) {
  return code == GPU_IS_LOST ? "GPU is lost" : code == NOT_SUPPORTED ? "Not Supported" : code == NOT_FOUND ? "Not Found" : "Unknown Error";
}
int nvmlInitWithFlags(unsigned) { return OK; }
int nvmlSystemGetDriverVersion(char* text, unsigned size) { strncpy(text, "580.0", size); return OK; }
int nvmlDeviceGetHandleByUUID(const char* uuid, void** device) {
  // As cuDeviceGetUuid_v2 has them: the last digits are the device's number.
  const char* kind = getenv("FAKE_NVML_KIND");
  const std::string known = std::string(kind ? kind : "GPU") + "-00000000-0000-0000-0000-0000000000";
  if (strncmp(uuid, known.c_str(), known.size())) return NOT_FOUND;
  *device = (void*)(strtol(uuid + known.size(), nullptr, 16) + 1);
  return answer("device");
}
int nvmlDeviceGetName(void*, char* name, unsigned size) { strncpy(name, "no GPU, a stand-in", size); return OK; }
int nvmlDeviceGetMemoryInfo(void*, Memory* memory) { *memory = {1ULL << 30, 3ULL << 28, 1ULL << 28}; return answer("memory"); }
int nvmlDeviceGetUtilizationRates(void*, Utilization* rates) { *rates = {42, 7}; return answer("utilization"); }
int nvmlDeviceGetTemperature(void*, int, unsigned* celsius) { *celsius = 55; return answer("temperature"); }
int nvmlDeviceGetPowerUsage(void*, unsigned* milliwatts) { *milliwatts = 250500; return answer("power"); }
}
