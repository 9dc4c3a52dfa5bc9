/* completion bash|zsh|fish: a script for the shell, on stdout. */
#include "cli/completion.h"

#include <string.h>

static q3_status run(const q3_options *o)
{
    static const char *const names[] = { "bash", "zsh", "fish" };
    static void (*const writers[])(q3_text *) = { q3_completion_bash, q3_completion_zsh, q3_completion_fish };
    const char *shell = o->n_words ? o->words[0] : "";
    for (int i = 0; i < 3; i++) {
        if (strcmp(shell, names[i]) != 0)
            continue;
        q3_text script = { 0 };
        writers[i](&script);
        return q3_options_print(&script);
    }
    return q3_fail(Q3_ERR_USAGE,
                   "completion needs the shell's name: bash, zsh or fish (see qwen3-sft completion --help)");
}

const q3_command q3_command_completion = {
    .name = "completion",
    .summary = "a script that lets a shell complete what is typed behind qwen3-sft",
    .usage = "bash|zsh|fish",
    .example = "completion bash >> ~/.bash_completion",
    .max_words = 1,
    .run = run,
};
