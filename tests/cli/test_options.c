#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "kernels/cpu.h"
#include "kernels/pool.h"

#include "cli/options.c" // the program's rooms are a library, its command line is not

static q3_status nothing(const q3_options *o)
{
    (void)o;
    return Q3_OK;
}

static const q3_option own[] = {
    { .name = "output-dir",
      .kind = Q3_OPTION_VALUE,
      .value = "DIR",
      .key = "train.output_dir",
      .help = "where to" },
    { .name = "resume", .kind = Q3_OPTION_OPTIONAL, .value = "auto|DIR", .bare = "auto", .help = "go on" },
    { .name = "overwrite", .kind = Q3_OPTION_FLAG, .help = "replace" },
    { .name = "loss", .kind = Q3_OPTION_VALUE, .value = "micro_mean|token_mean", .help = "which" },
};

static const q3_option listed[] = {
    { .name = "image",
      .kind = Q3_OPTION_VALUE,
      .value = "FILE",
      .help = "a picture",
      .alias = "the-media",
      .repeats = true },
    { .name = "heat", .kind = Q3_OPTION_VALUE, .value = "X", .initial = "1", .help = "how hot" },
    { .name = "cold", .kind = Q3_OPTION_FLAG, .help = "not hot" },
    { .name = "input", .letter = 'i', .kind = Q3_OPTION_ASSIGN, .value = "KEY=VALUE", .help = "any" },
};
static const q3_option_list list = { "pictures", listed, 4 };
static const q3_command with_list = {
    .name = "listed", .summary = "", .usage = "", .example = "listed", .lists = { &list }, .run = nothing
};

static const q3_command command = { .name = "try",
                                    .summary = "a command",
                                    .usage = "--config FILE",
                                    .example = "try",
                                    .options = own,
                                    .n_options = 4,
                                    .groups = Q3_COMMAND_CONFIG | Q3_COMMAND_ENGINE,
                                    .max_words = 1,
                                    .run = nothing };

static const q3_command bare = {
    .name = "bare", .summary = "", .usage = "", .example = "bare", .run = nothing
};

#define ARGS(...)                                                                                            \
    (int)(sizeof((const char *[]){ __VA_ARGS__ }) / sizeof(char *)), (const char *const[])                   \
    {                                                                                                        \
        __VA_ARGS__                                                                                          \
    }

static void assert_refused(int argc, const char *const *argv, const char *sentence)
{
    q3_options o;
    assert_int_equal(q3_options_parse(&o, &command, argc, argv), Q3_ERR_USAGE);
    assert_string_equal(q3_error(), sentence);
    assert_null(o.mem.base);
}

static void kebab_and_snake_and_equals_mean_the_same(void **state)
{
    (void)state;
    q3_options o;
    const char *const forms[][2] = { { "--output-dir", "a" },
                                     { "--output_dir", "a" },
                                     { "--output-dir=a", "-q" },
                                     { "--output_dir=a", "-q" } };
    for (int i = 0; i < 4; i++) {
        assert_int_equal(q3_options_parse(&o, &command, 2, forms[i]), Q3_OK);
        assert_string_equal(q3_options_get(&o, "output-dir"), "a");
        assert_int_equal(q3_options_given(&o, "quiet"), i >= 2);
        q3_options_free(&o);
    }
}

static void an_optional_value_is_not_an_option_or_an_override(void **state)
{
    (void)state;
    q3_options o;
    assert_int_equal(q3_options_parse(&o, &command, ARGS("--resume", "lora.r=3")), Q3_OK);
    assert_string_equal(q3_options_get(&o, "resume"), "auto");
    assert_int_equal(o.n_overrides, 1);
    q3_options_free(&o);
    assert_int_equal(q3_options_parse(&o, &command, ARGS("--resume", "--overwrite")), Q3_OK);
    assert_string_equal(q3_options_get(&o, "resume"), "auto");
    assert_true(q3_options_given(&o, "overwrite"));
    q3_options_free(&o);
    assert_int_equal(q3_options_parse(&o, &command, ARGS("--resume", "runs/x/checkpoint-5")), Q3_OK);
    assert_string_equal(q3_options_get(&o, "resume"), "runs/x/checkpoint-5");
    q3_options_free(&o);
    assert_int_equal(q3_options_parse(&o, &command, ARGS("--resume=a=b", "--resume")), Q3_OK);
    assert_string_equal(q3_options_get(&o, "resume"), "auto"); // the last one counts
    q3_options_free(&o);
    assert_int_equal(q3_options_parse(&o, &command, 0, NULL), Q3_OK);
    assert_null(q3_options_get(&o, "resume"));
    q3_options_free(&o);
}

static void mistakes_are_named_with_the_nearest_option(void **state)
{
    (void)state;
    assert_refused(ARGS("--ouput-dir", "a"),
                   "unknown option --ouput-dir; did you mean --output-dir? (see qwen3-sft try --help)");
    assert_refused(
        ARGS("--learning-rate", "1"),
        "unknown option --learning-rate; did you mean --train.learning_rate? (see qwen3-sft try --help)");
    assert_refused(ARGS("--zzzzzzzzz"), "unknown option --zzzzzzzzz (see qwen3-sft try --help)");
    assert_refused(ARGS("-x"), "unknown option -x (see qwen3-sft try --help)");
    assert_refused(ARGS("--output-dir"), "--output-dir needs a value: --output-dir DIR");
    assert_refused(ARGS("--output-dir", "--overwrite"), "--output-dir needs a value: --output-dir DIR");
    assert_refused(ARGS("--lora.r"), "--lora.r needs a value: --lora.r VALUE");
    assert_refused(ARGS("--overwrite=yes"), "--overwrite takes no value");
    assert_refused(ARGS("one", "two"), "unexpected word \"two\" (see qwen3-sft try --help)");
    assert_refused(ARGS("--set", "lora.r"), "--set lora.r: write --set key.sub=value");
    q3_options o;
    assert_int_equal(q3_options_parse(&o, &bare, ARGS("lora.r=3")), Q3_ERR_USAGE);
    assert_int_equal(q3_options_parse(&o, &bare, ARGS("--config", "x")), Q3_ERR_USAGE);
}

static void option_over_override_over_file_over_default(void **state)
{
    (void)state;
    q3_options o;
    q3_config c;
    assert_int_equal(
        q3_options_parse(&o, &command,
                         ARGS("--config=configs/sarcasm.json", "--output_dir", "opt", "--set",
                              "train.output_dir=over", "--lora.lora-alpha", "5", "lora.lora_alpha=7",
                              "train.max_steps=3", "~train.warmup_steps", "--train.seed=9")),
        Q3_OK);
    assert_int_equal(q3_options_config(&c, &o), Q3_OK);
    assert_string_equal(c.train.output_dir, "opt");
    assert_int_equal(c.places[Q3_KEY_train_output_dir].origin, Q3_ORIGIN_OPTION);
    assert_int_equal(c.lora.lora_alpha, 5);
    assert_int_equal(c.train.max_steps, 3);
    assert_int_equal(c.train.seed, 9);
    assert_int_equal(c.train.warmup_steps, Q3_CONFIG_UNSET);
    assert_int_equal(c.train.per_device_train_batch_size, 16);
    assert_int_equal(c.train.save_total_limit, 2);
    q3_config_free(&c);
    q3_options_free(&o);
    assert_int_equal(q3_options_parse(&o, &command, ARGS("--device", "cuda:x")), Q3_OK);
    assert_int_equal(q3_options_config(&c, &o), Q3_ERR_USAGE);
    assert_int_equal(q3_options_start(&o), Q3_ERR_USAGE);
    assert_string_equal(q3_error(), "--device is \"cuda:x\"; it must be auto, cpu, cuda or cuda:N");
    q3_options_free(&o);
    assert_int_equal(q3_options_parse(&o, &command, ARGS("--device", "cuda")), Q3_OK);
    assert_int_equal(q3_options_start(&o), q3_device_built() ? Q3_OK : Q3_ERR_USAGE);
    q3_options_free(&o);
}

static void an_option_may_be_given_several_times_under_either_name(void **state)
{
    (void)state;
    q3_options o;
    assert_int_equal(q3_options_parse(&o, &with_list,
                                      ARGS("--image", "a", "--the_media=b", "-i", "image=c=d", "-i", "heat=2",
                                           "--input=the-media=e")),
                     Q3_OK);
    const char *const want[] = { "a", "b", "c=d", "e" };
    for (int i = 0; i < 4; i++)
        assert_string_equal(q3_options_nth(&o, "image", i), want[i]);
    assert_null(q3_options_nth(&o, "image", 4));
    assert_string_equal(q3_options_get(&o, "image"), "e");
    assert_string_equal(q3_options_get(&o, "heat"), "2");
    q3_options_free(&o);
}

static void assert_list_refused(int argc, const char *const *argv, const char *sentence)
{
    q3_options o;
    assert_int_equal(q3_options_parse(&o, &with_list, argc, argv), Q3_ERR_USAGE);
    assert_string_equal(q3_error(), sentence);
}

static void an_assignment_is_checked_as_its_option_is(void **state)
{
    (void)state;
    assert_list_refused(ARGS("-i", "heat"), "--input heat: write -i key=value");
    assert_list_refused(ARGS("-i"), "--input needs a value: --input KEY=VALUE");
    assert_list_refused(ARGS("-i", "cold=1"), "--cold takes no value");
    assert_list_refused(
        ARGS("-i", "the-medio=1"),
        "unknown option --the-medio; did you mean --the-media? (see qwen3-sft listed --help)");
}

static void numbers_with_a_fraction_are_checked(void **state)
{
    (void)state;
    q3_options o;
    double x;
    assert_int_equal(q3_options_parse(&o, &with_list, ARGS("--heat", "0.25")), Q3_OK);
    assert_int_equal(q3_options_float(&x, &o, "heat", 9, 0, 1), Q3_OK);
    assert_true(x == 0.25);
    assert_int_equal(q3_options_float(&x, &o, "image", 9, 0, 1), Q3_OK);
    assert_true(x == 9);
    assert_int_equal(q3_options_float(&x, &o, "heat", 9, 0.5, 1), Q3_ERR_USAGE);
    assert_string_equal(q3_error(), "--heat is \"0.25\"; it must be a number from 0.5 to 1");
    q3_options_free(&o);
    static const char *const wrong[] = { "nan", "1e", "", "inf" };
    for (int i = 0; i < 4; i++) {
        assert_int_equal(q3_options_parse(&o, &with_list, ARGS("--heat", wrong[i])), Q3_OK);
        assert_int_equal(q3_options_float(&x, &o, "heat", 9, 0, 1), Q3_ERR_USAGE);
        q3_options_free(&o);
    }
}

static void a_list_is_named_by_its_commands_and_explained_by_itself(void **state)
{
    (void)state;
    q3_text help = { 0 }, whole = { 0 };
    q3_options_help(&help, &with_list);
    assert_non_null(
        strstr(help.data, "\npictures (`qwen3-sft help pictures` explains them):\n  --image FILE  "));
    assert_non_null(strstr(help.data, "\nprogram:\n  -q, --quiet"));
    q3_options_help_list(&whole, with_list.lists[0]);
    assert_non_null(
        strstr(whole.data, "  --image FILE                  a picture; repeatable (--the-media)\n"));
    q3_text_free(&help);
    q3_text_free(&whole);
}

static void words_behind_two_dashes_are_words(void **state)
{
    (void)state;
    q3_options o;
    assert_int_equal(q3_options_parse(&o, &command, ARGS("-v", "--", "--overwrite")), Q3_OK);
    assert_int_equal(o.n_words, 1);
    assert_string_equal(o.words[0], "--overwrite");
    assert_false(q3_options_given(&o, "overwrite"));
    q3_options_free(&o);
}

static void values_are_checked(void **state)
{
    (void)state;
    static const char *const losses[] = { "micro_mean", "token_mean", NULL };
    q3_options o;
    int64_t n;
    int choice;
    const char *text;
    assert_int_equal(q3_options_parse(&o, &command, ARGS("--threads", "3", "--loss", "token_mean")), Q3_OK);
    assert_int_equal(q3_options_int(&n, &o, "threads", 0, 0, 256), Q3_OK);
    assert_int_equal(n, 3);
    assert_int_equal(q3_options_choice(&choice, &o, "loss", 0, losses), Q3_OK);
    assert_int_equal(choice, 1);
    assert_int_equal(q3_options_need(&text, &o, "loss"), Q3_OK);
    assert_int_equal(q3_options_need(&text, &o, "config"), Q3_ERR_USAGE);
    assert_string_equal(q3_error(), "try needs --config FILE (see qwen3-sft try --help)");
    q3_options_free(&o);
    const char *const bad[] = { "--threads=257", "--threads=-1", "--threads=2x",
                                "--threads=", "--threads=9e9" };
    for (int i = 0; i < 5; i++) {
        assert_int_equal(q3_options_parse(&o, &command, 1, &bad[i]), Q3_OK);
        assert_int_equal(q3_options_int(&n, &o, "threads", 0, 0, 256), Q3_ERR_USAGE);
        q3_options_free(&o);
    }
    assert_int_equal(q3_options_parse(&o, &command, ARGS("--loss=mean")), Q3_OK);
    assert_int_equal(q3_options_choice(&choice, &o, "loss", 0, losses), Q3_ERR_USAGE);
    assert_string_equal(q3_error(), "--loss is \"mean\"; it must be micro_mean or token_mean");
    q3_options_free(&o);
}

static void the_engine_starts_as_asked(void **state)
{
    (void)state;
    q3_options o;
    assert_int_equal(q3_options_parse(&o, &command, ARGS("-q", "--threads", "2", "--cpu-level", "portable")),
                     Q3_OK);
    assert_int_equal(q3_options_start(&o), Q3_OK);
    assert_int_equal(q3_pool_threads(), 2);
    assert_int_equal(q3_cpu_level(), Q3_CPU_PORTABLE);
    q3_pool_stop();
    q3_options_free(&o);
    assert_int_equal(q3_options_parse(&o, &command, ARGS("--cpu-level", "sse9")), Q3_OK);
    assert_int_equal(q3_options_start(&o), Q3_ERR_USAGE);
    assert_string_equal(q3_error(), "--cpu-level is \"sse9\"; it must be portable, avx2 or avx512");
    q3_options_free(&o);
}

/* ---- the program ---- */

typedef struct answer {
    char out[16384], err[4096];
    int code;
} answer;

static void run_program(answer *a, const char *arguments)
{
    char line[2048];
    for (int stream = 0; stream < 2; stream++) { // once for stdout, once for stderr
        char *to = stream ? a->err : a->out;
        size_t room = stream ? sizeof a->err : sizeof a->out;
        snprintf(line, sizeof line, "%s %s %s", Q3_PROGRAM, arguments,
                 stream ? "2>&1 >/dev/null" : "2>/dev/null");
        FILE *p = popen(line, "r");
        assert_non_null(p);
        to[fread(to, 1, room - 1, p)] = 0;
        int status = pclose(p);
        assert_true(WIFEXITED(status));
        a->code = WEXITSTATUS(status);
    }
}

static void assert_program_refuses(const char *arguments, const char *sentence)
{
    answer a;
    run_program(&a, arguments);
    assert_int_equal(a.code, 2);
    assert_string_equal(a.out, "");
    assert_string_equal(a.err, sentence);
}

static void usage_errors_are_one_line_and_exit_2(void **state)
{
    (void)state;
    assert_program_refuses("confg", "qwen3-sft: unknown command \"confg\"; did you mean \"config\"?\n");
    assert_program_refuses("--zzz",
                           "qwen3-sft: --zzz stands where a command should; `qwen3-sft help` lists them\n");
    assert_program_refuses("--confg x.json", "qwen3-sft: unknown option --confg; did you mean --config?\n");
    assert_program_refuses("version -q -v", "qwen3-sft: --quiet and --verbose exclude each other\n");
    assert_program_refuses(
        "config", "qwen3-sft: config needs a word: show, check or keys (see qwen3-sft config --help)\n");
    assert_program_refuses("config check",
                           "qwen3-sft: config needs --config FILE (see qwen3-sft config --help)\n");
    assert_program_refuses("config check --config tests/fuzz/corpus/config_file/unknown_key.json",
                           "qwen3-sft: tests/fuzz/corpus/config_file/unknown_key.json:1:43: unknown key "
                           "\"lora.rank\"; did you mean \"lora.r\"?\n");
    assert_program_refuses("config keys lorra",
                           "qwen3-sft: unknown section \"lorra\"; `qwen3-sft config keys` lists all\n");
    assert_program_refuses("config shw",
                           "qwen3-sft: config \"shw\": write config show (see qwen3-sft config --help)\n");
}

static void help_fits_one_screen_and_exits_0(void **state)
{
    (void)state;
    static const char *const names[] = { "config", "help", "version" };
    for (int i = 0; i < 3; i++) {
        answer a, b;
        char line[64];
        snprintf(line, sizeof line, "%s --help", names[i]);
        run_program(&a, line);
        snprintf(line, sizeof line, "help %s", names[i]);
        run_program(&b, line);
        assert_int_equal(a.code, 0);
        assert_string_equal(a.err, "");
        assert_string_equal(a.out, b.out);
        assert_non_null(strstr(a.out, "example:\n  qwen3-sft "));
    }
    q3_text full_help = { 0 };
    q3_options_help(&full_help, &command); // both groups
    int lines = 0, column = 0;
    for (const char *p = full_help.data; *p; p++) {
        column = *p == '\n' ? 0 : column + 1;
        lines += *p == '\n';
        assert_true(column <= 80);
    }
    assert_true(lines <= 24);
    assert_non_null(strstr(full_help.data, "(default: auto)"));
    q3_text_free(&full_help);
}

/* Of a tall terminal, 80 columns wide. */
static void no_help_is_longer_than_a_screen(void **state)
{
    (void)state;
    static const char *const names[] = { "train",   "eval",       "generate", "chat",     "rerank",
                                         "serve",   "tokenize",   "trace",    "quantize", "merge",
                                         "bench",   "quality",    "config",   "download", "model",
                                         "answers", "completion", NULL };
    for (int i = 0; names[i]; i++) {
        answer a;
        char line[64];
        snprintf(line, sizeof line, "help %s", names[i]);
        run_program(&a, line);
        assert_int_equal(a.code, 0);
        int lines = 0, column = 0;
        for (const char *p = a.out; *p; p++) {
            column = *p == '\n' ? 0 : column + 1;
            lines += *p == '\n';
            assert_true(column <= 80);
        }
        assert_true(lines <= 54);
    }
}

static void the_bare_program_prints_help_and_exits_2(void **state)
{
    (void)state;
    answer a;
    run_program(&a, "");
    assert_int_equal(a.code, 2);
    assert_non_null(strstr(a.out, "commands:\n"));
    run_program(&a, "--help");
    assert_int_equal(a.code, 0);
    assert_non_null(strstr(a.out, "commands:\n"));
    run_program(&a, "--version");
    assert_int_equal(a.code, 0);
    assert_memory_equal(a.out, "qwen3-sft " Q3_VERSION "\n", strlen("qwen3-sft " Q3_VERSION "\n"));
}

static void config_show_tells_the_origin_and_its_json_loads_again(void **state)
{
    (void)state;
    answer a;
    run_program(&a, "config show --config configs/sarcasm.json train.max_steps=60 --train.seed 3");
    assert_int_equal(a.code, 0);
    assert_non_null(
        strstr(a.out, "train.max_steps                          = 60                        # override\n"));
    assert_non_null(
        strstr(a.out, "train.seed                               = 3                         # option\n"));
    assert_non_null(strstr(a.out, "# configs/sarcasm.json:4\n"));
    run_program(&a, "config show --json --config configs/sarcasm.json");
    assert_int_equal(a.code, 0);
    q3_config c, d;
    int ids[Q3_CONFIG_KEYS];
    assert_int_equal(q3_config_parse(&c, a.out, strlen(a.out), "out", NULL, 0), Q3_OK);
    assert_int_equal(q3_config_load(&d, "configs/sarcasm.json", NULL, 0), Q3_OK);
    assert_int_equal(q3_config_diff(ids, &c, &d), 0);
    q3_config_free(&c);
    q3_config_free(&d);
}

static void a_full_disk_is_noticed(void **state)
{
    (void)state;
    int status = system(Q3_PROGRAM " config keys >/dev/full 2>/dev/null");
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    status = system(Q3_PROGRAM " help >/dev/full 2>/dev/null");
    assert_int_equal(WEXITSTATUS(status), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kebab_and_snake_and_equals_mean_the_same),
        cmocka_unit_test(an_optional_value_is_not_an_option_or_an_override),
        cmocka_unit_test(mistakes_are_named_with_the_nearest_option),
        cmocka_unit_test(option_over_override_over_file_over_default),
        cmocka_unit_test(an_option_may_be_given_several_times_under_either_name),
        cmocka_unit_test(an_assignment_is_checked_as_its_option_is),
        cmocka_unit_test(numbers_with_a_fraction_are_checked),
        cmocka_unit_test(a_list_is_named_by_its_commands_and_explained_by_itself),
        cmocka_unit_test(no_help_is_longer_than_a_screen),
        cmocka_unit_test(words_behind_two_dashes_are_words),
        cmocka_unit_test(values_are_checked),
        cmocka_unit_test(the_engine_starts_as_asked),
        cmocka_unit_test(usage_errors_are_one_line_and_exit_2),
        cmocka_unit_test(help_fits_one_screen_and_exits_0),
        cmocka_unit_test(the_bare_program_prints_help_and_exits_2),
        cmocka_unit_test(config_show_tells_the_origin_and_its_json_loads_again),
        cmocka_unit_test(a_full_disk_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
