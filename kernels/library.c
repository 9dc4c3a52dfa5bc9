#include "kernels/library.h"

#include <dlfcn.h>
#include <glob.h>
#include <link.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool bind_symbols(q3_library *library)
{
    for (const q3_symbol *s = library->symbols; s->name; s++) {
        void *address = dlsym(library->handle, s->name);
        if (!address) {
            snprintf(library->why, sizeof library->why, "%s: %s has no %s; another version is needed",
                     library->title, library->path, s->name);
            return false;
        }
        memcpy(s->to, &address, sizeof address);
    }
    return true;
}

/* A path, or a bare name for the system's own search. What is there but does not load leaves its reason in `why`. */
static bool try_file(q3_library *library, const char *file)
{
    if (strchr(file, '/') && access(file, R_OK) != 0)
        return false;
    library->handle = dlopen(file, RTLD_NOW | (library->global ? RTLD_GLOBAL : RTLD_LOCAL));
    if (!library->handle) {
        const char *reason = dlerror();
        if (strchr(file, '/'))
            snprintf(library->why, sizeof library->why, "%s: %s does not load: %s", library->title, file,
                     reason);
        return false;
    }
    struct link_map *map = NULL;
    dlinfo(library->handle, RTLD_DI_LINKMAP, &map);
    snprintf(library->path, sizeof library->path, "%s", map && map->l_name[0] ? map->l_name : file);
    if (bind_symbols(library))
        return true;
    dlclose(library->handle);
    library->handle = NULL;
    return false;
}

static bool try_folder(q3_library *library, const char *folder)
{
    for (const char *const *name = library->names; *name; name++) {
        char file[PATH_MAX];
        snprintf(file, sizeof file, "%s%s%s", folder, *folder ? "/" : "", *name);
        if (try_file(library, file))
            return true;
    }
    return false;
}

/* Folders of a pattern (printf-like), the last of the alphabet first: cuda-13.0 before cuda-12.4. */
__attribute__((format(printf, 2, 3))) static bool try_folders(q3_library *library, const char *fmt, ...)
{
    char pattern[PATH_MAX];
    va_list args;
    va_start(args, fmt);
    vsnprintf(pattern, sizeof pattern, fmt, args);
    va_end(args);
    glob_t found;
    bool opened = false;
    if (glob(pattern, GLOB_ONLYDIR, NULL, &found) == 0)
        for (size_t i = found.gl_pathc; i-- > 0 && !opened;)
            opened = try_folder(library, found.gl_pathv[i]);
    globfree(&found);
    return opened;
}

static bool try_named_folders(q3_library *library)
{
    const char *list = getenv("Q3_LIBRARY_PATH");
    while (list && *list) {
        char folder[PATH_MAX];
        size_t length = strcspn(list, ":");
        snprintf(folder, sizeof folder, "%.*s", (int)length, list);
        if (length && try_folder(library, folder))
            return true;
        list += length + (list[length] == ':');
    }
    return false;
}

static bool try_toolkits(q3_library *library)
{
    const char *home = getenv("CUDA_HOME");
    if (home && *home && (try_folders(library, "%s/lib64", home) || try_folders(library, "%s/lib", home)))
        return true;
    return try_folders(library, "/usr/local/cuda*/lib64") || try_folders(library, "/usr/local/cuda*/lib") ||
           try_folders(library, "/usr/local/cuda*/targets/*/lib");
}

/* Below a prefix as Python lays it out; wheels for CUDA 13 share one folder, older ones have one a library. */
static bool try_python(q3_library *library, const char *prefix)
{
    if (!prefix || !*prefix || !library->folder)
        return false;
    return try_folders(library, "%s/lib/python3*/*-packages/nvidia/cu1*/lib", prefix) ||
           try_folders(library, "%s/lib/python3*/*-packages/nvidia/%s", prefix, library->folder);
}

/* The prefix of the python3 that PATH finds, as it stands there (an environment) and with links followed. */
static bool try_python_on_path(q3_library *library)
{
    const char *path = getenv("PATH");
    while (path && *path) {
        char file[PATH_MAX], real[PATH_MAX];
        size_t length = strcspn(path, ":");
        snprintf(file, sizeof file, "%.*s/python3", (int)length, path);
        path += length + (path[length] == ':');
        if (access(file, X_OK) != 0 || !realpath(file, real))
            continue;
        for (int up = 0; up < 2; up++) { // .../bin/python3 lies two below its prefix
            char *end = strrchr(file, '/'), *real_end = strrchr(real, '/');
            if (end)
                *end = '\0';
            if (real_end)
                *real_end = '\0';
        }
        return try_python(library, file) || try_python(library, real);
    }
    return false;
}

static bool try_pythons(q3_library *library)
{
    char user[PATH_MAX]; // where pip installs for one user
    snprintf(user, sizeof user, "%s/.local", getenv("HOME") ? getenv("HOME") : "");
    return try_python(library, getenv("VIRTUAL_ENV")) || try_python(library, getenv("CONDA_PREFIX")) ||
           try_python_on_path(library) || try_python(library, user) || try_python(library, "/usr/local") ||
           try_python(library, "/usr") || try_python(library, "/opt/*");
}

static void tell_not_found(q3_library *library)
{
    char names[128] = "";
    for (const char *const *name = library->names; *name; name++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", *name);
    }
    snprintf(library->why, sizeof library->why,
             "%s was not found: no %s in Q3_LIBRARY_PATH, the system's folders, CUDA toolkits or Python "
             "environments; "
             "install it, or name its folder in Q3_LIBRARY_PATH",
             library->title, names);
}

bool q3_library_open(q3_library *library)
{
    if (library->handle || library->why[0])
        return library->handle != NULL;
    if (try_named_folders(library) || try_folder(library, "") || try_toolkits(library) ||
        try_pythons(library)) {
        library->why[0] = '\0';
        return true;
    }
    if (!library->why[0])
        tell_not_found(library);
    return false;
}

void q3_library_describe(char *text, const q3_library *library, size_t version)
{
    if (library->handle)
        snprintf(text, Q3_LIBRARY_TEXT, "%zu.%zu.%zu, %s", version / 10000, version / 100 % 100,
                 version % 100, library->path);
    else
        snprintf(text, Q3_LIBRARY_TEXT, "%s", library->why);
}
