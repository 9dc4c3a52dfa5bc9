/* Speed of the tokenizer: bench_tokenizer FILE [MODEL_DIR]. Prints the best of a few runs, MB/s of UTF-8 text, for the
 * whole file at once and line by line (as samples come); one thread. */
#include <stdio.h>
#include <string.h>

#include "collate/tokenizer.h"
#include "core/file.h"
#include "core/log.h"

#define MODEL_DIR "tests/golden/tokenizer/qwen3"

enum { LIMIT = 1 << 30, RUNS = 5 };

typedef struct bench {
    q3_tokenizer *tokenizer;
    char *text;
    size_t size;
    q3_ids ids;
    q3_text out;
} bench;

static q3_status encode_whole(bench *b)
{
    b->ids.n = 0;
    return q3_tokenizer_encode(&b->ids, b->tokenizer, b->text, b->size);
}

static q3_status encode_lines(bench *b)
{
    b->ids.n = 0;
    for (size_t at = 0; at < b->size;) {
        const char *end = memchr(b->text + at, '\n', b->size - at);
        size_t n = end ? (size_t)(end - (b->text + at)) + 1 : b->size - at;
        Q3_TRY(q3_tokenizer_encode(&b->ids, b->tokenizer, b->text + at, n));
        at += n;
    }
    return Q3_OK;
}

static q3_status decode(bench *b)
{
    b->out.size = 0;
    return q3_tokenizer_decode(&b->out, b->tokenizer, b->ids.ids, b->ids.n, false);
}

static q3_status measure(bench *b, const char *name, q3_status (*run)(bench *b))
{
    double best = 1e30;
    for (int i = 0; i < RUNS; i++) {
        double start = q3_seconds();
        Q3_TRY(run(b));
        double t = q3_seconds() - start;
        best = t < best ? t : best;
    }
    printf("%-14s %8.2f MB/s %8.2f M tokens/s\n", name, 1e-6 * (double)b->size / best, 1e-6 * (double)b->ids.n / best);
    return Q3_OK;
}

static q3_status run(bench *b, const char *path, const char *dir)
{
    double start = q3_seconds();
    Q3_TRY(q3_tokenizer_open(&b->tokenizer, dir));
    printf("%-14s %8.0f ms, %lld tokens\n", "load", 1e3 * (q3_seconds() - start), (long long)q3_tokenizer_size(b->tokenizer));
    Q3_TRY(q3_file_read(&b->text, &b->size, path, LIMIT));
    Q3_TRY(measure(b, "encode, lines", encode_lines));
    Q3_TRY(measure(b, "encode, whole", encode_whole));
    Q3_TRY(measure(b, "decode", decode));
    bool same = b->out.size == b->size && memcmp(b->out.data, b->text, b->size) == 0;
    printf("%zu bytes, %zu tokens, %.2f bytes a token; decoded text %s\n", b->size, b->ids.n,
           (double)b->size / (double)(b->ids.n ? b->ids.n : 1), same ? "is the same" : "differs (NFC)");
    return Q3_OK;
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: bench_tokenizer FILE [MODEL_DIR]\n");
        return 2;
    }
    bench b = { 0 };
    q3_status st = run(&b, argv[1], argc > 2 ? argv[2] : MODEL_DIR);
    if (st != Q3_OK)
        fprintf(stderr, "%s\n", q3_error());
    q3_tokenizer_close(b.tokenizer);
    q3_free(b.text);
    q3_ids_free(&b.ids);
    q3_text_free(&b.out);
    return st == Q3_OK ? 0 : 1;
}
