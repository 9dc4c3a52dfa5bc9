#include "kernels/cpu.h"

#include <stdio.h>
#include <string.h>

static const char *const names[Q3_CPU_LEVELS] = { "reference", "portable", "avx2", "avx512" };

static int chosen = -1; // set before threads start

bool q3_cpu_has_level(q3_cpu_isa level)
{
    switch (level) {
    case Q3_CPU_REFERENCE:
    case Q3_CPU_PORTABLE:
        return true;
#if defined(__x86_64__)
    case Q3_CPU_AVX2: // the builtins read XCR0 too: a kernel that does not save the registers hides the level
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Q3_CPU_AVX512:
        return q3_cpu_has_level(Q3_CPU_AVX2) && __builtin_cpu_supports("avx512f") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl");
#endif
    default:
        return false;
    }
}

q3_cpu_isa q3_cpu_level(void)
{
    if (chosen < 0) {
        int level = Q3_CPU_LEVELS - 1;
        while (!q3_cpu_has_level((q3_cpu_isa)level))
            level--;
        chosen = level;
    }
    return (q3_cpu_isa)chosen;
}

bool q3_cpu_set_level(q3_cpu_isa level)
{
    if (!q3_cpu_has_level(level))
        return false;
    chosen = (int)level;
    return true;
}

void q3_cpu_features(char *text, size_t size)
{
    size_t used = 0;
    *text = '\0';
#if defined(__x86_64__)
#define ADD_FEATURE(name)                                                                                    \
    if (__builtin_cpu_supports(name) && used < size)                                                         \
        used += (size_t)snprintf(text + used, size - used, "%s%s", used ? " " : "", name);
    ADD_FEATURE("sse4.2")
    ADD_FEATURE("avx")
    ADD_FEATURE("avx2")
    ADD_FEATURE("fma")
    ADD_FEATURE("avx512f")
    ADD_FEATURE("avx512bw")
    ADD_FEATURE("avx512dq")
    ADD_FEATURE("avx512vl")
    ADD_FEATURE("avx512vnni")
    ADD_FEATURE("avx512bf16")
#undef ADD_FEATURE
#endif
    if (!used)
        snprintf(text, size, "none that concern kernels");
}

const char *q3_cpu_level_name(q3_cpu_isa level)
{
    return names[level];
}

bool q3_cpu_level_parse(q3_cpu_isa *out, const char *name)
{
    for (int i = 0; i < Q3_CPU_LEVELS; i++)
        if (strcmp(names[i], name) == 0) {
            *out = (q3_cpu_isa)i;
            return true;
        }
    return false;
}
