/* version: the program, how it was built, the libraries it runs with, and what this machine offers. */
#include <archive.h>
#if defined(Q3_LIBEDIT)
#include <histedit.h>
#endif
#include <png.h>
#include <utf8proc.h>
#include <webp/decode.h>
#include <zlib.h>

#include "cli/options.h"
#include "core/device.h"
#include "kernels/cpu.h"

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define COMPILER "gcc " __VERSION__
#else
#define COMPILER "unknown compiler"
#endif

static void print_libraries(q3_text *out)
{
    int webp = WebPGetDecoderVersion();
    q3_text_printf(out,
                   "libraries:  cJSON %s, zlib %s, libpng %s, WebP %d.%d.%d, utf8proc %s\n            %s\n",
                   cJSON_Version(), zlibVersion(), png_get_libpng_ver(NULL), webp >> 16, webp >> 8 & 255,
                   webp & 255, utf8proc_version(), archive_version_string());
#if defined(Q3_LIBEDIT)
    q3_text_printf(out, "            libedit %d.%d\n", LIBEDIT_MAJOR, LIBEDIT_MINOR);
#endif
}

static q3_status run(const q3_options *o)
{
    (void)o; // no options of its own
    q3_text out = { 0 };
    q3_text_printf(&out, "qwen3-sft %s\n", Q3_VERSION);
    q3_text_printf(&out, "compiler:   %s, C11\n", COMPILER);
    q3_text_printf(&out, "backends:   cpu%s\ncpu levels:", q3_device_built() ? ", cuda" : "");
    for (int level = Q3_CPU_PORTABLE; level < Q3_CPU_LEVELS; level++)
        if (q3_cpu_has_level((q3_cpu_isa)level))
            q3_text_printf(&out, " %s%s", q3_cpu_level_name((q3_cpu_isa)level),
                           (int)q3_cpu_level() == level ? " (in use)" : "");
    q3_text_append(&out, "\n", 1);
    print_libraries(&out);
    return q3_options_print(&out);
}

const q3_command q3_command_version = {
    .name = "version",
    .summary = "the version, how it was built, and what this machine offers",
    .usage = "",
    .example = "version",
    .run = run,
};
