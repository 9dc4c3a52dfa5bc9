#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/file.h"
#include "core/log.h"
#include "tests/support/serve.h"

#define TRAINING "tests/golden/training/"
#define FORMATS "tests/golden/formats/"

enum { CACHE_TOKENS = 2048 };

static void open_session(q3_serve_bed *b, q3_session_options *o)
{
    *b = (q3_serve_bed){ 0 };
    q3_log_set_level(Q3_LOG_WARN);
    o->device = "cpu";
    o->engine = (q3_engine_options){ .kv_type = Q3_DTYPES, .tokens = CACHE_TOKENS };
    if (q3_session_open(&b->session, o) != Q3_OK)
        fail_msg("%s", q3_error());
}

void q3_serve_open_model(q3_serve_bed *b)
{
    static const q3_session_adapter tuned = { "tuned", TRAINING "float32-adapter-final" };
    q3_session_options o = { .model = TRAINING "model", .adapters = &tuned, .n_adapters = 1 };
    open_session(b, &o);
}

static void copy(const char *dir, const char *name, const char *from)
{
    char to[600];
    snprintf(to, sizeof to, "%s/%s", dir, name);
    assert_int_equal(q3_file_copy(to, from), Q3_OK);
}

void q3_serve_open_reranker(q3_serve_bed *b)
{
    static char dir[400];
    snprintf(dir, sizeof dir, "%s/reranker", getenv("Q3_TEST_DIR"));
    assert_int_equal(q3_dir_create(dir), Q3_OK);
    copy(dir, "config.json", FORMATS "reranker-model/config.json");
    copy(dir, "generation_config.json", FORMATS "reranker-model/generation_config.json");
    copy(dir, "model.safetensors", FORMATS "reranker-model/model.safetensors");
    copy(dir, "tokenizer.json", FORMATS "reranker-tokenizer/tokenizer.json");
    copy(dir, "tokenizer_config.json", FORMATS "reranker-tokenizer/tokenizer_config.json");
    q3_session_options o = { .model = dir };
    open_session(b, &o);
    if (q3_reranker_create(&b->reranker, &b->session.model, &b->session.prompter,
                           &(q3_reranker_options){ 0 }) != Q3_OK)
        fail_msg("%s", q3_error());
}

void q3_serve_close_model(q3_serve_bed *b)
{
    q3_reranker_destroy(b->reranker);
    q3_session_close(&b->session);
}

static void *compute(void *arg)
{
    q3_serve_bed *b = arg;
    b->all_answered = q3_service_run(b->service);
    return NULL;
}

void q3_serve_create(q3_serve_bed *b, const q3_service_options *options)
{
    assert_int_equal(q3_service_create(&b->service, &b->session, options), Q3_OK);
}

void q3_serve_run(q3_serve_bed *b)
{
    assert_int_equal(pthread_create(&b->thread, NULL, compute, b), 0);
}

void q3_serve_start(q3_serve_bed *b, const q3_service_options *options)
{
    q3_serve_create(b, options);
    q3_serve_run(b);
}

void q3_serve_stop(q3_serve_bed *b, double drain_seconds)
{
    q3_service_drain(b->service, drain_seconds);
    pthread_join(b->thread, NULL);
    q3_service_destroy(b->service);
    b->service = NULL;
}

void q3_serve_listen(q3_serve_bed *b, const q3_service_options *options, const q3_cog_options *cog)
{
    static const q3_face *const faces[] = { &q3_openai_face, &q3_cog_face_beside };
    q3_serve_create(b, options);
    b->app = (q3_app){ .session = &b->session,
                       .service = b->service,
                       .reranker = b->reranker,
                       .why_no_reranker = "it is none",
                       .default_adapter = -1,
                       .sampling = { .temperature = 1, .top_p = 1, .repetition_penalty = 1 },
                       .max_new_tokens = 64 };
    assert_int_equal(q3_cog_create(&b->cog, &b->app, cog), Q3_OK);
    const q3_server_options o = { .faces = faces, .n_faces = 2, .app = &b->app, .body_bytes = 1 << 20 };
    if (q3_server_start(&b->server, &o) != Q3_OK)
        fail_msg("%s", q3_error());
    b->port = q3_server_port(b->server);
    b->app.server = b->server;
    atomic_store(&b->app.ready, true);
}

void q3_serve_hang_up(q3_serve_bed *b)
{
    q3_service_drain(b->service, 0);
    pthread_join(b->thread, NULL);
    q3_server_stop(b->server);
    q3_cog_destroy(b->cog);
    q3_service_destroy(b->service);
    b->service = NULL;
}

void q3_serve_expect_idle(q3_serve_bed *b)
{
    static const struct timespec moment = { .tv_nsec = 10000000 };
    q3_service_stats s;
    for (int i = 0; i < 500; i++) {
        q3_service_stats_of(&s, b->service);
        if (!s.open && !s.scheduler.running && s.scheduler.free_blocks == s.scheduler.blocks)
            return;
        nanosleep(&moment, NULL);
    }
    fail_msg("%d orders are open, %d requests run, %lld of %lld blocks are free", s.open, s.scheduler.running,
             (long long)s.scheduler.free_blocks, (long long)s.scheduler.blocks);
}
