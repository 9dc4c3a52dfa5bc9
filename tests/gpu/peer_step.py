#!/usr/bin/env python3
"""Times the LoRA step of PyTorch + transformers + PEFT at the shapes of bench_step, on one card, for comparison.

The text decoder of Qwen3-VL (Qwen3ForCausalLM of the same sizes, random weights), bfloat16, LoRA of rank 16 on the seven
projections, attention by PyTorch's scaled_dot_product_attention, AdamW on the adapters, every token supervised. Rows of
one length stand side by side, so nothing is padded. Where bitsandbytes is installed, the same with NF4 weights.
Prints one line a setting, and what of --ours (tokens/s of bench_step) it is.
"""
import argparse
import gc
import statistics
import sys
import time
import warnings

SHAPES = {
    "8b": dict(hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32, tie_word_embeddings=False),
    "4b": dict(hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32, tie_word_embeddings=True),
    "2b": dict(hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16, tie_word_embeddings=True),
    "tiny": dict(hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4, tie_word_embeddings=False),
}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def options():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", choices=SHAPES, default="8b")
    p.add_argument("--tokens", type=int, default=8192, help="of a step")
    p.add_argument("--row", type=int, default=2048, help="tokens of a row")
    p.add_argument("--steps", type=int, default=3)
    p.add_argument("--ours", type=float, default=0, help="tokens/s of bench_step, for the ratio")
    p.add_argument("--device", default="cuda", help="cpu: only to see whether it runs, with --model tiny")
    return p.parse_args()


def libraries():
    """The modules, or a sentence that says which one is missing."""
    try:
        import torch
        import transformers
        import peft
    except ImportError as error:
        sys.exit(f"skipped: {error}")
    try:
        import bitsandbytes
    except Exception as error:  # it raises more than ImportError where it finds no CUDA
        print(f"bitsandbytes: not used ({error})")
        bitsandbytes = None
    return torch, transformers, peft, bitsandbytes


def quantize(torch, bnb, module):
    """Replaces the decoder's linears by bitsandbytes' NF4 ones of the same weights."""
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Linear) and name in LINEAR:
            new = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=False, compute_dtype=torch.bfloat16,
                                    compress_statistics=True, quant_type="nf4")
            new.weight = bnb.nn.Params4bit(child.weight.data.cpu(), requires_grad=False, compress_statistics=True,
                                           quant_type="nf4", module=new)
            setattr(module, name, new.to("cuda"))
        else:
            quantize(torch, bnb, child)


def build(torch, transformers, peft, bnb, o, checkpointing):
    sizes = dict(SHAPES[o.model])
    tiny = o.model == "tiny"
    config = transformers.Qwen3Config(**sizes, num_key_value_heads=2 if tiny else 8, head_dim=32 if tiny else 128,
                                      vocab_size=512 if tiny else 151936, max_position_embeddings=262144, use_cache=False)
    config._attn_implementation = "sdpa"
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(o.device):
            model = transformers.Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    if bnb:
        quantize(torch, bnb, model)
    model = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=LINEAR, task_type="CAUSAL_LM"))
    if checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    return model


def measure(torch, model, o):
    vocabulary = model.config.vocab_size
    ids = torch.randint(0, vocabulary, (o.tokens // o.row, o.row), device=o.device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=o.device != "cpu")
    wait = torch.cuda.synchronize if o.device != "cpu" else lambda: None
    seconds = []
    for step in range(o.steps + 1):  # the first one is not counted
        wait()
        start = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        wait()
        if step:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def one(torch, transformers, peft, bnb, o, checkpointing):
    name = f"peer {o.model} {'nf4' if bnb else 'bf16'} LoRA, checkpointing {'full' if checkpointing else 'none'}, {o.tokens} tokens"
    cuda = o.device != "cpu"
    model = None
    try:
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        model = build(torch, transformers, peft, bnb, o, checkpointing)
        t = measure(torch, model, o)
        peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0
        rate = o.tokens / t
        ratio = f", bench_step is {o.ours / rate:.2f} times as fast" if o.ours > 0 else ""
        print(f"{name}: {1e3 * t:.1f} ms, {rate:.1f} tokens/s, {peak:.1f} GiB{ratio}", flush=True)
    except Exception as error:  # out of memory above all; the other settings may still run
        print(f"{name}: failed: {str(error).splitlines()[0] if str(error) else type(error).__name__}", flush=True)
    del model
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()


def main():
    o = options()
    warnings.filterwarnings("ignore", category=FutureWarning)  # names that later versions will have
    if o.tokens % o.row:
        sys.exit("--tokens must be a multiple of --row")
    torch, transformers, peft, bnb = libraries()
    if o.device != "cpu" and not torch.cuda.is_available():
        sys.exit("skipped: PyTorch sees no CUDA device")
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
    for checkpointing in (False, True):
        one(torch, transformers, peft, None, o, checkpointing)
    if bnb and o.device != "cpu":
        for checkpointing in (False, True):
            one(torch, transformers, peft, bnb, o, checkpointing)


main()
