"""Makes the ONNX files of this folder, and `expected.json`: inputs, and the outputs that ONNX Runtime gives to them.

    python -m venv venv && venv/bin/pip install onnx skl2onnx onnxmltools onnxruntime scikit-learn xgboost lightgbm pandas tokenizers
    venv/bin/python make.py

All data is invented here. `expected.json` names the versions that made what is committed; the exporters put random names into
some files, so that a second run changes bytes, not answers.
"""

import importlib.metadata
import json
import pathlib

import lightgbm
import numpy as np
import onnx
import onnxmltools
import onnxruntime
import pandas
import xgboost
from onnx import TensorProto, helper, numpy_helper
from onnxmltools.convert.common.data_types import FloatTensorType as ToolsFloat
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, OneHotEncoder, OrdinalEncoder, StandardScaler

HERE = pathlib.Path(__file__).parent
CASES = HERE.parents[3] / "tests" / "cases"
expected = {}
rng = np.random.default_rng(7)


def save(name, model):
    path = HERE / f"{name}.onnx"
    onnx.save(model, path)
    assert path.stat().st_size < 50_000, (name, path.stat().st_size)
    return path


def remember(name, feeds, path=None):
    """Runs ONNX Runtime and keeps what went in and what came out."""
    session = onnxruntime.InferenceSession(str(path or HERE / f"{name}.onnx"), providers=["CPUExecutionProvider"])
    outputs = {}
    for info, value in zip(session.get_outputs(), session.run(None, feeds)):
        if isinstance(value, list):  # A ZipMap: one map for each row.
            outputs[info.name] = [[float(score) for score in row.values()] for row in value]
        else:
            outputs[info.name] = np.where(value != value, None, value).tolist() if value.dtype.kind == "f" else value.tolist()
    inputs = {key: np.where(value != value, None, value).tolist() for key, value in feeds.items()}
    expected[name] = {"inputs": inputs, "outputs": outputs}


def cards(rows):
    """Amount, hour, age of the account in days; a fraud where the amount is large at night or the account is young."""
    amount = rng.lognormal(4, 1, rows)
    hour = rng.integers(0, 24, rows)
    age = rng.integers(0, 2000, rows)
    odd = (amount > 90) & ((hour < 6) | (age < 200)) | (rng.random(rows) < 0.02)
    return np.column_stack([amount, hour, age]).astype(np.float32), odd.astype(np.int64)


def trees():
    x, y = cards(600)
    probe = np.vstack([x[:12], [[0, 0, 0], [1e6, 23, 5], [90.0, 3, 199]]]).astype(np.float32)
    holes = np.vstack([probe, [[np.nan, 3, 100], [200, np.nan, np.nan]]]).astype(np.float32)
    kind = [("float_input", FloatTensorType([None, 3]))]
    three = np.where(y == 1, "fraud", np.where(x[:, 0] > 100, "large", "usual"))

    forest = RandomForestClassifier(n_estimators=6, max_depth=4, random_state=1).fit(x, y)
    save("forest", to_onnx(forest, initial_types=kind, target_opset={"": 17, "ai.onnx.ml": 3}))
    remember("forest", {"float_input": probe})

    regression = RandomForestRegressor(n_estimators=5, max_depth=4, random_state=1).fit(x, x[:, 0] * (1 + y))
    save("forest_regressor", to_onnx(regression, initial_types=kind, target_opset={"": 17, "ai.onnx.ml": 3}))
    remember("forest_regressor", {"float_input": probe})

    boosted = GradientBoostingRegressor(n_estimators=5, max_depth=3, random_state=1).fit(x, x[:, 0] * (1 + y))
    save("boosted_regressor", to_onnx(boosted, initial_types=kind, target_opset={"": 17, "ai.onnx.ml": 3}))
    remember("boosted_regressor", {"float_input": probe})

    tools = [("input", ToolsFloat([None, 3]))]
    for name, labels in (("lightgbm_binary", y), ("lightgbm_three", three)):
        model = lightgbm.LGBMClassifier(n_estimators=6, max_depth=3, random_state=1, verbose=-1).fit(x, labels)
        save(name, onnxmltools.convert_lightgbm(model, initial_types=tools, target_opset=15))
        remember(name, {"input": holes})
    for name, labels in (("xgboost_binary", y), ("xgboost_three", (three == "large") + 2 * (three == "fraud"))):
        model = xgboost.XGBClassifier(n_estimators=6, max_depth=3, random_state=1).fit(x, labels)
        save(name, onnxmltools.convert_xgboost(model, initial_types=tools, target_opset=15))
        remember(name, {"input": holes})
    model = xgboost.XGBRegressor(n_estimators=6, max_depth=3, random_state=1).fit(x, x[:, 0] * (1 + y))
    save("xgboost_regressor", onnxmltools.convert_xgboost(model, initial_types=tools, target_opset=15))
    remember("xgboost_regressor", {"input": holes})


def linear():
    x, y = cards(600)
    country = np.array(["DE", "FR", "US", "unknown"])[rng.integers(0, 4, 600)]
    channel = rng.integers(0, 3, 600)

    frame = pandas.DataFrame({"amount": x[:, 0], "hour": x[:, 1], "country": country, "channel": channel})
    columns = ColumnTransformer([
        ("numbers", Pipeline([("impute", SimpleImputer()), ("scale", StandardScaler())]), ["amount", "hour"]),
        ("words", OneHotEncoder(handle_unknown="ignore"), ["country"]),
        ("codes", OneHotEncoder(handle_unknown="ignore"), ["channel"]),
    ])
    labels = np.where(y == 1, "fraud", "ok")
    pipeline = Pipeline([("columns", columns), ("model", LogisticRegression(max_iter=1000))]).fit(frame, labels)
    kinds = [
        ("amount", FloatTensorType([None, 1])), ("hour", FloatTensorType([None, 1])),
        ("country", StringTensorType([None, 1])), ("channel", Int64TensorType([None, 1])),
    ]
    save("columns", to_onnx(pipeline, initial_types=kinds, target_opset={"": 17, "ai.onnx.ml": 3}))
    remember("columns", {
        "amount": np.array([[20], [5000], [np.nan]], np.float32), "hour": np.array([[12], [2], [4]], np.float32),
        "country": np.array([["DE"], ["US"], ["Mars"]], object), "channel": np.array([[0], [2], [9]], np.int64),
    })

    scaled = Pipeline([("scale", MinMaxScaler()), ("norm", Normalizer()), ("model", LinearRegression())])
    scaled.fit(x, x[:, 0] * (1 + y))
    kind = [("float_input", FloatTensorType([None, 3]))]
    save("linear_regressor", to_onnx(scaled, initial_types=kind, target_opset={"": 17, "ai.onnx.ml": 3}))
    remember("linear_regressor", {"float_input": x[:6]})

    ordinal = Pipeline([
        ("code", ColumnTransformer([("c", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), [0])])),
        ("model", RandomForestClassifier(n_estimators=3, max_depth=3, random_state=1)),
    ]).fit(country.reshape(-1, 1), y)
    kind = [("country", StringTensorType([None, 1]))]
    save("ordinal", to_onnx(ordinal, initial_types=kind, target_opset={"": 17, "ai.onnx.ml": 3}))
    remember("ordinal", {"country": np.array([["DE"], ["FR"], ["US"], ["Mars"]], object)})


def tensor(name, array):
    return numpy_helper.from_array(np.asarray(array, np.float32), name)


def graph(nodes, name, inputs, outputs, weights):
    model = helper.make_model(
        helper.make_graph(nodes, name, inputs, outputs, weights),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )
    return model


def networks():
    """In the form in which `torch.onnx.export` writes a small network."""
    w1, b1 = rng.normal(0, 0.7, (8, 3)), rng.normal(0, 0.3, 8)
    w2, b2 = rng.normal(0, 0.7, (2, 8)), rng.normal(0, 0.3, 2)
    layers = [
        helper.make_node("Gemm", ["x", "0.weight", "0.bias"], ["h"], "/0/Gemm", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "/1/Relu"),
        helper.make_node("Gemm", ["r", "2.weight", "2.bias"], ["logits"], "/2/Gemm", transB=1),
    ]
    weights = [tensor("0.weight", w1), tensor("0.bias", b1), tensor("2.weight", w2), tensor("2.bias", b2)]
    x = rng.normal(0, 1, (5, 3)).astype(np.float32)
    for name, batch in (("mlp", "batch"), ("mlp_fixed_batch", 2)):
        save(name, graph(
            layers, name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 2])], weights,
        ))
    remember("mlp", {"x": x})
    (HERE / "truncated.onnx").write_bytes((HERE / "mlp.onnx").read_bytes()[:200])

    # The root of a negative number is no number.
    save("nan", graph(
        [
            helper.make_node("Sqrt", ["x"], ["root"], "root"),
            helper.make_node("ReduceSum", ["root", "axes"], ["y"], "sum", keepdims=1),
        ], "nan",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(np.array([1], np.int64), "axes")],
    ))

    save("unsupported", helper.make_model(helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["r"], "first"),
            helper.make_node("FancyAttention", ["r"], ["f"], "block_0", domain="com.example"),
            helper.make_node("SVMRegressor", ["f"], ["y"], "head", domain="ai.onnx.ml"),
            helper.make_node("NotNeeded", ["r"], ["unused"], "aside", domain="com.example"),
        ], "unsupported",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
    ), opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=8))


def texts():
    """A tokenizer of twelve words, an encoder that adds word, place and kind, and two heads."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "profit", "loss", "rises", "falls", "shares", "of", "the", "bank"]
    vocab = {word: i for i, word in enumerate(words)}
    (HERE / "text").mkdir(exist_ok=True)
    special = [
        {"id": i, "content": w, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, w in enumerate(words[:4])
    ]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {w: {"id": w, "ids": [vocab[w]], "tokens": [w]} for w in ("[CLS]", "[SEP]")},
        },
        "decoder": None, "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"},
    }
    (HERE / "text" / "tokenizer.json").write_text(json.dumps(tokenizer, indent=1) + "\n")

    width = 6
    ids = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "sequence"]) for n in ("input_ids", "attention_mask", "token_type_ids")]
    weights = [
        tensor("words", rng.normal(0, 1, (len(words), width))), tensor("kinds", rng.normal(0, 1, (2, width))),
        tensor("q", rng.normal(0, 0.5, (width, width))), tensor("head", rng.normal(0, 1, (width, 3))),
        tensor("one", [1.0]), tensor("far", [-1e9]), numpy_helper.from_array(np.array([1], np.int64), "axis1"),
    ]
    encoder = [
        helper.make_node("Gather", ["words", "input_ids"], ["w"], "word_embeddings"),
        helper.make_node("Gather", ["kinds", "token_type_ids"], ["k"], "type_embeddings"),
        helper.make_node("Add", ["w", "k"], ["e"], "embeddings"),
        helper.make_node("MatMul", ["e", "q"], ["query"], "query"),
        helper.make_node("Transpose", ["e"], ["et"], "turn", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["query", "et"], ["raw"], "attention"),
        helper.make_node("Cast", ["attention_mask"], ["mask"], "mask_as_float", to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "mask"], ["away"], "away"),
        helper.make_node("Mul", ["away", "far"], ["penalty"], "penalty"),
        helper.make_node("Unsqueeze", ["penalty", "axis1"], ["penalties"], "penalties"),
        helper.make_node("Add", ["raw", "penalties"], ["masked"], "masked"),
        helper.make_node("Softmax", ["masked"], ["share"], "share", axis=-1),
        helper.make_node("MatMul", ["share", "e"], ["last_hidden_state"], "mix"),
    ]
    hidden = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", width])
    save("text/encoder", graph(encoder, "encoder", ids, [hidden], weights[:3] + weights[4:]))
    head = [
        helper.make_node("Gather", ["last_hidden_state", "first"], ["cls"], "cls", axis=1),
        helper.make_node("MatMul", ["cls", "head"], ["logits"], "classifier"),
    ]
    weights.append(numpy_helper.from_array(np.array(0, np.int64), "first"))
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])
    save("text/classifier", graph(encoder + head, "classifier", ids, [logits], weights))

    lines = ["profit of the bank rises", "loss", "", "Shares of the unheard-of bank falls"]
    from tokenizers import Tokenizer

    fast = Tokenizer.from_file(str(HERE / "text" / "tokenizer.json"))
    for name in ("text/encoder", "text/classifier"):
        session = onnxruntime.InferenceSession(str(HERE / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        outputs = []
        for line in lines:  # One by one: no padding in the reference.
            encoding = fast.encode(line)
            feeds = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
            outputs.append(session.run(None, {k: np.array([v], np.int64) for k, v in feeds.items()})[0][0].tolist())
        expected[name] = {"texts": lines, "outputs": outputs}


def case():
    """The models and the input of the whole-pipeline test `tests/cases/tabular`."""
    x, y = cards(800)
    country = np.array(["DE", "FR", "US"])[rng.integers(0, 3, 800)]
    frame = pandas.DataFrame({"amount": x[:, 0], "hour": x[:, 1], "country": country})
    columns = ColumnTransformer([
        ("numbers", StandardScaler(), ["amount", "hour"]), ("words", OneHotEncoder(handle_unknown="ignore"), ["country"]),
    ])
    model = Pipeline([("columns", columns), ("model", RandomForestClassifier(n_estimators=5, max_depth=4, random_state=1))])
    model.fit(frame, np.where(y == 1, "fraud", "ok"))
    kinds = [("amount", FloatTensorType([None, 1])), ("hour", FloatTensorType([None, 1])), ("country", StringTensorType([None, 1]))]
    onnx.save(to_onnx(model, initial_types=kinds, target_opset={"": 17, "ai.onnx.ml": 3}), CASES / "tabular" / "fraud.onnx")
    spend = xgboost.XGBRegressor(n_estimators=5, max_depth=3, random_state=1).fit(x, x[:, 0] * (1 + y))
    tools = [("input", ToolsFloat([None, 3]))]
    onnx.save(onnxmltools.convert_xgboost(spend, initial_types=tools, target_opset=15), CASES / "tabular" / "spend.onnx")
    probe, _ = cards(40)
    with open(CASES / "tabular" / "input.jsonl", "w") as file:
        for i, (amount, hour, age) in enumerate(probe.tolist()):
            row = {"id": f"c{i:02}", "amount": round(amount, 2), "hour": int(hour), "age": int(age)}
            row["country"] = ["DE", "FR", "US", "Atlantis"][i % 4]
            if i % 13 == 5:
                row["country"] = None
            if i % 11 == 3:
                row["age"] = None
            file.write(json.dumps(row) + "\n")


trees()
linear()
networks()
texts()
(CASES / "tabular").mkdir(exist_ok=True)
case()
packages = ["onnx", "onnxruntime", "skl2onnx", "onnxmltools", "scikit-learn", "xgboost", "lightgbm", "numpy"]
expected = {"made_with": {name: importlib.metadata.version(name) for name in packages}, **expected}
lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in expected.items())
(HERE / "expected.json").write_text("{\n" + lines + "\n}\n")
