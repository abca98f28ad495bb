// GCC before 12.4 and 13.3 (its bug 114098) believes that _tile_loadconfig reads 8 bytes, not 64, and drops the stores of a configuration
// that is filled in just before: ggml's AMX kernels then end in a fault. Included before every file of llama.cpp, this says how much is read.
#pragma once
#include <immintrin.h>
#undef _tile_loadconfig
#define _tile_loadconfig(config) __asm__ volatile("ldtilecfg %0" ::"m"(*(const char(*)[64])(config)))
