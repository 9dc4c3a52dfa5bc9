"""Conversations in training: the Trainer over the model, pictures and adapter of make_e2e_golden.py.
usage: make_conversation_golden.py TRAINING   (the folder that make_e2e_golden.py made); writes data/conversations.jsonl and
conversations.json there. Labels come from lengths of prefixes: an answer is what the conversation up to and with it has
more than the one before it with the generation prompt."""
import json, os, sys, tempfile
os.environ["HF_HUB_OFFLINE"] = "1"
import torch, transformers
from PIL import Image
from peft import PeftModel
from transformers import (PreTrainedTokenizerFast, Qwen2VLImageProcessor, Qwen3VLForConditionalGeneration, Qwen3VLProcessor,
                          Qwen3VLVideoProcessor, Trainer, TrainingArguments)

out = sys.argv[1]
torch.set_num_threads(2)
SYSTEM = "You judge posts."
YES, NO = '{"label": "sarcastic"}', '{"label": "not_sarcastic"}'


def turn(role, *parts):
    """A picture is a part without text: None for the next of the list, or the name of its file."""
    return {"role": role, "content": [{"type": "text", "text": p} if isinstance(p, str) and "/" not in p
                                      else {"type": "image", "image": p} if p else {"type": "image"} for p in parts]}


def say(role, text):
    return {"role": role, "content": text}


ROWS = [
    # two pictures in one turn, with text between them
    {"id": 1, "images": ["images/000.jpg", "images/001.png"],
     "messages": [turn("user", None, "first\n", None, "which one is meant?"), turn("assistant", "the second"),
                  turn("user", "so?"), turn("assistant", YES)]},
    # pictures in different turns
    {"id": 2, "images": [{"path": "images/002.png"}, "images/003.jpg"],
     "messages": [turn("user", None, "what a day"), say("assistant", "a long one"), turn("user", "and this ", None),
                  say("assistant", "worse"), say("user", "sarcastic?"), say("assistant", NO)]},
    # a system turn of its own
    {"id": "three", "images": ["images/004.png"],
     "messages": [say("system", "Say little."), turn("user", None, " great  "), say("assistant", YES), say("user", "sure?"),
                  say("assistant", YES)]},
    # texts alone
    {"id": 4, "messages": [say("user", "so happy"), say("assistant", "why?"), say("user", "monday"), say("assistant", "i see"),
                           say("user", "no seats left"), say("assistant", NO)]},
    # one question, its picture named in the turn
    {"id": 5, "messages": [turn("user", "images/005.png", "perfect timing"), turn("assistant", YES)]},
    # a list and a named picture, two users' turns in a row, null where a column is not used
    {"id": 6, "images": ["images/006.jpg", "images/007.png"], "label_gt": 0,
     "messages": [turn("user", None, "images/008.png"), say("assistant", "two of them"), say("user", "one more:"),
                  turn("user", None, "stuck again"),
                  {"role": "assistant", "content": [{"type": "text", "text": NO, "image": None}], "tool_calls": None}]},
    # ShareGPT's spelling, with places in the text
    {"id": 7, "images": ["images/009.jpg", "images/010.png"],
     "conversations": [{"from": "human", "value": "<image>\nor <image>?"}, {"from": "gpt", "value": "  the\nfirst "},
                       {"from": "human", "value": "label?"}, {"from": "gpt", "value": YES}]},
    # texts without a place: the picture stands in front
    {"id": 8, "images": ["images/011.png"],
     "messages": [say("user", "love this weather"), say("assistant", "\n\nreally"), say("user", "no"), say("assistant", YES)]},
    {"id": 9, "image": "images/012.jpg", "messages": [turn("user", "ok", None), turn("assistant", NO)]},
]
with open(f"{out}/data/conversations.jsonl", "w") as f:
    f.writelines(json.dumps(row) + "\n" for row in ROWS)

ROLES = {"human": "user", "gpt": "assistant"}


def normal(row):
    """Messages as the template takes them, and the pictures in order."""
    listed = [i["path"] if isinstance(i, dict) else i for i in row.get("images", [row["image"]] if "image" in row else [])]
    messages, files, waiting = [], [], list(listed)
    for m in row.get("messages") or [{"role": ROLES[c["from"]], "content": c["value"]} for c in row["conversations"]]:
        content = m["content"]
        if isinstance(content, str):
            pieces = content.split("<image>") if m["role"] == "user" and listed else [content]
            content = [part for k, text in enumerate(pieces)
                       for part in ([{"type": "image"}] if k else []) + ([{"type": "text", "text": text}] if text else [])]
        parts = []
        for part in content:
            if part["type"] == "image":
                files.append(part.get("image") or waiting.pop(0))
                parts.append({"type": "image"})
            else:
                parts.append({"type": "text", "text": part["text"]})
        messages.append({"role": m["role"], "content": parts})
    if waiting:
        assert waiting == listed and not files
        files = waiting
        first = next(m for m in messages if m["role"] == "user")
        first["content"] = [{"type": "image"} for _ in files] + first["content"]
    if messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": SYSTEM}]})
    return {"messages": messages, "files": files}


rows = [normal(row) for row in ROWS]
template = json.load(open(f"{out}/model/tokenizer_config.json"))["chat_template"]
tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{out}/model/tokenizer.json", eos_token="<|im_end|>", pad_token="<|endoftext|>")
images = Qwen2VLImageProcessor(patch_size=16, temporal_patch_size=2, merge_size=2, image_mean=[.5] * 3, image_std=[.5] * 3,
                               size={"shortest_edge": 1024, "longest_edge": 16384})
processor = Qwen3VLProcessor(image_processor=images, tokenizer=tokenizer, video_processor=Qwen3VLVideoProcessor(), chat_template=template)


def encode(batch, prompt):
    """batch: lists of messages with the files of their pictures."""
    texts = [processor.apply_chat_template(m, tokenize=False, add_generation_prompt=prompt) for m, _ in batch]
    pictures = [[Image.open(f"{out}/data/{f}").convert("RGB") for f in files] for _, files in batch if files]
    encoded = processor(text=texts, images=pictures or None, return_tensors="pt", padding=True)
    encoded.pop("token_type_ids", None)
    return encoded


def prefix(row, n, prompt):
    messages = row["messages"][:n]
    n_pictures = sum(part["type"] == "image" for m in messages for part in m["content"])
    return encode([(messages, row["files"][:n_pictures])], prompt)["input_ids"].shape[1]


def answers_of(row):
    return [(prefix(row, i, True), prefix(row, i + 1, False)) for i, m in enumerate(row["messages"]) if m["role"] == "assistant"]


def collate(batch, training=True, last=False):
    tokenizer.padding_side = "right" if training else "left"
    encoded = encode([(r["messages"] if training else r["messages"][:-1], r["files"]) for r in batch], not training)
    if training:
        labels = torch.full_like(encoded["input_ids"], -100)
        for i, row in enumerate(batch):
            for begin, end in answers_of(row)[-1 if last else 0:]:
                labels[i, begin:end] = encoded["input_ids"][i, begin:end]
        labels[labels == tokenizer.pad_token_id] = -100
        encoded["labels"] = labels
    return dict(encoded)


class InOrder(Trainer):
    def _get_train_sampler(self, *args, **kwargs):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def answers(model):
    model.eval()
    batch = collate(rows, False)
    with torch.no_grad():
        ids = model.generate(**batch, max_new_tokens=24, do_sample=False)
    return ids[:, batch["input_ids"].shape[1]:].tolist()


base = Qwen3VLForConditionalGeneration.from_pretrained(f"{out}/model", dtype=torch.float32, attn_implementation="eager")


def described(row):
    c = collate([row])
    grids = c.get("image_grid_thw")
    positions = base.model.get_rope_index(c["input_ids"], mm_token_type_ids=c["mm_token_type_ids"], image_grid_thw=grids)[0]
    return {"input_ids": c["input_ids"][0].tolist(), "labels": c["labels"][0].tolist(),
            "labels_last": collate([row], last=True)["labels"][0].tolist(),
            "image_grid_thw": [] if grids is None else grids.tolist(), "positions": positions[:, 0].tolist(),
            "prompt": collate([row], False)["input_ids"][0].tolist()}


described_rows = [described(row) for row in rows]
model = PeftModel.from_pretrained(base, f"{out}/float32-adapter-init", is_trainable=True)
arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(), per_device_train_batch_size=2, per_device_eval_batch_size=2, gradient_accumulation_steps=2,
    learning_rate=2e-3, lr_scheduler_type="cosine", warmup_steps=2, weight_decay=0.01, max_grad_norm=1.0, num_train_epochs=3,
    logging_steps=1, eval_strategy="epoch", save_strategy="no", report_to=[], remove_unused_columns=False, use_cpu=True,
    optim="adamw_torch", seed=1, bf16=False, disable_tqdm=True, label_names=["labels"])
pre = answers(model)
trainer = InOrder(model=model, args=arguments, train_dataset=rows, eval_dataset=rows, data_collator=collate)
trainer.train()
result = {"made_with": {"transformers": transformers.__version__, "torch": torch.__version__}, "rows": described_rows,
          "log_history": trainer.state.log_history, "pre": {"ids": pre}, "post": {"ids": answers(model)}}
with open(f"{out}/conversations.json", "w") as f:
    json.dump(result, f)
    f.write("\n")
print([(x["loss"], x["grad_norm"]) for x in trainer.state.log_history if "loss" in x], [x["eval_loss"] for x in trainer.state.log_history if "eval_loss" in x])
