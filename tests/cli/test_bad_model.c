#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/file.h"
#include "core/json.h"
#include "tests/support/ask.h"
#include "tests/support/golden.h"

/* A copy of a model is spoiled in one place; each command that reads the place must exit with 4, say in one
 * sentence what is wrong with which file, and write nothing. */
#define MODEL "tests/golden/model-a/model"
#define TOKENIZER "tests/golden/tokenizer/small"
#define ADAPTER "tests/golden/model-a/lora-fp32-init"
#define FOREIGN_ADAPTER "tests/golden/model-b/lora-fp32-init"

enum { MAX_FILE = 1 << 24 };

static char dir[300], model[340], out[340], batch[340], line[1600];

/* ---- the copy ---- */

static const char *in_model(const char *name)
{
    static char paths[4][480];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", model, name);
    return path;
}

/* Links; a spoiled file takes the place of its link. */
static void link_file(const char *from, const char *name)
{
    char full[700], root[300];
    assert_non_null(getcwd(root, sizeof root));
    snprintf(full, sizeof full, "%s/%s/%s", root, from, name);
    assert_int_equal(access(full, R_OK), 0);
    assert_int_equal(symlink(full, in_model(name)), 0);
}

static void renew_from(const char *from)
{
    assert_int_equal(q3_dir_remove(model), Q3_OK);
    assert_int_equal(q3_dir_create(model), Q3_OK);
    link_file(from, "config.json");
    link_file(from, "generation_config.json");
    link_file(from, "model.safetensors");
    link_file(TOKENIZER, "tokenizer.json");
    link_file(TOKENIZER, "tokenizer_config.json");
}

static int renew(void **state)
{
    (void)state;
    renew_from(MODEL);
    return 0;
}

static int prepare(void **state)
{
    const char *base = getenv("Q3_TEST_DIR");
    q3_arena mem;
    snprintf(dir, sizeof dir, "%s", base ? base : "/tmp/q3-test");
    snprintf(model, sizeof model, "%s/model", dir);
    snprintf(out, sizeof out, "%s/out", dir);
    snprintf(batch, sizeof batch, "%s/batch.safetensors", dir);
    if (q3_dir_remove(dir) || q3_dir_create(dir) || q3_arena_create(&mem, "test arena", (size_t)1 << 26))
        return 1;
    q3_safetensors *file = q3_golden_open("tests/golden/model-a/forward-row-1.safetensors");
    const q3_padded p = q3_golden_batch(&mem, file, "in.");
    q3_golden_write(batch, &p);
    q3_safetensors_close(file);
    q3_arena_destroy(&mem);
    return renew(state);
}

/* ---- spoiling ---- */

static void write_text(const char *name, const char *text, size_t n)
{
    assert_int_equal(q3_file_write(in_model(name), text, n), Q3_OK);
}

static void drop(const char *name)
{
    assert_int_equal(unlink(in_model(name)), 0);
}

static void cut(const char *name, size_t n)
{
    char *text;
    size_t size;
    assert_int_equal(q3_file_read(&text, &size, in_model(name), MAX_FILE), Q3_OK);
    assert_true(n < size);
    write_text(name, text, n);
    q3_free(text);
}

/* Replaces the first `from` by `to`. */
static void replace(const char *name, const char *from, const char *to)
{
    char *text;
    size_t size;
    q3_text changed = { 0 };
    assert_int_equal(q3_file_read(&text, &size, in_model(name), MAX_FILE), Q3_OK);
    const char *at = strstr(text, from);
    if (!at)
        fail_msg("%s: no %s", name, from);
    q3_text_append(&changed, text, (size_t)(at - text));
    q3_text_append(&changed, to, strlen(to));
    q3_text_append(&changed, at + strlen(from), strlen(at + strlen(from)));
    write_text(name, changed.data, changed.size);
    q3_text_free(&changed);
    q3_free(text);
}

/* Writes the tensors [begin, end) of the golden file under `name`, as `change` (NULL: none) makes them; it
 * returns false for a tensor that is left out. */
static void write_tensors(const char *name, int64_t begin, int64_t end, bool (*change)(q3_st_tensor *t))
{
    q3_safetensors *file = q3_golden_open(MODEL "/model.safetensors");
    static q3_st_tensor tensors[256];
    int64_t n = 0;
    for (int64_t i = begin; i < end && i < q3_safetensors_count(file); i++) {
        tensors[n] = *q3_safetensors_at(file, i);
        n += !change || change(&tensors[n]);
    }
    assert_int_equal(q3_safetensors_write(in_model(name), tensors, n), Q3_OK);
    q3_safetensors_close(file);
}

#define TENSOR "model.language_model.layers.2.mlp.up_proj.weight" /* [160, 64] */

static bool is_it(const q3_st_tensor *t)
{
    return strcmp(t->name, TENSOR) == 0;
}

static bool without(q3_st_tensor *t)
{
    return !is_it(t);
}

static bool transposed(q3_st_tensor *t)
{
    if (is_it(t)) {
        int64_t rows = t->shape[0];
        t->shape[0] = t->shape[1];
        t->shape[1] = rows;
    }
    return true;
}

static bool flattened(q3_st_tensor *t)
{
    if (is_it(t)) {
        t->shape[0] *= t->shape[1];
        t->ndim = 1;
    }
    return true;
}

static bool as_integers(q3_st_tensor *t)
{
    if (is_it(t)) {
        t->dtype = Q3_DTYPES;
        t->dtype_name = "I32";
    }
    return true;
}

static bool foreign_name(q3_st_tensor *t)
{
    if (is_it(t))
        t->name = "encoder.block.0.weight";
    return true;
}

static bool one_layer_more(q3_st_tensor *t)
{
    if (is_it(t))
        t->name = "model.language_model.layers.7.mlp.up_proj.weight";
    return true;
}

/* The header of model.safetensors with the bytes of TENSOR at [begin + from, end + to). */
static void move_tensor(int from, int to)
{
    char *text;
    size_t size;
    uint64_t n;
    assert_int_equal(q3_file_read(&text, &size, MODEL "/model.safetensors", MAX_FILE), Q3_OK);
    memcpy(&n, text, sizeof n);
    cJSON *header = cJSON_ParseWithLength(text + 8, (size_t)n);
    cJSON *offsets = cJSON_GetObjectItem(cJSON_GetObjectItem(header, TENSOR), "data_offsets");
    assert_non_null(offsets);
    cJSON_SetNumberValue(offsets->child, offsets->child->valuedouble + from);
    cJSON_SetNumberValue(offsets->child->next, offsets->child->next->valuedouble + to);
    char *printed = cJSON_PrintUnformatted(header);
    uint64_t length = strlen(printed);
    q3_text changed = { 0 };
    q3_text_append(&changed, (const char *)&length, sizeof length);
    q3_text_append(&changed, printed, (size_t)length);
    q3_text_append(&changed, text + 8 + n, size - 8 - (size_t)n);
    write_text("model.safetensors", changed.data, changed.size);
    q3_text_free(&changed);
    cJSON_free(printed);
    cJSON_Delete(header);
    q3_free(text);
}

/* ---- judging ---- */

static void assert_nothing_written(void)
{
    char tmp[360];
    snprintf(tmp, sizeof tmp, "%s.tmp", out);
    assert_int_not_equal(access(out, F_OK), 0);
    assert_int_not_equal(access(tmp, F_OK), 0);
}

/* `part` must occur in the sentence of each command that loads a model. */
static void assert_refused(const char *part)
{
    snprintf(line, sizeof line, "quantize --model %s --out %s", model, out);
    q3_ask_refused_about(Q3_PROGRAM, line, 4, part);
    assert_nothing_written();
    snprintf(line, sizeof line, "trace --model %s --batch %s --out %s", model, batch, out);
    q3_ask_refused_about(Q3_PROGRAM, line, 4, part);
    assert_nothing_written();
}

static void assert_tokenizer_refused(const char *part)
{
    snprintf(line, sizeof line, "tokenize --model %s", model);
    q3_ask_refused_about(Q3_PROGRAM, line, 4, part);
}

static void assert_adapter_refused(const char *adapter, const char *part)
{
    snprintf(line, sizeof line, "trace --model %s --adapter %s --batch %s --out %s", model, adapter, batch,
             out);
    q3_ask_refused_about(Q3_PROGRAM, line, 4, part);
    assert_nothing_written();
}

static void assert_runs(const char *arguments)
{
    q3_process p = q3_ask(Q3_PROGRAM, arguments, NULL, 0);
    if (p.code != 0)
        fail_msg("%s: %s", arguments, p.err);
    q3_process_free(&p);
    assert_int_equal(q3_dir_remove(out), Q3_OK);
}

/* ---- the cases ---- */

/* Otherwise the refusals below would prove nothing. */
static void the_copy_as_it_is_works(void **state)
{
    (void)state;
    snprintf(line, sizeof line, "quantize --model %s --out %s", model, out);
    assert_runs(line);
    snprintf(line, sizeof line, "trace --model %s --adapter " ADAPTER " --batch %s --out %s", model, batch,
             out);
    assert_runs(line);
    snprintf(line, sizeof line, "tokenize --model %s", model);
    assert_runs(line);
    write_tensors("model.safetensors", 0, 1000, NULL);
    snprintf(line, sizeof line, "trace --model %s --batch %s --out %s", model, batch, out);
    assert_runs(line);
    move_tensor(0, 0);
    assert_runs(line);
}

static void no_directory_no_model(void **state)
{
    (void)state;
    assert_int_equal(q3_dir_remove(model), Q3_OK);
    assert_refused("config.json");
    assert_tokenizer_refused(model);
}

static void config_must_be_there_and_whole(void **state)
{
    char *text;
    size_t size;
    assert_int_equal(q3_file_read(&text, &size, MODEL "/config.json", MAX_FILE), Q3_OK);
    q3_free(text);
    drop("config.json");
    assert_refused("/config.json");
    const size_t sizes[] = { 0, 1, size / 3, size / 2, size - 3 };
    for (int i = 0; i < 5; i++) {
        renew(state);
        cut("config.json", sizes[i]);
        assert_refused("/config.json:");
    }
    write_text("config.json", "[]", 2);
    assert_refused("/config.json: must hold a JSON object");
    drop("config.json");
    assert_int_equal(q3_dir_create(in_model("config.json")), Q3_OK);
    assert_refused("/config.json");
    renew(state);
    cut("generation_config.json", 20);
    assert_refused("/generation_config.json:");
}

static void config_values_are_checked(void **state)
{
    static const struct {
        const char *from, *to, *part;
    } cases[] = {
        { "\"head_dim\": 16", "\"head_dim\": 0", "text_config.head_dim" },
        { "\"head_dim\": 16", "\"head_dim\": \"16\"", "text_config.head_dim" },
        { "\"head_dim\": 16", "\"head_dim\": 16.5", "text_config.head_dim" },
        { "\"head_dim\": 16", "\"head_dim\": 1e300", "text_config.head_dim" },
        { "\"head_dim\": 16,", "", "text_config.head_dim" },
        { "\"hidden_size\": 64", "\"hidden_size\": -64", "text_config.hidden_size" },
        { "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "num_key_value_heads" },
        { "\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": true", "text_config.rms_norm_eps" },
        { "\"hidden_act\": \"silu\"", "\"hidden_act\": \"relu\"", "hidden_act" },
        { "\"Qwen3VLForConditionalGeneration\"", "\"LlamaForCausalLM\"", "LlamaForCausalLM" },
        { "\"model_type\": \"qwen3_vl\"", "\"model_type\": \"llama\"", "llama" },
        { "\"patch_size\": 16", "\"patch_size\": 0", "vision_config.patch_size" },
        { "\"num_position_embeddings\": 64", "\"num_position_embeddings\": 63", "num_position_embeddings" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        renew(state);
        replace("config.json", cases[i].from, cases[i].to);
        assert_refused(cases[i].part);
    }
}

static void config_must_fit_the_weights(void **state)
{
    static const struct {
        const char *from, *to, *part;
    } cases[] = {
        { "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 5", "layers.4." },
        { "\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3", "has no place in the network" },
        { "\"intermediate_size\": 160", "\"intermediate_size\": 192", "config.json makes it [" },
        { "\"vocab_size\": 320", "\"vocab_size\": 352", "config.json makes it [352, 64]" },
        { "\"depth\": 3", "\"depth\": 4", "blocks.3." },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        renew(state);
        replace("config.json", cases[i].from, cases[i].to);
        assert_refused(cases[i].part);
    }
}

static void weights_must_be_there_and_whole(void **state)
{
    char *text;
    size_t size;
    uint64_t n;
    assert_int_equal(q3_file_read(&text, &size, MODEL "/model.safetensors", MAX_FILE), Q3_OK);
    memcpy(&n, text, sizeof n);
    q3_free(text);
    drop("model.safetensors");
    assert_refused("there is no model.safetensors and no model.safetensors.index.json");
    const size_t header = (size_t)n,
                 sizes[] = { 0,          1,          7,          8,        9,       8 + header / 2,
                             7 + header, 8 + header, 9 + header, size / 2, size - 1 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        renew(state);
        cut("model.safetensors", sizes[i]);
        assert_refused("/model.safetensors: ");
    }
    write_text("model.safetensors", "\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10);
    assert_refused("/model.safetensors: the header would be");
    write_text("model.safetensors", "<html>not found</html>", 22);
    assert_refused("/model.safetensors: ");
}

static void tensors_must_lie_in_the_file_without_overlap(void **state)
{
    (void)state;
    move_tensor(-64, -64);
    assert_refused("overlap");
    move_tensor(0, 1 << 24);
    assert_refused(TENSOR);
    move_tensor(1 << 24, 1 << 24);
    assert_refused("; is the download complete?");
    move_tensor(0, -4);
    assert_refused(TENSOR);
    move_tensor(1 << 20, -(1 << 20));
    assert_refused(TENSOR);
}

static void every_tensor_is_there_with_its_shape(void **state)
{
    (void)state;
    static const struct {
        bool (*change)(q3_st_tensor *t);
        const char *part;
    } cases[] = {
        { without, "there is no tensor " TENSOR },
        { transposed, "tensor " TENSOR " is [64, 160], config.json makes it [160, 64]" },
        { flattened, "tensor " TENSOR " is [10240], config.json makes it [160, 64]" },
        { as_integers, "tensor " TENSOR " is I32" },
        { foreign_name, "tensor encoder.block.0.weight belongs to no part" },
        { one_layer_more, "there is no tensor " TENSOR },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_tensors("model.safetensors", 0, 1000, cases[i].change);
        assert_refused(cases[i].part);
    }
}

/* ---- shards ---- */

static void add_to_index(q3_text *index, const char *name)
{
    q3_safetensors *file = q3_golden_open(in_model(name));
    for (int64_t i = 0; i < q3_safetensors_count(file); i++)
        q3_text_printf(index, "%s\"%s\": \"%s\"", index->data[index->size - 1] == '{' ? "" : ",\n ",
                       q3_safetensors_at(file, i)->name, name);
    q3_safetensors_close(file);
}

#define FIRST "model-00001-of-00002.safetensors"
#define SECOND "model-00002-of-00002.safetensors"
#define INDEX "model.safetensors.index.json"

static void split_model(void **state)
{
    q3_text index = { 0 };
    renew(state);
    drop("model.safetensors");
    write_tensors(FIRST, 0, 40, NULL);
    write_tensors(SECOND, 40, 1000, NULL);
    q3_text_printf(&index, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {");
    add_to_index(&index, FIRST);
    add_to_index(&index, SECOND);
    q3_text_printf(&index, "}}");
    write_text(INDEX, index.data, index.size);
    q3_text_free(&index);
}

static void every_shard_of_the_index_is_there(void **state)
{
    split_model(state);
    snprintf(line, sizeof line, "quantize --model %s --out %s", model, out);
    assert_runs(line);
    drop(SECOND);
    assert_refused("/" SECOND " is missing; is the download complete?");
    split_model(state);
    cut(FIRST, 5000);
    assert_refused("/" FIRST ": ");
    split_model(state);
    write_tensors(FIRST, 1, 40, NULL);
    assert_refused(" is not in " FIRST);
    split_model(state);
    cut(INDEX, 1000);
    assert_refused("/" INDEX ":");
    replace(INDEX, "weight_map", "weights"); // of the cut text: still no JSON
    assert_refused("/" INDEX ":");
    split_model(state);
    replace(INDEX, "weight_map", "weights");
    assert_refused("/" INDEX ": has no weight_map");
    split_model(state);
    replace(INDEX, FIRST, "../batch.safetensors");
    assert_refused("names no file of this directory");
    split_model(state);
    replace(INDEX, "\"" FIRST "\"", "7");
    assert_refused("names no file of this directory");
}

/* ---- 4 bits ---- */

static void a_quantized_model_is_whole_too(void **state)
{
    (void)state;
    const char *trace = "trace --model %s --batch %s --out %s";
    renew_from("tests/golden/model-a/model-nf4");
    snprintf(line, sizeof line, trace, model, batch, out);
    assert_runs(line);
    replace("config.json", "\"load_in_4bit\": true", "\"load_in_4bit\": false");
    snprintf(line, sizeof line, trace, model, batch, out);
    q3_ask_refused_about(Q3_PROGRAM, line, 4, "load_in_4bit");
    renew_from("tests/golden/model-a/model-nf4");
    replace("config.json", "\"bitsandbytes\"", "\"gptq\"");
    q3_ask_refused_about(Q3_PROGRAM, line, 4, "gptq");
    renew_from("tests/golden/model-a/model-nf4");
    cut("model.safetensors", 1000000);
    q3_ask_refused_about(Q3_PROGRAM, line, 4, "/model.safetensors: ");
    assert_nothing_written();
}

/* ---- tokenizer ---- */

static void the_tokenizer_is_whole_and_qwens(void **state)
{
    static const struct {
        const char *from, *to, *part;
    } cases[] = {
        { "\\\\p{N}| ", "\\\\p{N}{1,3}| ", "pre_tokenizer.pretokenizers.0.pattern.Regex" },
        { "\"Split\"", "\"Whitespace\"", "pre_tokenizer.pretokenizers.0.type" },
        { "\"NFC\"", "\"NFKC\"", "normalizer.type" },
        { "\"BPE\"", "\"Unigram\"", "model.type" },
        { "\"merges\"", "\"merged\"", "/tokenizer.json" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        renew(state);
        replace("tokenizer.json", cases[i].from, cases[i].to);
        assert_tokenizer_refused(cases[i].part);
    }
    static const size_t sizes[] = { 0, 1, 100, 5000, 9000 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        renew(state);
        cut("tokenizer.json", sizes[i]);
        assert_tokenizer_refused("/tokenizer.json:");
    }
    renew(state);
    cut("tokenizer_config.json", 1000);
    assert_tokenizer_refused("/tokenizer_config.json:");
    drop("tokenizer.json");
    assert_tokenizer_refused("no tokenizer.json here, nor vocab.json with merges.txt");
    link_file("tests/golden/tokenizer/qwen3", "tokenizer.json.gz");
    cut("tokenizer.json.gz", 1000000);
    assert_tokenizer_refused("/tokenizer.json.gz: not a whole gzip file");
}

/* ---- adapters ---- */

static void renew_adapter(void **state)
{
    renew(state);
    link_file(ADAPTER, "adapter_config.json");
    link_file(ADAPTER, "adapter_model.safetensors");
}

static void an_adapter_is_whole_and_fits(void **state)
{
    renew_adapter(state);
    snprintf(line, sizeof line, "trace --model %s --adapter %s --batch %s --out %s", model, model, batch,
             out);
    assert_runs(line);
    assert_adapter_refused(FOREIGN_ADAPTER, "tests/golden/model-b/lora-fp32-init/adapter_model.safetensors");
    assert_adapter_refused("tests/golden/none", "tests/golden/none");
    drop("adapter_model.safetensors");
    assert_adapter_refused(model, "adapter_model.safetensors");
    renew_adapter(state);
    cut("adapter_model.safetensors", 100000);
    assert_adapter_refused(model, "/adapter_model.safetensors: ");
    renew_adapter(state);
    drop("adapter_config.json");
    assert_adapter_refused(model, "adapter_config.json");
    renew_adapter(state);
    cut("adapter_config.json", 300);
    assert_adapter_refused(model, "/adapter_config.json:");
    renew_adapter(state);
    replace("adapter_config.json", "\"LORA\"", "\"IA3\"");
    assert_adapter_refused(model, "peft_type is \"IA3\"");
    renew_adapter(state);
    replace("adapter_config.json", "\"r\": ", "\"r\": -");
    assert_adapter_refused(model, "/adapter_config.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_copy_as_it_is_works, renew),
        cmocka_unit_test_setup(no_directory_no_model, renew),
        cmocka_unit_test_setup(config_must_be_there_and_whole, renew),
        cmocka_unit_test_setup(config_values_are_checked, renew),
        cmocka_unit_test_setup(config_must_fit_the_weights, renew),
        cmocka_unit_test_setup(weights_must_be_there_and_whole, renew),
        cmocka_unit_test_setup(tensors_must_lie_in_the_file_without_overlap, renew),
        cmocka_unit_test_setup(every_tensor_is_there_with_its_shape, renew),
        cmocka_unit_test_setup(every_shard_of_the_index_is_there, renew),
        cmocka_unit_test_setup(a_quantized_model_is_whole_too, renew),
        cmocka_unit_test_setup(the_tokenizer_is_whole_and_qwens, renew),
        cmocka_unit_test_setup(an_adapter_is_whole_and_fits, renew),
    };
    return cmocka_run_group_tests(tests, prepare, NULL);
}
