#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/file.h"
#include "core/log.h"
#include "data/hub.h"
#include "tests/support/ask.h"
#include "tests/support/hub.h"

enum { WEIGHTS = 300000 };

static t_hub hub;
static char cache[4096], folder[4200];

/* ---- what each test begins with ---- */

static int fresh(void **state)
{
    static unsigned char weights[WEIGHTS];
    (void)state;
    for (int i = 0; i < WEIGHTS; i++)
        weights[i] = (unsigned char)(i * 7 + i / 251);
    t_hub_clear(&hub);
    t_hub_add(&hub, "README.md", "# A model\n", 10, false);
    t_hub_add(&hub, "config.json", "{}", 2, false);
    t_hub_add(&hub, "tokenizer.json", "{\"a\": 1}", 8, false);
    t_hub_add(&hub, "model.safetensors", weights, WEIGHTS, true);
    t_hub_add(&hub, "original/model.bin", "old", 3, false);
    snprintf(cache, sizeof cache, "%s/cache", getenv("Q3_TEST_DIR"));
    snprintf(folder, sizeof folder, "%s/models--org--model", cache);
    assert_int_equal(q3_dir_remove(cache), Q3_OK);
    q3_hub_set(cache, false);
    q3_log_set_level(Q3_LOG_WARN);
    return 0;
}

static const char *below(const char *path)
{
    static char text[4][5000];
    static int turn;
    char *out = text[turn++ % 4];
    snprintf(out, sizeof text[0], "%s/%s", folder, path);
    return out;
}

static const char *blob(const t_hub_file *f, const char *suffix)
{
    static char text[5000];
    snprintf(text, sizeof text, "%s/blobs/%s%s", folder, f->blob, suffix);
    return text;
}

static t_hub_file *weights_file(void)
{
    return &hub.files[3];
}

static void expect_content(const char *path, const char *data, size_t n)
{
    char *text;
    size_t size;
    if (q3_file_read(&text, &size, path, 1 << 24) != Q3_OK)
        fail_msg("%s", q3_error());
    assert_int_equal(size, n);
    assert_memory_equal(text, data, n);
    q3_free(text);
}

static void expect_weights(void)
{
    expect_content(below("snapshots/" T_HUB_COMMIT "/model.safetensors"), weights_file()->data, WEIGHTS);
}

static void resolve(const char *name)
{
    char *dir;
    q3_status st = q3_hub_resolve(&dir, name, NULL);
    if (st != Q3_OK)
        fail_msg("%s", q3_error());
    assert_string_equal(dir, below("snapshots/" T_HUB_COMMIT));
    q3_free(dir);
}

static void expect_failure(const char *name, q3_status st, const char *sentence)
{
    char *dir = NULL;
    q3_status got = q3_hub_resolve(&dir, name, NULL);
    if (got == Q3_OK || strcmp(q3_error(), sentence) != 0)
        fail_msg("wanted: %s\ngot: %s", sentence, got ? q3_error() : dir);
    assert_int_equal(got, st);
}

/* ---- names and places ---- */

static void names_of_the_hub_are_told_from_paths(void **state)
{
    (void)state;
    static const char *const names[] = {
        "Qwen/Qwen3-VL-8B-Instruct", "a/b", "o_r.g/n-m_3.5", "a/b@main", "a/b@refs/pr/1",
        ("a/b@" T_HUB_COMMIT)
    };
    static const char *const paths[] = { "model",  "./model", "../a",     "a/b/c",     "/a/b",
                                         "a/",     "a//b",    "~/models", "a/.hidden", "a/b..c",
                                         "a/b--c", "a/b@",    "a/b@../x", "a/b@/x",    "a/b@x//y",
                                         "a b/c",  "",        "a/b@x\n",  "a/b@a\\b" };
    q3_hub_repo repo;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!q3_hub_parse(&repo, names[i], Q3_HUB_MODEL))
            fail_msg("%s is taken for a path", names[i]);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
        if (q3_hub_parse(&repo, paths[i], Q3_HUB_MODEL))
            fail_msg("%s is taken for a name", paths[i]);
    assert_true(q3_hub_parse(&repo, "a/b@refs/pr/1", Q3_HUB_MODEL));
    assert_string_equal(repo.id, "a/b");
    assert_string_equal(repo.revision, "refs/pr/1");
    assert_true(repo.pinned);
}

static void expect_root(const char *given, const char *wanted)
{
    char *root;
    assert_int_equal(q3_hub_root(&root, given), Q3_OK);
    assert_string_equal(root, wanted);
    q3_free(root);
}

static void the_strongest_variable_names_the_cache(void **state)
{
    (void)state;
    setenv("HOME", "/home/a", 1);
    expect_root(NULL, "/home/a/.cache/huggingface/hub");
    setenv("XDG_CACHE_HOME", "/xdg", 1);
    expect_root(NULL, "/xdg/huggingface/hub");
    setenv("HF_HOME", "~/hf", 1);
    expect_root(NULL, "/home/a/hf/hub");
    setenv("HUGGINGFACE_HUB_CACHE", "$HOME/old", 1);
    expect_root(NULL, "/home/a/old");
    setenv("HF_HUB_CACHE", "/x/${HOME}y/$NO_SUCH_VARIABLE/z", 1);
    expect_root(NULL, "/x//home/ay/$NO_SUCH_VARIABLE/z");
    expect_root("/given", "/given");
    static const char *const all[] = { "XDG_CACHE_HOME", "HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE" };
    for (int i = 0; i < 4; i++)
        unsetenv(all[i]);
}

static void a_directory_of_that_name_comes_first(void **state)
{
    (void)state;
    char here[4096], *dir;
    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(getenv("Q3_TEST_DIR")), 0);
    assert_int_equal(q3_dir_create("org/model"), Q3_OK);
    assert_int_equal(q3_hub_resolve(&dir, "org/model", NULL), Q3_OK);
    assert_string_equal(dir, "org/model");
    assert_int_equal(hub.requests, 0);
    q3_free(dir);
    assert_int_equal(q3_dir_remove("org"), Q3_OK);
    assert_int_equal(chdir(here), 0);
}

/* ---- fetching ---- */

static void a_model_is_fetched_once(void **state)
{
    (void)state;
    char link[200] = "";
    resolve("org/model");
    expect_weights();
    expect_content(below("snapshots/" T_HUB_COMMIT "/config.json"), "{}", 2);
    expect_content(below("refs/main"), T_HUB_COMMIT, 40);
    assert_false(q3_file_exists(below("snapshots/" T_HUB_COMMIT "/README.md")));
    assert_false(q3_dir_exists(below("snapshots/" T_HUB_COMMIT "/original")));
    assert_true(readlink(below("snapshots/" T_HUB_COMMIT "/config.json"), link, sizeof link - 1) > 0);
    assert_memory_equal(link, "../../blobs/", 12);
    assert_string_equal(link + 12, hub.files[1].blob);
    assert_int_equal(hub.tokens, hub.requests);
    int before = hub.requests;
    resolve("org/model");
    resolve("org/model@" T_HUB_COMMIT);
    assert_int_equal(hub.requests, before);
}

static void a_revision_with_slashes_has_its_own_reference(void **state)
{
    (void)state;
    resolve("org/model@refs/pr/1");
    expect_content(below("refs/refs/pr/1"), T_HUB_COMMIT, 40);
    assert_false(q3_file_exists(below("refs/main")));
}

static void a_broken_transfer_goes_on_where_it_stopped(void **state)
{
    (void)state;
    hub.cut = 100000;
    resolve("org/model");
    expect_weights();
    assert_int_equal(hub.bodies, 2);
    assert_int_equal(hub.range, 100000);
}

static void a_whole_answer_to_a_part_starts_over(void **state)
{
    (void)state;
    hub.cut = 100000;
    hub.whole = true;
    resolve("org/model");
    expect_weights();
    assert_int_equal(hub.bodies, 2);
    assert_int_equal(hub.range, 100000);
}

static void leave_part(const char *data, size_t n)
{
    assert_int_equal(q3_dir_create(below("blobs")), Q3_OK);
    assert_int_equal(q3_file_write(blob(weights_file(), ".incomplete"), data, n), Q3_OK);
}

static void what_another_process_left_is_taken_up(void **state)
{
    (void)state;
    leave_part(weights_file()->data, 12345);
    resolve("org/model");
    expect_weights();
    assert_int_equal(hub.bodies, 1);
    assert_int_equal(hub.range, 12345);
    assert_false(q3_file_exists(blob(weights_file(), ".incomplete")));
}

static void a_wrong_beginning_is_thrown_away(void **state)
{
    (void)state;
    leave_part("these are not the first bytes of it", 35);
    resolve("org/model");
    expect_weights();
    assert_int_equal(hub.bodies, 2);
    assert_int_equal(hub.range, 0);
}

static void another_host_is_shown_no_token(void **state)
{
    (void)state;
    hub.elsewhere = true;
    hub.cut = 1000;
    resolve("org/model");
    expect_weights();
    assert_int_equal(hub.bodies, 2);
    assert_int_equal(hub.range, 1000);
    assert_int_equal(hub.leaks, 0);
    assert_true(hub.tokens > 0);
}

static void wrong_contents_are_no_file(void **state)
{
    (void)state;
    char sentence[600], wrong[65];
    hub.spoiled = true;
    char last = weights_file()->data[WEIGHTS - 1];
    weights_file()->data[WEIGHTS - 1] = (char)(last ^ 1);
    t_hub_file changed = *t_hub_add(&hub, "x", weights_file()->data, WEIGHTS, true);
    snprintf(wrong, sizeof wrong, "%s", changed.blob);
    weights_file()->data[WEIGHTS - 1] = last;
    snprintf(sentence, sizeof sentence,
             "org/model: model.safetensors came with sha256 %s, and the hub tells of %s; it was thrown away",
             wrong, weights_file()->blob);
    expect_failure("org/model", Q3_ERR_NETWORK, sentence);
    assert_false(q3_file_exists(blob(weights_file(), "")));
    assert_false(q3_file_exists(blob(weights_file(), ".incomplete")));
    assert_false(q3_file_exists(below("refs/main")));
    hub.spoiled = false;
    resolve("org/model");
    expect_weights();
}

static void wrong_sizes_are_no_file(void **state)
{
    (void)state;
    hub.told_more = 10;
    expect_failure("org/model", Q3_ERR_NETWORK,
                   "org/model: model.safetensors ends at byte 300000, and the hub tells of 300010");
    hub.told_more = -10;
    assert_int_equal(unlink(blob(weights_file(), ".incomplete")), 0);
    expect_failure("org/model", Q3_ERR_NETWORK,
                   "org/model: model.safetensors has more than the 299990 bytes that the hub tells");
    assert_false(q3_file_exists(blob(weights_file(), "")));
}

static void a_busy_hub_is_asked_again(void **state)
{
    (void)state;
    hub.busy = 3;
    resolve("org/model");
    assert_int_equal(q3_dir_remove(cache), Q3_OK);
    hub.busy = 5; // as often as is asked: what comes then comes too late
    char *dir;
    assert_int_equal(q3_hub_resolve(&dir, "org/model", NULL), Q3_ERR_NETWORK);
}

static void paths_out_of_the_directory_are_refused(void **state)
{
    (void)state;
    static const char *const paths[] = { "../evil.json", "/evil.json", "a/../../evil", "a//b",
                                         "a\\b",         ".",          "a/\x01" };
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        char sentence[300];
        hub.files[4].path = paths[i];
        snprintf(sentence, sizeof sentence,
                 "org/model lists \"%s\", which is no path below its directory; nothing was written",
                 paths[i]);
        expect_failure("org/model", Q3_ERR_MODEL, sentence);
        assert_false(q3_dir_exists(cache));
    }
}

static void each_refusal_has_its_sentence(void **state)
{
    (void)state;
    char sentence[400], at[100];
    snprintf(at, sizeof at, "http://127.0.0.1:%d", q3_listener_port(hub.hub));
    snprintf(sentence, sizeof sentence,
             "no/where is neither a directory here nor a model on %s that your token may see", at);
    expect_failure("no/where", Q3_ERR_MODEL, sentence);
    snprintf(sentence, sizeof sentence, "org/model has no revision \"v9\" on %s", at);
    expect_failure("org/model@v9", Q3_ERR_MODEL, sentence);
    hub.status = 403;
    hub.code = "GatedRepo";
    snprintf(sentence, sizeof sentence,
             "org/model is gated: accept its licence on %s/org/model, then set HF_TOKEN to a token of that "
             "account",
             at);
    expect_failure("org/model", Q3_ERR_FAIL, sentence);
    hub.code = "";
    snprintf(sentence, sizeof sentence,
             "org/model: %s refuses (status 403): is the token (HF_TOKEN) still good, and may it read this?",
             at);
    expect_failure("org/model", Q3_ERR_FAIL, sentence);
    hub.status = 429;
    snprintf(sentence, sizeof sentence, "org/model: %s has had too many requests from here; try again later",
             at);
    expect_failure("org/model", Q3_ERR_NETWORK, sentence);
    setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1", 1);
    hub.status = 401;
    hub.tokens = 0;
    snprintf(sentence, sizeof sentence,
             "org/model: %s refuses (status 401): set HF_TOKEN to a token that may read it", at);
    expect_failure("org/model", Q3_ERR_FAIL, sentence);
    assert_int_equal(hub.tokens, 0);
    unsetenv("HF_HUB_DISABLE_IMPLICIT_TOKEN");
}

static void a_repository_without_a_model_is_refused(void **state)
{
    (void)state;
    hub.files[1].path = "other.json";
    expect_failure("org/model", Q3_ERR_MODEL,
                   "org/model at 01234567 has no config.json; is it a model in transformers' form?");
}

/* ---- without the network ---- */

static void offline_nothing_is_asked(void **state)
{
    (void)state;
    static const char *const variables[] = { "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE" };
    char sentence[5000];
    for (int i = 0; i < 3; i++) {
        q3_hub_set(cache, i == 2);
        if (i < 2)
            setenv(variables[i], i ? "yes" : "1", 1);
        snprintf(
            sentence, sizeof sentence,
            "org/model (revision main) is neither a directory here nor in the cache %s, and %s keeps it from "
            "being fetched",
            cache, i < 2 ? variables[i] : "--offline");
        expect_failure("org/model", Q3_ERR_NETWORK, sentence);
        if (i < 2)
            unsetenv(variables[i]);
    }
    assert_int_equal(hub.requests, 0);
    q3_hub_set(cache, false);
    resolve("org/model");
    int before = hub.requests;
    q3_hub_set(cache, true);
    resolve("org/model");
    assert_int_equal(unlink(below("refs/main")), 0); // a snapshot without a name serves
    resolve("org/model");
    assert_int_equal(hub.requests, before);
}

static void an_incomplete_snapshot_is_completed(void **state)
{
    (void)state;
    static const char index[] =
        "{\"weight_map\": {\"a\": \"model-1.safetensors\", \"b\": \"model-2.safetensors\"}}";
    hub.files[3].path = "model-1.safetensors";
    t_hub_add(&hub, "model-2.safetensors", "second", 6, true);
    t_hub_add(&hub, "model.safetensors.index.json", index, sizeof index - 1, false);
    resolve("org/model");
    assert_int_equal(hub.bodies, 2);
    assert_int_equal(unlink(below("snapshots/" T_HUB_COMMIT "/model-2.safetensors")), 0);
    assert_int_equal(unlink(blob(&hub.files[5], "")), 0);
    q3_hub_set(cache, true);
    expect_failure(
        "org/model", Q3_ERR_NETWORK,
        "org/model: model-2.safetensors is missing in the cache, and --offline keeps it from being fetched");
    q3_hub_set(cache, false);
    resolve("org/model");
    assert_int_equal(hub.bodies, 3);
    expect_content(below("snapshots/" T_HUB_COMMIT "/model-2.safetensors"), "second", 6);
}

static void a_list_left_by_huggingface_hub_tells_what_is_missing(void **state)
{
    (void)state;
    static const char list[] = "{\"format_version\": 1, \"files\": {\"config.json\": {}, \"README.md\": {}, "
                               "\"generation_config.json\": {}}}";
    char missing[100];
    const q3_hub_wish wish = { 0 };
    q3_hub_repo repo;
    assert_true(q3_hub_parse(&repo, "org/model", Q3_HUB_MODEL));
    resolve("org/model");
    assert_int_equal(q3_hub_look(missing, sizeof missing, folder, T_HUB_COMMIT, &repo, &wish), Q3_HUB_WHOLE);
    assert_int_equal(q3_dir_create(below("trees")), Q3_OK);
    assert_int_equal(q3_file_write(below("trees/" T_HUB_COMMIT ".json"), list, sizeof list - 1), Q3_OK);
    assert_int_equal(q3_hub_look(missing, sizeof missing, folder, T_HUB_COMMIT, &repo, &wish), Q3_HUB_USABLE);
    assert_string_equal(missing, "generation_config.json");
}

static void without_symlinks_files_are_whole_themselves(void **state)
{
    (void)state;
    char link[10];
    setenv("HF_HUB_DISABLE_SYMLINKS", "1", 1);
    resolve("org/model");
    unsetenv("HF_HUB_DISABLE_SYMLINKS");
    expect_weights();
    assert_true(readlink(below("snapshots/" T_HUB_COMMIT "/model.safetensors"), link, sizeof link) < 0);
    int before = hub.requests;
    resolve("org/model");
    assert_int_equal(hub.requests, before);
}

/* ---- the program ---- */

static void data_sets_are_fetched_as_they_are(void **state)
{
    (void)state;
    char line[5000], wanted[5000], link[200] = "";
    snprintf(line, sizeof line, "download org/data --type dataset -q --cache-dir %s", cache);
    snprintf(wanted, sizeof wanted, "%s/datasets--org--data/snapshots/" T_HUB_COMMIT "\n", cache);
    q3_process p = q3_ask(Q3_PROGRAM, line, NULL, 0);
    if (p.code || strcmp(p.out, wanted) != 0 || *p.err)
        fail_msg("exit %d: %s%s", p.code, p.out, p.err);
    q3_process_free(&p);
    snprintf(folder, sizeof folder, "%s/datasets--org--data", cache);
    expect_content(below("snapshots/" T_HUB_COMMIT "/original/model.bin"), "old", 3);
    assert_true(readlink(below("snapshots/" T_HUB_COMMIT "/original/model.bin"), link, sizeof link - 1) > 0);
    assert_memory_equal(link, "../../../blobs/", 15);
}

static void patterns_choose_files(void **state)
{
    (void)state;
    char line[5000];
    snprintf(line, sizeof line,
             "download org/model --dry-run -q --include 'README*' --include '*.bin' --cache-dir %s", cache);
    q3_process p = q3_ask(Q3_PROGRAM, line, NULL, 0);
    assert_int_equal(p.code, 0);
    assert_string_equal(p.out, "          10  missing  README.md\n"
                               "           3  missing  original/model.bin\n");
    assert_false(q3_dir_exists(cache));
    q3_process_free(&p);
}

static void two_processes_fetch_it_once(void **state)
{
    (void)state;
    q3_process p[2] = { 0 };
    for (int i = 0; i < 2; i++) {
        static const char *const words[] = { Q3_PROGRAM, "download", "org/model", "--quiet", "--cache-dir" };
        for (int k = 0; k < 5; k++)
            q3_process_add(&p[i], words[k]);
        q3_process_add(&p[i], cache);
        q3_process_start(&p[i]);
    }
    for (int i = 0; i < 2; i++) {
        if (q3_process_wait(&p[i]) != 0)
            fail_msg("%s", p[i].err);
        assert_non_null(strstr(p[i].out, "/snapshots/" T_HUB_COMMIT "\n"));
    }
    assert_string_equal(p[0].out, p[1].out);
    assert_int_equal(hub.bodies, 1);
    expect_weights();
    q3_process_free(&p[0]);
    q3_process_free(&p[1]);
}

/* The tiny model of tests/golden as the hub's. */
static void serve_the_tiny_model(void)
{
    static const char *const names[] = { "config.json",
                                         "tokenizer.json",
                                         "tokenizer_config.json",
                                         "generation_config.json",
                                         "preprocessor_config.json",
                                         "model.safetensors" };
    t_hub_clear(&hub);
    for (int i = 0; i < 6; i++) {
        char path[200], *data;
        size_t size;
        snprintf(path, sizeof path, "tests/golden/training/model/%s", names[i]);
        assert_int_equal(q3_file_read(&data, &size, path, 1 << 24), Q3_OK);
        t_hub_add(&hub, names[i], data, size, i == 5);
        q3_free(data);
    }
}

static void commands_take_names_of_the_hub(void **state)
{
    (void)state;
    char line[5000];
    serve_the_tiny_model();
    snprintf(line, sizeof line, "tokenize --model org/model -q --cache-dir %s", cache);
    q3_process p = q3_ask(Q3_PROGRAM, line, "\"hello\"\n", 8);
    if (p.code)
        fail_msg("%s", p.err);
    assert_string_equal(p.out, "[71,68,331,78]\n");
    assert_int_equal(hub.bodies, 0); // no weights for it
    q3_process_free(&p);
    snprintf(line, sizeof line,
             "generate --model org/model -q --greedy --prompt hello --max-new-tokens 4 --device cpu "
             "--cache-dir %s",
             cache);
    p = q3_ask(Q3_PROGRAM, line, NULL, 0);
    if (p.code)
        fail_msg("%s", p.err);
    assert_true(strlen(p.out) > 1);
    assert_int_equal(hub.bodies, 1);
    q3_process_free(&p);
}

static void exit_codes_tell_why_it_failed(void **state)
{
    (void)state;
    char line[5000];
    snprintf(line, sizeof line, "tokenize --model no/where --cache-dir %s", cache);
    q3_ask_refused_about(Q3_PROGRAM, line, 4, "no/where is neither a directory here nor a model on ");
    snprintf(line, sizeof line, "tokenize --model org/model --offline --cache-dir %s", cache);
    q3_ask_refused_about(Q3_PROGRAM, line, 6, "--offline keeps it from being fetched");
    hub.status = 401;
    hub.code = "GatedRepo";
    snprintf(line, sizeof line, "download org/model --cache-dir %s", cache);
    q3_ask_refused_about(Q3_PROGRAM, line, 1, "org/model is gated: accept its licence on ");
    q3_ask_refused(Q3_PROGRAM, "download", 2,
                   "download needs a name: org/name (see qwen3-sft download --help)");
    q3_ask_refused(Q3_PROGRAM, "download model", 2,
                   "\"model\" is no name on the hub; write org/name or org/name@revision");
    q3_ask_refused(Q3_PROGRAM, "download a/b@c --revision d", 2,
                   "a/b@c names a revision, and so does --revision; leave out one");
    q3_ask_refused(Q3_PROGRAM, "download a/b --revision ../c", 2,
                   "\"../c\" is no revision; it is a branch, a tag or a commit");
    setenv("HF_ENDPOINT", "http://127.0.0.1:1", 1);
    snprintf(line, sizeof line, "download org/model --cache-dir %s", cache);
    q3_ask_refused_about(Q3_PROGRAM, line, 6, "Couldn't connect to server");
}

static int start(void **state)
{
    (void)state;
    static const char *const others[] = { "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
                                          "HF_HUB_CACHE",   "HUGGINGFACE_HUB_CACHE",
                                          "HF_HOME",        "XDG_CACHE_HOME" };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        unsetenv(others[i]);
    assert_int_equal(q3_dir_create(getenv("Q3_TEST_DIR")), Q3_OK);
    t_hub_start(&hub);
    return 0;
}

static int stop(void **state)
{
    (void)state;
    t_hub_stop(&hub);
    return 0;
}

#define HUB_TEST(name) cmocka_unit_test_setup(name, fresh)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_the_hub_are_told_from_paths),
        cmocka_unit_test(the_strongest_variable_names_the_cache),
        HUB_TEST(a_directory_of_that_name_comes_first),
        HUB_TEST(a_model_is_fetched_once),
        HUB_TEST(a_revision_with_slashes_has_its_own_reference),
        HUB_TEST(a_broken_transfer_goes_on_where_it_stopped),
        HUB_TEST(a_whole_answer_to_a_part_starts_over),
        HUB_TEST(what_another_process_left_is_taken_up),
        HUB_TEST(a_wrong_beginning_is_thrown_away),
        HUB_TEST(another_host_is_shown_no_token),
        HUB_TEST(wrong_contents_are_no_file),
        HUB_TEST(wrong_sizes_are_no_file),
        HUB_TEST(a_busy_hub_is_asked_again),
        HUB_TEST(paths_out_of_the_directory_are_refused),
        HUB_TEST(each_refusal_has_its_sentence),
        HUB_TEST(a_repository_without_a_model_is_refused),
        HUB_TEST(offline_nothing_is_asked),
        HUB_TEST(an_incomplete_snapshot_is_completed),
        HUB_TEST(a_list_left_by_huggingface_hub_tells_what_is_missing),
        HUB_TEST(without_symlinks_files_are_whole_themselves),
        HUB_TEST(data_sets_are_fetched_as_they_are),
        HUB_TEST(patterns_choose_files),
        HUB_TEST(two_processes_fetch_it_once),
        HUB_TEST(commands_take_names_of_the_hub),
        HUB_TEST(exit_codes_tell_why_it_failed),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
