/* doctor: what this machine has that the program can use, and what to do about the rest. */
#include <stdio.h>

#include "cli/options.h"
#include "core/log.h"
#include "kernels/cpu.h"
#include "kernels/pool.h"

#if defined(Q3_CUDA)
#include "kernels/cublaslt.h"
#include "kernels/cuda_about.h"
#include "kernels/cudnn_api.h"
#include "kernels/library.h"
#include "kernels/nccl.h"
#endif

static void line(q3_text *out, const char *title, const char *text)
{
    q3_text_printf(out, "  %-13s %s\n", title, text);
}

static void print_processor(q3_text *out)
{
    char features[256];
    q3_cpu_features(features, sizeof features);
    q3_text_printf(out, "processor\n");
    line(out, "instructions", features);
    q3_text_printf(out, "  %-13s", "kernels");
    for (int level = Q3_CPU_REFERENCE; level < Q3_CPU_LEVELS; level++)
        if (q3_cpu_has_level((q3_cpu_isa)level))
            q3_text_printf(out, " %s%s", q3_cpu_level_name((q3_cpu_isa)level),
                           (int)q3_cpu_level() == level ? " (in use)" : "");
    q3_text_printf(out, "\n  %-13s %d\n", "threads", q3_pool_threads());
    q3_text_printf(out, "  %-13s %s, of which %s can be had\n", "memory", q3_bytes(q3_memory_total()),
                   q3_bytes(q3_memory_available()));
}

#if defined(Q3_CUDA)

static void print_card(q3_text *out, int ordinal)
{
    q3_cuda_card card;
    char title[16];
    snprintf(title, sizeof title, "cuda:%d", ordinal);
    if (!q3_cuda_card_at(&card, ordinal)) {
        line(out, title, "does not answer; does nvidia-smi work?");
        return;
    }
    q3_text_printf(out, "  %-13s %s, compute capability %d.%d, %s: ", title, card.name, card.sm / 10,
                   card.sm % 10, q3_bytes(card.bytes));
    if (card.sm < Q3_CUDA_OLDEST_SM)
        q3_text_printf(out, "too old, the kernels need %d.%d or newer\n", Q3_CUDA_OLDEST_SM / 10,
                       Q3_CUDA_OLDEST_SM % 10);
    else if (!q3_cuda_serves(card.sm))
        q3_text_printf(out, "not in this build; build with -DQ3_CUDA_ARCHITECTURES=%d\n", card.sm);
    else
        q3_text_printf(out, "supported\n");
}

static void print_cards(q3_text *out)
{
    char why[Q3_CUDA_SENTENCE];
    int n = q3_cuda_count(why);
    if (!n)
        q3_text_printf(out, "  %-13s none: %s\n", "devices", why);
    for (int i = 0; i < n; i++)
        print_card(out, i);
}

/* `without`: what a machine that lacks it cannot do. */
static void print_library(q3_text *out, const char *title, bool (*describe)(char *), const char *without)
{
    char text[Q3_LIBRARY_TEXT];
    bool there = describe(text);
    q3_text_printf(out, "  %-13s %s%s%s\n", title, text, there ? "" : ". ", there ? "" : without);
}

static void print_cuda(q3_text *out)
{
    char driver[Q3_LIBRARY_TEXT];
    q3_cuda_describe_driver(driver);
    q3_text_printf(out, "CUDA\n");
    line(out, "build", q3_cuda_build());
    line(out, "driver", driver);
    print_cards(out);
    print_library(out, "cuBLASLt", q3_cublaslt_describe, "Without it CUDA devices cannot be used");
    print_library(out, "cuDNN", q3_cudnn_describe, "Without it attention runs on the program's own kernels");
    print_library(out, "NVRTC", q3_cudnn_describe_compiler, "Without it cuDNN has no attention");
    print_library(out, "NCCL", q3_nccl_describe, "Without it several cards cannot train together");
}

#else

static void print_cuda(q3_text *out)
{
    q3_text_printf(out, "CUDA\n");
    line(out, "build", "this build has no CUDA; build where nvcc is found, with -DQ3_CUDA=nvcc");
}

#endif

static q3_status run(const q3_options *o)
{
    (void)o; // no options of its own
    q3_text out = { 0 };
    q3_pool_start(0);
    q3_text_printf(&out, "qwen3-sft %s\n", Q3_VERSION);
    print_processor(&out);
    print_cuda(&out);
    return q3_options_print(&out);
}

const q3_command q3_command_doctor = {
    .name = "doctor",
    .summary = "what this machine has for the program, and what to do about the rest",
    .usage = "",
    .example = "doctor",
    .run = run,
};
