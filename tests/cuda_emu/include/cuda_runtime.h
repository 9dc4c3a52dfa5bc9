/* tests/cuda_emu/include/cuda_runtime.h - the words of CUDA C++ that kernels/device.cuh allows, for the host compiler.
 *
 * Stands in for NVIDIA's header of that name. Keep it small: a word that is missing here is a word that the kernels do
 * without, or that is added together with its real meaning.
 */
#ifndef Q3_CUDA_EMU_RUNTIME_H
#define Q3_CUDA_EMU_RUNTIME_H

#include "cuda_runtime_api.h"

#ifdef __cplusplus
#include <math.h>
#include <string.h>

#include "cuda_emu.h"

#define Q3_EMU_MAKE(T, name)                                                                                 \
    static inline name##2 make_##name##2(T x, T y)                                                           \
    {                                                                                                        \
        name##2 v = { x, y };                                                                                \
        return v;                                                                                            \
    }                                                                                                        \
    static inline name##3 make_##name##3(T x, T y, T z)                                                      \
    {                                                                                                        \
        name##3 v = { x, y, z };                                                                             \
        return v;                                                                                            \
    }                                                                                                        \
    static inline name##4 make_##name##4(T x, T y, T z, T w)                                                 \
    {                                                                                                        \
        name##4 v = { x, y, z, w };                                                                          \
        return v;                                                                                            \
    }
Q3_EMU_MAKE(signed char, char)
Q3_EMU_MAKE(unsigned char, uchar)
Q3_EMU_MAKE(short, short)
Q3_EMU_MAKE(unsigned short, ushort)
Q3_EMU_MAKE(int, int)
Q3_EMU_MAKE(unsigned, uint)
Q3_EMU_MAKE(long long, longlong)
Q3_EMU_MAKE(unsigned long long, ulonglong)
Q3_EMU_MAKE(float, float)
Q3_EMU_MAKE(double, double)
#undef Q3_EMU_MAKE

/* Barriers. The default arguments are the place of the call. */
static inline void __syncthreads(Q3_EMU_CALLER)
{
    q3_emu_block_barrier(Q3_EMU_SITE);
}
static inline void q3_emu_nothing(void *const (&)[32], uint32_t) {}
static inline void __syncwarp(uint32_t mask = 0xffffffffu, Q3_EMU_CALLER)
{
    q3_emu_warp(q3_emu_nothing, "__syncwarp", mask, NULL, Q3_EMU_SITE);
}
static inline void __threadfence(void) {}
static inline void __threadfence_block(void) {}

/* Shuffles: every lane offers a value and names the lane whose value it takes. */
template <class T> struct q3_emu_shuffle {
    T value, result;
    int from; /* lane */

    static void all(void *const (&lanes)[32], uint32_t mask)
    {
        for (uint32_t rest = mask; rest; rest &= rest - 1) {
            q3_emu_shuffle *me = (q3_emu_shuffle *)lanes[__builtin_ctz(rest)];
            // a lane outside of the mask gives what the device leaves undefined: bytes that look wrong
            if (mask >> me->from & 1)
                me->result = ((q3_emu_shuffle *)lanes[me->from])->value;
            else
                memset((void *)&me->result, 0xff, sizeof(T));
        }
    }
};
template <class T>
static inline T q3_emu_shuffled(const char *name, uint32_t mask, T value, int from, q3_emu_site site)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
    q3_emu_shuffle<T> mine = { value, value, from };
    q3_emu_warp(q3_emu_shuffle<T>::all, name, mask, &mine, site);
    return mine.result;
}
/* The lane a shuffle reads, in segments of `width` lanes; out of the segment is the lane itself. */
template <class T>
static inline T __shfl_sync(uint32_t mask, T value, int from, int width = 32, Q3_EMU_CALLER)
{
    int lane = q3_emu_now.lane;
    return q3_emu_shuffled("__shfl_sync", mask, value, (lane & ~(width - 1)) | (from & (width - 1)),
                           Q3_EMU_SITE);
}
template <class T>
static inline T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32, Q3_EMU_CALLER)
{
    int lane = q3_emu_now.lane, from = lane ^ bits; // a lower segment may be read, a higher one not
    return q3_emu_shuffled("__shfl_xor_sync", mask, value, from <= (lane | (width - 1)) ? from : lane,
                           Q3_EMU_SITE);
}
template <class T>
static inline T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32, Q3_EMU_CALLER)
{
    int lane = q3_emu_now.lane, from = lane + (int)delta;
    return q3_emu_shuffled("__shfl_down_sync", mask, value, from <= (lane | (width - 1)) ? from : lane,
                           Q3_EMU_SITE);
}
template <class T>
static inline T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32, Q3_EMU_CALLER)
{
    int lane = q3_emu_now.lane, from = lane - (int)delta;
    return q3_emu_shuffled("__shfl_up_sync", mask, value, from >= (lane & ~(width - 1)) ? from : lane,
                           Q3_EMU_SITE);
}

/* Votes. */
struct q3_emu_vote {
    bool mine;
    uint32_t ballot;
};
static inline void q3_emu_count_votes(void *const (&lanes)[32], uint32_t mask)
{
    uint32_t ballot = 0;
    for (uint32_t rest = mask; rest; rest &= rest - 1)
        if (((q3_emu_vote *)lanes[__builtin_ctz(rest)])->mine)
            ballot |= rest & -rest;
    for (uint32_t rest = mask; rest; rest &= rest - 1)
        ((q3_emu_vote *)lanes[__builtin_ctz(rest)])->ballot = ballot;
}
static inline uint32_t q3_emu_voted(const char *name, uint32_t mask, bool yes, q3_emu_site site)
{
    q3_emu_vote vote = { yes, 0 };
    q3_emu_warp(q3_emu_count_votes, name, mask, &vote, site);
    return vote.ballot;
}
static inline unsigned __ballot_sync(uint32_t mask, int yes, Q3_EMU_CALLER)
{
    return q3_emu_voted("__ballot_sync", mask, yes != 0, Q3_EMU_SITE);
}
static inline int __any_sync(uint32_t mask, int yes, Q3_EMU_CALLER)
{
    return q3_emu_voted("__any_sync", mask, yes != 0, Q3_EMU_SITE) != 0;
}
static inline int __all_sync(uint32_t mask, int yes, Q3_EMU_CALLER)
{
    return q3_emu_voted("__all_sync", mask, yes != 0, Q3_EMU_SITE) == mask;
}

/* Atomics, on integers only; several host threads may launch at once, so they are the host's. */
template <class T> static inline T q3_emu_atomic_max(T *to, T value)
{
    T old = __atomic_load_n(to, __ATOMIC_RELAXED);
    while (old < value &&
           !__atomic_compare_exchange_n(to, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    return old;
}
static inline int atomicAdd(int *to, int value)
{
    return (int)__atomic_fetch_add((unsigned *)to, (unsigned)value, __ATOMIC_RELAXED);
}
static inline unsigned atomicAdd(unsigned *to, unsigned value)
{
    return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}
static inline unsigned long long atomicAdd(unsigned long long *to, unsigned long long value)
{
    return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}
static inline int atomicMax(int *to, int value)
{
    return q3_emu_atomic_max(to, value);
}
static inline unsigned atomicMax(unsigned *to, unsigned value)
{
    return q3_emu_atomic_max(to, value);
}
static inline unsigned atomicOr(unsigned *to, unsigned value)
{
    return __atomic_fetch_or(to, value, __ATOMIC_RELAXED);
}

/* Loads and stores with a hint. */
template <class T> static inline T __ldg(const T *p)
{
    return *p;
}
template <class T> static inline T __ldcs(const T *p)
{
    return *p;
}
template <class T> static inline void __stcs(T *p, T value)
{
    *p = value;
}

/* Bits. */
template <class To, class From> static inline To q3_emu_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "the same bits");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float x)
{
    return q3_emu_bits<unsigned>(x);
}
static inline int __float_as_int(float x)
{
    return q3_emu_bits<int>(x);
}
static inline float __uint_as_float(unsigned x)
{
    return q3_emu_bits<float>(x);
}
static inline float __int_as_float(int x)
{
    return q3_emu_bits<float>(x);
}
static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}
/* Byte i of the result is byte (s >> 4i & 7) of b:a, or its sign spread over the byte where bit 4i + 3 of s is set. */
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s)
{
    uint64_t bytes = (uint64_t)b << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; i++, s >>= 4) {
        unsigned byte = (unsigned)(bytes >> (8 * (s & 7))) & 0xff;
        result |= (s & 8 ? (byte & 0x80 ? 0xffu : 0) : byte) << (8 * i);
    }
    return result;
}

/* Arithmetic that the compiler may not contract. The host compiler must not either: no -ffast-math, -ffp-contract=off. */
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}
static inline double __dadd_rn(double a, double b)
{
    return a + b;
}
static inline double __dmul_rn(double a, double b)
{
    return a * b;
}
static inline double __ddiv_rn(double a, double b)
{
    return a / b;
}
static inline double __fma_rn(double a, double b, double c)
{
    return fma(a, b, c);
}
static inline double __dsqrt_rn(double x)
{
    return sqrt(x);
}
static inline int __float2int_rn(float x)
{
    return (int)lrintf(x);
}
static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}

#define Q3_EMU_MINMAX(T)                                                                                     \
    static inline T min(T a, T b)                                                                            \
    {                                                                                                        \
        return b < a ? b : a;                                                                                \
    }                                                                                                        \
    static inline T max(T a, T b)                                                                            \
    {                                                                                                        \
        return a < b ? b : a;                                                                                \
    }
Q3_EMU_MINMAX(int)
Q3_EMU_MINMAX(unsigned)
Q3_EMU_MINMAX(long)
Q3_EMU_MINMAX(unsigned long)
Q3_EMU_MINMAX(long long)
Q3_EMU_MINMAX(unsigned long long)
#undef Q3_EMU_MINMAX
static inline float min(float a, float b)
{
    return fminf(a, b);
}
static inline float max(float a, float b)
{
    return fmaxf(a, b);
}
static inline double min(double a, double b)
{
    return fmin(a, b);
}
static inline double max(double a, double b)
{
    return fmax(a, b);
}

#endif
#endif
