"""Starts the program beside this file and hands Cog's requests to it."""

import base64
import json
import mimetypes
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path as LocalPath

from cog import BaseRunner, Input, Path

HERE = LocalPath(__file__).parent
SERVER = "http://127.0.0.1:5051"


def post(inputs):
    """The output of one prediction; the program's own sentence where it fails."""
    body = json.dumps({"input": {k: v for k, v in inputs.items() if v is not None}}).encode()
    request = urllib.request.Request(SERVER + "/predictions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request) as answer:
            prediction = json.load(answer)
    except urllib.error.HTTPError as error:
        raise ValueError(error.read().decode()) from error
    if prediction["status"] != "succeeded":
        raise RuntimeError(prediction.get("error", prediction["status"]))
    return prediction["output"]


def start(task):
    """The server, once it is ready."""
    model = os.environ.get("MODEL", str(HERE / "checkpoints"))
    server = subprocess.Popen(
        [str(HERE / "qwen3-sft"), "serve", "--api", "cog", "--cog-task", task, "--model", model]
        + ["--host", "127.0.0.1", "--port", "5051"]
    )
    while server.poll() is None:
        try:
            with urllib.request.urlopen(SERVER + "/health-check") as answer:
                if json.load(answer)["status"] == "READY":
                    return server
        except urllib.error.URLError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"qwen3-sft ended with status {server.returncode} before it was ready")


class Runner(BaseRunner):
    def setup(self):
        self.server = start("generate")

    def run(
        self,
        prompt: str = Input(description="What to ask"),
        image: Path = Input(description="A picture to ask about", default=None),
        max_new_tokens: int = Input(description="Most tokens of the answer", default=512, ge=1, le=4096),
        temperature: float = Input(description="0 is deterministic", default=0.7, ge=0, le=2),
        top_p: float = Input(description="Mass of the nucleus", default=0.9, ge=0, le=1),
    ) -> str:
        picture = None
        if image:
            kind = mimetypes.guess_type(str(image))[0] or "image/png"
            picture = f"data:{kind};base64," + base64.b64encode(LocalPath(image).read_bytes()).decode()
        return post(
            {
                "prompt": prompt,
                "image": picture,
                "max_new_tokens": max_new_tokens,
                "temperature": temperature,
                "top_p": top_p,
            }
        )


class Reranker(BaseRunner):
    def setup(self):
        self.server = start("rerank")

    def run(
        self,
        query: str = Input(description="What is looked for"),
        documents: str = Input(description="A JSON list of texts"),
        instruction: str = Input(description="What makes a document relevant", default=None),
        top_k: int = Input(description="How many of the best are returned", default=5, ge=1, le=100),
        batch_size: int = Input(description="Documents computed at a time", default=8, ge=1, le=32),
    ) -> str:
        return post(
            {
                "instruction": instruction,
                "query": query,
                "documents": documents,
                "top_k": top_k,
                "batch_size": batch_size,
            }
        )
