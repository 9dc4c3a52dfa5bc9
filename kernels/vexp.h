/* kernels/vexp.h - exp for loops that the compiler turns into vectors: no branch, no table, no call.
 *
 *   x = n ln 2 + r, |r| <= ln 2 / 2:   exp(x) = 2^n (1 + r + r^2 p(r)),   p of degree 5 (Cephes expf)
 *
 * n is rounded by adding and taking away 1.5 * 2^23, which leaves it in the low bits of the sum; ln 2 is
 * subtracted in two pieces, the first short enough that n times it is exact (Cody and Waite). At most 1 ulp
 * off between -87.33 and 88.37. Below, the result is 0, subnormal results included; above, it is infinity (a
 * hair early: exp(88.72) would still be finite). NaN stays NaN. The selects come last, so that no clamped
 * value can be speculated into a caller's division.
 */
#ifndef Q3_KERNELS_VEXP_H
#define Q3_KERNELS_VEXP_H

#include <stdint.h>
#include <string.h>

static inline float q3_expf(float x)
{
    const float shift = 12582912.0f;
    float t = x * 1.44269504f + shift;
    float n = t - shift;
    uint32_t bits;
    memcpy(&bits, &t, sizeof bits);
    bits = (bits + 127u) << 23;
    float power, r = x - n * 0.693359375f;
    memcpy(&power, &bits, sizeof power);
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    float y = (p * (r * r) + r + 1.0f) * power;
    y = x < -87.33f ? 0.0f : y;
    return x > 88.37f ? __builtin_inff() : y;
}

#endif
