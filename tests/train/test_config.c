#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/file.h"
#include "core/device.h"
#include "train/config.h"

#define OVERRIDES(...)                                                                                       \
    (const char *const[]){ __VA_ARGS__ }, (int)(sizeof((const char *[]){ __VA_ARGS__ }) / sizeof(char *))

static q3_status parse(q3_config *out, const char *text)
{
    return q3_config_parse(out, text, strlen(text), "x.json", NULL, 0);
}

static void assert_refused(const char *text, const char *sentence)
{
    q3_config cfg;
    assert_int_equal(parse(&cfg, text), Q3_ERR_USAGE);
    assert_string_equal(q3_error(), sentence);
    assert_null(cfg.strings.base);
}

/* The overrides are laid over the defaults; the rules between keys refuse the result with this sentence. */
static void assert_unsound(const char *const *overrides, int n, const char *sentence)
{
    q3_config cfg;
    assert_int_equal(q3_config_load(&cfg, NULL, overrides, n), Q3_OK);
    q3_status st = q3_config_check(&cfg);
    q3_config_free(&cfg);
    assert_int_equal(st, Q3_ERR_USAGE);
    if (!strstr(q3_error(), sentence))
        fail_msg("\"%s\" does not hold \"%s\"", q3_error(), sentence);
}

static void assert_sound(const char *const *overrides, int n)
{
    q3_config cfg;
    assert_int_equal(q3_config_load(&cfg, NULL, overrides, n), Q3_OK);
    if (q3_config_check(&cfg) != Q3_OK)
        fail_msg("%s", q3_error());
    q3_config_free(&cfg);
}

static void defaults_are_those_of_the_pipeline(void **state)
{
    (void)state;
    q3_config c;
    assert_int_equal(q3_config_defaults(&c), Q3_OK);
    assert_null(c.model.path);
    assert_int_equal(c.model.init, Q3_CONFIG_INIT_PRETRAINED);
    assert_true(c.quantization.load_in_4bit);
    assert_int_equal(c.quantization.skip_modules.n, 2);
    assert_string_equal(c.quantization.skip_modules.items[0], "model.visual");
    assert_int_equal(c.lora.r, 16);
    assert_int_equal(c.lora.lora_alpha, 32);
    assert_true(c.lora.lora_dropout == 0.05);
    assert_int_equal(c.lora.target_modules.n, 7);
    assert_false(c.lora.target_modules.pattern);
    assert_string_equal(c.lora.target_modules.items[6], "down_proj");
    assert_string_equal(c.data.target_key, "target_json");
    assert_null(c.data.label_key);
    assert_int_equal(c.data.max_side, 0);
    assert_int_equal(c.data.min_pixels, Q3_CONFIG_UNSET);
    assert_int_equal(c.collator.max_length, 2048);
    assert_int_equal(c.collator.on_overflow, Q3_CONFIG_OVERFLOW_ERROR);
    assert_int_equal(c.train.per_device_train_batch_size, 8);
    assert_int_equal(c.train.gradient_accumulation_steps, 8);
    assert_true(c.train.learning_rate == 2e-4);
    assert_int_equal(c.train.lr_scheduler_type, Q3_CONFIG_LR_COSINE);
    assert_true(c.train.min_lr_rate == Q3_CONFIG_UNSET);
    assert_true(c.train.warmup_ratio == 0.05);
    assert_int_equal(c.train.eval_steps, 50);
    assert_int_equal(c.train.save_total_limit, 2);
    assert_int_equal(c.train.seed, 42);
    assert_int_equal(c.eval.max_new_tokens, 256);
    assert_string_equal(c.eval.labels.items[1], "not_sarcastic");
    assert_int_equal(q3_config_check(&c), Q3_OK);
    q3_config_free(&c);
}

/* Every row: the default fits its own range, and its text reads back as the same value. */
static void every_row_of_the_table_holds_together(void **state)
{
    (void)state;
    q3_config a, b;
    assert_int_equal(q3_config_defaults(&a), Q3_OK);
    assert_int_equal(q3_config_defaults(&b), Q3_OK);
    int ids[Q3_CONFIG_KEYS];
    for (int id = 0; id < Q3_CONFIG_KEYS; id++) {
        const q3_config_key *key = &q3_config_table[id];
        q3_text value = { 0 };
        q3_config_value(&value, &a, id);
        assert_int_equal(q3_config_find(key->name), id);
        assert_true(key->help && strlen(key->help) > 5 && strlen(key->help) < 100);
        assert_int_equal(q3_config_set(&b, key->name, value.data, Q3_ORIGIN_OPTION), Q3_OK);
        assert_true(key->kind != Q3_CONFIG_INT_KIND || key->min >= 0); // -1 means not set
        assert_true(key->kind != Q3_CONFIG_FLOAT_KIND || key->min >= 0);
        q3_text_free(&value);
    }
    assert_int_equal(q3_config_diff(ids, &a, &b), 0);
    q3_config_free(&a);
    q3_config_free(&b);
}

static void words_stand_in_the_order_of_their_enumeration(void **state)
{
    (void)state;
    q3_config c;
    assert_int_equal(
        q3_config_load(&c, NULL,
                       OVERRIDES("train.lr_scheduler_type=constant_with_warmup",
                                 "train.optim=paged_adamw_8bit", "train.gradient_checkpointing=full",
                                 "train.eval_strategy=no", "collator.on_overflow=truncate",
                                 "model.device=cuda", "model.dtype=bfloat16", "model.init=random",
                                 "train.tune=full", "train.loss_normalization=token_mean",
                                 "quantization.bnb_4bit_quant_type=fp4")),
        Q3_OK);
    assert_int_equal(c.train.lr_scheduler_type, Q3_CONFIG_LR_CONSTANT_WITH_WARMUP);
    assert_int_equal(c.train.optim, Q3_CONFIG_OPTIM_PAGED_ADAMW_8BIT);
    assert_int_equal(c.train.gradient_checkpointing, Q3_CONFIG_CHECKPOINTING_FULL);
    assert_int_equal(c.train.eval_strategy, Q3_CONFIG_AT_NO);
    assert_int_equal(c.train.save_strategy, Q3_CONFIG_AT_STEPS);
    assert_int_equal(c.collator.on_overflow, Q3_CONFIG_OVERFLOW_TRUNCATE);
    assert_string_equal(c.model.device, "cuda");
    assert_int_equal(c.model.dtype, Q3_CONFIG_DTYPE_BFLOAT16);
    assert_int_equal(c.model.init, Q3_CONFIG_INIT_RANDOM);
    assert_int_equal(c.train.tune, Q3_CONFIG_TUNE_FULL);
    assert_int_equal(c.train.loss_normalization, Q3_CONFIG_LOSS_TOKEN_MEAN);
    assert_int_equal(c.quantization.bnb_4bit_quant_type, Q3_CONFIG_QUANT_FP4);
    q3_config_free(&c);
}

static void an_unknown_key_is_named_with_its_line_and_the_nearest_key(void **state)
{
    (void)state;
    assert_refused("{\n  \"lora\": {\n    \"rank\": 8\n  }\n}",
                   "x.json:3:5: unknown key \"lora.rank\"; did you mean \"lora.r\"?");
    assert_refused("{\"lora\": {\"dropout\": 0}}",
                   "x.json:1:11: unknown key \"lora.dropout\"; did you mean \"lora.lora_dropout\"?");
    assert_refused("{\"train\": {\"learning_rte\": 0}}",
                   "x.json:1:12: unknown key \"train.learning_rte\"; did you mean \"train.learning_rate\"?");
    assert_refused("{\"train\": {\"epochs\": 1}}",
                   "x.json:1:12: unknown key \"train.epochs\"; did you mean \"train.num_train_epochs\"?");
    assert_refused("{\"train\": {\"max_length\": 1}}",
                   "x.json:1:12: unknown key \"train.max_length\"; did you mean \"collator.max_length\"?");
    assert_refused("{\n\"learning_rate\": 1}",
                   "x.json:2:1: unknown key \"learning_rate\"; did you mean \"train.learning_rate\"?");
    assert_refused("{\n\"lorra\": {}}", "x.json:2:1: unknown key \"lorra\"; did you mean \"lora\"?");
    assert_refused("{\"model\": {},\n \"lora.r\": 4, \"lora\": {\"r.x\": 1}}",
                   "x.json:2:2: \"lora.r\" stands at the top; "
                   "write \"lora\": {\"r\": ...}");
    assert_refused("{\"lora\": {},\n \"zzzzzzzz\": 4}",
                   "x.json:2:2: unknown key \"zzzzzzzz\"; `qwen3-sft config keys` lists all");
}

static void a_wrong_value_is_shown_with_what_fits(void **state)
{
    (void)state;
    assert_refused("{\"train\":\n {\"learning_rate\": \"fast\"}}",
                   "x.json:2:3: \"train.learning_rate\" is \"fast\"; it must be a number from 0 to 1");
    assert_refused("{\"lora\": {\"r\": 0}}",
                   "x.json:1:11: \"lora.r\" is 0; it must be an integer from 1 to 4096");
    assert_refused("{\"lora\": {\"r\": 1.5}}",
                   "x.json:1:11: \"lora.r\" is 1.5; it must be an integer from 1 to 4096");
    assert_refused("{\"lora\": {\"use_rslora\": 1}}",
                   "x.json:1:11: \"lora.use_rslora\" is 1; it must be true or false");
    assert_refused("{\"train\": {\"optim\": \"sgd\"}}",
                   "x.json:1:12: \"train.optim\" is \"sgd\"; it must be \"adamw\", \"adamw_8bit\" or "
                   "\"paged_adamw_8bit\"");
    assert_refused("{\"lora\": {\"bias\": \"all\"}}",
                   "x.json:1:11: \"lora.bias\" is \"all\"; it must be \"none\"");
    assert_refused(
        "{\"data\": {\"max_pixels\": -5}}",
        "x.json:1:11: \"data.max_pixels\" is -5; it must be an integer from 1 to 1000000000, or null");
    assert_refused(
        "{\"data\": {\"max_train_samples\": 0}}",
        "x.json:1:11: \"data.max_train_samples\" is 0; it must be an integer of at least 1, or null");
    assert_refused("{\"eval\": {\"labels\": [\"a\", 3]}}",
                   "x.json:1:11: \"eval.labels\" is [\"a\",3]; it must be a list of strings");
    assert_refused("{\"eval\": {\"labels\": \"a\"}}",
                   "x.json:1:11: \"eval.labels\" is \"a\"; it must be a list of strings");
    assert_refused("{\"train\": {\"output_dir\": \"\"}}",
                   "x.json:1:12: \"train.output_dir\" is \"\"; it must be a path");
    assert_refused("{\"train\": {\"seed\": 1e300}}",
                   "x.json:1:12: \"train.seed\" is 1e+300; it must be an integer from 0 to 9007199254740991");
    assert_refused("{\"lora\": 5}", "x.json:1:2: \"lora\" must be an object with the keys of this section");
}

static void text_that_is_no_config_is_refused(void **state)
{
    (void)state;
    q3_config c;
    const char *const texts[] = {
        "", "[]", "7", "{", "{\"lora\": {\"r\": }}", "{} {}", "{\"lora\": {\"r\": 1,}}", "\xff"
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_int_equal(parse(&c, texts[i]), Q3_ERR_USAGE);
        assert_memory_equal(q3_error(), "x.json:1:", 9);
    }
    assert_refused("{\"lora\": {\"r\": 1, \"r\": 2}}", "x.json:1:11: the key \"lora.r\" is given twice");
    assert_refused("{\"lora\": {}, \"lora\": {}}", "x.json:1:2: the section \"lora\" is given twice");
    assert_int_equal(q3_config_load(&c, "no/such/file.json", NULL, 0), Q3_ERR_USAGE);
    assert_non_null(strstr(q3_error(), "no/such/file.json: No such file"));
}

static void null_is_the_default_and_minus_one_not_set(void **state)
{
    (void)state;
    q3_config c;
    assert_int_equal(
        parse(&c, "{\"about\": \"why\", \"lora\": {\"r\": null}, \"train\": {\"max_steps\": -1}, \"data\": "
                  "{\"label_key\": \"\", \"caption_key\": \"\", \"train\": null}}"),
        Q3_OK);
    assert_string_equal(c.about, "why");
    assert_int_equal(c.lora.r, 16);
    assert_int_equal(c.train.max_steps, Q3_CONFIG_UNSET);
    assert_null(c.data.label_key);
    assert_null(c.data.train);
    assert_string_equal(c.data.caption_key, "");
    q3_config_free(&c);
}

static void lists_may_be_one_pattern(void **state)
{
    (void)state;
    q3_config c;
    assert_int_equal(parse(&c, "{\"lora\": {\"target_modules\": \"all-linear\"}}"), Q3_OK);
    assert_true(c.lora.target_modules.pattern);
    assert_string_equal(c.lora.target_modules.items[0], "all-linear");
    assert_int_equal(q3_config_override(&c, "lora.target_modules=q_proj,v_proj", Q3_ORIGIN_OVERRIDE), Q3_OK);
    assert_false(c.lora.target_modules.pattern);
    assert_int_equal(c.lora.target_modules.n, 2);
    assert_string_equal(c.lora.target_modules.items[1], "v_proj");
    assert_int_equal(q3_config_override(&c, "lora.target_modules=.*\\.(q|v)_proj", Q3_ORIGIN_OVERRIDE),
                     Q3_OK);
    assert_true(c.lora.target_modules.pattern);
    assert_int_equal(q3_config_override(&c, "lora.target_modules=[\"o_proj\"]", Q3_ORIGIN_OVERRIDE), Q3_OK);
    assert_false(c.lora.target_modules.pattern);
    assert_string_equal(c.lora.target_modules.items[0], "o_proj");
    q3_config_free(&c);
}

static void overrides_win_over_the_file_in_order(void **state)
{
    (void)state;
    q3_config c;
    const char *text = "{\"lora\": {\"r\": 4, \"lora_alpha\": 8},\n \"train\": {\"seed\": 7}}";
    assert_int_equal(
        q3_config_parse(&c, text, strlen(text), "x.json",
                        OVERRIDES("lora.r=5", "lora.r=6", "~train.seed", "train.learning-rate=1e-3",
                                  "data.train=a=b", "lora.use_rslora=true")),
        Q3_OK);
    assert_int_equal(c.lora.r, 6);
    assert_int_equal(c.lora.lora_alpha, 8);
    assert_int_equal(c.train.seed, 42);
    assert_true(c.train.learning_rate == 1e-3);
    assert_string_equal(c.data.train, "a=b");
    assert_true(c.lora.use_rslora);
    assert_int_equal(c.places[Q3_KEY_lora_r].origin, Q3_ORIGIN_OVERRIDE);
    assert_int_equal(c.places[Q3_KEY_lora_lora_alpha].origin, Q3_ORIGIN_FILE);
    assert_int_equal(c.places[Q3_KEY_lora_lora_alpha].line, 1);
    assert_int_equal(c.places[Q3_KEY_train_seed].origin, Q3_ORIGIN_DEFAULT);
    q3_text shown = { 0 };
    q3_config_print(&shown, &c);
    assert_non_null(strstr(
        shown.data, "lora.r                                   = 6                         # override\n"));
    assert_non_null(strstr(shown.data, "= 8                         # x.json:1\n"));
    assert_non_null(strstr(shown.data, "= 42                        # default\n"));
    q3_text_free(&shown);
    q3_config_free(&c);
}

static void a_bad_override_leaves_nothing_behind(void **state)
{
    (void)state;
    q3_config c;
    const char *const bad[] = { "lora.rank=3",
                                "~lora.rank",
                                "lora.r",
                                "lora.r=",
                                "lora.r=3x",
                                "lora.r=\"3\"",
                                "=",
                                "",
                                "train.shuffle=yes",
                                "eval.labels=[\"a\"",
                                "eval.labels=a,,b",
                                "data.train=\xff",
                                "model.init=\"random" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(q3_config_load(&c, NULL, &bad[i], 1), Q3_ERR_USAGE);
        assert_memory_equal(q3_error(), "command line:", 13);
        assert_null(c.strings.base);
    }
}

static void four_bits_are_the_default_unless_eight_are_asked_for(void **state)
{
    (void)state;
    static const struct {
        const char *overrides[3];
        int n;
        bool four;
    } cases[] = { { { "quantization.load_in_8bit=false" }, 1, true },
                  { { "quantization.load_in_8bit=true" }, 1, false },
                  { { "quantization.load_in_8bit=true", "quantization.load_in_8bit=false" }, 2, true },
                  { { "quantization.load_in_4bit=true", "quantization.load_in_8bit=true" }, 2, true },
                  { { "quantization.load_in_8bit=true", "quantization.load_in_4bit=true",
                      "~quantization.load_in_4bit" },
                    3,
                    false } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        q3_config c;
        assert_int_equal(q3_config_load(&c, NULL, cases[i].overrides, cases[i].n), Q3_OK);
        assert_int_equal(c.quantization.load_in_4bit, cases[i].four);
        q3_config_free(&c);
    }
}

static void rules_between_keys_name_the_keys(void **state)
{
    (void)state;
    assert_unsound(OVERRIDES("train.tune=full"),
                   "command line: \"train.tune\" is \"full\" and \"quantization.load_in_4bit\"");
    assert_unsound(OVERRIDES("train.tune=full", "quantization.load_in_4bit=false", "lora.init_adapter=a"),
                   "\"lora.init_adapter\"");
    assert_sound(OVERRIDES("train.tune=full", "quantization.load_in_4bit=false"));
    assert_sound(OVERRIDES("quantization.load_in_8bit=true"));
    assert_sound(OVERRIDES("quantization.load_in_8bit=true", "quantization.load_in_4bit=false"));
    assert_unsound(OVERRIDES("quantization.load_in_4bit=true", "quantization.load_in_8bit=true"),
                   "\"quantization.load_in_8bit\" is true and \"quantization.load_in_4bit\" is true");
    assert_unsound(OVERRIDES("train.tune=full", "quantization.load_in_8bit=true"),
                   "\"train.tune\" is \"full\" and \"quantization.load_in_8bit\"");
    if (q3_device_built())
        assert_sound(OVERRIDES("model.device=cuda:1"));
    else
        assert_unsound(OVERRIDES("model.device=cuda:1"), "no CUDA");
    assert_unsound(OVERRIDES("model.device=cudo"), "\"model.device\" is \"cudo\"");
    assert_unsound(OVERRIDES("model.device=cpu", "model.dtype=bfloat16"), "\"model.dtype\"");
    assert_unsound(OVERRIDES("quantization.bnb_4bit_compute_dtype=bfloat16"), "bnb_4bit_compute_dtype");
    assert_unsound(OVERRIDES("train.eval_strategy=epoch"), "\"train.save_strategy\" is \"steps\"");
    assert_unsound(OVERRIDES("train.save_strategy=no"), "\"train.eval_strategy\" is \"steps\"");
    assert_sound(OVERRIDES("train.eval_strategy=epoch", "train.load_best_model_at_end=false"));
    assert_unsound(OVERRIDES("train.save_steps=75"),
                   "\"train.save_steps\" is 75 and \"train.eval_steps\" is 50");
    assert_sound(OVERRIDES("train.save_steps=100"));
    assert_unsound(OVERRIDES("train.lr_scheduler_type=cosine_with_min_lr"), "\"train.min_lr_rate\"");
    assert_unsound(OVERRIDES("train.min_lr_rate=0.1"), "\"train.lr_scheduler_type\"");
    assert_sound(OVERRIDES("train.min_lr_rate=0", "train.lr_scheduler_type=cosine_with_min_lr"));
    assert_unsound(OVERRIDES("train.lr_scheduler_type=constant", "train.warmup_steps=5"),
                   "constant_with_warmup");
    assert_sound(OVERRIDES("train.lr_scheduler_type=constant"));
    assert_unsound(OVERRIDES("train.max_steps=10", "train.warmup_steps=10"), "\"train.max_steps\" is 10");
    assert_unsound(OVERRIDES("train.num_train_epochs=0"), "nothing would be trained");
    assert_unsound(OVERRIDES("lora.lora_dropout=1"), "below 1");
    assert_unsound(OVERRIDES("lora.target_modules=[]"), "empty");
    assert_unsound(OVERRIDES("train.adam_beta1=1"), "adam_beta1");
    assert_unsound(OVERRIDES("train.adam_beta2=1"), "adam_beta2");
    assert_unsound(OVERRIDES("data.min_pixels=9", "data.max_pixels=8"), "\"data.max_pixels\", 8");
    assert_unsound(OVERRIDES("data.eval=a.jsonl", "data.eval_split=test"), "leave out one of them");
    assert_unsound(OVERRIDES("data.target_template={label}"), "\"data.label_key\"");
    assert_unsound(OVERRIDES("data.label_names=no,yes"), "\"data.label_key\"");
    assert_unsound(OVERRIDES("data.image_template=images/id}.jpg"), "a field in braces");
    assert_sound(OVERRIDES("data.label_names=no,yes", "data.label_key=l", "data.image_template=i/{id}.jpg"));
    assert_unsound(OVERRIDES("data.system_prompt=@"), "file name");
    assert_unsound(OVERRIDES("eval.temperature=0.7"), "\"eval.do_sample\" is false");
    assert_unsound(OVERRIDES("eval.temperature=0", "eval.do_sample=true"), "above 0");
    assert_unsound(OVERRIDES("eval.top_p=0", "eval.do_sample=true"), "above 0");
    assert_unsound(OVERRIDES("eval.repetition_penalty=0"), "above 0");
    assert_sound(OVERRIDES("eval.repetition_penalty=1.05"));
    assert_unsound(OVERRIDES("eval.during=true", "train.eval_strategy=no"),
                   "\"eval.during\" is true and \"train.eval_strategy\" is \"no\"");
    assert_unsound(OVERRIDES("train.metric_for_best_model=gen_eval/macro_f1"), "\"eval.during\" is false");
    assert_sound(OVERRIDES("train.metric_for_best_model=gen_eval/macro_f1", "eval.during=true"));
    assert_sound(OVERRIDES("train.early_stopping_patience=3", "train.early_stopping_threshold=0.01"));
    assert_unsound(OVERRIDES("train.early_stopping_threshold=0.01"), "\"train.early_stopping_patience\"");
    assert_unsound(OVERRIDES("train.early_stopping_patience=3", "train.load_best_model_at_end=false"),
                   "\"train.load_best_model_at_end\" is false");
    assert_unsound(
        OVERRIDES("train.early_stopping_patience=3", "train.eval_strategy=no", "train.save_strategy=no"),
        "\"train.eval_strategy\" is \"no\"");
    assert_unsound(OVERRIDES("eval.labels=a"), "at least 2");
    assert_unsound(OVERRIDES("eval.labels=a,b,a"), "\"a\" twice");
    assert_sound(OVERRIDES("train.report_to=wandb,tensorboard"));
    assert_unsound(OVERRIDES("train.report_to=tensorbord"), "did you mean \"tensorboard\"?");
    assert_unsound(OVERRIDES("train.report_to=comet_ml"), "it takes tensorboard, mlflow, wandb and none");
    assert_unsound(OVERRIDES("train.report_to=none,wandb"), "\"none\" beside others");
}

static void a_rule_points_into_the_file(void **state)
{
    (void)state;
    q3_config c;
    assert_int_equal(parse(&c, "{\n \"train\": {\n  \"tune\": \"full\"}}"), Q3_OK);
    assert_int_equal(q3_config_check(&c), Q3_ERR_USAGE);
    assert_memory_equal(q3_error(), "x.json:3:3: \"train.tune\"", 24);
    q3_config_free(&c);
}

static void the_effective_config_loads_to_the_same_values(void **state)
{
    (void)state;
    q3_config a, b;
    int ids[Q3_CONFIG_KEYS];
    assert_int_equal(
        q3_config_load(&a, "configs/pretrain-tiny.json",
                       OVERRIDES("data.system_prompt=a \"b\"\n\xc3\xa9", "lora.target_modules=.*q",
                                 "train.learning_rate=0.00012345678901234567", "about=x",
                                 "train.seed=9007199254740991", "eval.labels=[]")),
        Q3_OK);
    q3_text json = { 0 };
    q3_config_json(&json, &a);
    assert_int_equal(q3_config_parse(&b, json.data, json.size, "copy", NULL, 0), Q3_OK);
    assert_int_equal(q3_config_diff(ids, &a, &b), 0);
    assert_string_equal(b.about, "x");
    assert_int_equal(b.train.seed, 9007199254740991);
    assert_int_equal(q3_config_override(&b, "lora.r=3", Q3_ORIGIN_OVERRIDE), Q3_OK);
    assert_int_equal(q3_config_override(&b, "eval.labels=a,b", Q3_ORIGIN_OVERRIDE), Q3_OK);
    assert_int_equal(q3_config_override(&b, "about=y", Q3_ORIGIN_OVERRIDE), Q3_OK);
    assert_int_equal(q3_config_diff(ids, &a, &b), 2);
    assert_int_equal(ids[0], Q3_KEY_lora_r);
    assert_int_equal(ids[1], Q3_KEY_eval_labels);
    q3_text_free(&json);
    q3_config_free(&a);
    q3_config_free(&b);
}

static void the_configs_of_the_repository_are_sound(void **state)
{
    (void)state;
    static const char *const files[] = { "configs/sarcasm.json",
                                         "configs/sarcasm-qwen3-vl-2b.json",
                                         "configs/sarcasm-qwen3-vl-4b.json",
                                         "configs/sarcasm-qwen3-vl-8b.json",
                                         "configs/mmsd2-qwen3-vl-2b.json",
                                         "configs/pretrain-tiny.json" };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        q3_config c;
        if (q3_config_load(&c, files[i], NULL, 0) != Q3_OK || q3_config_check(&c) != Q3_OK)
            fail_msg("%s", q3_error());
        assert_true(c.about && strlen(c.about) > 50);
        assert_true(c.model.path && c.data.train);
        q3_config_free(&c);
    }
}

static void the_presets_for_real_models_are_the_pipelines(void **state)
{
    (void)state;
    q3_config c;
    assert_int_equal(q3_config_load(&c, "configs/sarcasm-qwen3-vl-8b.json", NULL, 0), Q3_OK);
    assert_true(c.train.learning_rate == 2e-4 && c.train.warmup_ratio == 0.05 &&
                c.train.num_train_epochs == 3);
    assert_int_equal(c.train.per_device_train_batch_size * c.train.gradient_accumulation_steps, 64);
    assert_int_equal(c.train.optim, Q3_CONFIG_OPTIM_PAGED_ADAMW_8BIT);
    assert_true(c.train.early_stopping_patience == 3 && c.train.early_stopping_threshold == 0.01);
    assert_int_equal(c.data.max_side, 1536);
    assert_int_equal(c.eval.labels.n, 3);
    assert_string_equal(c.eval.labels.items[1], "non_sarcastic");
    q3_config_free(&c);
}

static void the_system_prompt_may_lie_in_a_file(void **state)
{
    (void)state;
    const char *dir = getenv("Q3_TEST_DIR");
    char path[1024], override[1100];
    const char *prompt;
    q3_config c;
    assert_int_equal(q3_dir_create(dir ? dir : "/tmp/q3-test-config"), Q3_OK);
    snprintf(path, sizeof path, "%s/prompt.txt", dir ? dir : "/tmp/q3-test-config");
    snprintf(override, sizeof override, "data.system_prompt=@%s", path);
    assert_int_equal(q3_file_write(path, "Be brief.\n", 10), Q3_OK);
    assert_int_equal(q3_config_load(&c, NULL, OVERRIDES(override)), Q3_OK);
    assert_int_equal(q3_config_system_prompt(&prompt, &c), Q3_OK);
    assert_string_equal(prompt, "Be brief.\n");
    assert_int_equal(q3_file_write(path, "a\0b", 3), Q3_OK);
    assert_int_equal(q3_config_system_prompt(&prompt, &c), Q3_ERR_USAGE);
    assert_int_equal(q3_config_set(&c, "data.system_prompt", "@no/such/file", Q3_ORIGIN_OPTION), Q3_OK);
    assert_int_equal(q3_config_system_prompt(&prompt, &c), Q3_ERR_USAGE);
    assert_non_null(strstr(q3_error(), "no/such/file"));
    assert_int_equal(q3_config_set(&c, "data.system_prompt", "plain", Q3_ORIGIN_OPTION), Q3_OK);
    assert_int_equal(q3_config_system_prompt(&prompt, &c), Q3_OK);
    assert_string_equal(prompt, "plain");
    q3_config_free(&c);
}

static void the_manual_tells_all_keys(void **state)
{
    (void)state;
    q3_text all = { 0 }, one = { 0 }, none = { 0 };
    q3_config_manual(&all, NULL);
    for (int id = 0; id < Q3_CONFIG_KEYS; id++)
        assert_non_null(strstr(all.data, q3_config_table[id].help));
    q3_config_manual(&one, "lora");
    assert_non_null(strstr(one.data, "an integer from 1 to 4096; default 16"));
    assert_null(strstr(one.data, "train."));
    q3_config_manual(&none, "nothing");
    assert_int_equal(none.size, 0);
    q3_text_free(&all);
    q3_text_free(&one);
}

static void every_failed_allocation_is_reported_and_leaks_nothing(void **state)
{
    (void)state;
    const char *text = "{\"about\": \"x\", \"lora\": {\"target_modules\": [\"a\", \"b\"]}}";
    q3_status st = Q3_ERR_MEMORY;
    int attempts = 0;
    for (; st != Q3_OK && attempts < 5000; attempts++) {
        q3_config c;
        q3_heap_fail_at(attempts + 1);
        st = q3_config_parse(&c, text, strlen(text), "x.json", OVERRIDES("eval.labels=a,b", "lora.r=4"));
        q3_heap_fail_at(0);
        if (st == Q3_OK)
            q3_config_free(&c);
        else
            assert_null(c.strings.base);
    }
    assert_int_equal(st, Q3_OK);
    assert_true(attempts > 100); // it did fail on the way
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_those_of_the_pipeline),
        cmocka_unit_test(every_row_of_the_table_holds_together),
        cmocka_unit_test(words_stand_in_the_order_of_their_enumeration),
        cmocka_unit_test(an_unknown_key_is_named_with_its_line_and_the_nearest_key),
        cmocka_unit_test(a_wrong_value_is_shown_with_what_fits),
        cmocka_unit_test(text_that_is_no_config_is_refused),
        cmocka_unit_test(null_is_the_default_and_minus_one_not_set),
        cmocka_unit_test(lists_may_be_one_pattern),
        cmocka_unit_test(overrides_win_over_the_file_in_order),
        cmocka_unit_test(a_bad_override_leaves_nothing_behind),
        cmocka_unit_test(four_bits_are_the_default_unless_eight_are_asked_for),
        cmocka_unit_test(rules_between_keys_name_the_keys),
        cmocka_unit_test(a_rule_points_into_the_file),
        cmocka_unit_test(the_effective_config_loads_to_the_same_values),
        cmocka_unit_test(the_configs_of_the_repository_are_sound),
        cmocka_unit_test(the_presets_for_real_models_are_the_pipelines),
        cmocka_unit_test(the_system_prompt_may_lie_in_a_file),
        cmocka_unit_test(the_manual_tells_all_keys),
        cmocka_unit_test(every_failed_allocation_is_reported_and_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
