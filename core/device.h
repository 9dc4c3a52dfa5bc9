/* core/device.h - the one place where an op meets a device.
 *
 * Q3_CALL(ctx, q3_rmsnorm_forward, &args) runs the kernel's variant for the context's device; this build has
 * the CPU. In a dry run (ctx->dry) nothing is called: shapes are inferred, memory is counted, no data is
 * touched.
 */
#ifndef Q3_CORE_DEVICE_H
#define Q3_CORE_DEVICE_H

#include "core/status.h"

#define Q3_CALL(ctx, kernel, args)                                                                           \
    do {                                                                                                     \
        if (!(ctx)->dry)                                                                                     \
            kernel##_cpu(args);                                                                              \
    } while (0)

#endif
