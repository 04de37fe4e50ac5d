"""The peers of `bench/models`: the same weights and inputs through PyTorch, ONNX Runtime and OpenVINO.

    peers.py make FOLDER --shape bert-base      random weights as a Hugging Face folder, as ONNX files, and 512 inputs
    peers.py run FOLDER PEER --seconds 3        one peer, in a process of its own; prints one line of JSON

Inputs are token ids: the peers' tokenisation is not measured. They are sorted by length, so that a batch has next to no
padding, which is the best that can be done for a peer that pads.
"""

import argparse
import json
import os
import pathlib
import random
import resource
import statistics
import sys
import time

SHAPES = {
    "bert-base": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072),
    "minilm": dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
}
PEERS = [
    "pytorch-f32",
    "pytorch-bf16",
    "pytorch-int8",
    "onnxruntime-f32",
    "onnxruntime-int8",
    "openvino-f32",
    "openvino-bf16",
    "openvino-int8",
]
VOCABULARY = 30522
INPUTS = 512
BATCHES = [1, 8, 32]


def lengths(generator):
    """Token counts like those of headlines: 6 to 48, 19 in the mean, special tokens included."""
    while True:
        found = [min(48, max(6, round(generator.gammavariate(5.0, 3.85)))) for _ in range(INPUTS)]
        if abs(statistics.mean(found) - 19) < 0.05:
            return found


def make(folder, shape):
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(7)
    config = BertConfig(vocab_size=VOCABULARY, num_labels=3, **SHAPES[shape])
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    # Every word is one token, so that lengths are known and no vocabulary of anybody is needed.
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [f"w{i}" for i in range(VOCABULARY - len(special))]
    (folder / "vocab.txt").write_text("\n".join(special + words) + "\n")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    generator = random.Random(7)
    rows = [[generator.randrange(len(words)) for _ in range(n - 2)] for n in lengths(generator)]
    rows.sort(key=len)
    inputs = [{"text": " ".join(words[w] for w in row), "ids": [2] + [w + len(special) for w in row] + [3]} for row in rows]
    (folder / "inputs.json").write_text(json.dumps(inputs))
    ids = torch.ones(2, 8, dtype=torch.long)
    names = ["input_ids", "attention_mask"]
    axes = {name: {0: "batch", 1: "tokens"} for name in names} | {"logits": {0: "batch"}}
    onnx_file = str(folder / "model.onnx")
    torch.onnx.export(
        model, (ids, ids), onnx_file, input_names=names, output_names=["logits"], dynamic_axes=axes, opset_version=17, dynamo=False
    )
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(onnx_file, str(folder / "model-int8.onnx"), weight_type=QuantType.QInt8, per_channel=True)


def padded(rows):
    import numpy

    width = max(len(row) for row in rows)
    ids = numpy.zeros((len(rows), width), dtype=numpy.int64)
    mask = numpy.zeros((len(rows), width), dtype=numpy.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def pytorch(folder, precision, threads):
    import torch
    from transformers import BertForSequenceClassification

    torch.set_num_threads(threads)
    model = BertForSequenceClassification.from_pretrained(folder).eval()
    if precision == "bf16":
        model = model.to(torch.bfloat16)
    if precision == "int8":
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)

    def call(ids, mask):
        with torch.inference_mode():
            return model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.float().numpy()

    return call, torch.__version__


def onnxruntime(folder, precision, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    file = "model-int8.onnx" if precision == "int8" else "model.onnx"
    session = ort.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(None, {"input_ids": ids, "attention_mask": mask})[0], ort.__version__


def openvino(folder, precision, threads):
    import openvino as ov

    core = ov.Core()
    file = "model-int8.onnx" if precision == "int8" else "model.onnx"
    hint = {"f32": "f32", "bf16": "bf16", "int8": "f32"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(core.read_model(str(folder / file)), "CPU", settings)
    request = compiled.create_infer_request()

    def call(ids, mask):
        return request.infer({"input_ids": ids, "attention_mask": mask})[0]

    return call, ov.__version__.split("-")[0]


def measure(call, rows, batch, seconds):
    """Sequences per second of each pass over all inputs (at batch 1: over as many as fit), and the time of each call."""
    groups = [padded(rows[i : i + batch]) for i in range(0, len(rows), batch)]
    for group in groups[:: max(1, len(groups) // 8)]:
        call(*group)
    passes, calls = [], []
    until = time.perf_counter() + seconds
    while not passes or time.perf_counter() < until:
        began = time.perf_counter()
        for group in groups:
            before = time.perf_counter()
            call(*group)
            calls.append(time.perf_counter() - before)
        passes.append(len(rows) / (time.perf_counter() - began))
    calls.sort()
    at = lambda share: calls[min(len(calls) - 1, int(len(calls) * share))] * 1e3
    return {"batch": batch, "sequences_per_s": statistics.median(passes), "p50_ms": at(0.5), "p99_ms": at(0.99)}


def run(folder, peer, seconds, threads):
    program, precision = peer.rsplit("-", 1)
    rows = [entry["ids"] for entry in json.loads((folder / "inputs.json").read_text())]
    call, version = globals()[program](folder, precision, threads)
    logits = call(*padded(rows[-2:]))
    results = [measure(call, rows, batch, seconds) for batch in BATCHES]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"who": peer, "version": version, "results": results, "peak_rss_bytes": peak, "logits": logits[-1].tolist()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "run", "list"])
    parser.add_argument("folder", type=pathlib.Path, nargs="?")
    parser.add_argument("peer", choices=PEERS, nargs="?")
    parser.add_argument("--shape", choices=SHAPES, default="bert-base")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    if args.what == "list":
        print("\n".join(PEERS))
    elif args.what == "make":
        make(args.folder, args.shape)
    else:
        run(args.folder, args.peer, args.seconds, args.threads)


if __name__ == "__main__":
    sys.exit(main())
