"""Small ONNX models with the inputs and outputs of the real ones, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import tokenizers
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

WORDS = ("<|startoftext|>", "<|endoftext|>", "[UNK]", "red", "green", "blue", "picture")


def save(path: Path, nodes, inputs, outputs, constants=None) -> Path:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def retype(path: Path, given: int, made: int) -> None:
    """Have a model take and make numbers of other types, as those exported at half precision do."""
    model = onnx.load(path)
    graph, first, last = model.graph, model.graph.input[0], model.graph.output[0]
    inner = first.type.tensor_type.elem_type
    for node in graph.node:
        node.input[:] = ["given" if name == first.name else name for name in node.input]
        node.output[:] = ["made" if name == last.name else name for name in node.output]
    graph.node.insert(0, helper.make_node("Cast", [first.name], ["given"], to=inner))
    graph.node.append(helper.make_node("Cast", ["made"], [last.name], to=made))
    first.type.tensor_type.elem_type, last.type.tensor_type.elem_type = given, made
    onnx.save(model, path)


def of_pictures(path: Path, output: str, *, with_patches: bool) -> Path:
    """Mean colours of 4 x 4 parts; as a class token before a patch of zeros, or alone."""
    nodes = [
        helper.make_node("AveragePool", ["pixel_values"], ["parts"], kernel_shape=[56, 56], strides=[56, 56]),
        helper.make_node("Flatten", ["parts"], [output if not with_patches else "flat"]),
    ]
    constants = {}
    shape: list[object] = ["n", 48]
    if with_patches:
        constants = {"axis": np.array([1], np.int64), "zero": np.zeros((1,), np.float32)}
        nodes += [
            helper.make_node("Unsqueeze", ["flat", "axis"], ["token"]),
            helper.make_node("Mul", ["token", "zero"], ["patch"]),
            helper.make_node("Concat", ["token", "patch"], [output], axis=1),
        ]
        shape = ["n", 2, 48]
    inputs = {"pixel_values": (FLOAT, ["n", 3, 224, 224])}
    return save(path, nodes, inputs, {output: (FLOAT, shape)}, constants)


def of_prompts(folder: Path) -> None:
    """Each word is the colour that it names, the mean of them the prompt."""
    colours = {"red": (3, -3, -3), "green": (-3, 3, -3), "blue": (-3, -3, 3)}
    words = np.zeros((len(WORDS), 48), np.float32)
    for number, word in enumerate(WORDS):
        words[number] = np.repeat(colours.get(word, (0, 0, 0)), 16)
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["found"]),
        helper.make_node("ReduceMean", ["found"], ["text_embeds"], axes=[1], keepdims=0),
    ]
    inputs, outputs = {"input_ids": (INT, ["n", "t"])}, {"text_embeds": (FLOAT, ["n", 48])}
    save(folder / "text_model.onnx", nodes, inputs, outputs, {"words": words})
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def of_faces(folder: Path) -> None:
    """A face wherever a cell of 32 pixels is wholly red; its landmarks lie around the middle of the cell."""
    nodes, outputs, constants = [], {}, {}
    for stride in (8, 16, 32):
        n = 640 // stride
        nodes.append(
            helper.make_node(
                "AveragePool", ["input"], [f"mean{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            )
        )
        for kind, size in {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}.items():
            # Blue, green, red: only red without the others makes a face, and only in the largest cells.
            weight = np.zeros((size, 3, 1, 1), np.float32)
            bias = np.zeros(size, np.float32)
            if size == 1 and stride == 32:
                weight[0, :, 0, 0] = -1 / 255, -1 / 255, 1 / 255
            if kind == "bbox":
                bias[:] = 0.5, 0.5, np.log(2.0), np.log(2.0)
            if kind == "kps":
                bias[:] = 0.2, 0.2, 0.8, 0.2, 0.5, 0.5, 0.3, 0.8, 0.7, 0.8
            constants |= {f"w_{kind}{stride}": weight, f"b_{kind}{stride}": bias}
            constants[f"shape_{kind}"] = np.array([1, -1, size], np.int64)
            nodes += [
                helper.make_node(
                    "Conv", [f"mean{stride}", f"w_{kind}{stride}", f"b_{kind}{stride}"], [f"{kind}{stride}"]
                ),
                helper.make_node("Transpose", [f"{kind}{stride}"], [f"t_{kind}{stride}"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"t_{kind}{stride}", f"shape_{kind}"], [f"{kind}_{stride}"]),
            ]
            outputs[f"{kind}_{stride}"] = (FLOAT, [1, n * n, size])
    inputs = {"input": (FLOAT, [1, 3, 640, 640])}
    save(folder / "face_detection_yunet_2023mar.onnx", nodes, inputs, outputs, constants)
    pooled = helper.make_node("AveragePool", ["data"], ["parts"], kernel_shape=[28, 28], strides=[28, 28])
    flat = helper.make_node("Flatten", ["parts"], ["fc1"])
    inputs, outputs = {"data": (FLOAT, [1, 3, 112, 112])}, {"fc1": (FLOAT, [1, 48])}
    save(folder / "face_recognition_sface_2021dec.onnx", [pooled, flat], inputs, outputs)


def folder_of_all(folder: Path) -> Path:
    """Write every model that the presets name."""
    of_pictures(folder / "model.onnx", "last_hidden_state", with_patches=True)
    of_pictures(folder / "vision_model.onnx", "image_embeds", with_patches=False)
    of_prompts(folder)
    of_faces(folder)
    return folder
