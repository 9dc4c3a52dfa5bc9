/* cli/completion.h - scripts that complete the program's command line in bash, zsh and fish.
 *
 * They are written from the tables of commands (cli/commands.h) and of settings (train/config_list.h) and hold
 * all they need: pressing TAB starts no process of the program. What follows an option is told by its `value`:
 * DIR and FILE are such, words in small letters between | are offered as they stand, and `words` lists more.
 */
#ifndef Q3_CLI_COMPLETION_H
#define Q3_CLI_COMPLETION_H

#include "cli/options.h"

/* What may stand at a place. All empty: nothing that could be guessed. */
typedef struct q3_completion {
    char words[256]; /* parted by blanks */
    bool files, directories;
    bool settings; /* key.sub=value */
} q3_completion;

void q3_completion_of_option(q3_completion *out, const q3_option *option);
void q3_completion_of_setting(q3_completion *out, const q3_config_key *key);

/* Words that are no options: `config` has show, check, keys. "" for none. */
void q3_completion_of_command(q3_completion *out, const q3_command *command);

/* `text` as it stands between single quotes: `quote` for each quote, \ before each character of `escape`. */
void q3_completion_escape(q3_text *out, const char *text, const char *quote, const char *escape);

void q3_completion_bash(q3_text *out);
void q3_completion_zsh(q3_text *out);
void q3_completion_fish(q3_text *out);

#endif
