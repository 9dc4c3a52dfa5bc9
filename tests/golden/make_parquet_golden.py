"""Parquet files as pyarrow and datasets write them, and what they read back. usage: make_parquet_golden.py OUT TRAINING_DATA"""
import datetime, decimal, hashlib, io, json, os, sys
import datasets, numpy as np, pyarrow as pa, pyarrow.parquet as pq
from PIL import Image

out, training = sys.argv[1:3]
os.makedirs(out, exist_ok=True)
rng = np.random.default_rng(7)
expected = {}


def png(i):
    f = io.BytesIO()
    Image.fromarray(rng.integers(0, 4, (6, 5 + i % 3, 3), dtype=np.uint8) * 80).save(f, "PNG", optimize=True)
    return f.getvalue()


def remember(name, rows):
    """What a reader shall find: strings, and pictures by their digests."""
    def plain(v):
        if isinstance(v, dict) and "bytes" in v:
            b = v["bytes"]
            return {"sha256": hashlib.sha256(b).hexdigest() if b is not None else None, "path": v["path"]}
        if isinstance(v, bytes):
            return {"sha256": hashlib.sha256(v).hexdigest(), "path": None}
        if isinstance(v, list) and v and isinstance(v[0], (dict, type(None))):
            return [plain(x) for x in v]
        if isinstance(v, int) and not isinstance(v, bool):
            return str(v)
        return v if isinstance(v, (str, bool, list, type(None))) else repr(v)
    expected[name] = [{k: plain(v) for k, v in r.items()} for r in rows]


# ---- one table in all codecs, page versions and encodings ----
n = 25
names = ["not_sarcastic", "sarcastic"]
image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
columns = {
    "embedding": pa.array([[0.5 * i] * (i % 4) for i in range(n)], pa.list_(pa.float32())),
    "id": pa.array([9007199254740993 + i for i in range(n)], pa.int64()),
    "image": pa.array([{"bytes": png(i), "path": f"{i}.png" if i % 5 else None} for i in range(n)], image_type),
    "query": pa.array([f"Is post {i} sarcastic? \u00fc\u20ac\U0001f600" for i in range(n)], pa.string()),
    "caption": pa.array([None if i % 3 == 0 else ["sun", "", "rain " * 9][i % 3] for i in range(n)], pa.string()),
    "label": pa.array([None if i == 4 else -1 if i == 5 else i % 2 for i in range(n)], pa.int64()),
    "source": pa.array(["a" if i < 20 else f"s{i}" for i in range(n)], pa.string()),
    "flag": pa.array([None if i % 7 == 3 else i % 3 == 0 for i in range(n)], pa.bool_()),
    "when": pa.array([datetime.datetime(2026, 1, 1) for _ in range(n)], pa.timestamp("ns")),
}
features = datasets.Features({"image": datasets.Image(), "query": datasets.Value("string"),
                              "label": datasets.ClassLabel(names=names)})
metadata = {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
table = pa.table(columns).replace_schema_metadata(metadata)
kinds = [(codec, version, "dictionary") for codec in ("none", "snappy", "gzip", "zstd") for version in ("1.0", "2.0")]
kinds += [("none", "1.0", "plain"), ("snappy", "2.0", "plain"), ("zstd", "1.0", "fallback")]
for codec, version, encoding in kinds:
    name = f"{codec}-v{version[0]}-{encoding}.parquet"
    pq.write_table(table, os.path.join(out, name), compression=codec, data_page_version=version, row_group_size=10,
                   use_dictionary=encoding != "plain", data_page_size=200, write_batch_size=2,
                   dictionary_pagesize_limit=60 if encoding == "fallback" else 1 << 20,
                   write_page_checksum=version == "2.0")
remember("table", pq.read_table(os.path.join(out, "none-v1-plain.parquet")).to_pylist())

# ---- lists of pictures, types, what is refused ----
a, b = png(1), png(2)
lists = pa.table({"images": pa.array([[{"bytes": a, "path": "a.png"}], None, [], [{"bytes": b, "path": None}],
                                      [{"bytes": a, "path": None}, {"bytes": b, "path": None}], [None],
                                      [{"bytes": None, "path": "c.png"}]], pa.list_(image_type)),
                  "query": [f"q{i}" for i in range(7)]})
for version in ("1.0", "2.0"):
    pq.write_table(lists, os.path.join(out, f"list-v{version[0]}.parquet"), data_page_version=version, row_group_size=4)
remember("list", lists.to_pylist())

types = pa.table({
    "query": pa.array(["x", "y", "z"], pa.large_string()),
    "i8": pa.array([-128, None, 127], pa.int8()), "u8": pa.array([0, 200, 255], pa.uint8()),
    "i16": pa.array([-32768, 1, 32767], pa.int16()), "i32": pa.array([-2**31, 0, 2**31 - 1], pa.int32()),
    "u32": pa.array([0, 2**31, 2**32 - 1], pa.uint32()), "i64": pa.array([-2**63, 2**53 + 1, 2**63 - 1], pa.int64()),
    "u64": pa.array([0, 2**63, 2**64 - 1], pa.uint64()), "bool": pa.array([True, None, False]),
    "null": pa.array([None] * 3, pa.null()), "text": pa.array(["a", "b", None]).dictionary_encode(),
    "float": pa.array([0.5, 1.0, 2.0], pa.float32()), "double": pa.array([0.5, 1.0, 2.0]),
    "date": pa.array([datetime.date(2026, 1, i) for i in (1, 2, 3)]), "time": pa.array([datetime.time(i) for i in (1, 2, 3)]),
    "decimal": pa.array([decimal.Decimal("1.5")] * 3, pa.decimal128(5, 1)),
    "list": pa.array([["a"], ["b"], []]), "struct": pa.array([{"a": "b"}] * 3),
    "picture": pa.array([a, None, b], pa.binary()), "fixed": pa.array([a[:60]] * 3, pa.binary(60)),
    "file": pa.array(["tiny-9x5.png", None, "gray-77x33.jpg"]),
})
pq.write_table(types, os.path.join(out, "types.parquet"))
remember("types", types.to_pylist())
small = pa.table({"query": [f"q{i}" for i in range(20)], "label": list(range(20))})
pq.write_table(small, os.path.join(out, "delta.parquet"), use_dictionary=False,
               column_encoding={"query": "DELTA_LENGTH_BYTE_ARRAY", "label": "DELTA_BINARY_PACKED"})
pq.write_table(small, os.path.join(out, "brotli.parquet"), compression="brotli")
pq.write_table(small.slice(0, 0), os.path.join(out, "no-rows.parquet"))

# ---- a data set as it lies on the hub, written by datasets ----
rows = [json.loads(line) for line in open(os.path.join(training, "train.jsonl"))]
rows = [r for r in rows if os.path.getsize(os.path.join(training, r["image"])) < 12000]
features = datasets.Features({"id": datasets.Value("string"), "image": datasets.Image(), "query": datasets.Value("string"),
                              "caption": datasets.Value("string"), "target_json": datasets.Value("string"),
                              "label": datasets.ClassLabel(names=names)})
for r in rows:
    r["image"] = {"bytes": open(os.path.join(training, r["image"]), "rb").read(), "path": os.path.basename(r["image"])}
    r["label"] = json.loads(r["target_json"])["label"]
    r.setdefault("caption", None)
os.makedirs(os.path.join(out, "hub", "data"), exist_ok=True)
for name, part in (("train-00000-of-00002", rows[:3]), ("train-00001-of-00002", rows[3:]), ("validation-00000-of-00001", rows[:2])):
    datasets.Dataset.from_list(part, features=features).to_parquet(os.path.join(out, "hub", "data", name + ".parquet"))
json.dump({"made_with": {"pyarrow": pa.__version__, "datasets": datasets.__version__}, **expected},
          open(os.path.join(out, "expected.json"), "w"), indent=0)
