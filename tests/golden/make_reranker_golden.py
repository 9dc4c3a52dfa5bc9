"""A tokenizer for formats/reranker-model and scores of whole prompts: usage: make_reranker_golden.py TOKENIZERS FORMATS
TOKENIZERS is tokenizer/. Writes FORMATS/reranker-tokenizer/: the pipeline of Qwen3's tokenizer with a vocabulary of bytes and a few merges, in which "yes" is 77 and
"no" is 33 as in reranker.safetensors; and FORMATS/reranker-scores.json: a query and documents, the ids of each prompt, and the logit differences of transformers."""
import json, os, sys
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

tokenizers, formats = sys.argv[1:3]
out = os.path.join(formats, "reranker-tokenizer")
os.makedirs(out, exist_ok=True)
spec = json.load(open(os.path.join(tokenizers, "small", "tokenizer.json")))
# the 256 characters that stand for bytes (GPT-2's table)
shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
rest = [b for b in range(256) if b not in shown]
letters = [chr(b) for b in shown] + [chr(256 + i) for i in range(len(rest))]
merges = [("y", "e"), ("ye", "s"), ("n", "o"), ("Ġ", "t"), ("h", "e"), ("Ġt", "he")]
vocab = {"yes": 77, "no": 33}
free = (i for i in range(320) if i not in (33, 77))
for token in letters + [a + b for a, b in merges]:
    if token not in vocab:
        vocab[token] = next(free)
for i in free:  # the library numbers added tokens from the end of the vocabulary on
    if i < 304:
        vocab["<unused%d>" % i] = i
assert sorted(vocab.values()) == list(range(304))
spec["model"]["vocab"] = dict(sorted(vocab.items(), key=lambda t: t[1]))
spec["model"]["merges"] = [list(m) for m in merges] if isinstance(spec["model"]["merges"][0], list) else [" ".join(m) for m in merges]
added = {"<|endoftext|>": 304, "<|im_end|>": 305, "<|im_start|>": 306, "<think>": 307, "</think>": 308}
old = {t["content"]: t for t in spec["added_tokens"]}
spec["added_tokens"] = [dict(old[text], id=i) for text, i in added.items()]
json.dump(spec, open(os.path.join(out, "tokenizer.json"), "w"), ensure_ascii=False, separators=(",", ":"))
config = {"tokenizer_class": "Qwen2Tokenizer", "pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "model_max_length": 1024,
          "added_tokens_decoder": {str(i): {k: old[t][k] for k in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")} for t, i in added.items()}}
json.dump(config, open(os.path.join(out, "tokenizer_config.json"), "w"), indent=1)

tok = PreTrainedTokenizerFast(tokenizer_file=os.path.join(out, "tokenizer.json"))
model = Qwen3ForCausalLM.from_pretrained(os.path.join(formats, "reranker-model"), dtype=torch.float32, attn_implementation="eager").eval()
task = 'Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can only be "yes" or "no".'
encode = lambda text: tok.encode(text, add_special_tokens=False)
prefix = encode("<|im_start|>system\n" + task + "<|im_end|>\n<|im_start|>user\n")
suffix = encode("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")
yes, no = encode("yes"), encode("no")
assert yes == [77] and no == [33]
instruction, query = "Given a web search query, retrieve relevant passages that answer the query", "Who painted the ceiling?"
documents = ["Michelangelo painted the ceiling of the chapel.", "The floor is of marble.", "Größe und 重力", "A ceiling lamp.", "", "Michelangelo painted the ceiling of the chapel.",
             "yes yes no " * 10, "It was painted in four years."]
logits, ids = [], []
for document in documents:
    ids.append(prefix + encode("<Instruct>: %s\n<Query>: %s\n<Document>: %s" % (instruction, query, document)) + suffix)
    with torch.no_grad():
        last = model(input_ids=torch.tensor([ids[-1]])).logits[0, -1]
    logits.append((last[77].double() - last[33].double()).item())
case = {"instruction": instruction, "query": query, "documents": documents, "logits": logits, "ids": ids}
json.dump(case, open(os.path.join(formats, "reranker-scores.json"), "w"), ensure_ascii=False)
print(logits, [len(i) for i in ids])
