"""generate.json and the two pictures beside it: what transformers answers with assets/tiny-base.

    make_generate_golden.py assets/tiny-base OUT

Float32 on the CPU, greedy unless a case says otherwise. The pictures have the size that the model's image processor makes of any, 96 x 96
(and 64 x 96 for a case of its own), so nothing is resized; patches are cut here, in merge order. Each case: name, messages (pictures as
file names), options of `generate`, prompt_ids, ids, text.
"""
import json
import os
import struct
import sys
import zlib

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import Qwen3VLForConditionalGeneration
from transformers.utils.chat_template_utils import render_jinja_template

PATCH, MERGE, IMAGE_PAD = 16, 2, "<|image_pad|>"


def picture(width, height, seed):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([(x * 2 + seed * 40) % 256, (y * 2 + x * seed) % 256, (x * y // 32 + seed * 90) % 256], -1).astype(np.uint8)


def write_png(path, rgb):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    height, width, _ = rgb.shape
    rows = b"".join(b"\0" + rgb[i].tobytes() for i in range(height))
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
                   + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b""))


def cut(rgb):
    height, width, _ = rgb.shape
    rows, cols, side = height // PATCH, width // PATCH, MERGE
    x = (rgb.astype(np.float32) / 255 - 0.5) / 0.5
    x = x.reshape(rows // side, side, PATCH, cols // side, side, PATCH, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    x = np.repeat(x.reshape(rows * cols, 3, 1, PATCH, PATCH), 2, axis=2)
    return x.reshape(rows * cols, -1), (1, rows, cols)


def user(text, *pictures):
    if not pictures:
        return {"role": "user", "content": text}
    return {"role": "user", "content": [*({"type": "image", "image": p} for p in pictures), {"type": "text", "text": text}]}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


CASES = [
    ("text", [user("Is this post sarcastic?")], "", {}),
    ("system", [system("Answer in JSON."), user("a lovely day")], "", {}),
    ("picture", [user("what a lovely garden", "picture-1.png")], "", {}),
    ("two_pictures", [user("both of them", "picture-1.png", "picture-2.png")], "", {}),
    ("turns", [user("Is this post sarcastic?"), assistant("yes, it is"), user("and why?")], "", {}),
    ("turns_with_pictures", [user("what is it", "picture-2.png"), assistant("a house"), user("and this", "picture-1.png")], "", {}),
    ("plain", [user("the weather is")], "--no-chat-template", {}),
    ("penalty", [user("what a lovely garden", "picture-1.png")], "--repetition-penalty 1.5", {"repetition_penalty": 1.5}),
    ("beams", [user("what a lovely garden", "picture-1.png")], "--num-beams 3", {"num_beams": 3}),
]


def inputs_of(tokenizer, template, messages, plain, folder):
    text = messages[0]["content"] if plain else render_jinja_template([messages], chat_template=template, add_generation_prompt=True)[0][0]
    paths = [part["image"] for m in messages if isinstance(m["content"], list) for part in m["content"] if part["type"] == "image"]
    pieces = text.split(IMAGE_PAD)
    pixels, grids, whole = [], [], pieces[0]
    for path, piece in zip(paths, pieces[1:]):
        patches, grid = cut(PICTURES[path])
        pixels.append(patches)
        grids.append(grid)
        whole += IMAGE_PAD * (len(patches) // MERGE**2) + piece
    ids = tokenizer.encode(whole, add_special_tokens=False).ids
    given = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    if paths:
        pad = tokenizer.token_to_id(IMAGE_PAD)
        given["pixel_values"] = torch.tensor(np.concatenate(pixels))
        given["image_grid_thw"] = torch.tensor(grids)
        given["mm_token_type_ids"] = torch.tensor([[int(i == pad) for i in ids]])
    return ids, given


PICTURES = {"picture-1.png": picture(96, 96, 1), "picture-2.png": picture(96, 96, 2)}


def main():
    model_dir, out = sys.argv[1:]
    os.makedirs(out, exist_ok=True)
    for name, rgb in PICTURES.items():
        write_png(os.path.join(out, name), rgb)
    tokenizer = Tokenizer.from_file(os.path.join(model_dir, "tokenizer.json"))
    template = open(os.path.join(model_dir, "chat_template.jinja"), encoding="utf-8").read()
    model = Qwen3VLForConditionalGeneration.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager").eval()
    cases = []
    for name, messages, options, more in CASES:
        ids, given = inputs_of(tokenizer, template, messages, "--no-chat-template" in options, out)
        with torch.no_grad():
            answer = model.generate(**given, max_new_tokens=24, do_sample=False, **more)[0, len(ids):].tolist()
        ended = answer and answer[-1] in model.generation_config.eos_token_id
        answer = answer[:-1] if ended else answer
        cases.append({"name": name, "messages": messages, "options": options, "prompt_ids": ids, "ids": answer,
                      "finish_reason": "stop" if ended else "length", "text": tokenizer.decode(answer, skip_special_tokens=True)})
    with open(os.path.join(out, "generate.json"), "w", encoding="utf-8") as file:
        file.write("[" + ",\n ".join(json.dumps(c, ensure_ascii=False) for c in cases) + "]\n")


main()
