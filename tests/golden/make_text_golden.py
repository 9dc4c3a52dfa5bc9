"""Forward and backward passes of the text-only model in formats/reranker-model: usage: make_text_golden.py FORMATS
Writes FORMATS/text-forward.safetensors: a right-padded batch with labels, hidden states, logits and loss, gradients of the norms, the head and the first
layer; and, under tied., the same batch through the model whose head is its embedding."""
import copy, os, sys
import torch
from safetensors.torch import save_file
from transformers import Qwen3ForCausalLM

formats = sys.argv[1]
torch.manual_seed(5)
model = Qwen3ForCausalLM.from_pretrained(os.path.join(formats, "reranker-model"), dtype=torch.float32, attn_implementation="eager")
lengths, width = [13, 21, 7], 21
ids, mask, labels = torch.full((3, width), 304), torch.zeros((3, width), dtype=torch.long), torch.full((3, width), -100)
for i, n in enumerate(lengths):
    ids[i, :n] = torch.randint(0, 290, (n,))
    mask[i, :n] = 1
    labels[i, n // 2 : n] = ids[i, n // 2 : n]
out = {"in.input_ids": ids, "in.attention_mask": mask, "in.labels": labels}


def run(m, prefix):
    result = m(input_ids=ids, attention_mask=mask, labels=labels)
    result.loss.backward()
    out[prefix + "out.logits"] = result.logits
    out[prefix + "out.loss"] = result.loss.reshape(1)


for i, layer in enumerate(model.model.layers):
    layer.register_forward_hook(lambda m, a, o, i=i: out.__setitem__(f"out.text.layers.{i}", o[0] if isinstance(o, tuple) else o))
model.model.norm.register_forward_hook(lambda m, a, o: out.__setitem__("out.text.norm", o))
tied = copy.deepcopy(model)
for layer in list(tied.model.layers) + [tied.model.norm]:
    layer._forward_hooks.clear()
tied.lm_head.weight = tied.model.embed_tokens.weight
run(model, "")
for name, p in model.named_parameters():
    if "norm" in name or name.startswith(("lm_head", "model.layers.0.")):
        out["grad." + name] = p.grad
run(tied, "tied.")
out["tied.grad.model.embed_tokens.weight"] = tied.model.embed_tokens.weight.grad
save_file({k: v.detach().contiguous() for k, v in out.items()}, os.path.join(formats, "text-forward.safetensors"))
