#include "optim/params.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

/* `word` as a whole component of a dotted name. */
static bool has_component(const char *name, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = strstr(name, word); at; at = strstr(at + 1, word))
        if ((at == name || at[-1] == '.') && (at[n] == '.' || at[n] == '\0'))
            return true;
    return false;
}

/* `tail` at the end of some component. */
static bool ends_component(const char *name, const char *tail)
{
    size_t n = strlen(tail);
    for (const char *at = strstr(name, tail); at; at = strstr(at + 1, tail))
        if (at[n] == '.' || at[n] == '\0')
            return true;
    return false;
}

bool q3_param_decays(const char *name)
{
    char lower[1024];
    size_t n = 0;
    for (; name[n] && n + 1 < sizeof lower; n++)
        lower[n] = (char)tolower((unsigned char)name[n]);
    lower[n] = '\0';
    return !strstr(lower, "bias") && !strstr(lower, "layernorm") && !strstr(lower, "rmsnorm") &&
           !has_component(lower, "norm") && !ends_component(lower, "_norm");
}
