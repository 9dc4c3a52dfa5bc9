/* The scripts for shells, asked as the shells ask them. zsh and fish read theirs where they are installed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "core/json.h"
#include "model/weights.h"
#include "tests/support/ask.h"

/* Asks the function as bash does, which ends words at = too; prints what it offers, and what it asks of
 * readline. */
static const char driver[] = "compopt() { told=\"$told $*\"; }\n"
                             "ask() {\n"
                             "    local told= COMP_LINE=$1 COMP_POINT=${#1} spaced=${1//=/ = }x\n"
                             "    read -ra COMP_WORDS <<< \"$spaced\"\n"
                             "    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n"
                             "    _qwen3_sft\n"
                             "    echo \"$1> ${COMPREPLY[*]} |$told\"\n"
                             "}\n";

static q3_process script(const char *shell)
{
    char arguments[64];
    snprintf(arguments, sizeof arguments, "completion %s", shell);
    q3_process p = q3_ask(Q3_PROGRAM, arguments, NULL, 0);
    assert_int_equal(p.code, 0);
    assert_string_equal(p.err, "");
    return p;
}

/* What bash says to the script and `more` behind it. */
static q3_process bash(const char *more)
{
    q3_text text = { 0 };
    q3_process p = script("bash");
    q3_text_printf(&text, "%s%s", p.out, driver);
    q3_text_printf(&text, "%s", more);
    q3_process_free(&p);
    p = q3_ask("bash", "--norc --noprofile", text.data, text.size);
    q3_text_free(&text);
    assert_int_equal(p.code, 0);
    assert_string_equal(p.err, "");
    return p;
}

/* `line` is completed by `offer`, and `told` to readline: "+o default" no files, "-o plusdirs" directories. */
typedef struct question {
    const char *line, *offer, *told;
} question;

#define WORDS "+o default"

static const question questions[] = {
    { "tr", "train trace", WORDS },
    { "--c", "--config", WORDS },
    { "train --dev", "--device", WORDS },
    { "train --device ", "auto cpu cuda", WORDS },
    { "train --device=c", "cpu cuda", WORDS },
    { "--config x.json --device=cp", "cpu", WORDS },
    { "train --config ", "", "" },
    { "train --config=", "", "" },
    { "generate --model ", "", "+o default -o plusdirs" },
    { "generate --model-dir ", "", "+o default -o plusdirs" },
    { "generate --adapter x=", "", "" },
    { "generate --max-new-tokens ", "", WORDS },
    { "train --resume ", "auto", "+o default -o plusdirs" },
    { "rerank -d x --query-", "--query-image", WORDS },
    { "quantize --type n", "nf4", WORDS },
    { "trace --gradient_checkpointing ", "none half full", WORDS },
    { "train train.opt", "train.optim=", WORDS " -o nospace" },
    { "train train.optim=adamw_", "adamw_8bit", WORDS },
    { "train --train.optim adamw_", "adamw_8bit", WORDS },
    { "train --set lora.r", "lora.r=", WORDS " -o nospace" },
    { "eval eval.pre=", "true false", WORDS },
    { "train data.train=", "", "" },
    { "train lora.r=", "", WORDS },
    { "config ", "show check keys", WORDS },
    { "config show lora.bi", "lora.bias=", WORDS " -o nospace" },
    { "completion ", "bash zsh fish", WORDS },
    { "help qua", "quantize quality", WORDS },
    { "help mo", "model", WORDS },
    { "doctor ", "--quiet --verbose --help", WORDS },
    { "nothing ", "", WORDS },
};
enum { N_QUESTIONS = sizeof questions / sizeof *questions };

static void bash_is_offered_what_fits_the_place(void **state)
{
    (void)state;
    q3_text asked = { 0 }, told = { 0 };
    for (int i = 0; i < N_QUESTIONS; i++) {
        const question *q = &questions[i];
        q3_text_printf(&asked, "ask 'qwen3-sft %s'\n", q->line);
        q3_text_printf(&told, "qwen3-sft %s> %s |%s%s\n", q->line, q->offer, *q->told ? " " : "", q->told);
    }
    q3_process p = bash(asked.data);
    assert_string_equal(p.out, told.data);
    q3_process_free(&p);
    q3_text_free(&asked);
    q3_text_free(&told);
}

static void without_a_break_at_the_sign_whole_words_are_offered(void **state)
{
    (void)state;
    q3_process p = bash("COMP_WORDBREAKS=\" \"\nask 'qwen3-sft train train.optim=adamw_'\n");
    assert_string_equal(p.out, "qwen3-sft train train.optim=adamw_> train.optim=adamw_8bit | +o default\n");
    q3_process_free(&p);
}

/* The program's own list of commands and of an option's words. */
static void all_commands_and_settings_are_there(void **state)
{
    (void)state;
    char name[64];
    q3_process p = script("bash"), help = q3_ask(Q3_PROGRAM, "help", NULL, 0);
    int n = 0;
    for (const char *line = strstr(help.out, "commands:\n") + 10; *line == ' ';
         line = strchr(line, '\n') + 1) {
        snprintf(name, sizeof name, "\n    %.*s)\n", (int)strcspn(line + 2, " "), line + 2);
        assert_non_null(strstr(p.out, name));
        n++;
    }
    assert_true(n > 15);
    assert_non_null(strstr(p.out, " train.learning_rate= "));
    const char *words = strstr(p.out, "--weights|--quant) place=words values='") + 39;
    for (n = 0; *words != '\''; n++) {
        q3_load_options load = { 0 };
        size_t size = strcspn(words, " '");
        snprintf(name, sizeof name, "%.*s", (int)size, words);
        assert_int_equal(q3_load_options_word(&load, name), Q3_OK);
        words += size + (words[size] == ' ');
    }
    assert_int_equal(n, 8);
    q3_process_free(&p);
    q3_process_free(&help);
}

static void expect_readable(const char *shell, const char *arguments)
{
    q3_process p = script(shell), there = q3_ask(shell, "-c true", NULL, 0);
    bool installed = there.code == 0;
    if (installed) {
        q3_process reader = q3_ask(shell, arguments, p.out, strlen(p.out));
        assert_string_equal(reader.err, "");
        assert_int_equal(reader.code, 0);
        q3_process_free(&reader);
    }
    q3_process_free(&p);
    q3_process_free(&there);
    if (!installed)
        skip();
}

static void zsh_reads_its_script(void **state)
{
    (void)state;
    expect_readable("zsh", "-n");
}

static void fish_reads_its_script(void **state)
{
    (void)state;
    expect_readable("fish", "--no-config -n /dev/stdin");
}

static void fish_is_offered_what_fits_the_place(void **state)
{
    (void)state;
    q3_process there = q3_ask("fish", "-c true", NULL, 0);
    bool installed = there.code == 0;
    q3_process_free(&there);
    if (!installed)
        skip();
    q3_text text = { 0 };
    q3_process p = script("fish");
    q3_text_printf(&text,
                   "%scomplete -C 'qwen3-sft train --loss'\ncomplete -C 'qwen3-sft quantize --type nf'\n"
                   "complete -C 'qwen3-sft train train.optim=paged'\ncomplete -C 'qwen3-sft help qual'\n",
                   p.out);
    q3_process_free(&p);
    p = q3_ask("fish", "--no-config", text.data, text.size);
    assert_string_equal(p.err, "");
    assert_string_equal(p.out,
                        "nf4\tnf4, fp4, int8, int4, int4-g32\ntrain.optim=paged_adamw_8bit\nquality\n");
    q3_process_free(&p);
    q3_text_free(&text);
}

static void other_shells_are_refused(void **state)
{
    (void)state;
    const char *sentence =
        "completion needs the shell's name: bash, zsh or fish (see qwen3-sft completion --help)";
    q3_ask_refused(Q3_PROGRAM, "completion", 2, sentence);
    q3_ask_refused(Q3_PROGRAM, "completion tcsh", 2, sentence);
}

static void the_manual_page_holds_commands_options_and_settings(void **state)
{
    (void)state;
    q3_process p = q3_ask(Q3_PROGRAM, "help --man", NULL, 0);
    assert_int_equal(p.code, 0);
    assert_non_null(strstr(p.out, ".SS \\&train\n"));
    assert_non_null(strstr(p.out, "\\fB\\&\\-q, \\-\\-quiet\\fR\n"));
    assert_non_null(strstr(
        p.out,
        "\\fB\\&train.learning_rate\\fR\n\\&a number from 0 to 1; peak learning rate (default: 2e\\-4)\n"));
    q3_process_free(&p);
    q3_ask_refused(Q3_PROGRAM, "help --man train", 2,
                   "help --man is about all commands; leave out \"train\"");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bash_is_offered_what_fits_the_place),
        cmocka_unit_test(without_a_break_at_the_sign_whole_words_are_offered),
        cmocka_unit_test(all_commands_and_settings_are_there),
        cmocka_unit_test(zsh_reads_its_script),
        cmocka_unit_test(fish_reads_its_script),
        cmocka_unit_test(fish_is_offered_what_fits_the_place),
        cmocka_unit_test(other_shells_are_refused),
        cmocka_unit_test(the_manual_page_holds_commands_options_and_settings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
