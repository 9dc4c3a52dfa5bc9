"""Beam search of transformers' generate on the golden prompts of both models: make_beam_golden.py GOLDEN writes
GOLDEN/model-*/beam.json. End tokens are ones that the models like to say, so that beams end at different lengths."""

import itertools
import json
import os
import sys

import torch
import transformers
from safetensors.torch import load_file
from transformers import Qwen3VLForConditionalGeneration

golden = sys.argv[1]
TOKENS = 12


def rows(model, file):
    """Each golden prompt alone: its real tokens and its own pictures."""
    b = load_file(file)
    c = model.config
    merged = c.vision_config.spatial_merge_size**2
    picture = patch = 0
    for ids, mask in zip(b["in.input_ids"], b["in.attention_mask"]):
        ids = ids[mask.bool()]
        left = int((ids == c.image_token_id).sum()) * merged
        first, start = picture, patch
        while left:
            n = int(b["in.image_grid_thw"][picture].prod())
            left, patch, picture = left - n, patch + n, picture + 1
        out = dict(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None])
        out["mm_token_type_ids"] = (ids == c.image_token_id).int()[None]
        if picture > first:
            out.update(pixel_values=b["in.pixel_values"][start:patch], image_grid_thw=b["in.image_grid_thw"][first:picture])
        yield out


for name in ("model-a", "model-b"):
    model = Qwen3VLForConditionalGeneration.from_pretrained(
        os.path.join(golden, name, "model"), dtype=torch.float32, attn_implementation="eager"
    ).eval()
    prompts = list(rows(model, os.path.join(golden, name, "generate-greedy.safetensors")))
    liked = load_file(os.path.join(golden, name, "generate-greedy.safetensors"))["out.tokens"]
    cases = []
    settings = itertools.product(range(len(prompts)), (2, 4), (False, True, "never"), (0.0, 1.0, -1.0, 2.0))
    for k, (row, beams, early, length) in enumerate(settings):
        eos = [[int(liked[row][2])], [int(liked[row][5]), int(liked[row][1])], [0]][k % 3]
        penalty = 1.3 if k % 5 == 4 else 1.0
        model.generation_config = transformers.GenerationConfig(pad_token_id=0, eos_token_id=eos)
        with torch.no_grad():
            o = model.generate(
                **prompts[row], max_new_tokens=TOKENS, do_sample=False, num_beams=beams, num_return_sequences=beams,
                early_stopping=early, length_penalty=length, repetition_penalty=penalty,
                return_dict_in_generate=True, output_scores=True,
            )
        n = prompts[row]["input_ids"].shape[1]
        found = []
        for s, score in zip(o.sequences[:, n:].tolist(), o.sequences_scores.tolist()):
            end = next((i for i, t in enumerate(s) if t in eos), None)
            found.append(dict(ids=s[:end], ended=end is not None, score=score))
        cases.append(dict(row=row, num_beams=beams, early_stopping=str(early).lower(), length_penalty=length,
                          repetition_penalty=penalty, eos=eos, answers=found))
    meta = dict(made_with=dict(transformers=transformers.__version__, torch=torch.__version__), max_new_tokens=TOKENS)
    with open(os.path.join(golden, name, "beam.json"), "w") as f:
        f.write(json.dumps(meta)[:-1] + ', "cases": [\n' + ",\n".join(json.dumps(c) for c in cases) + "\n]}\n")
    lengths = [len(a["ids"]) for c in cases for a in c["answers"]]
    print(name, len(cases), "cases; answers of", sorted(set(lengths)), "tokens")
