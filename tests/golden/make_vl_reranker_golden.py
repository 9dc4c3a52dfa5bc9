"""A reranker with pictures: usage: make_vl_reranker_golden.py GOLDEN
GOLDEN is this folder. Writes formats/reranker-vl/tokenizer.json, that of training/model with "yes" as a token (372) of its own, and formats/reranker-vl/scores.json: a query
and documents of texts and pictures with the logit differences that transformers' Qwen3VLForConditionalGeneration gives with training/model's weights. The prompt is that of
qwen3_vl_reranker.py in QwenLM/Qwen3-VL-Embedding. The pictures, made here too, have sides of 32 and between 4 and 1800 tokens, so that nothing is resized."""
import json, os, struct, sys, zlib
import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

golden = sys.argv[1]
source, out = os.path.join(golden, "training", "model"), os.path.join(golden, "formats", "reranker-vl")
os.makedirs(out, exist_ok=True)
spec = json.load(open(os.path.join(source, "tokenizer.json")))
spec["added_tokens"].append(dict(spec["added_tokens"][-1], id=372, content="yes"))
json.dump(spec, open(os.path.join(out, "tokenizer.json"), "w"), ensure_ascii=False)
tok = PreTrainedTokenizerFast(tokenizer_file=os.path.join(out, "tokenizer.json"))
model = Qwen3VLForConditionalGeneration.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
encode = lambda text: tok.encode(text, add_special_tokens=False)
(yes,), (no,) = encode("yes"), encode("no")
assert yes == 372
task = 'Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can only be "yes" or "no".'
instruction = "Given a search query, retrieve relevant candidates that answer the query."
one, two = "tests/golden/formats/reranker-vl/one.png", "tests/golden/formats/reranker-vl/two.png"
query = {"text": "a picture", "image": one}
documents = [{"text": "grey", "image": two}, {"image": one}, {"text": "no picture at all"}, {"text": ""}, {"text": "two", "image": [two, one]}]


def png(path, rgb):
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + row.tobytes() for row in rgb)
    head = struct.pack(">IIBBBBB", rgb.shape[1], rgb.shape[0], 8, 2, 0, 0, 0)
    open(path, "wb").write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))


def picture(height, width, a, b):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([(a * x + b * y) % 256, (x * y // 8) % 256, (200 - a * y) % 256], -1).astype(np.uint8)


rgb = {one: picture(64, 64, 3, 2), two: picture(64, 96, 1, 5)}
for path in rgb:
    png(os.path.join(golden, "..", "..", path), rgb[path])


def patches(path):
    """Normalized patches in merge order, one frame repeated (spatial patch 16, merge 2)."""
    p = torch.tensor(rgb[path].astype(np.float32)).permute(2, 0, 1)
    p = (p - 127.5) / 127.5
    h, w = p.shape[1] // 16, p.shape[2] // 16
    p = p.reshape(3, h // 2, 2, 16, w // 2, 2, 16).permute(1, 4, 2, 5, 0, 3, 6)
    p = p.unsqueeze(5).expand(-1, -1, -1, -1, -1, 2, -1, -1).reshape(h * w, -1)
    return {"pixel_values": p, "image_grid_thw": torch.tensor([[1, h, w]])}


def side(name, item, pictures):
    paths = item.get("image", [])
    shown = ""
    for path in [paths] if isinstance(paths, str) else paths:
        pictures.append(patches(path))
        tokens = int(pictures[-1]["image_grid_thw"].prod()) // 4
        shown += "<|vision_start|>" + "<|image_pad|>" * tokens + "<|vision_end|>"
    return name + (shown + item.get("text", "") or "NULL")


logits = []
for document in documents:
    pictures = []
    user = "<Instruct>: " + instruction + side("<Query>:", query, pictures) + side("\n<Document>:", document, pictures)
    ids = torch.tensor([encode("<|im_start|>system\n" + task + "<|im_end|>\n<|im_start|>user\n" + user + "<|im_end|>\n<|im_start|>assistant\n")])
    inputs = {"input_ids": ids, "mm_token_type_ids": (ids == 358).long(), "pixel_values": torch.cat([p["pixel_values"] for p in pictures]),
              "image_grid_thw": torch.cat([p["image_grid_thw"] for p in pictures])}
    with torch.no_grad():
        last = model(**inputs).logits[0, -1].double()
    logits.append((last[yes] - last[no]).item())
case = {"instruction": instruction, "query": query, "documents": documents, "logits": logits}
json.dump(case, open(os.path.join(out, "scores.json"), "w"), ensure_ascii=False, indent=1)
print(yes, no, logits)
