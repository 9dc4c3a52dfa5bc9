"""Prompts of rerankers as token ids: usage: make_qwen3_reranker.py TOKENIZER > qwen3-reranker.jsonl
TOKENIZER is ../tokenizer/qwen3. The tokenizer is that of transformers 5.17.0 (tokenizers 0.23); the recipe was written down from the README of
QwenLM/Qwen3-Embedding (forms hf and vllm) and from qwen3_vl_reranker.py of QwenLM/Qwen3-VL-Embedding (form vl; a picture is given by its number of tokens).
The first line has the ids of yes and no, prefix and suffix."""
import gzip, json, os, shutil, sys, tempfile
from transformers import AutoTokenizer

source, folder = sys.argv[1], tempfile.mkdtemp()
shutil.copy(os.path.join(source, "tokenizer_config.json"), folder)
with gzip.open(os.path.join(source, "tokenizer.json.gz")) as packed, open(os.path.join(folder, "tokenizer.json"), "wb") as plain:
    shutil.copyfileobj(packed, plain)
tok = AutoTokenizer.from_pretrained(folder)
special = set(tok.all_special_ids) | {t for t, a in tok.added_tokens_decoder.items() if a.special}

task = 'Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can only be "yes" or "no".'
prefix = tok.encode("<|im_start|>system\n" + task + "<|im_end|>\n<|im_start|>user\n", add_special_tokens=False)
answer = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
suffix = tok.encode("<|im_end|>\n" + answer, add_special_tokens=False)


def hf(instruction, query, document, length):
    room = length - len(prefix) - len(suffix)
    pair = "<Instruct>: %s\n<Query>: %s\n<Document>: %s" % (instruction, query, document)
    return prefix + tok(pair, truncation=True, max_length=room, add_special_tokens=False)["input_ids"] + suffix


def vllm(instruction, query, document, length):
    end = tok.encode(answer, add_special_tokens=False)
    user = "<Instruct>: %s\n\n<Query>: %s\n\n<Document>: %s" % (instruction, query, document)
    turns = [{"role": "system", "content": task}, {"role": "user", "content": user}]
    ids = tok.apply_chat_template(turns, tokenize=True, add_generation_prompt=False, enable_thinking=False, return_dict=False)
    return ids[: length - len(end)] + end


def side(name, text, pictures):
    shown = "".join("<|vision_start|>" + "<|image_pad|>" * n + "<|vision_end|>" for n in pictures)
    return name + (shown + text or "NULL")


def vl(instruction, query, document, length, query_pictures, pictures):
    user = "<Instruct>: " + instruction + side("<Query>:", query, query_pictures) + side("\n<Document>:", document, pictures)
    ids = tok.encode("<|im_start|>system\n" + task + "<|im_end|>\n<|im_start|>user\n" + user + "<|im_end|>\n<|im_start|>assistant\n")
    head, tail = ids[:-5], ids[-5:]
    room = length - sum(i in special for i in head)
    kept, ordinary = [], 0
    for i in head:
        if len(head) <= length or i in special or ordinary < room:
            kept.append(i)
        ordinary += i not in special
    return kept + tail


default = "Given a web search query, retrieve relevant passages that answer the query"
pairs = [
    (default, "What is the capital of China?", "The capital of China is Beijing."),
    (default, "Explain gravity", "Gravity is a force that attracts two bodies towards each other. " * 12),
    ("Given a question, find its answer ", "  was ist e\u0301in Café?\n", "\n\n  Kaffeehaus;  größer\t\n"),
    ("检索相关段落", "重力是什么？", "引力是两个物体之间的吸引力。🌍🌕"),
    (default, "", "x"),
    (default, "yes", ""),
    (default, "what does <think> mean", "a block </think> of thoughts\n\n"),
]
print(json.dumps({"yes": tok.encode("yes"), "no": tok.encode("no"), "prefix": prefix, "suffix": suffix}))
for instruction, query, document in pairs:
    whole = len(hf(instruction, query, document, 8192))
    for length in (8192, whole, whole - 1, len(prefix) + len(suffix) + 30, len(prefix) + len(suffix) + 1):
        case = {"instruction": instruction, "query": query, "document": document, "max_length": length}
        print(json.dumps(dict(case, form="hf", ids=hf(instruction, query, document, length)), ensure_ascii=False))
        print(json.dumps(dict(case, form="vllm", ids=vllm(instruction, query, document, length)), ensure_ascii=False))
    for length in (10240, 60, 20):
        for pictures in ([[], []], [[], [4]], [[6], [4, 9]]):
            case = {"instruction": instruction, "query": query, "document": document, "max_length": length, "query_pictures": pictures[0], "pictures": pictures[1]}
            print(json.dumps(dict(case, form="vl", ids=vl(instruction, query, document, length, *pictures)), ensure_ascii=False))
