// The sampler of `toybundle`'s made-up family as a kernel, by convention 1 of bundle.proto, for the stand-in's launches. The
// first byte of its weights says how it behaves: "r" rightly, "w" paints another pixel, "b" has bytes that depend on its
// company, "c" crashes, "h" never ends.
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <unistd.h>

static const int H = 4, W = 3, STATE = 4;

extern "C" const int parameter_count = 11;
extern "C" void launch(int, int, void** parameters) {
  void** p[10];
  for (int i = 0; i < 10; ++i) p[i] = (void**)parameters[i];
  const char how = **(const char**)p[0];
  float* states = *(float**)p[1];
  const uint8_t *given = *(uint8_t**)p[3], *known = *(uint8_t**)p[4];
  const float* uniforms = *(float**)p[5];
  uint8_t* images = *(uint8_t**)p[7];
  float* log_likelihood = *(float**)p[8];
  const int32_t* entries = *(int32_t**)p[9];
  const int count = *(int32_t*)parameters[10];
  if (how == 'c') raise(SIGSEGV);
  while (how == 'h') sleep(1);
  for (int b = 0; b < count; ++b) {
    const int slot = entries[2 * b], row = entries[2 * b + 1];
    float sum = 0;
    for (int w = 0; w < W; ++w) {
      const int at = (slot * H + row) * W + w;
      const float chance = 0.5f + (row ? states[slot * STATE + w] : 0.0f);
      const bool lit = uniforms[at] < chance;
      images[at] = known[at] ? given[at] : lit != (how == 'w') ? 255 : 0;
      states[slot * STATE + w] = lit ? 0.25f : 0.0f;
      if (!known[at]) sum += logf(lit ? chance : 1 - chance);
    }
    log_likelihood[slot] = how == 'b' && count % 2 ? nextafterf(sum, 1.0f) : sum;
  }
}
