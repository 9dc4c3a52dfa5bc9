"""Rows with and without a picture in one training: the Trainer over the model, pictures and adapter of make_e2e_golden.py.
usage: make_mixed_golden.py TRAINING   (the folder that make_e2e_golden.py made); writes data/mixed.jsonl and mixed.json there"""
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

# Two rows a batch: picture and text, text and text (no picture at all), two pictures, text and picture; the last is alone.
PICTURES = [True, False, False, False, True, True, False, True, False]
lines = open(f"{out}/data/train.jsonl").read().splitlines()
rows = []
for i, (line, has) in enumerate(zip(lines, PICTURES)):
    row = json.loads(line)
    if not has and i % 2:
        row["image"] = None
    elif not has:
        del row["image"]
    rows.append(row)
with open(f"{out}/data/mixed.jsonl", "w") as f:
    f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

template = json.load(open(f"{out}/model/tokenizer_config.json"))["chat_template"]
tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{out}/model/tokenizer.json", eos_token="<|im_end|>", pad_token="<|endoftext|>")
images = Qwen2VLImageProcessor(patch_size=16, temporal_patch_size=2, merge_size=2, image_mean=[.5] * 3, image_std=[.5] * 3,
                               size={"shortest_edge": 1024, "longest_edge": 16384})
processor = Qwen3VLProcessor(image_processor=images, tokenizer=tokenizer, video_processor=Qwen3VLVideoProcessor(), chat_template=template)


def text_of(row, target):
    user = row["query"].strip() + (f"\nCAPTION: {row['caption']}" if row.get("caption") else "")
    picture = [{"type": "image"}] if row.get("image") else []
    messages = [{"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
                {"role": "user", "content": picture + [{"type": "text", "text": user}]}]
    if target:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": row["target_json"]}]})
    return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=not target)


def process(batch, target):
    pictures = [[Image.open(f"{out}/data/{row['image']}").convert("RGB")] for row in batch if row.get("image")]
    encoded = processor(text=[text_of(row, target) for row in batch], images=pictures or None, return_tensors="pt", padding=True)
    encoded.pop("token_type_ids", None)
    return encoded


def collate(batch, training=True):
    tokenizer.padding_side = "right" if training else "left"
    encoded = process(batch, training)
    if training:
        labels = encoded["input_ids"].clone()
        labels[labels == tokenizer.pad_token_id] = -100
        for i, row in enumerate(batch):
            labels[i, :process([row], False)["input_ids"].shape[1]] = -100
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


collated = [collate([row]) for row in rows]
base = Qwen3VLForConditionalGeneration.from_pretrained(f"{out}/model", dtype=torch.float32, attn_implementation="eager")
model = PeftModel.from_pretrained(base, f"{out}/float32-adapter-init", is_trainable=True)
arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(), per_device_train_batch_size=2, per_device_eval_batch_size=2, gradient_accumulation_steps=2,
    learning_rate=2e-3, lr_scheduler_type="cosine", warmup_steps=2, weight_decay=0.01, max_grad_norm=1.0, num_train_epochs=3,
    logging_steps=1, eval_strategy="epoch", save_strategy="no", report_to=[], remove_unused_columns=False, use_cpu=True,
    optim="adamw_torch", seed=1, bf16=False, disable_tqdm=True, label_names=["labels"])
pre = answers(model)
trainer = InOrder(model=model, args=arguments, train_dataset=rows, eval_dataset=rows, data_collator=collate)
trainer.train()
result = {"made_with": {"transformers": transformers.__version__, "torch": torch.__version__},
          "rows": [{"input_ids": c["input_ids"][0].tolist(), "labels": c["labels"][0].tolist()} for c in collated],
          "log_history": trainer.state.log_history, "pre": {"ids": pre}, "post": {"ids": answers(model)}}
with open(f"{out}/mixed.json", "w") as f:
    json.dump(result, f)
    f.write("\n")
print([(x["loss"], x["grad_norm"]) for x in trainer.state.log_history if "loss" in x], [x["eval_loss"] for x in trainer.state.log_history if "eval_loss" in x])
