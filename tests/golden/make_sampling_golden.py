"""What transformers' processors leave of a distribution, in cases that make_format_golden.py leaves out: min-p, repeated ids under the
repetition penalty, ties at the k-th value. usage: make_sampling_golden.py OUT_FILE"""
import sys, torch
from safetensors.torch import save_file
from transformers.generation.logits_process import (MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper,
                                                    TopKLogitsWarper, TopPLogitsWarper)

torch.manual_seed(20)
logits = (torch.randn(1, 200) * 6).round() / 2  # halves: many ties
ids = torch.randint(0, 200, (1, 12))
ids = torch.cat([ids, ids[:, :7], logits.topk(3).indices, ids[:, :2]], 1)
# temperature, top-k, top-p, min-p, repetition penalty; test_sample.c has the same table
cases = [(1, 0, 1, .05, 1), (.7, 0, 1, .2, 1), (1.5, 20, 1, .02, 1), (.7, 20, .8, .1, 1.05), (1, 0, .95, .001, 1.3), (1, 7, 1, 0, 1.2), (1, 0, 1, 1, 1)]
# torch's sort decides which of tied tokens top-p drops; ours keeps all of them: these cases have none
distinct = logits + torch.arange(200) / 1024
out = {"logits": logits, "distinct": distinct, "previous": ids}
for i, (t, k, p, m, r) in enumerate(cases):
    chain = []
    if r != 1: chain.append(RepetitionPenaltyLogitsProcessor(r))
    if t != 1: chain.append(TemperatureLogitsWarper(float(t)))
    if k: chain.append(TopKLogitsWarper(k))
    if p < 1: chain.append(TopPLogitsWarper(p))
    if m: chain.append(MinPLogitsWarper(m))
    x = (distinct if p < 1 else logits).clone()
    for step in chain: x = step(ids, x)
    out[f"probabilities.{i}"] = x.softmax(-1)
save_file(out, sys.argv[1])
