/* What works element by element or pair by pair: add, SwiGLU, GELU, dropout, RoPE, and rows into the cache. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "kernels/add.h"
#include "kernels/dropout.h"
#include "kernels/gelu.h"
#include "kernels/row_store.h"
#include "kernels/rope.h"
#include "kernels/swiglu.h"
#include "tests/support/pair.h"

static const int64_t sizes[] = { 0, 1, 7, 33, 4097, 8192, 8200 };
enum { SIZES = sizeof sizes / sizeof *sizes };

static void add(const t_case *c)
{
    for (int k = 0; k < SIZES; k++) {
        int64_t n = sizes[k];
        t_pair y = t_result(c, n, 0, 0), a = t_random(c, n, 1), b = t_random(c, n, 2);
        q3_add_forward_cpu(&(q3_add_args){ y.host, a.host, b.host, n, Q3_F32 });
        q3_add_forward_cuda(&(q3_add_args){ y.device.at, a.device.at, b.device.at, n, c->dtype }, c->cuda);
        t_agree("a + b", &y);
        q3_add_forward_cpu(&(q3_add_args){ a.host, a.host, b.host, n, Q3_F32 });
        q3_add_forward_cuda(&(q3_add_args){ a.device.at, a.device.at, b.device.at, n, c->dtype }, c->cuda);
        t_agree("a += b", &a);
        y = t_result(c, n, 0, 0);
        q3_add_forward_cpu(&(q3_add_args){ y.host, NULL, b.host, n, Q3_F32 });
        q3_add_forward_cuda(&(q3_add_args){ y.device.at, NULL, b.device.at, n, c->dtype }, c->cuda);
        t_agree("a copy", &y);
        q3_add_forward_cuda(&(q3_add_args){ b.device.at, NULL, b.device.at, n, c->dtype }, c->cuda);
        t_agree("a copy onto itself", &b);
    }
}

static void swiglu(const t_case *c)
{
    for (int k = 0; k < SIZES; k++) {
        int64_t n = sizes[k];
        t_pair y = t_result(c, n, 0, 0), a = t_random(c, n, 1), u = t_random(c, n, 2);
        q3_swiglu_forward_cpu(&(q3_swiglu_args){ y.host, a.host, u.host, n, Q3_F32 });
        q3_swiglu_forward_cuda(&(q3_swiglu_args){ y.device.at, a.device.at, u.device.at, n, c->dtype },
                               c->cuda);
        t_agree("swiglu", &y);
        t_free(&a);
        t_free(&u);
    }
}

static void swiglu_backward_with(const t_case *c, int64_t n, float da_beta, float du_beta, bool want_da,
                                 bool want_du)
{
    t_pair da = t_result(c, n, da_beta, 4), du = t_result(c, n, du_beta, 5);
    t_pair dy = t_random(c, n, 1), a = t_random(c, n, 2), u = t_random(c, n, 3);
    q3_swiglu_backward_args s = { .n = n, .da_beta = da_beta, .du_beta = du_beta };
    s.da = want_da ? da.host : NULL, s.du = want_du ? du.host : NULL;
    s.dy = dy.host, s.a = a.host, s.u = u.host;
    q3_swiglu_backward_cpu(&s);
    s.da = want_da ? da.device.at : NULL, s.du = want_du ? du.device.at : NULL;
    s.dy = dy.device.at, s.a = a.device.at, s.u = u.device.at, s.dtype = c->dtype;
    q3_swiglu_backward_cuda(&s, c->cuda);
    want_da ? t_agree("swiglu da", &da) : t_free(&da);
    want_du ? t_agree("swiglu du", &du) : t_free(&du);
    t_free(&dy);
    t_free(&a);
    t_free(&u);
}

static void swiglu_backward(const t_case *c)
{
    for (int k = 0; k < SIZES; k++)
        for (int form = 0; form < 4; form++)
            swiglu_backward_with(c, sizes[k], form & 1 ? 1 : 0, form & 2 ? 1 : 0, form != 1, form != 2);
}

/* Far out, where exp overflows or is nothing. */
static void swiglu_far_out(const t_case *c)
{
    const float far[] = { -1e30f, -200, -88, -30, 0, 30, 88, 200 };
    float ones[8], zeros[8];
    for (int i = 0; i < 8; i++)
        ones[i] = 1, zeros[i] = far[i] > 0 ? far[i] : 0;
    if (c->dtype != Q3_F32)
        return;
    t_pair a = t_copy(c, Q3_F32, far, 8), u = t_copy(c, Q3_F32, ones, 8), y = t_copy(c, Q3_F32, zeros, 8);
    q3_swiglu_forward_cuda(&(q3_swiglu_args){ y.device.at, a.device.at, u.device.at, 8, Q3_F32 }, c->cuda);
    t_agree("swiglu far out", &y);
    t_free(&a);
    t_free(&u);
}

static void gelu(const t_case *c)
{
    for (int k = 0; k < SIZES; k++)
        for (int form = 0; form < 4; form++) {
            int64_t n = sizes[k];
            float beta = form & 2 ? 1 : 0;
            t_pair y = t_result(c, n, 0, 0), dx = t_result(c, n, beta, 3);
            t_pair x = t_random(c, n, 1), dy = t_random(c, n, 2);
            q3_gelu_args host = { y.host, x.host, NULL, n, form & 1, 0, Q3_F32 };
            q3_gelu_args device = { y.device.at, x.device.at, NULL, n, form & 1, 0, c->dtype };
            q3_gelu_forward_cpu(&host);
            q3_gelu_forward_cuda(&device, c->cuda);
            t_agree("gelu", &y);
            host.y = dx.host, host.dy = dy.host, host.beta = beta;
            device.y = dx.device.at, device.dy = dy.device.at, device.beta = beta;
            q3_gelu_backward_cpu(&host);
            q3_gelu_backward_cuda(&device, c->cuda);
            t_agree("gelu dx", &dx);
            t_free(&x);
            t_free(&dy);
        }
}

/* The mask to the bit: x is 1 everywhere, and every product is exact but for the type's rounding. */
static void dropout_mask(const t_case *c)
{
    enum { N = 4100 };
    static float one[N];
    for (int i = 0; i < N; i++)
        one[i] = 1;
    t_pair x = t_copy(c, Q3_F32, one, N), y = t_copy(c, Q3_F32, one, N);
    q3_dropout_args a = { .n = N, .p = 0.3f, .key = { 1, 2 }, .counter = { 0xfffffff0u, 7, 3, 4 } };
    a.y = y.host, a.x = x.host;
    q3_dropout_forward_cpu(&a);
    a.y = y.device.at, a.x = x.device.at;
    q3_dropout_forward_cuda(&a, c->cuda);
    t_agree_within("dropout mask", &y, 0);
    t_free(&x);
}

static void dropout(const t_case *c)
{
    for (int k = 0; k < SIZES; k++)
        for (int form = 0; form < 3; form++) { // beta 0, beta 1, in place
            int64_t n = sizes[k];
            t_pair y = t_result(c, n, form == 1, 1), x = t_random(c, n, 2);
            t_pair *to = form == 2 ? &x : &y;
            q3_dropout_args a = {
                .n = n, .p = 0.1f, .beta = form == 1, .key = { 5, 6 }, .counter = { 7, 8, 9, 10 }
            };
            a.y = to->host, a.x = x.host;
            q3_dropout_forward_cpu(&a);
            a.y = to->device.at, a.x = x.device.at, a.dtype = c->dtype;
            q3_dropout_forward_cuda(&a, c->cuda);
            t_agree("dropout", to);
            t_free(form == 2 ? &y : &x);
        }
}

static void rope_with(const t_case *c, int64_t T, int heads, int D, bool inverse, float beta)
{
    int64_t n = T * heads * D;
    t_pair y = t_result(c, n, beta, 1), x = t_random(c, n, 2), table = t_random_f32(c, T * D, 3);
    q3_rope_args a = { y.host, x.host, table.host, T, heads, D, inverse, beta, Q3_F32 };
    q3_rope_rotate_cpu(&a);
    a.y = y.device.at, a.x = x.device.at, a.cos_sin = table.device.at, a.dtype = c->dtype;
    q3_rope_rotate_cuda(&a, c->cuda);
    t_agree("rope", &y);
    t_free(&x);
    t_free(&table);
}

static void rope(const t_case *c)
{
    const int shapes[][3] = { { 0, 2, 16 }, { 1, 1, 2 },    { 5, 3, 6 },
                              { 7, 2, 72 }, { 33, 4, 128 }, { 3, 40, 128 } };
    for (int k = 0; k < 6; k++)
        for (int form = 0; form < 4; form++)
            rope_with(c, shapes[k][0], shapes[k][1], shapes[k][2], form & 1, form & 2 ? 1 : 0);
}

static void row_store(const t_case *c)
{
    const int64_t widths[] = { 1, 7, 33, 1024, 4097 };
    const int32_t rows[] = { 6, 0, 3 };
    for (int k = 0; k < 5; k++)
        for (int64_t T = 0; T <= 3; T += 3) {
            int64_t C = widths[k];
            t_pair slab = t_random(c, 8 * C, 1), x = t_random(c, T * C, 2), at = t_copy(c, Q3_I32, rows, 3);
            q3_row_store_cpu(&(q3_row_store_args){ slab.host, x.host, at.host, T, C, Q3_F32 });
            q3_row_store_cuda(
                &(q3_row_store_args){ slab.device.at, x.device.at, at.device.at, T, C, c->dtype }, c->cuda);
            t_agree_within("cache", &slab, 1e-12); // what is copied stays what it is
            t_free(&x);
            t_free(&at);
        }
}

T_CASES(add_is_the_cpus, add)
T_CASES(swiglu_is_the_cpus, swiglu)
T_CASES(swiglu_gradients_are_the_cpus, swiglu_backward)
T_CASES(swiglu_is_finite_far_out, swiglu_far_out)
T_CASES(gelu_is_the_cpus_both_ways, gelu)
T_CASES(dropout_masks_are_equal_to_the_bit, dropout_mask)
T_CASES(dropout_is_the_cpus, dropout)
T_CASES(rope_is_the_cpus, rope)
T_CASES(rows_go_to_their_places, row_store)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(add_is_the_cpus),
        cmocka_unit_test(swiglu_is_the_cpus),
        cmocka_unit_test(swiglu_gradients_are_the_cpus),
        cmocka_unit_test(swiglu_is_finite_far_out),
        cmocka_unit_test(gelu_is_the_cpus_both_ways),
        cmocka_unit_test(dropout_masks_are_equal_to_the_bit),
        cmocka_unit_test(dropout_is_the_cpus),
        cmocka_unit_test(rope_is_the_cpus),
        cmocka_unit_test(rows_go_to_their_places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
