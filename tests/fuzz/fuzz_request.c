/* Any bytes as the body of a request to the server: what is accepted is in range, what is refused has a sentence. */
#include <stdint.h>
#include <string.h>

#include "serve/api_cog_schema.h"
#include "serve/api_openai_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_stops(const q3_openai_request *r, const q3_app *app)
{
    q3_arena mem;
    const char *const *stops;
    int n;
    if (q3_arena_create(&mem, "fuzz arena", 1 << 20) != Q3_OK)
        return;
    if (q3_openai_stops(&stops, &n, &mem, r->stop, app) == Q3_OK)
        for (int i = 0; i < n; i++)
            Q3_CHECK(*stops[i], "stop %d is empty", i);
    q3_arena_destroy(&mem);
}

static void read_conversation(const q3_openai_request *r, const q3_app *app)
{
    q3_chat chat;
    q3_pictures pictures;
    if (q3_openai_chat(&chat, &pictures, r->messages, &app->pictures) == Q3_OK)
        for (int i = 0; i < pictures.n; i++)
            Q3_CHECK(pictures.list[i].width > 0, "picture %d is empty", i);
    else
        Q3_CHECK(*q3_error(), "no sentence");
    q3_chat_free(&chat);
    q3_pictures_free(&pictures);
}

static void read_request(const cJSON *root, bool chat)
{
    q3_app app = { .max_new_tokens = 64, .pictures.image.max_pixels = 1 << 16 };
    q3_openai_request r;
    const char *param;
    if (q3_openai_parse(&r, &param, root, chat, &app) != Q3_OK) {
        Q3_CHECK(*q3_error(), "no sentence");
        return;
    }
    Q3_CHECK(r.n >= 1 && r.n <= 16 && r.max_new_tokens >= 1, "n %d", r.n);
    Q3_CHECK(r.sampling.top_p >= 0 && r.sampling.top_p <= 1 && r.sampling.top_k >= 0, "top_k %d",
             r.sampling.top_k);
    read_stops(&r, &app);
    if (chat)
        read_conversation(&r, &app);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    q3_json doc;
    if (q3_json_parse(&doc, (const char *)data, size, "request body", 1) != Q3_OK)
        return 0;
    read_request(doc.root, true);
    read_request(doc.root, false);
    for (int task = Q3_COG_GENERATE; task <= Q3_COG_RERANK; task++) {
        q3_text faults = { 0 };
        bool fits =
            q3_cog_check(&faults, cJSON_GetObjectItemCaseSensitive(doc.root, "input"), (q3_cog_task)task);
        Q3_CHECK(fits == !faults.size, "%d", (int)fits);
        q3_text_free(&faults);
    }
    q3_app_guard_documents(doc.root);
    q3_json_close(&doc);
    return 0;
}
