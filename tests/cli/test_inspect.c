#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/file.h"
#include "core/json.h"
#include "core/safetensors.h"
#include "tests/support/run.h"

#define MODEL "tests/golden/training/model"
#define ADAPTER "tests/golden/training/float32-adapter-final"

static q3_process inspect(const char *const *arguments, int code)
{
    q3_process p = { .argv = { Q3_PROGRAM, "inspect" }, .n = 2 };
    for (int i = 0; arguments[i]; i++)
        q3_process_add(&p, arguments[i]);
    if (q3_process_run(&p) != code)
        fail_msg("exit code %d instead of %d\n%s%s", p.code, code, p.out, p.err);
    return p;
}

#define INSPECT(code, ...) inspect((const char *const[]){ __VA_ARGS__, NULL }, code)

static void contains(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("no \"%s\" in:\n%s", part, text);
}

static const cJSON *item(const cJSON *object, const char *key)
{
    const cJSON *found = cJSON_GetObjectItem(object, key);
    if (!found)
        fail_msg("no \"%s\"", key);
    return found;
}

static cJSON *parsed(const q3_process *p)
{
    cJSON *root = cJSON_Parse(p->out);
    if (!root)
        fail_msg("no JSON: %s%s", p->out, p->err);
    return root;
}

/* A copy of a directory, to damage. */
static const char *copy_of(const char *dir, const char *name)
{
    char command[4200];
    const char *to = q3_run_path(name);
    snprintf(command, sizeof command, "cp -r '%s' '%s'", dir, to);
    assert_int_equal(system(command), 0);
    return to;
}

static void a_model_is_shown_with_its_shape(void **state)
{
    (void)state;
    q3_process p = INSPECT(0, "assets/tiny-base");
    assert_string_equal(p.out,
                        "kind        model\n"
                        "path        assets/tiny-base\n"
                        "family      Qwen3-VL\n"
                        "text        layers 4, hidden 128, heads 4, kv_heads 2, head_dim 32, mlp 384, "
                        "vocabulary 1024, positions 1024, tied yes\n"
                        "vision      blocks 3, hidden 64, heads 2, mlp 128, patch 16, merge 2, deepstack 2\n"
                        "parameters  all 1419008, text 918912, vision 500096\n"
                        "quantized   no\n"
                        "types       BF16: 103 tensors, 1.42 M elements, 2.71 MiB\n"
                        "unread      none\n");
    assert_string_equal(p.err, "");
    q3_process_free(&p);
}

static void quantized_and_text_only_models_are_known(void **state)
{
    (void)state;
    q3_process p = INSPECT(4, "tests/golden/model-a/model-nf4", "--json"); // it has no tokenizer
    cJSON *root = parsed(&p);
    assert_string_equal(item(root, "quantized")->valuestring, "nf4, double quantization");
    assert_int_equal(cJSON_GetArraySize(item(root, "problems")), 2);
    contains(cJSON_GetArrayItem(item(root, "problems"), 0)->valuestring, "no tokenizer.json");
    cJSON_Delete(root);
    q3_process_free(&p);
    p = INSPECT(4, "tests/golden/formats/reranker-model");
    contains(p.out, "family      Qwen3, text only\n");
    contains(p.out, "vocabulary 320, positions 1024, tied no\n");
    contains(p.err, "qwen3-sft: tests/golden/formats/reranker-model: 1 problem\n");
    q3_process_free(&p);
}

static void tensors_are_listed_by_name_type_shape_and_bytes(void **state)
{
    (void)state;
    q3_process p = INSPECT(0, "assets/tiny-base/model.safetensors", "--tensors");
    contains(p.out, "kind        safetensors\n");
    contains(p.out, "model.visual.patch_embed.proj.weight BF16 [64, 3, 2, 16, 16] 196608\n");
    q3_process_free(&p);
    p = INSPECT(0, "assets/tiny-base", "--tensors", "--json");
    cJSON *root = parsed(&p);
    const cJSON *tensors = item(root, "tensors"), *first = tensors->child;
    assert_int_equal(cJSON_GetArraySize(tensors), 103);
    assert_true(cJSON_IsString(item(first, "name")) && cJSON_IsArray(item(first, "shape")));
    assert_string_equal(item(first, "type")->valuestring, "BF16");
    assert_int_equal(item(item(root, "types")->child, "elements")->valueint, 1419008);
    cJSON_Delete(root);
    q3_process_free(&p);
}

/* Writes the weights of `dir` again with one tensor left out, one reshaped, one under another name. */
static void damage_weights(const char *dir)
{
    q3_safetensors *file;
    const char *path = q3_run_file(dir, "model.safetensors");
    assert_int_equal(q3_safetensors_open(&file, path), Q3_OK);
    int64_t n = q3_safetensors_count(file), kept = 0;
    q3_st_tensor *tensors = calloc((size_t)n, sizeof *tensors);
    assert_non_null(tensors);
    for (int64_t i = 0; i < n; i++) {
        q3_st_tensor t = *q3_safetensors_at(file, i);
        if (strstr(t.name, "layers.1.mlp.up_proj.weight"))
            continue;
        if (strstr(t.name, "layers.0.mlp.down_proj.weight")) {
            int64_t rows = t.shape[0];
            t.shape[0] = t.shape[1];
            t.shape[1] = rows;
        }
        if (strstr(t.name, "layers.0.mlp.gate_proj.weight"))
            t.name = "model.language_model.layers.0.mlp.other_proj.weight";
        tensors[kept++] = t;
    }
    const char *other = q3_run_file(dir, "other.safetensors");
    assert_int_equal(q3_safetensors_write(other, tensors, kept), Q3_OK);
    q3_safetensors_close(file);
    free(tensors);
    assert_int_equal(rename(other, path), 0);
}

static void every_damage_of_a_model_is_told(void **state)
{
    (void)state;
    const char *dir = copy_of(MODEL, "inspect-model");
    damage_weights(dir);
    assert_int_equal(unlink(q3_run_file(dir, "preprocessor_config.json")), 0);
    q3_run_write(dir, "pytorch_model.bin", "x");
    q3_process p = INSPECT(4, dir);
    contains(p.out, "unread      pytorch_model.bin\n");
    contains(p.out, "there is no tensor model.language_model.layers.1.mlp.up_proj.weight");
    contains(p.out, "there is no tensor model.language_model.layers.0.mlp.gate_proj.weight");
    contains(p.out, "layers.0.mlp.down_proj.weight is [");
    contains(p.out, "other_proj.weight has no place in the network");
    contains(p.out, "neither preprocessor_config.json nor");
    contains(p.err, ": 5 problems\n");
    q3_process_free(&p);
    assert_int_equal(truncate(q3_run_file(dir, "model.safetensors"), 5000), 0);
    p = INSPECT(4, dir);
    contains(p.out, "problems    ");
    contains(p.out, "model.safetensors: ");
    q3_process_free(&p);
    assert_int_equal(unlink(q3_run_file(dir, "model.safetensors")), 0);
    p = INSPECT(4, dir);
    contains(p.out, "there is no model.safetensors and no model.safetensors.index.json");
    q3_process_free(&p);
}

/* The golden adapter's settings, for another base. */
static void set_base(const char *dir, const char *base)
{
    static const char old[] = "\"base_model_name_or_path\": \"model\"";
    size_t size;
    char *config = q3_run_read(ADAPTER, "adapter_config.json", &size), *at = strstr(config, old);
    q3_text text = { 0 };
    assert_non_null(at);
    q3_text_append(&text, config, (size_t)(at - config));
    q3_text_printf(&text, "\"base_model_name_or_path\": \"%s\"%s", base, at + strlen(old));
    assert_false(text.failed);
    q3_run_write(dir, "adapter_config.json", text.data);
    q3_text_free(&text);
    q3_free(config);
}

static void every_missing_shard_is_told_once(void **state)
{
    (void)state;
    const char *dir = copy_of(MODEL, "inspect-shards");
    assert_int_equal(unlink(q3_run_file(dir, "model.safetensors")), 0);
    q3_run_write(dir, "model.safetensors.index.json",
                 "{\"weight_map\": {\"a\": \"one.safetensors\", \"b\": \"two.safetensors\", \"c\": "
                 "\"one.safetensors\", \"d\": \"config.json\"}}");
    q3_process p = INSPECT(4, dir, "--json");
    cJSON *root = parsed(&p);
    const cJSON *problems = item(root, "problems");
    assert_int_equal(cJSON_GetArraySize(problems), 2);
    contains(cJSON_GetArrayItem(problems, 0)->valuestring, "one.safetensors is missing");
    contains(cJSON_GetArrayItem(problems, 1)->valuestring, "two.safetensors is missing");
    cJSON_Delete(root);
    q3_process_free(&p);
}

static void an_adapter_is_held_against_its_base(void **state)
{
    (void)state;
    const char *dir = copy_of(ADAPTER, "inspect-adapter");
    q3_process p = INSPECT(0, dir);
    contains(p.out, "\nbase        model\nlora        r 8, alpha 16, dropout 0, rslora no\n");
    contains(p.out, "\nbase_here   no\nlayers      21\nparameters  29184\n");
    q3_process_free(&p);
    set_base(dir, MODEL);
    p = INSPECT(0, dir);
    contains(p.out, "\nbase_here   yes\n");
    q3_process_free(&p);
    set_base(dir, "assets/tiny-base");
    p = INSPECT(4, dir);
    contains(p.out, "is it an adapter for another model?");
    q3_process_free(&p);
    assert_int_equal(unlink(q3_run_file(dir, "adapter_model.safetensors")), 0);
    p = INSPECT(4, dir);
    contains(p.out, "adapter_model.safetensors: ");
    q3_process_free(&p);
}

static void a_run_and_its_checkpoint_tell_how_far_they_are(void **state)
{
    (void)state;
    const char *dir = q3_run_path("inspect-run");
    q3_process p = q3_run_start(
        Q3_PROGRAM, (const char *const[]){ "eval.pre=false", "eval.post=false", "train.max_steps=2",
                                           "train.warmup_steps=0", "train.eval_strategy=steps",
                                           "train.eval_steps=1", NULL });
    q3_process_add(&p, "train.save_strategy=steps");
    q3_process_add(&p, "train.save_steps=1");
    q3_process_add(&p, "--output-dir");
    q3_process_add(&p, dir);
    q3_run_expect(&p, 0);
    q3_process_free(&p);
    p = INSPECT(0, dir);
    contains(p.out, "kind        run\n");
    contains(p.out, "\nfinished    yes\nsteps       2\n");
    contains(p.out, "\ncheckpoints checkpoint-1\n            checkpoint-2\nnewest      2\n");
    contains(p.out, "\nbase        " MODEL "\n");
    contains(p.out, "\nbase_here   yes\n");
    q3_process_free(&p);
    const char *checkpoint = q3_run_file(dir, "checkpoint-1");
    p = INSPECT(0, checkpoint, "--json");
    cJSON *root = parsed(&p);
    assert_string_equal(item(root, "kind")->valuestring, "checkpoint");
    assert_int_equal(item(root, "step")->valueint, 1);
    assert_int_equal(item(root, "steps")->valueint, 2);
    assert_int_equal(item(root, "best_step")->valueint, 1);
    assert_int_equal(item(root, "samples")->valueint, 22);
    assert_true(item(root, "best_loss")->valuedouble > 0);
    cJSON_Delete(root);
    q3_process_free(&p);
    assert_int_equal(unlink(q3_run_file(checkpoint, "optimizer.safetensors")), 0);
    q3_run_write(checkpoint, "trainer_state.json", "{}");
    p = INSPECT(4, checkpoint);
    contains(p.out, "another program wrote this checkpoint");
    contains(p.out, "optimizer.safetensors: ");
    q3_process_free(&p);
}

static void a_sample_is_shown_as_training_sees_it(void **state)
{
    (void)state;
    q3_process p = INSPECT(0, "--config", Q3_RUN_CONFIG, "--sample", "1");
    contains(p.out, "train.jsonl:1  id 900000000000000000\n");
    contains(p.out, "picture 12, of 1 x 6 x 8 patches\n");
    contains(p.out, "  time    0-12 13 x 12 17-51\n"
                    "  height  0-12 13 x 4 14 x 4 15 x 4 17-51\n"
                    "  width   0-12 13-16 13-16 13-16 17-51\n");
    contains(p.out, "<|im_start|>assistant↵›{\"label\": \"sarcastic\"}<|im_end|>↵");
    q3_process_free(&p);
    p = INSPECT(0, "--config", Q3_RUN_CONFIG, "--sample", "7", "--split", "eval", "--json");
    cJSON *root = parsed(&p);
    int tokens = item(root, "tokens")->valueint;
    contains(item(root, "where")->valuestring, "eval.jsonl:7");
    assert_int_equal(cJSON_GetArraySize(item(root, "ids")), tokens);
    assert_int_equal(cJSON_GetArraySize(item(root, "labels")), tokens);
    assert_int_equal(cJSON_GetArraySize(item(root, "positions")), 3);
    assert_int_equal(cJSON_GetArraySize(item(root, "positions")->child), tokens);
    cJSON_Delete(root);
    q3_process_free(&p);
    p = INSPECT(3, "--config", Q3_RUN_CONFIG, "--sample", "1", "collator.max_length=10");
    contains(p.err, "train.jsonl:1: the sample has 60 tokens");
    q3_process_free(&p);
}

static void a_conversation_is_shown_with_all_its_pictures_and_answers(void **state)
{
    (void)state;
    static const char data[] = "data.train=tests/golden/training/data/conversations.jsonl";
    q3_process p = INSPECT(0, "--config", Q3_RUN_CONFIG, "--sample", "1", data);
    contains(p.out,
             "prompt 76, supervised 17; picture 12, of 1 x 6 x 8 patches; picture 6, of 1 x 6 x 4 patches\n");
    contains(p.out, "<|im_start|>assistant↵›the second<|im_end|>↵‹<|im_start|>user↵so?<|im_end|>↵");
    q3_process_free(&p);
    p = INSPECT(0, "--config", Q3_RUN_CONFIG, "--sample", "1", data, "collator.train_on=last", "--json");
    cJSON *root = parsed(&p);
    assert_int_equal(item(root, "supervised")->valueint, 8);
    assert_int_equal(item(root, "image_tokens")->valueint, 18);
    char *grids = cJSON_PrintUnformatted(item(root, "grid"));
    assert_string_equal(grids, "[[1,6,8],[1,6,4]]");
    cJSON_free(grids);
    cJSON_Delete(root);
    q3_process_free(&p);
}

static void what_cannot_be_looked_at_is_told(void **state)
{
    (void)state;
    static const struct {
        const char *arguments[5];
        int code;
        const char *error;
    } cases[] = {
        { { "--json" }, 2, "inspect needs a directory" },
        { { "tests/golden" }, 4, "tests/golden: no model, adapter, checkpoint or run" },
        { { "./none" }, 4, "./none: there is no such file or directory" },
        { { "README.md" }, 2, "README.md: of files only .safetensors" },
        { { "assets/tiny-base", "--config", Q3_RUN_CONFIG }, 2, "exclude each other" },
        { { "--config", Q3_RUN_CONFIG }, 2, "--sample" },
        { { "--config", Q3_RUN_CONFIG, "--sample", "23" }, 2, "from 1 to 22" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        q3_process p = inspect(cases[i].arguments, cases[i].code);
        contains(p.err, cases[i].error);
        assert_string_equal(p.out, "");
        q3_process_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_is_shown_with_its_shape),
        cmocka_unit_test(quantized_and_text_only_models_are_known),
        cmocka_unit_test(tensors_are_listed_by_name_type_shape_and_bytes),
        cmocka_unit_test(every_damage_of_a_model_is_told),
        cmocka_unit_test(every_missing_shard_is_told_once),
        cmocka_unit_test(an_adapter_is_held_against_its_base),
        cmocka_unit_test(a_run_and_its_checkpoint_tell_how_far_they_are),
        cmocka_unit_test(a_sample_is_shown_as_training_sees_it),
        cmocka_unit_test(a_conversation_is_shown_with_all_its_pictures_and_answers),
        cmocka_unit_test(what_cannot_be_looked_at_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
