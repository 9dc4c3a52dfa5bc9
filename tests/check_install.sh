#!/bin/sh
# What `cmake --install` puts where, and that it works there. usage: check_install.sh CMAKE BUILD_DIRECTORY
set -eu
root=$Q3_TEST_DIR/root
rm -rf "$root"
"$1" --install "$2" --prefix "$root" >/dev/null
bad=0
for file in bin/qwen3-sft bin/qwen3-collate-check share/bash-completion/completions/qwen3-sft \
    share/zsh/site-functions/_qwen3-sft share/fish/vendor_completions.d/qwen3-sft.fish share/man/man1/qwen3-sft.1 \
    share/qwen3-sft/configs/sarcasm-qwen3-vl-2b.json share/doc/qwen3-sft/README.md share/doc/qwen3-sft/docs/serving.md; do
    [ -s "$root/$file" ] || { echo "$file is not there"; bad=1; }
done
"$root/bin/qwen3-sft" version >/dev/null || bad=1
"$root/bin/qwen3-sft" config check --config "$root/share/qwen3-sft/configs/sarcasm-qwen3-vl-2b.json" >/dev/null 2>&1 || bad=1
"$root/bin/qwen3-sft" completion bash | cmp - "$root/share/bash-completion/completions/qwen3-sft" || bad=1
if command -v groff >/dev/null; then
    said=$(groff -ww -man -Tutf8 -z "$root/share/man/man1/qwen3-sft.1" 2>&1)
    [ -z "$said" ] || { echo "$said"; bad=1; }
fi
if command -v mandoc >/dev/null; then
    mandoc -Tlint -W error "$root/share/man/man1/qwen3-sft.1" || bad=1
fi
exit $bad
