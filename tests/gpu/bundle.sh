#!/bin/sh
# Lays the libraries that the program is built with, and their headers, beside the tree, for machines with a CUDA toolkit
# and CMake and none of the -dev packages: lib/ with what glibc systems lack too (not glibc itself), include/, pkg-config.
# usage: bundle.sh [FOLDER]      default: build-bundle, at the root of the tree
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
to=${1:-$root/build-bundle}
packages="libcjson libarchive libwebp libutf8proc libpng zlib libjpeg libmicrohttpd libcurl libzstd snappy cmocka"
for tool in cc pkg-config ldd; do
    command -v "$tool" >/dev/null || { echo "bundle: $tool is needed" >&2 && exit 1; }
done
# shellcheck disable=SC2086 # one word a package
pkg-config --exists $packages || { echo "bundle: install the -dev packages of the README first" >&2 && exit 1; }
rm -rf "$to"
mkdir -p "$to/lib/pkgconfig" "$to/include" "$to/bin"

# Headers: those that a source with all of them reads, as far as they are theirs.
includes='stddef.h stdint.h stdio.h stdarg.h setjmp.h cjson/cJSON.h archive.h archive_entry.h webp/decode.h webp/encode.h
utf8proc.h zlib.h jpeglib.h jerror.h png.h microhttpd.h curl/curl.h zstd.h snappy-c.h cmocka.h'
for header in $includes; do
    echo "#include <$header>"
done >"$to/all.c"
# shellcheck disable=SC2046,SC2086 # flags are words
cc -M $(pkg-config --cflags-only-I $packages) "$to/all.c" | tr -s ' ' '\n' |
    grep -E '/(cjson|webp|curl|libpng[0-9]*)/|/(archive|utf8proc|microhttpd|z(lib|conf)|j[a-z]+|png[a-z]*|zstd|snappy-c|cmocka)[a-z_]*\.h$' |
    while read -r header; do
        inner=${header##*/}
        case $header in */cjson/*) inner=cjson/$inner ;; */webp/*) inner=webp/$inner ;; */curl/*) inner=curl/$inner ;; esac
        mkdir -p "$to/include/$(dirname "$inner")"
        cp "$header" "$to/include/$inner"
    done
rm "$to/all.c"

# Libraries: what a program with all of them loads. A library that is linked with also goes by its plain name.
# shellcheck disable=SC2046,SC2086
{
    echo 'int main(void) { return 0; }' >"$to/all.c"
    cc -o "$to/all" "$to/all.c" -Wl,--no-as-needed $(pkg-config --libs $packages)
}
ours='/lib(cjson|archive|webp|utf8proc|png[0-9]*|z|jpeg|microhttpd|curl|zstd|snappy|cmocka)\.so'
take() { # what a program loads and no glibc system has of itself
    ldd "$1" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' |
        grep -Ev '/(ld-linux[^/]*|lib(c|m|dl|rt|pthread|resolv|gcc_s|stdc\+\+))\.so' | while read -r library; do
            cp -L "$library" "$to/lib/"
            plain=$(basename "$library" | sed 's/\.so.*/.so/')
            if echo "$library" | grep -Eq "$ours"; then
                cp -L "$library" "$to/lib/$plain"
            fi
        done
}
take "$to/all"
[ ! -f "$to/lib/libpng16.so" ] || cp "$to/lib/libpng16.so" "$to/lib/libpng.so"
rm "$to/all" "$to/all.c"

# ICU's tables, 30 MB, are for the texts of XML archives, which the program does not open: an empty one, as ICU's own
# stubdata is, serves those who load it.
for tables in "$to"/lib/libicudata.so.*; do
    [ -f "$tables" ] || continue
    version=${tables##*.so.}
    echo "const char icudt${version}_dat[64] = { 0 };" >"$to/stub.c"
    cc -shared -fPIC -Wl,-soname,"$(basename "$tables")" -o "$tables" "$to/stub.c"
    rm "$to/stub.c"
done

for package in libcjson:cjson libarchive:archive libwebp:webp libutf8proc:utf8proc libmicrohttpd:microhttpd \
    libcurl:curl libzstd:zstd snappy:snappy cmocka:cmocka; do
    name=${package%:*}
    extra=
    [ "$name" != libcjson ] || extra=" -I\${prefix}/include/cjson"
    {
        echo "prefix=\${pcfiledir}/../.."
        echo "Name: $name"
        echo "Description: $name of the bundle"
        echo "Version: $(pkg-config --modversion "$name")"
        echo "Libs: -L\${prefix}/lib -l${package#*:}"
        echo "Cflags: -I\${prefix}/include$extra"
    } >"$to/lib/pkgconfig/$name.pc"
done

# pkg-config itself, for machines without one: tests/gpu/build.sh falls back to it.
tool=$(command -v pkg-config)
cp -L "$tool" "$to/bin/pkgconf"
take "$tool"
cat >"$to/bin/pkg-config" <<'END'
#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
LD_LIBRARY_PATH=$here/../lib exec "$here/pkgconf" "$@"
END
chmod +x "$to/bin/pkg-config"
strip --strip-unneeded "$to"/lib/*.so* 2>/dev/null || true
du -sh "$to"
