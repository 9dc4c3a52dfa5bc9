#include "serve/api_openai.h"

/* https://prometheus.io/docs/instrumenting/exposition_formats/; names as llama-server's and vLLM's, with
 * our prefix. */
#define PREFIX "qwen3_sft:"

static void put_value(q3_text *out, const char *name, const char *type, const char *help, double value)
{
    q3_text_printf(out, "# HELP " PREFIX "%s %s\n# TYPE " PREFIX "%s %s\n" PREFIX "%s ", name, help, name,
                   type, name);
    q3_text_json_number(out, value);
    q3_text_append(out, "\n", 1);
}

static void counter(q3_text *out, const char *name, const char *help, double value)
{
    put_value(out, name, "counter", help, value);
}

static void gauge(q3_text *out, const char *name, const char *help, double value)
{
    put_value(out, name, "gauge", help, value);
}

static void histogram(q3_text *out, const char *name, const char *help, const q3_histogram *h)
{
    int64_t below = 0;
    q3_text_printf(out, "# HELP " PREFIX "%s %s\n# TYPE " PREFIX "%s histogram\n", name, help, name);
    for (int i = 0; i < Q3_HISTOGRAM_BOUNDS; i++) {
        below += h->counts[i];
        q3_text_printf(out, PREFIX "%s_bucket{le=\"%g\"} %lld\n", name, q3_histogram_bounds[i],
                       (long long)below);
    }
    q3_text_printf(out, PREFIX "%s_bucket{le=\"+Inf\"} %lld\n" PREFIX "%s_count %lld\n" PREFIX "%s_sum ",
                   name, (long long)h->n, name, (long long)h->n, name);
    q3_text_json_number(out, h->sum);
    q3_text_append(out, "\n", 1);
}

static void put_work(q3_text *out, const q3_service_stats *s)
{
    const q3_scheduler_stats *c = &s->scheduler;
    counter(out, "prompt_tokens_total", "Prompt tokens of finished and running requests.",
            (double)c->prompt_tokens);
    counter(out, "cached_tokens_total", "Of them, tokens found in the cache.", (double)c->cached_tokens);
    counter(out, "tokens_predicted_total", "Tokens of answers.", (double)c->output_tokens);
    counter(out, "draft_tokens_total", "Tokens guessed by prompt lookup.", (double)c->guessed);
    counter(out, "draft_tokens_accepted_total", "Of them, tokens that were right.", (double)c->accepted);
    counter(out, "preemptions_total", "Times a request gave its cache back.", (double)c->preempted);
    counter(out, "passes_total", "Passes of the network.", (double)c->passes);
    counter(out, "prompt_seconds_total", "Time of passes with prompt tokens.", c->prefill_seconds);
    counter(out, "tokens_predicted_seconds_total", "Time of passes without prompt tokens.",
            c->decode_seconds);
    gauge(out, "requests_processing", "Requests that are being computed.", c->running);
    gauge(out, "requests_deferred", "Requests that wait to be computed.", s->waiting);
    gauge(out, "kv_blocks", "Blocks of the key/value cache.", (double)c->blocks);
    gauge(out, "kv_blocks_free", "Blocks that no running request holds.", (double)c->free_blocks);
    gauge(out, "kv_cache_usage_ratio", "Part of the blocks that running requests hold.",
          c->blocks ? 1 - (double)c->free_blocks / (double)c->blocks : 0);
}

static void put_service(q3_text *out, const q3_service_stats *s)
{
    counter(out, "orders_total", "Requests for answers that were taken.", (double)s->orders);
    counter(out, "orders_refused_total", "Requests for answers refused for want of room.",
            (double)s->refused);
    gauge(out, "orders_open", "Requests for answers under way.", s->open);
    counter(out, "answers_stopped_total", "Answers that ended by themselves.", (double)s->stopped);
    counter(out, "answers_cut_total", "Answers that reached a length.", (double)s->cut);
    counter(out, "answers_cancelled_total", "Answers nobody waited for any more.", (double)s->cancelled);
    counter(out, "answers_failed_total", "Answers that failed.", (double)s->failed);
    histogram(out, "time_to_first_token_seconds", "From the request to its first token.", &s->first_token);
    histogram(out, "inter_token_seconds", "Between two tokens of an answer.", &s->between_tokens);
    histogram(out, "request_seconds", "From the request to its last answer's end.", &s->whole);
}

void q3_server_metrics_write(q3_text *out, const q3_service_stats *service, const q3_server_stats *server)
{
    put_work(out, service);
    put_service(out, service);
    counter(out, "http_requests_total", "HTTP requests of all kinds.", (double)server->requests);
    counter(out, "http_connections_total", "Connections that were opened.", (double)server->connections);
    gauge(out, "http_requests_open", "HTTP requests under way.", server->open);
    counter(out, "http_errors_total", "Answers with status 4xx or 5xx.",
            (double)(server->by_class[4] + server->by_class[5]));
}
