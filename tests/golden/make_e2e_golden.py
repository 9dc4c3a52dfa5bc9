"""End-to-end golden: files in (tokenizer, images, JSONL, tiny model), transformers Trainer + PEFT (+ bitsandbytes NF4) log out.
usage: make_e2e_golden.py OUT SEED [SETTINGS.json]   settings replace the defaults below"""
import sys, os, gzip, json, copy, torch, numpy as np
os.environ["HF_HUB_OFFLINE"]="1"
from PIL import Image
from tokenizers import Tokenizer, trainers, models
from transformers import (Qwen3VLForConditionalGeneration, Qwen3VLConfig, Qwen3VLProcessor, Qwen2VLImageProcessor, Qwen3VLVideoProcessor, AutoTokenizer,
    Qwen2TokenizerFast, PreTrainedTokenizerFast, Trainer, TrainingArguments, BitsAndBytesConfig, TrainerCallback)
import transformers, peft, bitsandbytes as bnb
import flat_dequantize  # see there
bnb.nn.modules.has_avx512bf16=lambda: False   # the packed CPU path wants widths divisible by 32
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
out,seed=sys.argv[1],int(sys.argv[2]); os.makedirs(out+"/model",exist_ok=True); os.makedirs(out+"/data/images",exist_ok=True)
torch.manual_seed(seed); torch.set_num_threads(2); rng=np.random.default_rng(seed)
# ---- tokenizer: Qwen3's own pipeline with a small vocabulary trained here ----
src=json.load(gzip.open(os.path.join(os.path.dirname(__file__),"tokenizer/qwen3/tokenizer.json.gz")))
good=["what a lovely day","i love this view","so happy right now","best trip ever","this is wonderful","thank you all","great start to the week","perfect timing"]
bad=["my flight got cancelled","stuck in traffic again","it rains on my birthday","the phone broke","worst coffee of my life","monday again","no seats left","two hours in line"]
caps=["a sunny beach","a traffic jam","a broken phone","a birthday cake","rain on a window","","a long queue","caf\u00e9 terrace \u2600"]
corpus=good+bad+caps+["user","assistant","system","CAPTION: ",'{"label": "sarcastic"}','{"label": "not_sarcastic"}',"You judge posts."]*3
t=Tokenizer.from_str(json.dumps({**src,"model":{**src["model"],"vocab":{},"merges":[]},"added_tokens":[]}))
tr=trainers.BpeTrainer(vocab_size=256+90,initial_alphabet=__import__("tokenizers").pre_tokenizers.ByteLevel.alphabet(),show_progress=False)
t.train_from_iterator(corpus*4,tr); d=json.loads(t.to_str()); n=len(d["model"]["vocab"])
d["added_tokens"]=[{**a,"id":n+i} for i,a in enumerate(src["added_tokens"])]; d["model"]={**src["model"],"vocab":d["model"]["vocab"],"merges":d["model"]["merges"]}
json.dump(d,open(out+"/model/tokenizer.json","w"),ensure_ascii=False)
tc=json.load(open(os.path.join(os.path.dirname(__file__),"tokenizer/qwen3/tokenizer_config.json")))
old={str(a["id"]):a["content"] for a in src["added_tokens"]}; new={a["content"]:a["id"] for a in d["added_tokens"]}
if "added_tokens_decoder" in tc: tc["added_tokens_decoder"]={str(new[v["content"]]):v for k,v in tc["added_tokens_decoder"].items()}
TEMPLATE=("{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}{%- if m.content is string %}{{- m.content }}{%- else %}{%- for c in m.content %}{%- if c.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
 "{%- elif 'text' in c %}{{- c.text }}{%- endif %}{%- endfor %}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}")
tc["chat_template"]=TEMPLATE; json.dump(tc,open(out+"/model/tokenizer_config.json","w"),indent=1)
tok=PreTrainedTokenizerFast(tokenizer_file=out+"/model/tokenizer.json",eos_token="<|im_end|>",pad_token="<|endoftext|>"); tok.chat_template=TEMPLATE
I=lambda s: tok.convert_tokens_to_ids(s)
V=((n+len(d["added_tokens"])+63)//64)*64
cfg=Qwen3VLConfig(text_config=dict(hidden_size=64,num_hidden_layers=3,num_attention_heads=4,num_key_value_heads=2,head_dim=16,intermediate_size=192,vocab_size=V,rms_norm_eps=1e-6,
   tie_word_embeddings=True,max_position_embeddings=4096,rope_theta=5e6,rope_scaling=dict(mrope_interleaved=True,mrope_section=[4,2,2],rope_type="default"),initializer_range=0.06,
   bos_token_id=None,eos_token_id=I("<|im_end|>"),pad_token_id=I("<|endoftext|>")),
  vision_config=dict(depth=3,hidden_size=48,num_heads=4,intermediate_size=100,patch_size=16,out_hidden_size=64,num_position_embeddings=64,deepstack_visual_indexes=[0,1],spatial_merge_size=2,temporal_patch_size=2,initializer_range=0.06),
  tie_word_embeddings=True,image_token_id=I("<|image_pad|>"),video_token_id=I("<|video_pad|>"),vision_start_token_id=I("<|vision_start|>"),vision_end_token_id=I("<|vision_end|>"))
m=Qwen3VLForConditionalGeneration._from_config(cfg,attn_implementation="eager",dtype=torch.float32)
m.generation_config.eos_token_id=[I("<|im_end|>"),I("<|endoftext|>")]; m.generation_config.pad_token_id=I("<|endoftext|>"); m.save_pretrained(out+"/model")
ip=Qwen2VLImageProcessor(patch_size=16,temporal_patch_size=2,merge_size=2,image_mean=[.5]*3,image_std=[.5]*3,size={"shortest_edge":1024,"longest_edge":16384})
json.dump({"size":{"longest_edge":16384,"shortest_edge":1024},"patch_size":16,"temporal_patch_size":2,"merge_size":2,"image_mean":[.5]*3,"image_std":[.5]*3,"processor_class":"Qwen3VLProcessor","image_processor_type":"Qwen2VLImageProcessorFast"},open(out+"/model/preprocessor_config.json","w"),indent=1)
proc=Qwen3VLProcessor(image_processor=ip,tokenizer=tok,video_processor=Qwen3VLVideoProcessor(),chat_template=TEMPLATE)
# ---- data ----
def image(i):
    w,h=int(rng.integers(40,200)),int(rng.integers(40,200)); y,x=np.mgrid[0:h,0:w]; k=rng.integers(3,17,3)
    a=np.stack([(x*k[0]+i*29)%256,(y*k[1]+i*11)%256,((x//k[2]+y//7)%2)*180+rng.integers(0,60,(h,w))],-1).astype(np.uint8)
    im=Image.fromarray(a); name=f"images/{i:03d}."+("jpg" if i%3==0 else "png"); im.save(out+"/data/"+name,**({"quality":92} if i%3==0 else {})); return name
def ex(i):
    lab=int(rng.integers(0,2)); q=(good if lab else good+bad); row={"id":str(900000000000000000+i),"image":image(i),"query":"  "*(i%2)+str(rng.choice(q))+" "*(i%4),"caption":str(rng.choice(caps)),"target_json":json.dumps({"label":"sarcastic" if lab else "not_sarcastic"})}
    if i%5==4: row.pop("caption")
    return row
train=[ex(i) for i in range(22)]; evals=[ex(100+i) for i in range(7)]
for name,rows in (("train",train),("eval",evals)): open(f"{out}/data/{name}.jsonl","w").write("".join(json.dumps(r,ensure_ascii=False)+"\n" for r in rows))
S=dict(batch=2,accumulation=2,learning_rate=2e-3,schedule="cosine",warmup_steps=2,weight_decay=0.01,max_grad_norm=1.0,epochs=3,lora_r=8,lora_alpha=16,lora_dropout=0.0,shuffle=False,optim="adamw_torch",max_new_tokens=24,system_prompt="You judge posts.",tags=["float32","nf4"])
if len(sys.argv)>3: S.update(json.load(open(sys.argv[3])))
SYS=S["system_prompt"]
def user(e):
    q=e["query"].strip(); c=e.get("caption"); return q+(f"\nCAPTION: {c}" if c else "")
def msgs(e,target):
    mm=([{"role":"system","content":[{"type":"text","text":SYS}]}] if SYS else [])+[{"role":"user","content":[{"type":"image"},{"type":"text","text":user(e)}]}]
    return mm+([{"role":"assistant","content":[{"type":"text","text":e["target_json"]}]}] if target else [])
def load(e): return Image.open(out+"/data/"+e["image"]).convert("RGB")
def collate(ex,training=True,side="right"):
    tok.padding_side=side; texts=[proc.apply_chat_template(msgs(e,training),tokenize=False,add_generation_prompt=not training) for e in ex]
    b=proc(text=texts,images=[[load(e)] for e in ex],return_tensors="pt",padding=True); b.pop("token_type_ids",None)
    if training:
        y=b["input_ids"].clone(); y[y==tok.pad_token_id]=-100
        for i,e in enumerate(ex):
            p=proc(text=[proc.apply_chat_template(msgs(e,False),tokenize=False,add_generation_prompt=True)],images=[[load(e)]],return_tensors="pt"); y[i,:p["input_ids"].shape[1]]=-100
        b["labels"]=y
    return dict(b)
save_file({k:v.contiguous() for k,v in collate(train[:4]).items()},out+"/collated-train-first4.safetensors"); save_file({k:v.contiguous() for k,v in collate(evals[:3],False,"left").items()},out+"/collated-eval-first3.safetensors")
class T(Trainer):
    def _get_train_sampler(self,*a,**k): return torch.utils.data.SequentialSampler(self.train_dataset)
def gen(model):
    model.eval(); b=collate(evals,False,"left")
    with torch.no_grad(): o=model.generate(**b,max_new_tokens=S["max_new_tokens"],do_sample=False)
    tr=o[:,b["input_ids"].shape[1]:]; return {"ids":tr.tolist(),"text":proc.batch_decode(tr,skip_special_tokens=True,clean_up_tokenization_spaces=False)}
targets=r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
def run(tag,nf4):
    torch.manual_seed(seed+1); kw={}
    if nf4: kw=dict(quantization_config=BitsAndBytesConfig(load_in_4bit=True,bnb_4bit_quant_type="nf4",bnb_4bit_use_double_quant=True,bnb_4bit_compute_dtype=torch.float32,llm_int8_skip_modules=["model.visual","lm_head"]),device_map="cpu")
    base=Qwen3VLForConditionalGeneration.from_pretrained(out+"/model",dtype=torch.float32,attn_implementation="eager",**kw)
    if tag=="full": pm=base
    else:
        for p in base.parameters(): p.requires_grad_(False)
        pm=get_peft_model(base,LoraConfig(r=S["lora_r"],lora_alpha=S["lora_alpha"],lora_dropout=0.0,target_modules=targets)); pm.save_pretrained(f"{out}/{tag}-adapter-init")
    pre=gen(pm)
    a=TrainingArguments(output_dir=__import__("tempfile").mkdtemp(),per_device_train_batch_size=S["batch"],per_device_eval_batch_size=S["batch"],gradient_accumulation_steps=S["accumulation"],learning_rate=S["learning_rate"],lr_scheduler_type=S["schedule"],warmup_steps=S["warmup_steps"],weight_decay=S["weight_decay"],max_grad_norm=S["max_grad_norm"],num_train_epochs=S["epochs"],
        logging_steps=1,eval_strategy="epoch",save_strategy="no",report_to=[],remove_unused_columns=False,use_cpu=True,optim=S["optim"],seed=seed,dataloader_num_workers=0,bf16=False,disable_tqdm=True,label_names=["labels"])
    t=T(model=pm,args=a,train_dataset=train,eval_dataset=evals,data_collator=collate); t.train(); pm.save_pretrained(f"{out}/{tag}-"+("model-final" if tag=="full" else "adapter-final")); post=gen(pm)
    return {"pre":pre,"post":post,"log_history":t.state.log_history,"max_steps":t.state.max_steps}
meta={"made_with":{"transformers":transformers.__version__,"torch":torch.__version__,"peft":peft.__version__,"bitsandbytes":bnb.__version__},"seed":seed,"system_prompt":SYS,"settings":S}
for tag in S["tags"]: meta[tag]=run(tag,tag=="nf4")
json.dump(meta,open(out+"/golden.json","w"),indent=1,ensure_ascii=False)
for k in S["tags"]: print(k,[(round(x["loss"],4),round(x.get("grad_norm",0),3)) for x in meta[k]["log_history"] if "loss" in x],[x["eval_loss"] for x in meta[k]["log_history"] if "eval_loss" in x],meta[k]["post"]["text"][:3])
