"""Makes the golden files of a model smaller without losing a bit: usage: compact.py FROM TO
Pixels of the golden batches are k / 127.5 - 1 with k in 0..255: they are kept as the bytes k. The inputs of the NF4 forward pass are those of
forward-right-padded and are left out; the twelve micro-batches go into one file, named <step>-<micro>.<input>."""
import json, os, struct, sys

SIZE = {"F32": 4, "I64": 8, "U8": 1}


def read(path):
    data = open(path, "rb").read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + n])
    header.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], data[8 + n + v["data_offsets"][0] : 8 + n + v["data_offsets"][1]]) for k, v in header.items()}


def write(path, tensors):
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, data) in sorted(tensors.items(), key=lambda t: (-SIZE[t[1][0]], t[0])):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    open(path, "wb").write(struct.pack("<Q", len(text)) + text + body)


def codes(tensor):
    dtype, shape, data = tensor
    values = struct.unpack("<%df" % (len(data) // 4), data)
    out = bytes(round((v + 1) * 127.5) for v in values)
    assert struct.pack("<%df" % len(out), *(k / 127.5 - 1 for k in out)) == data
    return "U8", shape, out


def compact(tensors):
    return {k: codes(t) if k.endswith("pixel_values") else t for k, t in tensors.items()}


source, target = sys.argv[1:3]
os.makedirs(target, exist_ok=True)
batches = {}
for file in sorted(os.listdir(source)):
    path = os.path.join(source, file)
    if file == "forward-nf4-right-padded.safetensors":
        write(os.path.join(target, file), {k: t for k, t in read(path).items() if k.startswith("out.")})
    elif file.startswith("forward-"):
        write(os.path.join(target, file), compact(read(path)))
    elif file.startswith("lora-fp32-batch-"):
        tag = file[len("lora-fp32-batch-") : -len(".safetensors")]
        batches.update({tag + "." + k: t for k, t in compact(read(path)).items()})
write(os.path.join(target, "lora-batches.safetensors"), batches)
